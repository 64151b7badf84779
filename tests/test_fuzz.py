"""Whatever comes in: a documented exit status, a line that says why, JSON lines out, no `internal error`.

Commands run in this process, on records of every stage that were spoilt in several ways at once, with options
drawn too. FUZZ_CASES sets how many cases there are in all (`make test-long`: 100,000).
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cli import Record, Stages, without
from driftkit import cli
from driftkit.estimation import tokenizers
from driftkit.records.schema import FIELDS

CASES = int(os.environ.get("FUZZ_CASES", "1000"))
EXIT_STATUSES = {0, 1, 2, 3, 4, 5}

COMMANDS: dict[str, tuple[str, list[list[str]]]] = {
    "gen": (
        "requests",
        [
            ["--trace-format", "jsonl"],
            ["--trace-format", "auto"],
            ["--trace-format", "csv"],
            ["--trace-format", "mooncake"],
            ["--trace-format", "openai-batch"],
            ["--trace-format", "sharegpt"],
            ["--map", "prompt_tokens=max_tokens"],
            ["--map", "e2e_s=temperature", "--map", "arrival_s=arrival_s/1000"],
            ["--window", "1:3"],
            ["--limit", "2"],
            ["--sort"],
            ["--to", "mooncake"],
            ["--to", "openai-batch"],
            ["--redact-prompt"],
        ],
    ),
    "estimate": (
        "requests",
        [
            ["--model", "prompt-length"],
            ["--model", "oracle"],
            ["--tokenizer", "whitespace"],
            ["--redact-prompt"],
        ],
    ),
    "schedule": (
        "estimated",
        [
            ["--policy", "sjf"],
            ["--policy", "aging"],
            ["--policy", "weighted"],
            ["--policy", "oracle-sjf"],
            ["--policy", "random", "--param", "seed=3"],
            ["--policy", "priority", "--follow"],
            ["--no-plan"],
            ["--batching", "static"],
            ["--max-num-seqs", "2"],
            ["--num-gpu-blocks", "40", "--max-model-len", "600"],
        ],
    ),
    "run": (
        "scheduled",
        [
            ["--feedback"],
            ["--feedback", "--method", "ema"],
            ["--follow"],
            ["--batching", "static", "--batch-size", "3"],
            ["--dispatch", "client", "--max-concurrency", "2"],
            ["--num-gpu-blocks", "40", "--max-model-len", "600"],
            ["--long-prefill-token-threshold", "16"],
        ],
    ),
    "calibrate": (
        "completions",
        [["--method", "ema"], ["--method", "quantile"], ["--method", "isotonic"], ["--sort"], ["--live"]],
    ),
    "report": (
        "calibrated",
        [
            ["--format", "jsonl"],
            ["--format", "csv"],
            ["--format", "markdown"],
            ["--by", "tier"],
            ["--by", "prompt_tokens"],
            ["--where", "tier=premium"],
            ["--baseline", "sjf"],
            ["--trend"],
            ["--fail-if", "e2e_s.p99>3"],
            ["--table", "queue_course"],
            ["--table", "error_by_decile", "--table", "error_over_time"],
            ["--table", "telemetry", "--by", "run_id"],
            ["--fail-if", "telemetry.max>3"],
        ],
    ),
}

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 10**9, 10**9 + 1]),
    st.sampled_from([0.0, -0.0, 1e-9, 0.5, 1e9, 1.7e9, 9e9, 1e18, 1e308, -1.5, 5e-324]),
    st.sampled_from(
        ["", "ok", "error", "sjf", "weighted", "aging:rate=1e-6", "length", "whitespace", "\u2028", "é" * 9]
    ),
    st.sampled_from([[], {}, [1], {"a": 1}, [{"role": "user", "content": "hi"}], [None]]),
)
fields = st.sampled_from([*sorted(FIELDS), "x_unknown", ""])
changes = st.lists(st.tuples(st.integers(0, 7), fields, st.one_of(odd_values, st.just("<gone>"))), max_size=5)
junk = st.sampled_from(
    [
        b"",
        b" ",
        b"[]",
        b"7",
        b"null",
        b"{",
        b'{"id":',
        b'"',
        b"\xff\xfe",
        b"{}",
        b'{"kind":"note"}',
        b"a,b,c",
        b"\x00",
    ]
)
junk_lines = st.lists(st.tuples(st.integers(0, 8), junk), max_size=2)


class _Stdin(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


@contextmanager
def streams(data: bytes) -> Iterator[tuple[io.BytesIO, io.StringIO]]:
    """Standard streams over memory."""
    out, said = io.BytesIO(), io.StringIO()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = _Stdin(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    sys.stderr = said
    try:
        yield out, said
    finally:
        sys.stdout.detach()
        sys.stdin, sys.stdout, sys.stderr = before


def call(args: list[str], data: bytes) -> bytes:
    with streams(data) as (out, said):
        code = cli._run(args, {})
    text = said.getvalue()
    event(f"exit status {code}")
    assert "internal error" not in text, text
    assert code in EXIT_STATUSES, (code, text)
    assert (code in (0,)) or text, "an exit status without a word"
    assert all(line.startswith(("driftkit ", "  ")) for line in text.splitlines()), text
    assert len(text) < 5000, text[:300]
    written = out.getvalue()
    if code == 2:  # all that may be out is what passed through before
        assert set(written.splitlines()) <= {b'{"kind":"note"}'}
    return written


def spoilt(rows: list[Record], spoil: list[tuple[int, str, Any]], lines: list[tuple[int, bytes]]) -> bytes:
    rows = [dict(row) for row in rows]
    for place, name, value in spoil:
        place %= len(rows)
        if value == "<gone>":
            rows[place] = without(rows[place], name)
        else:
            rows[place][name] = value
    whole = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    for place, line in lines:
        whole.insert(place, line)
    return b"\n".join(whole) + b"\n"


@pytest.fixture(scope="session")
def eight(stages: Stages) -> dict[str, list[Record]]:
    """Eight records of each stage; what report reads has telemetry between."""
    found = {name: stages.read(name)[:8] for name in Stages._fields}
    head = {"kind": "telemetry", "schema": 1, "run_id": found["calibrated"][0]["run_id"]}
    found["calibrated"][1:1] = [
        {**head, "at_s": 0, "gpu": 0, "power_w": 50.0},
        {**head, "at_s": 1, "gpu": 0, "power_w": 60},
        {**head, "at_s": 0.5, "replica": "http://a", "waiting_requests": 3, "preemptions_total": 2},
        {**head, "at_s": 7, "replica": "http://a", "waiting_requests": 0, "preemptions_total": 1},
    ]
    return found


@pytest.fixture(scope="module", autouse=True)
def one_vocabulary() -> Iterator[None]:
    """Read once for all calls in this process: it takes more time than all else that they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "builtin", cache(tokenizers.builtin))
        yield


@pytest.mark.parametrize("name", COMMANDS)
@settings(
    max_examples=max(1, CASES // len(COMMANDS)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spoil=changes, lines=junk_lines, cut=st.integers(0, 40), data=st.data())
def test_anything_ends_as_documented(
    eight: dict[str, list[Record]],
    name: str,
    spoil: list[tuple[int, str, Any]],
    lines: list[tuple[int, bytes]],
    cut: int,
    data: st.DataObject,
) -> None:
    stage, choices = COMMANDS[name]
    options = data.draw(st.lists(st.sampled_from(choices), max_size=2))
    skip = data.draw(st.booleans())
    content = spoilt(eight[stage], spoil, lines)
    content = content[: len(content) - cut * 7] if cut > 30 else content
    args = [
        name,
        *(["--policy", "fifo"] if name == "schedule" else []),
        *(["--trace", "-"] if name == "gen" else []),
    ]
    args += [word for option in options for word in option]
    written = call([*args, *(["--on-error", "skip"] if skip else [])], content)
    if name != "report":
        for line in written.splitlines():
            assert type(json.loads(line)) is dict
        assert written.endswith(b"\n") or not written


document = st.recursive(odd_values, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@settings(
    max_examples=max(1, CASES // 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    where=st.lists(st.sampled_from(["kind", "version", "key", "method", "runs", "learned"]), max_size=2),
    what=document,
)
def test_any_state_is_used_or_refused(
    eight: dict[str, list[Record]], tmp_path: Path, where: list[str], what: Any
) -> None:
    good: dict[str, Any] = {
        "kind": "driftkit-calibration",
        "version": 1,
        "key": ["table", "builtin", "qwen1.5-1.8b"],
        "method": "ratio",
        "runs": {},
        "learned": {
            "category": {"summary": [3, 0.1, 0.2]},
            "cell": [["tenant-batch", "summary", 3, 0.1, 0.2]],
        },
    }
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    content = json.dumps({**good, **dict.fromkeys(where, what)}).encode()
    file = state / "table.builtin.qwen1%2E5-1%2E8b.json"
    file.write_bytes(content)
    call(["estimate", "--state", str(state)], spoilt(eight["requests"], [], []))
    assert file.read_bytes() == content
