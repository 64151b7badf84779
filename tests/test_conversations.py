"""Sessions and shared prefixes: who finds how much of a prompt computed, and what that saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli import jsonl, ok, records

GOLDEN = Path(__file__).parent / "golden" / "conversations.txt"
OPTIONS = ["--block-size", "4", "--num-gpu-blocks", "100", "--max-model-len", "64"]


def golden() -> tuple[list[dict[str, Any]], list[int]]:
    """The requests, ten seconds apart, and what each finds."""
    requests: list[dict[str, Any]] = []
    cached = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("#"):
            continue
        session, hashes, prompt, output, found = line.split("#")[0].split()
        number = len(requests)
        request = {"id": f"r{number}", "arrival_s": 10 * number, "prompt_tokens": int(prompt)}
        request["trace_output_tokens"] = request["max_tokens"] = int(output)
        if session != "-":
            request["session"] = session
        if hashes != "-":
            request |= {"prefix_hashes": hashes.split(","), "prefix_block_tokens": 4}
        requests.append(request)
        cached.append(int(found))
    return requests, cached


@pytest.mark.parametrize("scheduling", ["--async-scheduling", "--no-async-scheduling"])
def test_what_is_found_of_prompts(scheduling: str) -> None:
    requests, cached = golden()
    rows = records(ok(["run", *OPTIONS, scheduling], jsonl(requests)))
    assert [row["cached_tokens"] for row in rows] == cached


def test_without_the_cache_nothing_is_found() -> None:
    requests, _ = golden()
    rows = records(ok(["run", *OPTIONS, "--no-enable-prefix-caching"], jsonl(requests)))
    assert len(rows) == len(requests)
    assert not any("cached_tokens" in row for row in rows)


def turns(sessions: int) -> bytes:
    """Eight turns of each session, a minute apart, each 400 tokens longer than the answer before."""
    rows = [
        {
            "id": f"{session}-{turn}",
            "session": f"s{session}",
            "turn": turn,
            "arrival_s": 60.0 * turn + session,
            "prompt_tokens": 400 * turn + 100 * (turn - 1),
            "trace_output_tokens": 100,
        }
        for turn in range(1, 9)
        for session in range(sessions)
    ]
    return jsonl(rows)


def test_a_conversation_starts_to_be_answered_sooner_with_the_cache_than_without() -> None:
    data = turns(5)
    cold, warm = (
        {row["id"]: row for row in records(ok(["run", option], data))}
        for option in ("--no-enable-prefix-caching", "--enable-prefix-caching")
    )
    for name, row in warm.items():
        first = name.endswith("-1")
        assert bool(row["cached_tokens"]) is not first
        if first:
            assert row["ttft_s"] == pytest.approx(cold[name]["ttft_s"])
        else:  # all but what the user added, up to a block
            assert row["prompt_tokens"] - row["cached_tokens"] < 400 + 2 * 16
            assert row["ttft_s"] < cold[name]["ttft_s"]
    assert sum(row["ttft_s"] for row in warm.values()) < 0.5 * sum(row["ttft_s"] for row in cold.values())
    assert sum(row["energy_j"] for row in warm.values()) < sum(row["energy_j"] for row in cold.values())
