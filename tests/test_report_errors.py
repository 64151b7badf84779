"""Estimate error in parts: by decile of the estimate, and over a run's time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import Record, Stages, jsonl, ok, records, run, said, without
from driftkit.reporting.error_by_decile import deciles, error_by_decile
from driftkit.reporting.error_over_time import error_over_time
from driftkit.reporting.errors_table import estimate_error
from driftkit.reporting.stats import kendall_tau
from test_report import columns, completion

# --- by decile of the estimate --------------------------------------------------------------------


def test_different_estimates_fill_ten_equal_deciles() -> None:
    values = np.random.default_rng(1).permutation(70).astype(np.float64)
    assert deciles(values).tolist() == (values // 7 + 1).tolist()


def test_equal_estimates_stay_together() -> None:
    """Ranks 1-6, 7, 8-10 have their middles at 3, 6.5 and 8.5 of 10."""
    assert deciles(np.array([5.0] * 6 + [7.0] + [9.0] * 3)).tolist() == [4] * 6 + [7] + [9] * 3
    assert set(deciles(np.full(9, 3.0)).tolist()) == {6}
    assert deciles(np.array([])).tolist() == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60))
def test_the_parts_make_up_the_whole(pairs: list[tuple[int, int]]) -> None:
    data = columns(
        [
            completion(n, 1, 1, est_output_tokens=estimate, actual_output_tokens=actual)
            for n, (estimate, actual) in enumerate(pairs)
        ]
    )
    (whole,) = estimate_error(data, ()).rows
    for table in (error_by_decile(data, ()), error_over_time(data, ())):
        if len(pairs) == 1 and table.name == "error_over_time":
            continue  # no time went by
        assert sum(row["count"] for row in table.rows) == len(pairs)
        for measure in ("mae", "bias"):
            parts = sum(row[measure] * row["count"] for row in table.rows) / len(pairs)
            assert parts == pytest.approx(whole[measure], abs=1e-9)
    curve = error_by_decile(data, ()).rows
    assert [row["decile"] for row in curve] == sorted({row["decile"] for row in curve})
    means = [row["mean_estimate"] for row in curve]
    assert means == sorted(set(means))
    assert all(1 <= row["decile"] <= 10 for row in curve)


def curve() -> list[Record]:
    """Estimates 10 (six times) and 40 (four times); the short ones come out twice as long."""
    rows = []
    for n in range(10):
        estimate, actual = (10, 20) if n < 6 else (40, 50 if n == 9 else 40)
        lengths = {"est_output_tokens": estimate, "actual_output_tokens": actual}
        quantiles = {"est_output_tokens_p10": estimate // 2, "est_output_tokens_p90": estimate * 6 // 5}
        rows.append(completion(n, 1, 1, **lengths, **quantiles))
    return rows


def test_the_calibration_curve_by_hand() -> None:
    text = ok(["report", "--table", "error_by_decile"], jsonl(curve())).decode()
    table, notes = text.split("\n\n  deciles of the estimate, ")
    assert notes.count("\n") == 2
    assert table.splitlines() == [
        "Estimate error by decile of the estimate",
        "",
        "  label   estimate   decile   count   unit     mean estimate   mean actual   median actual     MA"
        "E     bias   log ratio   within %",
        " ────────────────────────────────────────────────────────────────────────────────────────────────"
        "──────────────────────────────────",
        "  fifo    as made         4       6   tokens           10.00         20.00           20.00   10.0"
        "0   -10.00     -0.6931          0",
        "  fifo    as made         9       4   tokens           40.00         42.50           40.00   2.50"
        "0   -2.500    -0.05579      75.00",
    ]


def test_as_made_and_calibrated_are_sorted_each_by_itself() -> None:
    rows = [
        completion(n, 1, 1, est_output_tokens=n + 1, cal_output_tokens=20 - n, tenant="ab"[n % 2])
        for n in range(20)
    ]
    table = error_by_decile(columns(rows, "tenant"), ("tenant",)).rows
    found = {(r["tenant"], r["estimate"], r["decile"]): r["mean_estimate"] for r in table}
    assert len(found) == 40
    assert found["a", "as made", 1] == 1
    assert found["b", "as made", 1] == 2
    assert found["b", "calibrated", 1] == 1
    assert found["b", "calibrated", 10] == 19


def test_words_are_held_against_words() -> None:
    word = {"est_tokenizer": "whitespace", "est_output_tokens": 9, "actual_output_words": 8}
    rows = [completion(n, 1, 1, **word) for n in range(3)]
    for table in (error_by_decile(columns(rows), ()), error_over_time(columns(rows), ())):
        assert {(row["unit"], row["mean_actual"], row["mae"]) for row in table.rows} == {("words", 8, 1)}


def test_what_has_no_logarithm_or_no_quantiles_is_left_out_of_that() -> None:
    rows = [
        completion(0, 1, 1, est_output_tokens=0, actual_output_tokens=0),
        completion(1, 1, 1, est_output_tokens=0, actual_output_tokens=7),
    ]
    (row,) = error_by_decile(columns(rows), ()).rows
    assert (row["count"], row["bias"]) == (2, -3.5)
    assert "log_ratio" not in row
    assert "within_percent" not in row


@pytest.mark.parametrize("table", [error_by_decile, error_over_time])
def test_without_estimates_there_is_nothing_to_say(table: Any) -> None:
    rows = [completion(n, 1, 1) for n in range(3)]
    rows.append(completion(4, 1, 1, status="timeout", est_output_tokens=9))
    rows.append(without(completion(5, 1, 1, est_output_tokens=9), "actual_output_tokens"))
    made = table(columns(rows), ())
    assert (made.rows, made.notes) == ([], [])


# --- over time ------------------------------------------------------------------------------------


def drifting(run_id: str = "run-1") -> list[Record]:
    """One a second from 0 to 100; from 50 on outputs are twice as long, and calibration knows at 60."""
    rows = []
    for n in range(101):
        base = 10 + n % 7
        now = base * (2 if n >= 50 else 1)
        calibrated = base * (2 if n >= 60 else 1)
        lengths = {"est_output_tokens": base, "cal_output_tokens": calibrated, "actual_output_tokens": now}
        rows.append(completion(n, 0, 200 - n % 3, run_id=run_id, **lengths))
    return rows


def test_drift_shows_where_it_began_and_where_it_was_learnt() -> None:
    rows = error_over_time(columns(drifting()), ()).rows
    ratio = {(r["estimate"], r["tenth"]): round(r["log_ratio"], 9) for r in rows}
    half = round(-np.log(2), 9)
    assert [ratio["as made", tenth] for tenth in range(1, 11)] == [0] * 5 + [half] * 5
    assert [ratio["calibrated", tenth] for tenth in range(1, 11)] == [0] * 5 + [half] + [0] * 4
    made = [r for r in rows if r["estimate"] == "as made"]
    assert [(r["from_s"], r["to_s"]) for r in made] == [(10 * i, 10 * i + 10) for i in range(10)]
    assert [r["count"] for r in made] == [10] * 9 + [11]  # the last arrival is in the last tenth
    assert [r["tau"] for r in made] == pytest.approx([1] * 10)


def test_the_order_is_known_better_in_one_part_than_in_another() -> None:
    stream = np.random.default_rng(5)
    lengths = stream.permutation(200) + 1
    estimates = np.where(np.arange(200) < 100, lengths, stream.permutation(lengths))
    rows = [
        completion(n, 1, 1, est_output_tokens=int(e), actual_output_tokens=int(a))
        for n, (e, a) in enumerate(zip(estimates, lengths, strict=True))
    ]
    found = [r["tau"] for r in error_over_time(columns(rows), ()).rows]
    assert found[:5] == pytest.approx([1] * 5)
    last = slice(180, 200)
    assert found[9] == pytest.approx(kendall_tau(estimates[last] * 1.0, lengths[last] * 1.0))
    assert max(found[5:]) < 0.7


def test_tenths_are_of_the_run_not_of_the_tenant() -> None:
    late = completion(500, 0, 1, offered_s=55.0, id="s", tenant="small", est_output_tokens=9)
    rows = [*drifting(), late]
    rows.append(completion(501, 0, 0, offered_s=200.0, status="timeout"))
    table = error_over_time(columns(rows, "tenant"), ("tenant",)).rows
    (row,) = (row for row in table if row["tenant"] == "small")
    assert (row["tenth"], row["from_s"], row["to_s"]) == (3, 40, 60)


def test_runs_have_each_their_own_time() -> None:
    rows = drifting() + [{**row, "offered_s": row["offered_s"] * 2 + 1000} for row in drifting(run_id="slow")]
    for by in ((), ("run_id",)):
        table = error_over_time(columns(rows), by).rows
        assert {(r["run_id"], r["to_s"]) for r in table if r["tenth"] == 10} == {
            ("run-1", 100),
            ("slow", 200),
        }


def test_a_run_without_a_course_is_said() -> None:
    rows = [
        completion(n, 1, 1, offered_s=3.0, arrival_s=3.0, run_id="batch", est_output_tokens=9)
        for n in range(3)
    ]
    rows += [without(completion(9, 1, 1, run_id="log", est_output_tokens=9), "offered_s")]
    out = ok(["report", "--table", "error_over_time"], jsonl(rows)).decode()
    assert out.splitlines() == [
        "  batch is left out: its requests came all at once, or nobody says when",
        "  log is left out: its requests came all at once, or nobody says when",
    ]


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("error_by_decile", "est_output_tokens"),
        ("classes", "est_output_tokens"),
        ("coverage", "est_output_tokens_p10 and est_output_tokens_p90"),
        ("goodput", "slo_ttft_s or slo_e2e_s"),
    ],
)
def test_a_table_that_was_asked_for_and_is_empty_says_what_it_needs(
    stages: Stages, name: str, needs: str
) -> None:
    rows = [
        without(row, *(field for field in row if field.startswith("est_")))
        for row in stages.read("completions")
    ]
    (line,) = said(run(["report", "--table", name], jsonl(rows)), 0)
    assert line == f"driftkit report: the table {name} is empty: it needs {needs}"


def test_programs_get_them_always_and_people_when_they_ask(stages: Stages) -> None:
    names = {"error_by_decile", "error_over_time"}
    everything = records(ok(["report", "--format", "jsonl", stages.calibrated]))
    assert {row["table"] for row in everything} >= names
    assert "decile" not in ok(["report", stages.calibrated]).decode()
    options = [option for name in sorted(names) for option in ("--table", name)]
    text = ok(["report", *options, "--by", "tenant", stages.calibrated]).decode()
    assert "Estimate error by decile of the estimate" in text
    assert "Estimate error over time" in text


def test_a_gate_on_the_last_tenth() -> None:
    gate = "error_over_time.bias<-5 estimate=calibrated"
    (line,) = said(run(["report", "--table", "throughput", "--fail-if", gate], jsonl(drifting())), 4)
    assert line.startswith(f"driftkit report: --fail-if '{gate}': crossed: bias is -")
    assert line.endswith("(label=fifo tenth=6)")
