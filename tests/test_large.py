"""Sizes that break what was written for small ones: a huge line, very many tenants, clocks from 1970."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from cli import DRIFTKIT, Record, Stages, changed, jsonl, ok, records, run, said

TENANTS = 32_000
HUGE = 50_000_000


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One estimated request of each of very many tenants, all at once, and beside it a tenth of them."""
    path = tmp_path_factory.mktemp("crowd") / "requests.jsonl"
    row = (
        '{"kind":"request","schema":1,"id":"r%d","tenant":"t%d","arrival_s":%f,"prompt_tokens":10,"max_tokens":4,'
        '"trace_output_tokens":%d,"est_output_tokens":4,"est_total_tokens":14,"est_base_tokens":4}\n'
    )
    rows = [row % (n, n, n * 1e-4, 1 + n % 4) for n in range(TENANTS)]
    path.write_text("".join(rows))
    path.with_name("tenth.jsonl").write_text("".join(rows[: TENANTS // 10]))
    return path


def used(args: list[str | Path], sink: Path) -> resource.struct_rusage:
    """What a command that ends well has used."""
    with open(sink, "wb") as stdout:
        process = subprocess.Popen([DRIFTKIT, *args], stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage


def test_a_crowd_of_tenants_goes_through_every_stage_at_the_cost_of_each(crowd: Path, tmp_path: Path) -> None:
    """Ten times as many may take ten times as long and half as much again, not a hundred times."""
    stages: dict[str, list[str]] = {
        "weighted": ["schedule", "--policy", "weighted", "--no-plan"],
        "ran": ["run"],
        "calibrated": ["calibrate"],
        "fair": ["report", "--format", "jsonl", "--table", "fairness"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for source in (crowd.with_name("tenth.jsonl"), crowd):
        for name, args in stages.items():
            usage = used([*args, source], tmp_path / name)
            seconds[name].append(usage.ru_utime + usage.ru_stime)
            source = tmp_path / name
    for name, (tenth, whole) in seconds.items():
        assert whole < 15 * tenth, name
    (row,) = records((tmp_path / "fair").read_bytes())
    assert row["tenants"] == TENANTS
    served = [json.loads(line)["tenant"] for line in (tmp_path / "ran").read_bytes().splitlines()]
    assert len(set(served)) == TENANTS


def test_estimate_takes_the_same_memory_for_ten_times_the_input(crowd: Path, tmp_path: Path) -> None:
    small, large = (
        used(["estimate", "--tokenizer", "whitespace", path], tmp_path / "out").ru_maxrss / 1024
        for path in (crowd.with_name("tenth.jsonl"), crowd)
    )
    assert large < small + 5  # MB


@pytest.mark.parametrize("command", ["estimate", "schedule", "run"])
def test_a_huge_line(stages: Stages, tmp_path: Path, command: str) -> None:
    """Its fifty megabytes of prompt pass through; cut off, it is one bad line like another."""
    stage = {"estimate": "requests", "schedule": "estimated", "run": "scheduled"}[command]
    options = {"estimate": ["--tokenizer", "whitespace"], "schedule": ["--policy", "fifo"], "run": []}[
        command
    ]
    first, second, *_ = stages.read(stage)
    path = tmp_path / "huge.jsonl"
    path.write_bytes(jsonl([changed(first, prompt="word " * (HUGE // 5)), second]))
    out = ok([command, *options, path])
    assert len(out) > HUGE
    assert len(out.splitlines()) == 2
    path.write_bytes(b'{"id":"x","prompt":"' + b"word " * (HUGE // 5) + b"\n" + jsonl([second]))
    result = run([command, *options, "--on-error", "skip", path])
    lines = said(result, 3)
    assert lines[0].startswith(f"driftkit {command}: {path}:1: not JSON: ")
    assert all(len(line) < 200 for line in lines)
    assert [row["id"] for row in records(result.stdout)] == [second["id"]]


def moved(rows: list[Record], by: float) -> list[Record]:
    return [changed(row, arrival_s=row["arrival_s"] + by) for row in rows]


@pytest.mark.parametrize("policy", ["fifo", "sjf", "aging", "weighted"])
@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_a_clock_that_started_in_1970(stages: Stages, policy: str, batching: str) -> None:
    """The same order and, to the microsecond that a double has left there, the same latencies."""
    rows = stages.read("estimated")
    found = []
    for origin in (0.0, 1.7e9):
        scheduled = ok(["schedule", "--policy", policy, "--no-plan"], jsonl(moved(rows, origin)))
        done = {row["id"]: row for row in records(ok(["run", "--batching", batching], scheduled))}
        found.append(done)
    near, far = found
    assert list(near) == list(far)
    for name, row in near.items():
        assert far[name]["e2e_s"] == pytest.approx(row["e2e_s"], abs=2e-5)


def test_a_report_on_such_a_clock(stages: Stages) -> None:
    rows = jsonl(moved(stages.read("scheduled"), 1.7e9))
    near, far = (
        records(ok(["report", "--format", "jsonl"], ok(["run", "--run-id", "x"], data)))
        for data in (stages.scheduled.read_bytes(), rows)
    )
    assert [row["table"] for row in near] == [row["table"] for row in far]
    for one, other in zip(near, far, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                assert other[name] == pytest.approx(value, rel=1e-3, abs=1e-4)
