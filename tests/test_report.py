"""What the report says: statistics against scipy and numpy, tables by hand, sentences, selections."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cli import Record, changed, jsonl, ok, run, said, without
from driftkit.reporting.completions import Collector
from driftkit.reporting.errors_table import class_stability, estimate_error
from driftkit.reporting.fairness import fairness, tier_inversions
from driftkit.reporting.latency import latency, throughput
from driftkit.reporting.paired import paired
from driftkit.reporting.stats import error, jain, kendall_tau, quantile_interval, summary, t_interval
from driftkit.reporting.tables import shown

# --- statistics -----------------------------------------------------------------------------------

few_values = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=80
)  # few different ones, so that ties are common


@settings(max_examples=300, deadline=None)
@given(few_values)
def test_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=np.float64).T
    ours, theirs = kendall_tau(x, y), scipy_stats.kendalltau(x, y).statistic
    assert (math.isnan(ours) and math.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_the_interval_over_replicates_is_students(values: list[float]) -> None:
    array = np.array(values)
    mean, low, high = t_interval(array)
    sem = float(scipy_stats.sem(array))
    if sem > 0:
        expected = scipy_stats.t.interval(0.95, array.size - 1, loc=array.mean(), scale=sem)
        assert (low, high) == pytest.approx(expected)
    assert mean == pytest.approx(array.mean())


def test_a_summary_leaves_out_what_is_missing() -> None:
    values = np.array([math.nan, 4.0, 1.0, math.nan, 3.0, 2.0])
    of = summary(values)
    assert of is not None
    assert (of.n, of.mean, of.max) == (4, 2.5, 4.0)
    assert of.percentiles == pytest.approx(np.percentile([1, 2, 3, 4], [50, 90, 95, 99]))
    assert summary(np.array([math.nan])) is None


def test_errors_by_hand() -> None:
    of = error(np.array([10.0, 20.0, math.nan, 40.0]), np.array([12.0, 10.0, 5.0, 40.0]))
    assert of is not None
    assert (of.n, of.mae, of.bias) == (3, 4.0, pytest.approx(8 / 3))
    assert of.rmse == pytest.approx(math.sqrt((4 + 100 + 0) / 3))
    assert of.mape == pytest.approx((2 / 12 + 10 / 10 + 0) / 3 * 100)
    assert of.tau == pytest.approx(1 / 3)


def test_jain_is_1_for_equals_and_1_over_n_for_one_who_has_all() -> None:
    assert jain(np.array([3.0, 3.0, 3.0])) == pytest.approx(1)
    assert jain(np.array([5.0, 0.0, 0.0, 0.0])) == pytest.approx(1 / 4)
    assert jain(np.array([1.0, 2.0])) == pytest.approx(9 / 10)


def test_the_medians_interval_covers_as_often_as_it_says() -> None:
    stream = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        low, high = quantile_interval(stream.exponential(1.0, 101), 0.5)
        hits += low <= math.log(2) <= high
    assert 0.92 <= hits / 400 <= 0.99


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.567, "1235"),
        (12.3456, "12.35"),
        (0.000123456, "0.000123"),
        (0.0, "0"),
        (-41.58, "-41.58"),
        (None, "-"),
        (math.nan, "-"),
        (7, "7"),
        ("x", "x"),
    ],
)
def test_four_digits_are_shown(value: object, text: str) -> None:
    assert shown(value) == text


# --- tables by hand -------------------------------------------------------------------------------


def completion(number: int, wait: float, service: float, **fields: Any) -> Record:
    """Due at `number` seconds; its first token half way through its service."""
    offered = float(number)
    return {
        "kind": "completion",
        "schema": 1,
        "id": f"r{number}",
        "tenant": "acme",
        "run_id": "run-1",
        "label": "fifo",
        "status": "ok",
        "prompt_tokens": 100,
        "actual_output_tokens": 11,
        "offered_s": offered,
        "started_s": offered + wait,
        "finished_s": offered + wait + service,
        "queue_wait_s": wait,
        "inference_s": service,
        "ttft_s": wait + service / 2,
        "tpot_s": service / 2 / 10,
        "e2e_s": wait + service,
        "preemptions": 0,
        **fields,
    }


def columns(rows: list[Record], *by: str) -> Any:
    collector = Collector(by)
    for row in rows:
        collector.add(row)
    return collector.columns()


def test_latency_and_throughput_by_hand() -> None:
    rows = [completion(n, wait=float(n), service=2.0) for n in range(4)]
    rows.append(
        without(completion(9, 0, 0, status="rejected", e2e_s=0.0), "queue_wait_s", "inference_s", "ttft_s")
    )
    data = columns(rows)
    by_metric = {row["metric"]: row for row in latency(data, ()).rows}
    assert [by_metric["e2e_s"][k] for k in ("count", "mean", "p50", "max")] == [4, 3.5, 3.5, 5.0]
    assert by_metric["ttft_s"]["mean"] == 2.5
    (row,) = throughput(data, ()).rows
    assert (row["served"], row["failed"], row["runs"]) == (4, 1, 1)
    assert row["duration_s"] == 9.0  # from 0 to the rejection at 9
    assert row["request_rps"] == pytest.approx(4 / 9)
    assert row["output_tokens_per_s"] == pytest.approx(44 / 9)


def test_completions_of_others_may_know_arrivals_only() -> None:
    rows = [
        without(
            completion(n, 1, 2, arrival_s=float(n)),
            *("offered_s", "e2e_s", "preemptions", "actual_output_tokens", "ttft_s", "tpot_s"),
        )
        for n in range(3)
    ]
    (e2e,) = (row for row in latency(columns(rows), ()).rows if row["metric"] == "e2e_s")
    assert e2e["mean"] == 3
    (row,) = throughput(columns(rows), ()).rows
    assert (row["duration_s"], row["preemptions"], row["output_tokens_per_s"]) == (5, None, None)


def test_gangs_have_no_first_token_and_so_no_row_for_it() -> None:
    rows = [without(completion(n, 1, 2), "ttft_s", "tpot_s") for n in range(3)]
    assert {row["metric"] for row in latency(columns(rows), ()).rows} == {"e2e_s", "queue_wait_s"}


def test_uncalibrated_stands_beside_calibrated() -> None:
    rows = [completion(n, 1, 1, est_output_tokens=21, cal_output_tokens=13) for n in range(5)]
    before, after = estimate_error(columns(rows), ()).rows
    assert (before["estimate"], before["mae"], before["bias"]) == ("as made", 10, 10)
    assert (after["estimate"], after["mae"]) == ("calibrated", 2)
    assert (after["mae_change_percent"], after["rmse_change_percent"]) == pytest.approx((-80, -80))


def test_estimates_in_words_are_held_against_words() -> None:
    rows = [
        completion(n, 1, 1, est_tokenizer="whitespace", est_output_tokens=9, actual_output_words=8)
        for n in range(3)
    ]
    table = estimate_error(columns(rows), ())
    assert (table.rows[0]["mae"], table.rows[0]["unit"]) == (1, "words")


def test_classes_by_hand() -> None:
    """100 tokens of prompt; budgets of 128 (short), 129 and 512 (medium), 513 (long)."""
    lengths = [(28, 28), (28, 29), (29, 28), (412, 413), (413, 413)]
    rows = [
        completion(n, 1, 1, est_output_tokens=estimate, actual_output_tokens=actual)
        for n, (estimate, actual) in enumerate(lengths)
    ]
    table = class_stability(columns(rows), ()).rows
    assert [
        (r["class"], r["actual_short"], r["actual_medium"], r["actual_long"], r["agree_percent"])
        for r in table
    ] == [("short", 1, 1, 0, 50.0), ("medium", 1, 0, 1, 0.0), ("long", 0, 0, 1, 100.0)]


def test_fairness_by_hand() -> None:
    rows = [completion(0, 0, 2), completion(1, 2, 2), completion(2, 10, 2, tenant="slow")]
    (row,) = fairness(columns(rows)).rows
    assert row["jain_slowdown"] == pytest.approx((1.5 + 6) ** 2 / (2 * (1.5**2 + 6**2)))
    assert (row["worst_tenant"], row["worst_slowdown"]) == ("slow", 6.0)
    assert (row["longest_wait_s"], row["longest_wait_tenant"]) == (10, "slow")


def tiers(gold: float, lead: float) -> list[Record]:
    rows = [completion(n, gold + n % 3, 1, tier="gold", tier_level=-1) for n in range(60)]
    return rows + [completion(100 + n, lead + n % 3, 1, tier="lead", tier_level=7) for n in range(60)]


def test_an_inversion_is_said_in_words() -> None:
    (row,) = tier_inversions(columns(tiers(gold=30, lead=9))).rows
    assert row["inverted"] is True
    assert row["finding"] == (
        "tier inversion: gold waits longer than lead, median end-to-end 32.00 s against 11.00 s (2.9 times)"
    )


@pytest.mark.parametrize(("gold", "lead"), [(9, 30), (10, 10), (10.2, 10)])
def test_where_there_is_none_that_is_said(gold: float, lead: float) -> None:
    (row,) = tier_inversions(columns(tiers(gold, lead))).rows
    assert row["finding"].startswith("no inversion: ")
    assert row["inverted"] is False


def test_the_tail_is_looked_at_where_the_middle_shows_nothing() -> None:
    rows = [
        completion(n, n % 5, 1, tier="gold" if n % 2 else "lead", tier_level=2 - n % 2) for n in range(600)
    ]
    rows = [changed(row, e2e_s=90.0 + n) if n % 12 == 1 else row for n, row in enumerate(rows)]
    (row,) = tier_inversions(columns(rows)).rows
    assert row["finding"].startswith("tier inversion: gold waits longer than lead, P95 end-to-end ")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_is_said_of_a_handful(count: int) -> None:
    rows = [completion(n, 90, 1, tier="gold", tier_level=1) for n in range(count)]
    rows += [completion(50 + n, 1, 1, tier="lead", tier_level=2) for n in range(count)]
    (row,) = tier_inversions(columns(rows)).rows
    assert row["inverted"] is False


def test_equal_tiers_are_rarely_called_inverted() -> None:
    """Both drawn alike: a false call, median or P95, in at most 6 of 100."""
    stream = np.random.default_rng(2)
    calls = 0
    for _ in range(100):
        size = int(stream.integers(3, 200))
        rows = [
            completion(n, 0, 1, e2e_s=float(stream.exponential(9)), tier=str(n % 2), tier_level=n % 2)
            for n in range(2 * size)
        ]
        calls += tier_inversions(columns(rows)).rows[0]["inverted"]
    assert calls <= 6


def test_nothing_is_said_of_records_without_tiers() -> None:
    assert tier_inversions(columns([completion(n, n, 1) for n in range(5)])).rows == []


# --- one label against another --------------------------------------------------------------------


def pair(change: float, runs: int, requests: int = 40) -> list[Record]:
    rows = []
    for seed in range(runs):
        for n in range(requests):
            row = completion(n, 10 + (n * 7 + seed) % 13, 1, run_id=f"fifo-{seed}", id=f"{seed}/{n}")
            rows.append(row)
            factor = change + 0.01 * seed
            rows.append(
                changed(
                    row, run_id=f"sjf-{seed}", label="sjf", e2e_s=row["e2e_s"] * factor, ttft_s=row["ttft_s"]
                )
            )
    return rows


def test_one_run_each_is_a_bootstrap_over_requests() -> None:
    table = paired(columns(pair(0.5, runs=1)), "fifo", (), seed=0)
    rows = {(row["metric"], row["statistic"]): row for row in table.rows}
    mean = rows["e2e_s", "mean"]
    assert mean["change_percent"] == pytest.approx(-50)
    assert mean["low_percent"] == pytest.approx(-50)  # the same factor for every request: nothing varies
    assert mean["high_percent"] == pytest.approx(-50)
    assert (mean["runs"], mean["requests"], mean["interval"]) == (1, 40, "bootstrap")
    assert rows["ttft_s", "p99"]["change_percent"] == 0


def test_several_runs_each_are_replicates() -> None:
    table = paired(columns(pair(0.5, runs=3)), "fifo", (), seed=0)
    mean = next(row for row in table.rows if (row["metric"], row["statistic"]) == ("e2e_s", "mean"))
    expected = t_interval(np.array([-50.0, -49.0, -48.0]))
    found = (mean["change_percent"], mean["low_percent"], mean["high_percent"])
    assert found == pytest.approx(expected)
    assert (mean["runs"], mean["requests"], mean["interval"]) == (3, 120, "t")


def test_the_bootstrap_covers_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """For independent pairs, which is all it can promise: 95 % within what chance leaves of 120 trials."""
    monkeypatch.setattr("driftkit.reporting.paired.RESAMPLES", 250)
    stream = np.random.default_rng(3)
    hits = 0
    for trial in range(120):
        rows = []
        for n in range(60):
            base = float(stream.exponential(10))
            other = base * 0.8 * float(stream.lognormal(0, 0.3)) / math.exp(0.045)
            rows.append(completion(n, base, 1, e2e_s=base))
            rows.append(completion(n, base, 1, run_id="run-2", label="sjf", e2e_s=other))
        table = paired(columns([without(r, "ttft_s") for r in rows]), "fifo", (), seed=trial)
        mean = next(row for row in table.rows if row["statistic"] == "mean")
        hits += mean["low_percent"] <= -20 <= mean["high_percent"]
    assert hits >= 108  # under 95 % fewer have a chance of 0.7 %; the interval of 90 % hits 105 times


def test_repeats_of_the_same_requests_are_all_compared() -> None:
    rows = [completion(n, 9, 1) for n in range(5)]
    for repeat, e2e in enumerate((5.0, 6.0, 7.0)):
        rows += [completion(n, 0, 1, e2e_s=e2e, run_id=f"sjf-{repeat}", label="sjf") for n in range(5)]
    table = paired(columns([without(row, "ttft_s") for row in rows]), "fifo", (), seed=0)
    mean = table.rows[0]
    assert (mean["runs"], mean["interval"]) == (3, "t")
    assert mean["change_percent"] == pytest.approx(-40)


def test_other_ids_are_not_compared() -> None:
    rows = [completion(n, 1, 1) for n in range(3)]
    rows += [completion(n, 1, 1, id=f"other{n}", run_id="run-2", label="sjf") for n in range(3)]
    table = paired(columns(rows), "fifo", (), seed=0)
    assert table.rows == []
    assert table.notes == ["sjf was given other ids than fifo: not compared"]


def test_what_one_of_them_did_not_serve_is_left_out_and_said() -> None:
    rows = [completion(n, n, 1) for n in range(4)]
    rows += [completion(n, n, 1, run_id="run-2", label="sjf") for n in range(3)]
    rows.append(completion(3, 0, 0, run_id="run-2", label="sjf", status="timeout"))
    table = paired(columns(rows), "fifo", (), seed=0)
    assert {row["requests"] for row in table.rows} == {3}
    assert table.notes[0].startswith("sjf: 1 requests that it or fifo did not serve are left out")


def test_labels_are_compared_within_each_group() -> None:
    rows = [
        changed(row, tier="gold" if n % 4 < 2 else "lead", tier_level=n % 4 // 2)
        for n, row in enumerate(pair(0.5, 1))
    ]
    table = paired(columns(rows), "fifo", ("tier",), seed=0)
    found = [(row["tier"], row["requests"]) for row in table.rows if row["statistic"] == "mean"]
    assert found == [("gold", 20), ("gold", 20), ("lead", 20), ("lead", 20)]


# --- what the notes say ---------------------------------------------------------------------------


def test_a_cut_that_needs_no_learning_is_shown_apart() -> None:
    rows = [completion(n, 1, 1, est_output_tokens=31, cal_output_tokens=15, max_tokens=16) for n in range(5)]
    made, cut, calibrated = estimate_error(columns(rows), ()).rows
    assert [made["mae"], cut["mae"], calibrated["mae"]] == [20, 5, 4]
    assert [cut["mae_change_percent"], calibrated["mae_change_percent"]] == pytest.approx([-75, -80])


def test_calibration_that_does_harm_is_said() -> None:
    rows = [
        completion(n, 1, 1, est_output_tokens=10 + n, actual_output_tokens=10 + n, cal_output_tokens=30 - n)
        for n in range(5)
    ]
    _, error_note, order_note = estimate_error(columns(rows), ()).notes
    assert error_note.startswith("fifo: calibration makes the error larger: MAE 0 to ")
    assert order_note == (
        "fifo: calibration makes the order worse, on which sjf depends: tau 1.000 to -1.000"
    )


def test_overload_is_said() -> None:
    """Ten a second come, one a second is served."""
    rows = [completion(n, 0, 1, offered_s=n / 10, finished_s=n + 1.0) for n in range(50)]
    (row,) = (table := throughput(columns(rows), ())).rows
    assert (row["offered_rps"], row["request_rps"]) == pytest.approx((10, 1))
    assert table.notes[1].startswith("fifo: 10.00 requests/s came and 1.000 were served: the queue grew")
    assert len(throughput(columns([completion(n, 1, 1) for n in range(50)]), ()).notes) == 1


def test_runs_of_the_same_requests_under_one_label_are_said() -> None:
    rows = [completion(n, 1, 1, run_id=run) for run in ("a", "b") for n in range(5)]
    assert throughput(columns(rows), ()).notes[-1].startswith("fifo: several runs of the same requests")


def test_tiers_come_by_their_level() -> None:
    rows = [completion(n, n, 1, tier=f"t{n}", tier_level=9 - n) for n in range(3)]
    assert [row["tier"] for row in throughput(columns(rows, "tier"), ("tier",)).rows] == ["t2", "t1", "t0"]


# --- the command ----------------------------------------------------------------------------------


def rows_of(data: bytes, table: str) -> list[Record]:
    return [row for row in map(json.loads, data.splitlines()) if row["table"] == table]


def test_by_and_where() -> None:
    data = jsonl([completion(n, n, 1, shift="day" if n % 2 else "night", blue=n < 2) for n in range(4)])
    out = ok(["report", "--format", "jsonl", "--by", "shift", "--where", "blue=true"], data)
    waits = [row for row in rows_of(out, "latency") if row["metric"] == "queue_wait_s"]
    assert [(row["shift"], row["count"], row["mean"]) for row in waits] == [("night", 1, 0), ("day", 1, 1)]


def test_a_baseline_that_there_is_none_of_lists_the_labels() -> None:
    first, hint = said(run(["report", "--baseline", "sjf"], jsonl([completion(0, 1, 1)])), 2)
    assert first == "driftkit report: --baseline: no run is labelled 'sjf'"
    assert hint == "  labels: fifo"


@pytest.mark.parametrize(
    ("options", "code", "says", "hint"),
    [
        (["--by", "metric"], 2, "--by: metric is a column of the table 'Latency'", None),
        (["--by", "tennant"], 2, "--by: no completion has a field 'tennant'", "did you mean tenant?"),
        (["--where", "labl=fifo"], 2, "--where: no completion has a field 'labl'", "did you mean label?"),
        (["--where", "tenant=nobody"], 1, "--where leaves none of 3 completions", None),
    ],
)
def test_selections_that_cannot_be_meant(options: list[str], code: int, says: str, hint: str | None) -> None:
    data = jsonl([completion(n, n, 1, metric="x") for n in range(3)])
    first, *hints = said(run(["report", *options], data), code)
    assert first == f"driftkit report: {says}"
    assert hints == ([f"  {hint}"] if hint else [])


def test_golden() -> None:
    """Worked by hand: waits 0, 1, 2 s, two seconds of service."""
    rows = [completion(n, n, 2, tier="gold", tier_level=1, est_output_tokens=11) for n in range(3)]
    text = ok(["report", *("--where", "tier=gold")], jsonl(rows)).decode()
    assert text.startswith(
        """\
Latency

  label   seconds        count     mean      P50      P90      P95      P99      max
 ────────────────────────────────────────────────────────────────────────────────────
  fifo    e2e_s              3    3.000    3.000    3.800    3.900    3.980    4.000
  fifo    queue_wait_s       3    1.000    1.000    1.800    1.900    1.980    2.000
  fifo    ttft_s             3    2.000    2.000    2.800    2.900    2.980    3.000
  fifo    tpot_s             3   0.1000   0.1000   0.1000   0.1000   0.1000   0.1000
"""
    )
