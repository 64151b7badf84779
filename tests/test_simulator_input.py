"""What the simulator cannot do ends in a line or in a rejected record, as vLLM would have it, and soon."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import jsonl, ok, records, run, said
from driftkit.engines.sim.engine import Stretch

REQUEST = {"id": "a", "arrival_s": 0, "prompt_tokens": 50, "trace_output_tokens": 20, "est_output_tokens": 20}
FIFO = ["schedule", "--policy", "fifo"]
#: 40 blocks, one of them vLLM's null block: 624 tokens
SMALL = ["--block-size", "16", "--num-gpu-blocks", "40", "--max-model-len", "624"]


def one(**fields: Any) -> bytes:
    return jsonl([{**REQUEST, **fields}])


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["run"], FIFO], ids=lambda args: args[0])
def test_a_cache_smaller_than_a_request_can_be_is_refused_before_anything_runs(command: list[str]) -> None:
    """vLLM does not start: otherwise a request might come that never gets its blocks."""
    line, hint = said(run([*command, *SMALL[:-1], "625"], one()), 2)
    assert line.endswith(
        "the KV cache holds 624 tokens, less than one request of --max-model-len 625: vLLM refuses to start"
    )
    assert hint == "  lower --max-model-len or raise --num-gpu-blocks"
    assert ok([*command, *SMALL], one())


@pytest.mark.parametrize(
    "options",
    [
        ("--max-num-seqs", "0"),
        ("--max-num-seqs", "4096"),  # over the profile's --max-num-batched-tokens
        ("--max-num-batched-tokens", "0"),
        ("--num-gpu-blocks", "1"),
        ("--block-size", "1000000000000"),
        ("--max-model-len", "99999999999999999999"),
        ("--watermark", "1"),
        ("--watermark", "nan"),
        ("--gpu-memory-utilization", "nan"),
        ("--gpu-memory-utilization", "0.1"),
        ("--step-time-scale", "1e-300"),
        ("--step-time-scale", "nan"),
        ("--step-time-scale", "inf"),
        ("--batch-wait", "nan"),
        ("--batch-wait", "inf"),
    ],
    ids="=".join,
)
def test_options_that_cannot_be(options: tuple[str, str]) -> None:
    result = run(["run", *options], one())
    line = said(result, 2)[0]
    assert options[0] in line or "KV cache" in line
    assert result.stdout == b""


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [[], ["--dispatch", "client"], ["--batching", "static"], ["--follow"], ["--feedback"]],
    ids=lambda way: " ".join(way) or "engine",
)
def test_a_prompt_without_room_for_a_token_is_rejected_and_the_others_run(way: list[str]) -> None:
    data = jsonl(
        {**REQUEST, "id": name, "prompt_tokens": tokens, "est_model": "table"}
        for name, tokens in (("fits", 623), ("full", 624), ("over", 625), ("far", 10**9))
    )
    result = run(["run", *SMALL, *way], data)
    said(result, 3)
    rows = {row["id"]: row for row in records(result.stdout)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "fits": "ok",
        "full": "rejected",
        "over": "rejected",
        "far": "rejected",
    }
    assert (rows["fits"]["actual_output_tokens"], rows["fits"]["finish_reason"]) == (1, "length")
    assert rows["over"]["error"] == "prompt of 625 tokens, max_model_len 624"
    assert "started_s" not in rows["over"]


def test_a_plan_has_no_start_for_a_prompt_that_will_be_rejected() -> None:
    rows = records(ok([*FIFO, *SMALL], one(id="over", prompt_tokens=624) + one(id="fits")))
    assert [(row["id"], "sched_start_s" in row) for row in rows] == [("fits", True), ("over", False)]


@pytest.mark.parametrize(
    ("fields", "tokens", "reason"),
    [
        ({"trace_output_tokens": 20, "max_tokens": 20}, 20, "length"),
        ({"trace_output_tokens": 20, "max_tokens": 21}, 20, "stop"),
        ({"trace_output_tokens": 20, "max_tokens": 5}, 5, "length"),
        ({"trace_output_tokens": 10**9, "max_tokens": 5}, 5, "length"),
        ({"trace_output_tokens": 573}, 573, "stop"),
        ({"trace_output_tokens": 574}, 574, "length"),  # 50 + 574 is all there is room for
    ],
)
def test_an_output_is_cut_where_the_server_would_cut_it(
    fields: dict[str, Any], tokens: int, reason: str
) -> None:
    (row,) = records(ok(["run", *SMALL], one(**fields)))
    assert (row["actual_output_tokens"], row["finish_reason"]) == (tokens, reason)
    assert row["trace_output_tokens"] == fields["trace_output_tokens"]


def test_an_output_cut_by_the_models_limit_is_told_of() -> None:
    result = run(["run", *SMALL], one(trace_output_tokens=10**9))
    (line,) = said(result, 0)
    assert line == "driftkit run: 1 of 1 outputs were cut at the engine's max_model_len"
    assert json.loads(result.stdout)["actual_output_tokens"] == 574


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prefix_hashes": "x"}, "prefix_hashes: expected an array, got 'x'"),
        ({"prefix_hashes": {}}, "prefix_hashes: expected an array, got {}"),
        ({"prefix_hashes": [1.5]}, "prefix_hashes: expected integers or strings, got 1.5"),
        ({"prefix_hashes": ["a", None]}, "prefix_hashes: expected integers or strings, got nothing"),
        ({"prefix_hashes": [True]}, "prefix_hashes: expected integers or strings, got true"),
        ({"prefix_hashes": [[1]]}, "prefix_hashes: expected integers or strings, got [1]"),
        ({"prefix_hashes": [1]}, "prefix_block_tokens: prefix_hashes need it: expected an integer >= 1"),
        ({"prefix_block_tokens": 0}, "prefix_block_tokens: expected an integer >= 1, got 0"),
        ({"session": 5}, "session: expected a string, got 5"),
        ({"max_tokens": 0}, "max_tokens: expected an integer >= 1, got 0"),
        ({"trace_output_tokens": 0}, "trace_output_tokens: expected an integer >= 1, got 0"),
        (
            {"trace_output_tokens": 2**40},
            "trace_output_tokens: expected an integer <= 1e+09, got 1099511627776",
        ),
        ({"prompt_tokens": 0}, "prompt_tokens: expected an integer >= 1, got 0"),
    ],
)
def test_a_record_that_says_what_cannot_be(fields: dict[str, Any], says: str) -> None:
    assert said(run(["run"], one(**fields)), 1)[0] == f"driftkit run: <stdin>:1: {says}"


def test_odd_but_good_hashes() -> None:
    """None at all, the same one twice, an integer beside the string of it, blocks larger than the prompt."""
    for hashes in ([], ["a", "a", 1, "1"], [-1, 2**63], [""]):
        (row,) = records(ok(["run"], one(prefix_hashes=hashes, prefix_block_tokens=10**9)))
        assert (row["status"], row["cached_tokens"]) == ("ok", 0)


@pytest.mark.parametrize("command", [["run"], ["run", "--batching", "static"], FIFO], ids=" ".join)
def test_nothing_in_is_nothing_out(command: list[str]) -> None:
    assert ok(command, b"") == b""
    assert ok(command, b"\n\n") == b""


# --- many steps at once ---------------------------------------------------------------------------


@given(
    start=st.floats(0, 9e9),
    first=st.floats(1e-18, 1e3),
    slope=st.one_of(st.just(0.0), st.floats(1e-18, 1.0)),
    wait=st.floats(0, 1e6),
)
def test_steps_however_short_are_counted_without_trying_them_all(
    start: float, first: float, slope: float, wait: float
) -> None:
    """Beside 9e9 s, a clock's last digit is 2e-6 s: billions of the shortest steps."""
    stretch, until = Stretch(start, first, slope), start + wait
    steps = stretch.steps_until(until)
    if not steps:
        assert until <= start
    elif steps > 1:
        assert stretch.end(steps) >= until
    assert not steps or steps == 1 or stretch.end(steps - 1) < until


def test_many_rejected_requests_are_two_lines() -> None:
    many = jsonl([{**REQUEST, "id": f"r{n}", "prompt_tokens": 700} for n in range(50)])
    result = run(["run", *SMALL], many)
    assert result.returncode == 3
    lines = result.stderr.decode().splitlines()
    assert "request r0 was rejected" in lines[0]
    assert lines[1:] == ["driftkit run: 50 of 50 requests were not served"]


def test_a_model_that_does_not_fit_is_told_so() -> None:
    line, hint = said(
        run(["run", "--served-model", "llama-3.1-8b", "--gpu-memory-utilization", "0.5"], one()), 2
    )
    assert line.endswith("llama-3.1-8b and its KV cache do not fit into 0.5 of the memory of l4")
    assert "--gpu-memory-utilization" in hint


def test_completions_are_not_replayed_by_mistake_without_a_word() -> None:
    result = run(["run"], ok(["run"], one()))
    assert result.stderr.decode().endswith("to send completions again: gen --trace FILE --as requests\n")
