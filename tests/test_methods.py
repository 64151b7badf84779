"""Isotonic calibration, tracked quantiles and the history model: what they promise, on cases of known truth.

Chances of a false alarm are stated where a test draws; the draws are fixed, so a test that passes goes on to.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import Stages, changed, jsonl, ok, records, run, said, start, without
from driftkit import rng
from driftkit.calibration.base import Calibrator, add_calibrated
from driftkit.calibration.isotonic import WINDOW, Isotonic, Point, _fitted
from driftkit.calibration.quantile import Quantile
from driftkit.calibration.ratio import Ratio
from driftkit.errors import StateError, UsageError
from driftkit.estimation.base import NoCorrection, annotate, build, estimate_many
from driftkit.estimation.history import History
from driftkit.estimation.survival import EDGES, Lengths
from driftkit.estimation.table import Table
from driftkit.records.document import hashed

Record = dict[str, Any]
ALWAYS = math.inf
normal_quantile = NormalDist().inv_cdf


def draws(name: str, count: int, seed: int = 0) -> list[float]:
    """Uniforms in (0, 1)."""
    found: list[float] = rng.stream(seed, f"test/methods/{name}").random(count).tolist()
    return [min(max(u, 1e-12), 1 - 1e-12) for u in found]


def estimated(tokens: int, tenant: str = "t", category: str = "c", **fields: Any) -> Record:
    """A request that was estimated at `tokens`."""
    made = {"id": "r", "tenant": tenant, "est_category": category, "est_base_tokens": tokens}
    return {**made, "est_output_tokens": tokens, **fields}


def ended(record: Record, actual: int) -> Record:
    """The completion of a record whose output would be `actual` tokens, cut at its `max_tokens`."""
    cap = record.get("max_tokens")
    cut = cap is not None and actual > cap
    return {
        **record,
        "actual_output_tokens": cap if cut else actual,
        "finish_reason": "length" if cut else "stop",
    }


def learn_at_once(calibrator: Calibrator, outcomes: Iterable[Record]) -> list[Record]:
    """Each gets what all before it have taught; the records with `cal_*`."""
    found = []
    for second, record in enumerate(outcomes, start=1):
        add_calibrated(record, calibrator, ALWAYS)
        calibrator.learn(record, float(second))
        found.append(record)
    return found


def missed(found: list[Record]) -> tuple[float, float]:
    """The shares of outputs under P10 and above P90."""
    under = sum(r["actual_output_tokens"] < r["cal_output_tokens_p10"] for r in found)
    above = sum(r["actual_output_tokens"] > r["cal_output_tokens_p90"] for r in found)
    return under / len(found), above / len(found)


# --- isotonic -------------------------------------------------------------------------------------

points = st.lists(
    st.tuples(st.integers(0, 6), st.floats(0, 5)).map(lambda p: Point(float(p[0]), p[1], 0.0)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(points)
def test_the_fit_is_the_least_squares_one_among_rising_functions(given: list[Point]) -> None:
    """Against the minimax formula (Robertson, Wright and Dykstra 1988, theorem 1.4.4):
    at x the largest, over starts up to x, of the smallest mean from there to an end from x on."""
    fit = _fitted(given)
    at = sorted({point.estimate for point in given})

    def mean(low: float, high: float) -> float:
        inside = [point.actual for point in given if low <= point.estimate <= high]
        return math.fsum(inside) / len(inside)

    for x in at:
        expected = max(min(mean(low, high) for high in at if high >= x) for low in at if low <= x)
        assert x + fit.log_ratio(x) == pytest.approx(expected, abs=1e-9)


def test_between_blocks_a_line_and_beyond_the_ends_the_ratio_of_the_end() -> None:
    fit = _fitted([Point(1.0, 2.0, 0.0), Point(3.0, 3.0, 0.0)])
    assert [x + fit.log_ratio(x) for x in (0.0, 1.0, 2.0, 2.5, 3.0, 4.0)] == pytest.approx(
        [1.0, 2.0, 2.5, 2.75, 3.0, 4.0]
    )


def test_isotonic_mends_a_curve_that_no_factor_can() -> None:
    """Outputs of 100 for an estimate of 100, of 200 for 200, of 800 for 400: noise of 20 %, 900 of them."""
    truth = {100: 100, 200: 200, 400: 800}
    outcomes = [
        ended(estimated((100, 200, 400)[place % 3]), 0) | {"noise": normal_quantile(u)}
        for place, u in enumerate(draws("curve", 900))
    ]
    for record in outcomes:
        noise = math.exp(0.2 * record["noise"])
        record["actual_output_tokens"] = round(truth[record["est_base_tokens"]] * noise)
    found: dict[str, list[float]] = {}
    for calibrator in (Isotonic(), Ratio()):
        learn_at_once(calibrator, map(dict, outcomes))
        found[calibrator.name] = [e * calibrator.bias(estimated(e), ALWAYS) / truth[e] for e in truth]
    # a block of 100 has a standard error of 2 %; 10 % is five of them: less than one in 10^6
    assert found["isotonic"] == pytest.approx([1, 1, 1], rel=0.1)
    assert min(found["ratio"]) < 0.8
    assert max(found["ratio"]) > 1.2


def test_isotonic_is_shrunk_as_ratio_is() -> None:
    """One output of twice the estimate: 1/2 of ln 2 for the category, (1 + 10 / 2) / 11 for the cell."""
    calibrator = Isotonic()
    calibrator.learn(ended(estimated(100), 200), 1.0)
    assert calibrator.bias(estimated(100, tenant="new"), ALWAYS) == pytest.approx(2**0.5)
    assert calibrator.bias(estimated(100), ALWAYS) == pytest.approx(2 ** (6 / 11))
    assert calibrator.bias(estimated(100, category="new"), ALWAYS) == 1.0


def test_isotonic_forgets_what_left_its_window() -> None:
    calibrator = Isotonic()
    learn_at_once(calibrator, [ended(estimated(100), 100) for _ in range(WINDOW)])
    learn_at_once(calibrator, [ended(estimated(100), 200) for _ in range(WINDOW + WINDOW // 10)])
    assert calibrator.bias(estimated(100), ALWAYS) == pytest.approx(
        2, rel=1e-3
    )  # the prior counts one in 300


def test_isotonic_sees_through_cuts() -> None:
    """True factor 1.1 with noise of 20 %, two thirds cut at the estimate."""
    outcomes = [
        ended(estimated(1000, max_tokens=1000), round(1100 * math.exp(0.2 * normal_quantile(u))))
        for u in draws("isotonic cuts", 2000)
    ]
    calibrator = Isotonic()
    found = learn_at_once(calibrator, outcomes)
    assert sum(record["finish_reason"] == "length" for record in found) > 1200
    assert calibrator.bias(estimated(1000), ALWAYS) == pytest.approx(1.1, rel=0.08)
    assert found[-1]["cal_output_tokens"] == 1000
    assert "cal_output_tokens_p10" not in found[-1]


# --- tracked quantiles ----------------------------------------------------------------------------


def lengths(name: str, count: int, median: float = 300.0, sigma: float = 0.4, seed: int = 0) -> list[int]:
    return [max(1, round(median * math.exp(sigma * normal_quantile(u)))) for u in draws(name, count, seed)]


def test_before_anything_is_known_the_interval_is_wide_and_of_the_estimators_own_if_it_has_one() -> None:
    record = estimated(1000)
    add_calibrated(record, Quantile(), ALWAYS)
    assert (record["cal_output_tokens"], record["cal_bias_ratio"]) == (1000, 1.0)
    assert record["cal_output_tokens_p10"] == int(1000 * math.exp(0.5 * normal_quantile(0.1)))
    assert record["cal_output_tokens_p90"] == int(1000 * math.exp(0.5 * normal_quantile(0.9)))
    own = estimated(1000, est_base_tokens_p10=700, est_base_tokens_p90=3000, max_tokens=2000)
    add_calibrated(own, Quantile(), ALWAYS)
    assert (own["cal_output_tokens_p10"], own["cal_output_tokens_p90"]) == (700, 2000)


def test_a_method_without_quantiles_moves_the_estimators_own_with_its_bias() -> None:
    calibrator = Ratio()
    learn_at_once(calibrator, [ended(estimated(100), 200) for _ in range(300)])
    own = estimated(100, est_base_tokens_p10=50, est_base_tokens_p90=180, max_tokens=300)
    add_calibrated(own, calibrator, ALWAYS)
    bias = own["cal_bias_ratio"]
    assert (own["cal_output_tokens_p10"], own["cal_output_tokens_p90"]) == (int(50 * bias), 300)
    bare = estimated(100, cal_output_tokens_p10=1, cal_output_tokens_p90=2)
    add_calibrated(bare, calibrator, ALWAYS)
    assert "cal_output_tokens_p10" not in bare  # what another method had said


@pytest.mark.parametrize("shape", ["lognormal", "two humps", "uniform", "few values"])
def test_coverage_is_ten_eighty_ten_whatever_the_lengths(shape: str) -> None:
    """20,000 outputs, no assumption but the tracker's own: missed shares within 0.6 points of 10 %, and of
    each of two tenants within 1. Independent misses would have standard deviations of 0.21 and 0.30 points,
    the tracker's are less: it owes what it missed. Four checks at 2.8 of them: a chance of 2 % at most."""
    u = draws(shape, 20_000)
    shapes = {
        "lognormal": lambda x: 300 * math.exp(0.4 * normal_quantile(x)),
        "two humps": lambda x: 100 * math.exp(0.2 * normal_quantile(2 * x)) if x < 0.5
        else 1000 * math.exp(0.2 * normal_quantile(min(2 * x - 1, 1 - 1e-12) or 1e-12)),
        "uniform": lambda x: 1000 * x,
        "few values": lambda x: 500 + 100 * int(20 * x),
    }  # fmt: skip
    actual = [max(1, round(shapes[shape](x))) for x in u]
    found = learn_at_once(
        Quantile(), [ended(estimated(400, tenant="tu"[place % 2]), n) for place, n in enumerate(actual)]
    )
    if shape == "few values":  # twenty atoms of 5 %: a quantile between two is right for either
        assert all(0.05 <= share <= 0.15 for share in missed(found))
        return
    assert missed(found) == pytest.approx((0.1, 0.1), abs=0.006)
    for tenant in "tu":
        assert missed([r for r in found if r["tenant"] == tenant]) == pytest.approx((0.1, 0.1), abs=0.01)


def test_each_tenant_has_its_coverage_while_its_load_drifts() -> None:
    """Three tenants whose estimates are off by different factors; one swings by half its length and back, in
    every 1,000 of its requests, one has a step to twice as long, one stays as it is."""
    count = 9000
    moves = {
        "swings": lambda at: 1 + 0.25 * math.sin(2 * math.pi * at / 3000),
        "steps": lambda at: 1.0 if at < count / 2 else 2.0,
        "stays": lambda at: 1.0,
    }
    names = list(moves)
    outcomes = [
        ended(
            estimated(200 + 100 * (at % 3), tenant=names[at % 3]), max(1, round(n * moves[names[at % 3]](at)))
        )
        for at, n in enumerate(lengths("drifting", count))
    ]
    found = learn_at_once(Quantile(), outcomes)
    for name in names:
        under, above = missed([r for r in found if r["tenant"] == name])
        assert 0.78 <= 1 - under - above <= 0.82, name
        assert above == pytest.approx(0.1, abs=0.015), name


def test_after_a_step_p90_is_back_within_500_completions() -> None:
    """x 1.5 in one of three tenants, sigma 0.4, four categories. Over 12 seeds: first 50 after the step, and
    those 500 to 1,000 after it: their miss has a standard error of 0.4 points, the bound is 3."""
    first, later = [], []
    for seed in range(12):
        tenants, categories = draws("who", 9000, seed), draws("what", 9000, seed)
        own = 0
        outcomes = []
        for at, n in enumerate(lengths("stepping", 9000, seed=seed)):
            tenant, category = "tuv"[int(3 * tenants[at])], "abcd"[int(4 * categories[at])]
            stepped = tenant == "t" and at >= 4000
            own += stepped
            record = estimated(300, tenant, category, own=own if stepped else 0)
            outcomes.append(ended(record, round(1.5 * n) if stepped else n))
        found = learn_at_once(Quantile(), outcomes)
        first.append(missed([r for r in found if 0 < r["own"] <= 50])[1])
        later.append(missed([r for r in found if 500 < r["own"] <= 1000])[1])
    assert sum(first) / 12 > 0.14  # the step is one: P90 misses more than it should
    assert sum(later) / 12 == pytest.approx(0.1, abs=0.03)


def test_constant_lengths_end_in_a_narrow_interval_around_them() -> None:
    calibrator = Quantile()
    learn_at_once(calibrator, [ended(estimated(400), 250) for _ in range(2000)])
    record = estimated(400)
    add_calibrated(record, calibrator, ALWAYS)
    assert 245 <= record["cal_output_tokens_p10"] <= record["cal_output_tokens"] <= 251
    assert 249 <= record["cal_output_tokens_p90"] <= 260


def test_a_new_tenant_starts_with_what_the_others_have_taught() -> None:
    calibrator = Quantile()
    learn_at_once(
        calibrator, [ended(estimated(100, tenant=f"t{n % 5}"), 4 * n) for n in lengths("known", 2000, 75)]
    )
    new = calibrator.bias(estimated(100, tenant="new"), ALWAYS)
    assert new == pytest.approx(3, rel=0.15)


def test_all_cut_is_cut_and_stays_loadable() -> None:
    calibrator = Quantile()
    found = learn_at_once(calibrator, [ended(estimated(5, max_tokens=512), 9999) for _ in range(2000)])
    assert found[-1]["cal_output_tokens"] > 300 / 20
    assert found[-1]["cal_output_tokens_p90"] == min(512, int(5 * calibrator.interval(found[-1], ALWAYS)[1]))
    Quantile().load_json(json.loads(json.dumps(calibrator.to_json())))


# --- outputs that were cut ------------------------------------------------------------------------


@pytest.mark.parametrize("censored", [True, False], ids=["censored", "taken as they are"])
def test_cuts_do_not_hide_how_long_outputs_would_be(censored: bool) -> None:
    """Half of the requests are cut at 250 tokens, half not, and the truth is lognormal(300, 0.4): P10, median
    and P90 are 180, 300 and 501. Taken as they are, cut outputs bring the median of all down to 250."""
    calibrator = Quantile()
    outcomes = [
        ended(estimated(300, max_tokens=250 if place % 2 else 10_000), n)
        for place, n in enumerate(lengths("cut", 20_000))
    ]
    if not censored:
        outcomes = [{**record, "finish_reason": "stop"} for record in outcomes]
    found = learn_at_once(calibrator, outcomes)[-8000:]
    record = estimated(300)
    middle = [r["cal_output_tokens"] for r in found if r["max_tokens"] > 250]
    low, high = (
        sum(r[f"cal_output_tokens_{p}"] for r in found if r["max_tokens"] > 250) / 4000
        for p in ("p10", "p90")
    )
    median = sum(middle) / 4000
    if censored:
        assert (low, median, high) == pytest.approx((180, 300, 501), rel=0.06)
        assert missed([r for r in found if r["max_tokens"] > 250]) == pytest.approx((0.1, 0.1), abs=0.02)
    else:
        assert median < 270
        assert high < 450
    assert record["est_output_tokens"] == 300


# --- short outputs report first -------------------------------------------------------------------


def reported(count: int, rate: float, per_token_s: float, seed: int) -> list[tuple[float, float, Record]]:
    """Requests of one cell that arrive as a Poisson stream and take a time that grows with their output:
    `(arrival, end, record)` in order of arrival."""
    now = 0.0
    found = []
    gaps = draws("gaps", count, seed)
    for place, n in enumerate(lengths("reporting", count, sigma=0.8, seed=seed)):
        now -= math.log(gaps[place]) / rate
        found.append((now, now + n * per_token_s, ended(estimated(300), n)))
    return found


def prequential(requests: list[tuple[float, float, Record]], calibrator: Calibrator) -> list[Record]:
    """Each request with what had ended before it arrived."""
    in_flight: list[tuple[float, int]] = []
    found = []
    for place, (arrival, end, record) in enumerate(requests):
        while in_flight and in_flight[0][0] < arrival:
            finished, done = heapq.heappop(in_flight)
            calibrator.learn(requests[done][2], finished)
        heapq.heappush(in_flight, (end, place))
        asked = dict(record)
        add_calibrated(asked, calibrator, arrival)
        found.append(asked)
    return found


def test_the_length_bias_of_those_who_report_first_is_gone_in_a_steady_state_and_bounded_before() -> None:
    """40 in flight on average, of sigma 0.8: mean output 413 tokens, 0.03 s each, 3.2 requests a second.

    The oldest of the first 100 have ended when 140 were sent, so a level is off by 40 / 140 at most, 29
    points. Later than the first 600 it is 10 % in the mean over 20 seeds, with a standard error of 0.2.
    """
    early, late = [], []
    for seed in range(20):
        found = prequential(reported(2000, 3.2, 0.03, seed), Quantile())
        early.append(missed(found[140:240]))
        late.append(missed(found[600:]))
    for side in range(2):
        assert sum(miss[side] for miss in late) / 20 == pytest.approx(0.1, abs=0.008)
        assert sum(miss[side] for miss in early) / 20 < 0.1 + 40 / 140
    # the bias is there at first: more outputs end above P90 than should
    assert sum(miss[1] for miss in early) / 20 > 0.11


# --- the history ----------------------------------------------------------------------------------


def counted(*lengths: int, cut: Iterable[int] = ()) -> Lengths:
    known = Lengths()
    for tokens in lengths:
        known.add(tokens, cut=False)
    for tokens in cut:
        known.add(tokens, cut=True)
    return known


def test_kaplan_and_meier_by_hand() -> None:
    """Ended at 2, 3, 5, 8, cut at 3 and 6:

    at risk  6    5    3    1
    share    5/6  4/6  4/9  0     longer than 2, 3, 5, 8
    """
    curve = counted(2, 3, 5, 8, cut=(3, 6)).curve()
    assert [curve.over(n) for n in (1, 2, 3, 4, 5, 7, 8)] == pytest.approx(
        [1, 5 / 6, 4 / 6, 4 / 6, 4 / 9, 4 / 9, 0]
    )
    assert [curve.quantile(level) for level in (0.1, 0.3, 0.5, 0.9)] == [2, 3, 5, 8]
    # longer than 3: 4/6 of all; half of those are longer than 5 or 6 (4/9 > 1/3)
    assert [curve.quantile(level, over=3) for level in (0.3, 0.5, 0.9)] == [5, 8, 8]


def test_a_cell_is_shrunk_towards_its_category() -> None:
    """Ten observations' worth of the wider curve: with none of its own a cell is that curve, with 990 nearly
    its own. All of the wide end at 10, all of the cell at 20: a share 10 / (10 + n) ends at 10."""
    wide = counted(*[10] * 50).curve()
    assert counted().curve(wide) == wide
    for n in (10, 990):
        assert counted(*[20] * n).curve(wide).over(10) == pytest.approx(n / (n + 10))


def test_bins_are_narrow_and_few() -> None:
    assert EDGES[:50] == list(range(1, 51))
    assert all(after - edge <= max(1, edge / 50) for edge, after in pairwise(EDGES))
    assert len(EDGES) < 1000


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 3000),
    st.floats(0.01, 0.99),
)
def test_a_curve_falls_and_its_quantiles_rise(given: list[tuple[int, bool]], over: int, level: float) -> None:
    known = counted(*(n for n, cut in given if not cut), cut=[n for n, cut in given if cut])
    wide = counted(*(n for n, _ in given)).curve()
    for curve in (known.curve(), known.curve(wide)):
        shares = [curve.over(n) for n in range(0, 3100, 50)]
        assert all(0 <= after <= before + 1e-12 <= 1 + 1e-9 for before, after in pairwise(shares))
        assert over < curve.quantile(level / 2, over) <= curve.quantile(level, over)
        found = curve.quantile(level)
        if curve.ends() > level:
            assert curve.over(found - 1) >= 1 - level - 1e-9 >= curve.over(found) - 0.5
    assert Lengths.from_json(json.loads(json.dumps(known.to_json()))).to_json() == known.to_json()


def completed(actual: int, tenant: str = "t", category: str = "c", **fields: Any) -> Record:
    return {"tenant": tenant, "category": category, "status": "ok", "actual_output_tokens": actual, **fields}


def learned(outcomes: Iterable[Record], history: History | None = None) -> History:
    history = history or History()
    for record in outcomes:
        history.learn(record)
    return history


def test_the_history_backs_off_from_tenant_to_category_to_all() -> None:
    history = learned(
        [completed(100)] * 500 + [completed(400, tenant="u")] * 500 + [completed(900, category="d")] * 3000
    )
    known = {
        ("t", "c"): 100, ("u", "c"): 400, ("u", "d"): 900, ("new", "d"): 900, ("new", "new"): 900
    }  # fmt: skip
    for (tenant, category), median in known.items():
        estimate = history.estimate({"tenant": tenant, "category": category})
        assert estimate.base_tokens == pytest.approx(median, rel=0.02), (tenant, category)
    mixed = history.estimate({"tenant": "new", "category": "c"})
    assert mixed.interval_tokens == pytest.approx((100, 400), rel=0.02)


def test_the_history_counts_what_was_in_flight_as_cut() -> None:
    """Lognormal(300, 0.4), each cut off by the end of its run at anything up to 600 tokens."""
    ends = rng.stream(0, "ends").integers(1, 600, 20_000).tolist()
    whole = [completed(n) for n in lengths("history", 20_000)]
    short = [
        completed(0, status="cancelled", received_output_tokens=end)
        if end < record["actual_output_tokens"]
        else record
        for record, end in zip(whole, ends, strict=True)
    ]
    asked = {"tenant": "t", "category": "c"}
    assert learned(short).estimate(asked).base_tokens == pytest.approx(300, rel=0.03)
    assert learned(r for r in short if r["status"] == "ok").estimate(asked).base_tokens < 0.9 * 300


def test_the_history_finds_the_truth_behind_cuts_and_never_exceeds_a_cap() -> None:
    """Lognormal(300, 0.4), half of the requests cut at 250: 20,000 outputs, standard errors under 1 %."""
    outcomes = [ended(completed(n, max_tokens=250 if place % 2 else 5000), n)
                for place, n in enumerate(lengths("history", 20_000))]  # fmt: skip
    history = learned(outcomes)
    estimate = history.estimate({"tenant": "t", "category": "c", "max_tokens": 5000})
    assert (estimate.base_tokens, *(estimate.interval_tokens or ())) == pytest.approx(
        (300, 180, 501), rel=0.03
    )
    naive = learned({**record, "finish_reason": "stop"} for record in outcomes).estimate(outcomes[0])
    assert naive.base_tokens < 0.9 * 300
    record = {
        "id": "r",
        "arrival_s": 0.0,
        "prompt_tokens": 5,
        "max_tokens": 200,
        "tenant": "t",
        "category": "c",
    }
    annotate(record, history, NoCorrection())
    low, median, high = (record[f"est_output_tokens{part}"] for part in ("_p10", "", "_p90"))
    assert (low, median, high) == (pytest.approx(180, rel=0.03), 200, 200)


def test_what_remains_given_what_is_there_already() -> None:
    """Evenly 1 to 1,000 tokens: after 600 there are 1 to 400 to come, as often each."""
    history = learned([completed(n) for n in range(1, 1001)] * 3)
    record = {"tenant": "t", "category": "c"}
    assert history.remaining(record, 0) == pytest.approx((100, 500, 900), rel=0.03)
    assert history.remaining(record, 600) == pytest.approx((40, 200, 360), rel=0.06)
    assert history.remaining({**record, "max_tokens": 700}, 600) == (pytest.approx(40, rel=0.1), 100, 100)
    assert history.remaining(record, 5000) == (1, 1, 1)  # longer than ever: it may end at any token


def test_all_cut_is_at_least_so_long_and_said() -> None:
    warnings: list[str] = []
    history = learned([completed(512, finish_reason="length")] * 50, History(warnings.append))
    capped = history.estimate({"tenant": "t", "category": "c", "max_tokens": 512})
    assert (capped.base_tokens, warnings) == (512, [])
    assert history.estimate({"tenant": "t", "category": "c", "max_tokens": 4096}).base_tokens >= 512
    assert len(warnings) == 1


def test_an_estimator_of_the_state_is_built_from_it_and_others_without() -> None:
    with pytest.raises(UsageError, match="--model history"):
        build(History, None, "m", print)
    assert isinstance(build(Table, None, "m", print), Table)
    with pytest.raises(StateError, match="no history of m"):
        build(History, Path("/nowhere"), "m", print)


def test_many_at_once_is_one_after_the_other() -> None:
    table = Table(lambda text: None)
    asked = [{"prompt_tokens": n, "category": "summary"} for n in (5, 900)]
    assert estimate_many(table, asked) == [table.estimate(record) for record in asked]


# --- as they are used -----------------------------------------------------------------------------

SERVED = "qwen1.5-1.8b"
HISTORY = "history.qwen1%2E5-1%2E8b.json"


def test_calibrate_quantile_then_estimate_and_report(stages: Stages, tmp_path: Path) -> None:
    state = tmp_path / "state"
    calibrated = records(ok(["calibrate", "--method", "quantile", "--state", state, stages.completions]))
    for row in calibrated:
        low, high = row["cal_output_tokens_p10"], row["cal_output_tokens_p90"]
        assert 1 <= low <= row["cal_output_tokens"] <= high <= row["max_tokens"]
    after = records(ok(["estimate", "--state", state, stages.requests]))
    for row in after:
        assert row["est_output_tokens_p10"] <= row["est_output_tokens"] <= row["est_output_tokens_p90"]
        assert row["est_output_tokens_p90"] <= row["max_tokens"]
    again = ok(["estimate"], jsonl(after))
    assert b"_p10" not in again  # the table has no quantiles of its own
    report = records(ok(["report", "--format", "jsonl"], jsonl(calibrated)))
    (row,) = [row for row in report if row["table"] == "coverage"]
    assert (row["estimate"], row["count"]) == ("calibrated", 48)


@pytest.mark.parametrize("method", ["isotonic", "quantile"])
def test_feedback_and_calibrate_are_one_bit_for_bit(stages: Stages, tmp_path: Path, method: str) -> None:
    calm = [changed(row, arrival_s=4 * row["arrival_s"]) for row in stages.read("scheduled")]
    online = records(ok(["run", "--feedback", "--method", method], jsonl(calm)))
    assert len({row["cal_bias_ratio"] for row in online}) > 3
    plain = jsonl(without(row, *(name for name in row if name.startswith("cal_"))) for row in online)
    assert records(ok(["calibrate", "--method", method], plain)) == online
    # in two calls, what the first has kept is what the second goes on with, as in one
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(jsonl(changed(row, run_id="one") for row in records(plain)))
    second.write_bytes(jsonl(changed(row, run_id="two") for row in records(plain)))
    ok(["calibrate", "--method", method, "--state", tmp_path / "at-once", first, second])
    for night in first, second:
        ok(["calibrate", "--method", method, "--state", tmp_path / "in-turn", night])
    kept = [next((tmp_path / way).glob("*.json")).read_bytes() for way in ("at-once", "in-turn")]
    assert kept[0] == kept[1]


def fitted(stages: Stages, state: Path) -> Path:
    result = run(["calibrate", "--fit", "history", "--state", state, stages.completions])
    (line,) = said(result, 0)
    assert line.startswith(f"fitted to 48 completions of {SERVED}, ")
    assert result.stdout == b""
    return state / HISTORY


def test_a_history_is_fitted_and_estimated_by(stages: Stages, tmp_path: Path) -> None:
    state = tmp_path / "state"
    document = json.loads(fitted(stages, state).read_bytes())
    assert (document["served_model"], document["completions"], document["version"]) == (SERVED, 48, 2)
    requests = [without(row, "prompt") | {"prompt_tokens": 9} for row in stages.read("requests")]
    call = ["estimate", "--model", "history", "--state", state]
    result = run(call, jsonl(requests))
    said(result, 0)
    history = learned(stages.read("completions"))
    for row in records(result.stdout):
        expected = history.estimate(row)
        assert row["est_base_tokens"] == row["est_output_tokens"] == expected.base_tokens
        assert (row["est_output_tokens_p10"], row["est_output_tokens_p90"]) == expected.interval_tokens
        assert row["est_model"] == "history"
    # what is learned of it afterwards goes beside it, and a new fit takes away what was learned of the old
    served = ok(["run"], ok(["schedule", "--policy", "sjf"], result.stdout))
    ok(["calibrate", "--method", "quantile", "--state", state], served)
    correction = state / "history.given.qwen1%2E5-1%2E8b.json"
    again = ["calibrate", "--fit", "history", "--state", state]
    assert len(said(run([*again, stages.completions]), 0)) == 1  # the same as before
    assert correction.exists()
    other = jsonl(changed(row, run_id="another night") for row in stages.read("completions"))
    line, warning = said(run([*again, stages.completions, "-"], other), 0)
    assert line.startswith(f"fitted to 96 completions of {SERVED}, ")
    assert f"{correction}: corrected the history before" in warning
    assert not correction.exists()
    assert len(records(run(call, jsonl(requests)).stdout)) == 48


UNUSABLE = {
    "cut off": (lambda text: text[:-9], "damaged state"),
    "foreign": (lambda text: '{"kind": "terraform"}', "not a driftkit state file"),
    "newer": (lambda text: text.replace('"version": 2', '"version": 3'), "state version 3"),
    "without a hash": (lambda text: text.replace('"version": 2', '"version": 1'), "state version 1"),
    "edited": (lambda text: text.replace('"completions": 48', '"completions": 49'), "edited by hand"),
    "hash edited": (lambda text: text.replace('"sha256": "', '"sha256": "0'), "edited by hand"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSABLE)
def test_an_unusable_history_is_an_error_and_stays_as_it_is(
    stages: Stages, tmp_path: Path, what: str
) -> None:
    history = learned(stages.read("completions"))
    history.save(tmp_path, SERVED)
    change, problem = UNUSABLE[what]
    path = tmp_path / HISTORY
    path.write_text(change(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(StateError, match=problem):
        History.from_state(tmp_path, SERVED, print)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "edit", [{"served_model": "other"}, {"lengths": None}, {"lengths": [{"tokens": [[3, -1, 0]]}]}]
)
def test_a_history_that_is_none_is_refused_though_the_hash_is_right(
    stages: Stages, tmp_path: Path, edit: Record
) -> None:
    learned(stages.read("completions")).save(tmp_path, SERVED)
    path = tmp_path / HISTORY
    path.write_text(json.dumps(hashed(json.loads(path.read_text()) | edit)))
    with pytest.raises(StateError, match="damaged history"):
        History.from_state(tmp_path, SERVED, print)


def test_a_newer_history_is_not_replaced(stages: Stages, tmp_path: Path) -> None:
    path = fitted(stages, tmp_path)
    path.write_text(path.read_text().replace('"version": 2', '"version": 9'))
    newer = path.read_text()
    told = said(run(["calibrate", "--fit", "history", "--state", tmp_path, stages.completions]), 1)
    assert told[1] == "  it was written by another driftkit: upgrade this one"
    assert path.read_text() == newer


def test_completions_given_twice_count_once_in_a_history(stages: Stages, tmp_path: Path) -> None:
    path = fitted(stages, tmp_path)
    once = path.read_text()
    twice = [stages.completions, stages.completions]
    again, _ = said(run(["calibrate", "--fit", "history", "--state", tmp_path, *twice]), 0)
    assert again == "driftkit calibrate: 48 completions came more than once: each counts once"
    assert path.read_text() == once


def test_a_damaged_history_is_replaced_and_that_is_said(stages: Stages, tmp_path: Path) -> None:
    path = fitted(stages, tmp_path)
    whole = path.read_text()
    path.write_text(whole.replace('"completions": 48', '"completions": 49'))
    warning, _ = said(run(["calibrate", "--fit", "history", "--state", tmp_path, stages.completions]), 0)
    problem = f"{path}: damaged, or edited by hand: its hash is another"
    assert warning == f"driftkit calibrate: {problem}: it is replaced"
    assert path.read_text() == whole


def test_messages_of_calls_that_cannot_be(stages: Stages, tmp_path: Path) -> None:
    first, *_ = said(run(["estimate", "--model", "history", stages.requests]), 2)
    assert "--model history" in first
    first, hint = said(run(["estimate", "--model", "history", "--state", tmp_path, stages.requests]), 1)
    assert "no history of qwen1.5-1.8b" in first
    assert "--fit history" in hint
    assert "needs --state" in said(run(["calibrate", "--fit", "history", stages.completions]), 2)[0]
    call = ["calibrate", "--fit", "history", "--state", tmp_path / "new"]
    assert "nothing to fit" in said(run(call, b""), 1)[0]
    failed = jsonl([changed(row, status="error") for row in stages.read("completions")])
    assert "nothing to fit" in said(run(call, failed), 1)[-1]


def test_one_writer_at_a_time(stages: Stages, tmp_path: Path) -> None:
    writer = start(["calibrate", "--method", "quantile", "--state", tmp_path])
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        while not (tmp_path / "lock").exists():
            assert writer.poll() is None
        for other in (["--fit", "history"], ["--method", "isotonic"]):
            result = run(["calibrate", *other, "--state", tmp_path, stages.completions])
            assert "another driftkit is writing this state" in said(result, 1)[0]
    finally:
        writer.communicate(b"")
    assert writer.returncode == 0
    assert not list(tmp_path.glob("*.json"))
