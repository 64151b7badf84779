"""`run --follow`: the same run, taken as it comes."""

from __future__ import annotations

import json

import pytest

from cli import Stages, changed, jsonl, ok, read_line, records, run, said, start, without


@pytest.mark.parametrize("options", [[], ["--feedback"], ["--batching", "static", "--batch-size", "8"]])
def test_in_order_it_is_the_run_that_reads_all_first(stages: Stages, options: list[str]) -> None:
    rows = sorted(stages.read("scheduled"), key=lambda row: row["arrival_s"])
    whole = ok(["run", "--run-id", "night", *options], jsonl(rows))
    assert ok(["run", "--run-id", "night", "--follow", *options], jsonl(rows)) == whole


def test_what_has_ended_is_written_while_more_may_come(stages: Stages) -> None:
    """A completion is certain once an arrival after its end is known."""
    rows = sorted(stages.read("scheduled"), key=lambda row: row["arrival_s"])
    first, late = rows[0], changed(rows[1], arrival_s=1000.0)
    with start(["run", "--follow"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(jsonl([first, late]))
        assert json.loads(read_line(process.stdout.fileno()))["id"] == first["id"]
        assert process.poll() is None
        process.stdin.close()
        assert json.loads(process.stdout.read())["id"] == late["id"]
    assert process.returncode == 0


def test_a_step_back_in_time_is_refused(stages: Stages) -> None:
    rows = sorted(stages.read("scheduled"), key=lambda row: row["arrival_s"])
    rows[5], rows[6] = rows[6], rows[5]
    first, hint = said(run(["run", "--follow"], jsonl(rows)), 1)
    assert first.startswith("driftkit run: <stdin>:7: arrival_s: ")
    assert "without --follow" in hint
    result = run(["run", "--follow", "--on-error", "skip"], jsonl(rows))
    assert len(said(result, 3)) == 2
    assert len(records(result.stdout)) == len(rows) - 1


def test_priorities_without_a_policy_are_refused(stages: Stages) -> None:
    rows = [without(row, "policy") for row in stages.read("scheduled")]
    assert "priority: under --follow" in said(run(["run", "--follow"], jsonl(rows)), 1)[0]


def test_a_run_has_the_name_that_it_is_given(stages: Stages) -> None:
    rows = records(ok(["run", "--run-id", "night-7", stages.scheduled]))
    assert {row["run_id"] for row in rows} == {"night-7"}
