"""Drift: made by gen, noticed by calibrate, and how seldom it is noticed where there is none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import Record, changed, jsonl, ok, records, run, said
from driftkit import registry, rng
from driftkit.calibration.drift import ks, page_hinkley, psi, sprt, windows
from driftkit.calibration.drift.adwin import Adwin
from driftkit.calibration.drift.base import ARL, Detector, Rank
from driftkit.calibration.drift.hold_back import MOST, HoldBack
from driftkit.calibration.drift.ks import Ks
from driftkit.calibration.drift.kswin import Kswin
from driftkit.calibration.drift.page_hinkley import PageHinkley
from driftkit.calibration.drift.psi import Psi
from driftkit.calibration.drift.residuals import Ranks, Residuals, tie_breaker
from driftkit.calibration.drift.sprt import Sprt
from driftkit.calibration.drift.watch import Watch
from driftkit.calibration.ratio import Ratio
from driftkit.calibration.stream import Key, Learning, Stream
from driftkit.errors import LineError
from driftkit.workload import generate, presets, spec
from driftkit.workload.drift import Drift

NORMAL = NormalDist()
DETECTORS = registry.names("detectors")
RESIDUAL: dict[str, Callable[[], Detector]] = {
    "page-hinkley": PageHinkley,
    "sprt": Sprt,
    "adwin": Adwin,
    "kswin": Kswin,
}


def uniforms(name: str, count: int) -> list[float]:
    return [u or 0.5 for u in rng.stream(0, f"test/drift/{name}").random(count).tolist()]


def normals(name: str, count: int) -> list[float]:
    return [NORMAL.inv_cdf(u) for u in uniforms(name, count)]


def moved(ranks: list[float], by: float) -> list[float]:
    """Ranks of residuals that have moved by so many standard deviations."""
    return [NORMAL.cdf(NORMAL.inv_cdf(rank) + by) for rank in ranks]


def known(rank: float) -> Rank:
    return Rank(rank, rank, False)


def cut_at(least: float, rank: float) -> Rank:
    """What is known of a rank where all above `least` are cut."""
    return Rank(rank, min(rank, least), rank > least)


def seen_by(name: str, ranks: list[float]) -> list[Any]:
    return [known(rank) for rank in ranks] if name == "sprt" else ranks


def run_lengths(new: Callable[[], Detector], values: list[Any]) -> list[int]:
    """How many values each alarm took."""
    lengths, detector, count = [], new(), 0
    for place, value in enumerate(values):
        count += 1
        if detector.update(value, float(place)) is not None:
            lengths.append(count)
            detector, count = new(), 0
    return lengths


# --- residuals as ranks ---------------------------------------------------------------------------


def test_a_rank_is_the_place_among_what_came_before_and_itself() -> None:
    of = Residuals()
    found = [of.rank("ask", x, False, 0.5).drawn for x in (0.0, 1.0, -1.0, 0.52, 0.52)]
    # the only one; the higher of two; the lowest of three; third of four, and that place with its equal
    assert found == pytest.approx([0.5, 1.5 / 2, 0.5 / 3, 2.5 / 4, (2 + 0.5 * 2) / 5])


def test_every_order_of_the_same_residuals_has_its_own_ranks_and_all_are_alike_likely() -> None:
    """The theorem behind the thresholds, for four residuals: 24 orders, 1 * 2 * 3 * 4 sequences of ranks."""
    seen = set()
    for order in permutations((-1.0, -0.3, 0.4, 1.2)):
        of = Residuals()
        ranks = [of.rank("ask", x, False, 0.5).drawn for x in order]
        seen.add(tuple(math.floor(rank * n) for n, rank in enumerate(ranks, start=1)))
    assert len(seen) == 24
    assert all(0 <= place < n for places in seen for n, place in enumerate(places, start=1))


def far_from_uniform(values: list[float]) -> bool:
    """Dvoretzky-Kiefer-Wolfowitz: uniform values are in one of a million cases."""
    n = len(values)
    distance = max(max((i + 1) / n - v, v - i / n) for i, v in enumerate(sorted(values)))
    return distance > math.sqrt(math.log(2 / 1e-6) / (2 * n))


def residuals_of(case: str) -> list[tuple[float, bool]]:
    """5,000 log-ratios, and whether they were cut."""
    z = normals(f"residuals/{case}", 5000)
    if case == "two thirds cut at one cap":
        return [(min(x, -0.43), x > -0.43) for x in z]
    caps = {
        "caps that fall on the way": [1.0] * 2500 + [-0.2] * 2500,
        "caps that rise on the way": [-0.2] * 2500 + [1.0] * 2500,
        "caps of all kinds": [-1.0, 0.0, 0.4, 2.5, 0.1] * 1000,
    }
    if case in caps:
        return [(min(x, cap), x > cap) for x, cap in zip(z, caps[case], strict=True)]
    if case == "all the same":
        return [(0.1, False)] * 5000
    if case == "beyond every bin":
        return [(9 * x, False) for x in z]
    return [(0.7 * x, False) for x in z]


@pytest.mark.parametrize(
    "case",
    [
        "lognormal",
        "two thirds cut at one cap",
        "caps that fall on the way",
        "caps that rise on the way",
        "caps of all kinds",
        "all the same",
        "beyond every bin",
    ],
)
def test_ranks_are_uniform_whatever_the_residuals_are(case: str) -> None:
    of = Residuals()
    ranks = [of.rank("ask", x, cut, tie_breaker(n)) for n, (x, cut) in enumerate(residuals_of(case))]
    assert all(0 <= rank.least <= rank.drawn <= 1 for rank in ranks)
    found = [rank.drawn for rank in ranks]
    assert not far_from_uniform(found)
    assert not far_from_uniform(found[2500:])


def test_a_cut_that_is_taken_for_an_end_would_look_like_drift() -> None:
    """The reason for treating cuts: the same residuals, with the flag left out."""
    of = Residuals()
    cases = residuals_of("caps that fall on the way")
    found = [of.rank("ask", x, False, tie_breaker(n)).drawn for n, (x, _) in enumerate(cases)]
    assert far_from_uniform(found[2500:])


def test_ranks_of_cut_outputs_by_hand() -> None:
    """Kaplan and Meier of one that ended, one that was cut and a longer one that ended: of four, with the one
    to be ranked, three get past the first, and of the two that are not cut then, half past the last.
    """
    of = Ranks()
    for log_ratio, cut in ((-1.0, False), (0.0, True), (1.0, False)):
        of.learn(of.rank(log_ratio, cut, 0.0)[1], cut)
    before = of.rank(-0.5, True, 0.2)[0]
    assert before == pytest.approx(Rank(1 / 4 + 3 / 4 * 0.2, 1 / 4, True))
    assert of.rank(-0.5, False, 0.2)[0].drawn == pytest.approx((1 + 0.2) / 4)
    assert of.rank(0.5, False, 0.2)[0].drawn == pytest.approx(1 - 3 / 4 * (1 - 0.2 / 2))
    assert of.rank(1.5, True, 0.0)[0].least == pytest.approx(1 - 3 / 4 / 2)


# --- how rare false alarms are --------------------------------------------------------------------


def siegmund(threshold: float) -> float:
    """Of a two-sided CUSUM of standard normals, on average (Sequential Analysis, 1985, eq. 2.57)."""
    k, b = page_hinkley.TOLERANCE, threshold + 1.166
    return (math.exp(2 * k * b) - 2 * k * b - 1) / (2 * k * k) / 2


def test_the_threshold_of_page_hinkley_is_that_of_its_run_length() -> None:
    assert siegmund(page_hinkley.THRESHOLD) == pytest.approx(ARL, rel=0.05)


def test_page_hinkley_raises_false_alarms_as_often_as_theory_says() -> None:
    """Run lengths are nearly exponential: 300 of them have a mean within 5 / sqrt(300) = 29 % (P < 1e-6).

    The theory is for normal scores that are not held within 3.1, which makes no difference here.
    """
    threshold = 9.0  # 670 values
    lengths = run_lengths(lambda: PageHinkley(threshold), uniforms("ph", 250_000))
    assert len(lengths) > 250
    assert fmean(lengths) == pytest.approx(siegmund(threshold), rel=5 / math.sqrt(len(lengths)))


@pytest.mark.parametrize(
    ("new", "values", "expected", "least"),
    [
        pytest.param(lambda: Sprt(arl=1000), "places", 100.0, 20, id="sprt"),
        pytest.param(lambda: Sprt(arl=1000), "two thirds cut", 100.0, 20, id="sprt, cut"),
        pytest.param(lambda: Adwin(arl=1000), "ranks", 100.0, 0, id="adwin"),
        pytest.param(lambda: Kswin(arl=1000), "ranks", 100.0, 1, id="kswin"),
        pytest.param(lambda: Ks(level=0.1), "numbers", 100_000 / windows.STRIDE * 0.05, 1, id="ks"),
        pytest.param(lambda: Psi(level=0.05), "categories", 100_000 / windows.STRIDE * 0.05, 1, id="psi"),
    ],
)
def test_no_detector_raises_more_false_alarms_than_it_says(
    new: Callable[[], Detector], values: str, expected: float, least: int
) -> None:
    """100,000 values without drift at thresholds made low: alarms are at most about Poisson of that mean, so
    that five standard deviations more have P < 1e-6. And some there are, except where a union bound is far
    from sharp.
    """
    ranks = uniforms(f"quiet/{values}", 100_000)
    of: dict[str, Callable[[float], Any]] = {
        "ranks": lambda u: u,
        "places": known,
        "two thirds cut": lambda u: cut_at(1 / 3, u),
        "numbers": lambda u: int(20 * math.exp(NORMAL.inv_cdf(u))),
        "categories": lambda u: "abcde"[min(int(-math.log(u) * 2), 4)],
    }
    found = len(run_lengths(new, [of[values](u) for u in ranks]))
    assert least <= found <= expected + 5 * math.sqrt(expected)


@pytest.mark.parametrize("least", [1.0, 0.9995, 0.7, 0.05, 0.0005, 0.0])
def test_ratios_of_uniform_ranks_are_one_on_average(least: float) -> None:
    """What makes their sum a martingale: in 100,000 a hair's breadth too much each time would add up."""
    count = 200_000
    each = [sprt.ratios(cut_at(least, (n + 0.5) / count)) for n in range(count)]
    for move in zip(*each, strict=True):
        assert fmean(move) == pytest.approx(1, abs=2e-6)


def test_sprt_by_hand() -> None:
    """At the median the score is 0: exp(-1/8) and exp(-1/32); with h times the hazard, h * 0.5 ** (h - 1).
    Cut there: P(z > -0.5) / 0.5 and so on, and 0.5 ** (h - 1).
    """
    hazards = (0.5, 2.0, 0.75, 1.5)
    ended = [math.exp(-1 / 8)] * 2 + [math.exp(-1 / 32)] * 2 + [h * 0.5 ** (h - 1) for h in hazards]
    assert sprt.ratios(known(0.5)) == pytest.approx(ended)
    shifts = (0.5, -0.5, 0.25, -0.25)
    longer = [NORMAL.cdf(shift) / 0.5 for shift in shifts] + [0.5 ** (h - 1) for h in hazards]
    assert sprt.ratios(Rank(0.9, 0.5, True)) == pytest.approx(longer)
    detector = Sprt(arl=1.0)
    assert detector.update(known(0.5), 10.0) is None  # all ended ones are under 1, and so is their mean
    assert detector.to_json() == {"sums": pytest.approx(ended)}
    total = sum((one + 1) * ratio for one, ratio in zip(ended, longer, strict=True))
    # half a deviation up is likeliest: of its two tests that of 10 s weighs exp(-1/8), the other 1
    since_s = (10 * ended[0] + 20) / (ended[0] + 1)
    assert detector.update(Rank(0.9, 0.5, True), 20.0) == pytest.approx((math.log(total / 8), 0.0, since_s))


# --- how soon drift is found ----------------------------------------------------------------------


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("by", [-0.6, 0.6], ids=["shorter", "longer"])
def test_a_step_is_found_within_200(name: str, by: float) -> None:
    """A step of 1.5 in lengths whose logarithm scatters by 0.68 is 0.6 standard deviations."""
    detector = RESIDUAL[name]()
    before, after = uniforms("before", 2000), moved(uniforms("after", 400), by)
    assert {detector.update(u, float(t)) for t, u in enumerate(seen_by(name, before))} == {None}
    for count, u in enumerate(seen_by(name, after), start=1):
        alarm = detector.update(u, 2000.0 + count)
        if alarm is not None:
            break
    assert alarm is not None
    assert count <= (250 if name in ("adwin", "kswin") else 200)
    assert alarm.statistic > alarm.threshold
    assert alarm.since_s == pytest.approx(2000, abs=150)


def test_longer_answers_are_noticed_where_most_are_cut() -> None:
    """A chat's answers with max_tokens 512, of which 42 % are cut, and after a step of 1.5, 73 %."""
    chat = spec.read(presets.text("driftsched"), "chat").settings.output
    lengths = [chat.tokens(u, 512, 1.5 if n >= 500 else 1.0) for n, u in enumerate(uniforms("chat", 650))]
    reasons = ["length" if tokens == 512 else "stop" for tokens in lengths]
    rows = [done(n, *row) for n, row in enumerate(zip(lengths, reasons, strict=True))]
    (alarm,) = alarms_of(DETECTORS[:4], rows)
    assert (alarm["detector"], alarm["action"]) == ("sprt", "refit-recent")
    assert 500 < alarm["at_s"] < 600
    assert alarm["since_s"] == pytest.approx(500, abs=60)


def test_kswin_sees_that_residuals_scatter_more_where_their_level_stays() -> None:
    wider = [NORMAL.cdf(2.5 * NORMAL.inv_cdf(u)) for u in uniforms("wider", 600)]
    assert run_lengths(Kswin, wider)
    assert not run_lengths(Kswin, uniforms("wider", 600))


def test_page_hinkley_by_hand() -> None:
    """Ranks of 0.841 are one standard deviation up: 0.75 a value, 1.5 after two, and the third passes 2."""
    detector = PageHinkley(threshold=2.0)
    one_up = NORMAL.cdf(1.0)
    assert detector.update(0.5, 10.0) is None
    assert [detector.update(one_up, t) for t in (11.0, 12.0)] == [None, None]
    assert detector.update(one_up, 13.0) == pytest.approx((2.25, 2.0, 11.0))


def test_adwin_finds_the_moment_within_a_bucket() -> None:
    detector = Adwin()
    values = [0.25] * 500 + [0.75] * 500
    alarms = [(t, alarm) for t, u in enumerate(values) if (alarm := detector.update(u, float(t)))]
    first, alarm = alarms[0]
    assert first < 600
    assert alarm.since_s == pytest.approx(500, abs=32)
    assert 0.3 < alarm.statistic <= 0.5


def test_adwin_holds_the_logarithm_of_what_it_saw() -> None:
    detector = Adwin()
    for t, u in enumerate(uniforms("log", 20_000)):
        detector.update(u, float(t))
    kept = detector.to_json()["sums"]
    assert sum(map(len, kept)) < 6 * math.log2(20_000)
    assert sum(map(sum, kept)) == pytest.approx(sum(uniforms("log", 20_000)))


def test_psi_by_hand() -> None:
    """Shares 150.5/250.5 and 100.5/250.5 against each other: twice 0.1996 * ln(150.5/100.5)."""
    found, categories = psi.index(["a"] * 150 + ["b"] * 100, ["a"] * 100 + ["b"] * 150)
    assert categories == 2
    assert found == pytest.approx(2 * (50 / 250.5) * math.log(150.5 / 100.5))
    # chi-square of one degree is 3.84 in one of twenty cases; Wilson and Hilferty are within 3 % of it
    assert psi.threshold(0.05, 2) == pytest.approx(2 / 250 * 3.84, rel=0.03)
    # one in a hundred is "rare" with the other rare ones, so that three categories are left of five
    assert psi.index(["a"] * 140 + ["b"] * 105 + ["c", "d", "e", "e", "e"], ["a"] * 125 + ["b"] * 125)[1] == 3
    assert psi.threshold(0.05, 1) == math.inf


def test_ks_by_hand() -> None:
    assert ks.distance([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert ks.distance([1, 1, 2], [2, 1, 1]) == 0
    assert ks.threshold(0.05) == pytest.approx(math.sqrt(math.log(2.169 / 0.05) / 250))


# --- the order of completions ---------------------------------------------------------------------


def test_what_began_together_comes_out_in_the_order_in_which_it_was_due() -> None:
    held = HoldBack[str]()
    out: list[str] = []
    for due, ended in ((3, 1.0), (1, 2.0), (2, 4.0)):  # the short one first
        out += held.push(0.0, float(due), str(due), ended, str(due))
    assert out == []
    assert [*held.push(9.0, 9.0, "9", 10.0, "9")] == ["1", "2", "3"]
    assert [*held.end()] == ["9"]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 5)), max_size=60))
def test_all_that_is_held_comes_out_once_and_the_rest_in_order(requests: list[tuple[float, float]]) -> None:
    """Steady services of at most 5 s; one of 5 s has been seen before."""
    held = HoldBack[float]()
    out = [*held.push(-50.0, 0, "", -45.0, -50.0)]
    for began, took in sorted(requests, key=sum):
        out += held.push(began, began, "", began + took, began)
    out += held.end()
    assert out == sorted([-50.0, *(began for began, _ in requests)])


def test_what_is_held_is_bounded() -> None:
    held = HoldBack[int]()
    out = sum(len([*held.push(0.0, float(n), "", 1e6, n)]) for n in range(MOST + 10))
    assert out == 10


def in_flight(count: int) -> list[Record]:
    """Completions of a server of 50 slots that takes 20 ms a token, as they end: the long ones at last."""
    free = [0.0] * 50
    rows = []
    for place, z in enumerate(normals("in flight", count)):
        slot = min(range(50), key=free.__getitem__)
        tokens = max(1, round(200 * math.exp(0.7 * z)))
        started = free[slot]
        free[slot] += 0.02 * tokens
        rows.append(done(place, tokens, started_s=started, offered_s=0.0, finished_s=free[slot]))
    return sorted(rows, key=lambda row: row["finished_s"])


def done(number: int, actual: int, finish_reason: str = "stop", **fields: Any) -> Record:
    return {
        "kind": "completion",
        "schema": 1,
        "id": f"r{number:05d}",
        "tenant": "t",
        "category": "ask",
        "run_id": "run-1",
        "prompt_tokens": 50,
        "est_output_tokens": 200,
        "actual_output_tokens": actual,
        "finish_reason": finish_reason,
        "status": "ok",
        "offered_s": float(number),
        "finished_s": number + 1.0,
        **fields,
    }


def alarms_of(names: list[str], rows: list[Record]) -> list[Record]:
    watch = Watch(names)
    alarms = [alarm for row in rows for alarm in watch.observe(row)]
    return alarms + watch.end_run(rows[-1]["finished_s"])


def test_short_answers_that_come_first_and_long_ones_that_come_last_are_no_drift() -> None:
    rows = in_flight(400)
    assert alarms_of(DETECTORS, rows) == []
    at_once = [changed(row, started_s=row["finished_s"], offered_s=row["finished_s"]) for row in rows]
    assert alarms_of(DETECTORS, at_once)  # as it would be without the order of their beginnings


# --- what an alarm says ---------------------------------------------------------------------------


def drifting(count: int, factor: float, **fields: Any) -> list[Record]:
    """Completions of which the second half is longer, one a second."""
    return [
        done(n, max(1, round(200 * (factor if n >= count // 2 else 1.0) * math.exp(0.5 * z))), **fields)
        for n, z in enumerate(normals("drifting", count))
    ]


def test_real_drift_is_one_alarm_that_tells_to_drop_what_is_old() -> None:
    (alarm,) = alarms_of(DETECTORS, drifting(1200, 1.5))
    assert alarm["action"] == "refit-recent"
    assert (alarm["detector"], alarm["drift_of"], alarm["tenant"]) == ("sprt", "residual", "t")
    assert 600 < alarm["at_s"] < 800
    assert alarm["since_s"] == pytest.approx(600, abs=60)
    assert alarm["statistic"] > alarm["threshold"]


def test_drift_of_inputs_alone_warns() -> None:
    """Another mix and longer prompts, whose categories have residuals of their own."""
    rows = []
    for n, row in enumerate(drifting(1500, 1.0)):
        long = n % 10 < (2 if n < 750 else 7)
        fields = {"category": "write", "est_output_tokens": 900, "prompt_tokens": 400} if long else {}
        rows.append(changed(row, **fields))
    alarms = alarms_of(DETECTORS, rows)
    assert [alarm["action"] for alarm in alarms] == ["warn"]
    assert alarms[0]["drift_of"] in ("category", "prompt_tokens", "est_output_tokens")


def test_residuals_that_drift_with_inputs_keep_old_data() -> None:
    """Prompts get longer, and only after that was noticed the answers that the estimate does not foresee."""
    rows = drifting(1400, 1.6)
    rows = [changed(row, prompt_tokens=50 + (n >= 500) * 100 + n % 7) for n, row in enumerate(rows)]
    assert [alarm["action"] for alarm in alarms_of(DETECTORS, rows)] == ["warn", "refit"]


def test_tenants_are_watched_apart() -> None:
    quiet = [changed(row, tenant="u") for row in drifting(1200, 1.0)]
    both = [row for pair in zip(drifting(1200, 1.5), quiet, strict=True) for row in pair]
    assert {alarm["tenant"] for alarm in alarms_of(DETECTORS, both)} == {"t"}


@pytest.mark.parametrize("actual", [200, 1], ids=["as estimated", "one token"])
def test_constant_lengths_and_outputs_that_are_all_cut_are_no_drift(actual: int) -> None:
    rows = [done(n, actual, finish_reason="length" if n % 2 else "stop") for n in range(1000)]
    assert alarms_of(DETECTORS, rows) == []
    cut = [done(n, actual, finish_reason="length") for n in range(20_000)]
    assert alarms_of(DETECTORS, cut) == []


# --- from one call to the next --------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 700), st.sampled_from([*RESIDUAL, "psi", "ks"]))
def test_a_detector_goes_on_from_its_state(seed: int, place: int, name: str) -> None:
    """Windows of inputs go on with their reference alone, so that they are stopped within that."""
    draws = rng.stream(seed, "test").random(1400).tolist()
    values: list[Any] = [u**3 if n > 700 else u for n, u in enumerate(draws)]
    if name == "psi":
        values = ["ab"[u > 0.5] for u in values]
    if name == "sprt":
        values = [cut_at(0.8, u) for u in values]
    place = place if name in RESIDUAL else min(place, windows.SIZE)
    new: type[Detector] = registry.load("detectors", name)
    whole, first, second = new(), new(), new()

    def ends(*parts: tuple[Detector, list[Any]]) -> list[float]:
        for detector, some in parts:
            for value in some:
                alarm = detector.update(value, 0.0)
                if alarm is not None:
                    return [alarm.statistic, alarm.threshold]
        return []

    for value in values[:place]:
        if whole.update(value, 0.0) is not None:
            return
        first.update(value, 0.0)
    second.load_json(json.loads(json.dumps(first.to_json())))
    found = ends((whole, values[place:]))
    assert ends((second, values[place:])) == pytest.approx(found)


def test_a_night_is_held_against_the_one_before() -> None:
    """600 completions yesterday, 600 longer ones today, in two calls."""
    rows = drifting(1200, 1.5)
    yesterday, today = Watch(["sprt"]), Watch(["sprt"])
    assert [alarm for row in rows[:600] for alarm in yesterday.observe(row)] + yesterday.end_run(600) == []
    today.load_json(json.loads(json.dumps(yesterday.to_json())))
    alarms = [alarm for row in rows[600:] for alarm in today.observe(row)] + today.end_run(1200)
    assert [alarm["at_s"] for alarm in alarms] == [a["at_s"] for a in alarms_of(["sprt"], rows)]


# --- what calibration makes of it -----------------------------------------------------------------


def calibrated(rows: list[Record], reset: bool) -> list[Record]:
    def start(key: Key) -> Learning:
        return Learning(Ratio(), watch=Watch(["sprt"]))

    stream = Stream(start, reset=reset)
    for row in rows:
        stream.calibrate(row)
        stream.watch(row)
        stream.learn(row)
    return rows


def test_after_real_drift_a_reset_lets_the_estimate_catch_up_sooner() -> None:
    """Mean log error of completions 100 to 400 after the alarm, where 0 is right."""
    errors = {}
    for reset in (False, True):
        rows = calibrated(drifting(2400, 1.5), reset)
        (raised,) = [n for n, row in enumerate(rows) if "cal_drift" in row]
        after = rows[raised + 100 : raised + 400]
        errors[reset] = fmean(math.log(r["actual_output_tokens"] / r["cal_output_tokens"]) for r in after)
    assert errors[True] < errors[False] / 2


# --- calibrate --drift ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drift") / "drifted.jsonl"
    path.write_bytes(jsonl(drifting(1200, 1.5)))
    return path


SAID = "driftkit calibrate: drift: tenant t: sprt of residual"


def test_an_alarm_is_a_record_after_the_completion_that_raised_it(drifted: Path) -> None:
    result = run(["calibrate", "--drift", drifted])
    (line,) = said(result, 0)
    assert line.startswith(SAID)
    assert line.endswith("the estimator needs a new fit on what came since")
    rows = records(result.stdout)
    (place,) = [n for n, row in enumerate(rows) if row["kind"] == "alarm"]
    assert rows[place - 1]["cal_drift"] == "sprt"
    assert [row["id"] for row in rows if "cal_drift" in row] == [rows[place - 1]["id"]]
    alarm = rows[place]
    assert (alarm["at_s"], alarm["run_id"]) == (rows[place - 1]["finished_s"], "run-1")
    report = ["report", "--table", "error", "--format", "jsonl"]
    assert ok(report, result.stdout) == ok(report, ok(["calibrate", drifted]))
    assert run(["calibrate", "--drift", "--unbuffered", drifted]).stdout == result.stdout


def test_fail_on_drift_exits_5_and_alarms_go_where_they_are_sent(drifted: Path, tmp_path: Path) -> None:
    alarms = tmp_path / "alarms.jsonl"
    result = run(["calibrate", "--fail-on-drift", "--alarms", alarms, drifted])
    assert len(said(result, 5)) == 1
    assert {row["kind"] for row in records(result.stdout)} == {"completion"}
    assert [row["action"] for row in records(alarms.read_bytes())] == ["refit-recent"]
    quiet = jsonl(drifting(600, 1.0))
    assert ok(["calibrate", "--fail-on-drift"], quiet) == ok(["calibrate"], quiet)


def test_drift_of_inputs_does_not_fail() -> None:
    rows = [changed(row, prompt_tokens=50 + (n >= 400) * 50) for n, row in enumerate(drifting(800, 1.0))]
    (line,) = said(run(["calibrate", "--fail-on-drift"], jsonl(rows)), 0)
    assert "tenant t: ks of prompt_tokens" in line
    assert line.endswith("what was learned still holds")


def test_the_watch_goes_on_in_the_state_and_a_known_run_raises_nothing(tmp_path: Path) -> None:
    rows = drifting(1200, 1.5)
    first, second = jsonl(rows[:600]), jsonl([changed(row, run_id="run-2") for row in rows[600:]])
    state: list[str | Path] = ["--state", tmp_path / "state"]
    assert records(ok(["calibrate", "--drift", *state], first))[-1]["kind"] == "completion"
    ok(["calibrate", *state], jsonl([done(0, 200, run_id="run-0")]))  # who does not look keeps what was seen
    assert said(run(["calibrate", "--fail-on-drift", *state], second), 5)[0].startswith(SAID)
    lines = said(run(["calibrate", "--fail-on-drift", *state], second), 3)  # it has not looked
    assert "and drift is not looked for" in lines[-1]
    lines = said(run(["calibrate", *state], second), 0)
    assert ["was learned before" in line for line in lines] == [True]
    (file,) = (tmp_path / "state").glob("*.json")
    document = json.loads(file.read_bytes())
    tenants = document["drift"]["tenants"]
    tenants["t"]["detectors"]["rank"]["sprt"]["sums"][0] = -3
    file.write_bytes(json.dumps(document).encode())
    (line, _) = said(run(["calibrate", "--drift", *state], first), 1)
    assert "damaged state" in line
    for older in (tenants, {"version": 1, "tenants": tenants}):  # the first layouts had no version
        file.write_bytes(json.dumps({**document, "drift": older}).encode())
        line, hint = said(run(["calibrate", "--drift", *state], first), 1)
        assert "its watch for drift has version 1, this driftkit reads 2" in line
        assert "written by another driftkit" in hint
    said(run(["calibrate", *state], first), 0)  # who does not watch does not read it


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--detector", "page-hinckley"], "no drift detector named 'page-hinckley'"),
        (["--fail-on-drift", "--detector", "psi"], "--fail-on-drift needs a detector of residuals"),
        (["--on-drift", "forget"], "'forget' is not one of 'keep', 'reset'"),
        (["--fit", "engine", "--drift"], "--drift: nothing to do with --fit"),
        (["--fit", "engine", "--alarms", "x"], "--alarms: nothing to do with --fit"),
    ],
)
def test_bad_calls(options: list[str], words: str) -> None:
    lines = said(run(["calibrate", *options], b""), 2)
    assert words in lines[0]
    assert len(lines) == 2


# --- gen --drift ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drift", "ratios"),
    [
        (Drift("step", 10, 3.0), {9.999: 1, 10: 3, 1e9: 3}),
        (Drift("step", 10, 3.0, until_s=20), {10: 3, 19.9: 3, 20: 1}),
        (Drift("ramp", 10, 3.0, until_s=20), {9: 1, 10: 1, 15: 2, 20: 3, 1e9: 3}),
        (Drift("season", 10, 3.0, period_s=8), {9: 1, 10: 1, 12: 2, 14: 3, 18: 1, 22: 3}),
        (Drift("season", 10, 3.0, period_s=8, until_s=20), {14: 3, 20: 1, 22: 1}),
    ],
)
def test_kinds_of_drift(drift: Drift, ratios: dict[float, float]) -> None:
    assert {t: drift.ratio(t) for t in ratios} == pytest.approx(ratios)


def preset(drift: str | None = None, total: int = 3000) -> list[Record]:
    workload = spec.read(presets.text("driftsched"))
    return list(generate.requests(workload.drifting(drift) if drift else workload, 0, total))


def test_longer_outputs_are_the_same_draws_times_the_factor() -> None:
    plain, moved = preset(), preset("kind=step,at=60,factor=1.5,tenant=tenant-batch")
    for before, after in zip(plain, moved, strict=True):
        if before["arrival_s"] < 60 or before["tenant"] != "tenant-batch":
            assert before == after
        else:
            assert {**before, "trace_output_tokens": 0, "trace_output_words": 0} == {
                **after,
                "trace_output_tokens": 0,
                "trace_output_words": 0,
            }
            if after["trace_output_tokens"] < after["max_tokens"]:
                longer = after["trace_output_tokens"] / before["trace_output_tokens"]
                assert longer == pytest.approx(1.5, abs=1.5 / before["trace_output_tokens"])


@pytest.mark.parametrize("what", ["lengths", "mix,category=report", "rate"])
def test_before_the_drift_all_is_as_without_it(what: str) -> None:
    plain, moved = preset(), preset(f"kind=step,at=60,factor=3,what={what}")
    before = [record for record in plain if record["arrival_s"] < 60]
    assert moved[: len(before)] == before
    assert moved != plain


def test_a_mix_and_a_rate_move_by_their_factor() -> None:
    """Poisson counts within five of their standard deviations (P < 1e-6)."""
    text = b"""
duration_s = 2000
input = 9
output = 9
arrivals = { process = "poisson", rate_rps = 3 }
mix = { ask = 3, write = 1 }
tenants = [{ name = "a", share = 1 }, { name = "b", share = 2 }]
[categories.ask]
[categories.write]
"""

    def after(drift: str) -> list[Record]:
        workload = spec.read(text).drifting(f"kind=step,at=1000,{drift}")
        return [record for record in generate.requests(workload, 0) if record["arrival_s"] >= 1000]

    def near(rows: list[Record], field: str, value: str, expected: float) -> None:
        count = sum(row[field] == value for row in rows)
        assert count == pytest.approx(expected, abs=5 * math.sqrt(expected))

    faster = after("what=rate,factor=4,tenant=a")
    near(faster, "tenant", "a", 4000)
    near(faster, "tenant", "b", 2000)
    everybody = after("what=rate,factor=0.5")
    near(everybody, "tenant", "a", 500)
    near(everybody, "tenant", "b", 1000)
    mixed = after("what=mix,category=write,factor=3")
    near(mixed, "category", "write", 1500)
    near(mixed, "category", "ask", 1500)


def test_a_tenant_with_arrivals_of_its_own_moves_alone() -> None:
    tenant = '[[tenants]]\nname = "{}"\narrivals = {{ process = "poisson", rate_rps = 2 }}\n'
    text = "duration_s = 1000\ninput = 9\noutput = 9\n" + tenant.format("a") + tenant.format("b")
    plain = list(generate.requests(spec.read(text.encode()), 0))
    workload = spec.read(text.encode()).drifting("kind=ramp,at=200,until=400,what=rate,factor=3,tenant=a")
    moved = list(generate.requests(workload, 0))
    assert [r for r in moved if r["tenant"] == "b"] == [r for r in plain if r["tenant"] == "b"]
    count = sum(r["tenant"] == "a" for r in moved)
    assert count == pytest.approx(400 + 800 + 3600, abs=5 * math.sqrt(4800))


def test_the_option_says_what_the_file_says(tmp_path: Path) -> None:
    text = presets.text("driftsched").decode()
    table = (
        '\n[[drift]]\nkind = "season"\nwhat = "mix"\ncategory = "report"\nat_s = 20\nperiod_s = 30\n'
        'until_s = 80\nfactor = 4\n[[drift]]\nkind = "step"\nat_s = 30\nfactor = 2\n'
    )
    file = tmp_path / "drift.toml"
    file.write_text(text + table)
    options = [
        *("--drift", "kind=season,what=mix,category=report,at=20,period=30,until=80,factor=4"),
        *("--drift", "kind=step,at=30,factor=2"),
    ]
    few = ["--requests", "900"]
    assert ok(["gen", "--spec", file, *few]) == ok(["gen", "--preset", "driftsched", *few, *options])


@pytest.mark.parametrize(
    ("drift", "words"),
    [
        ("later", "expected key=value, got 'later'"),
        ("kind=step,at=1,at=2", "at: given twice"),
        ("kind=stp,at=1,factor=2", "kind: expected one of step, ramp, season, got 'stp'"),
        ("kind=step,factor=2", "at: expected a number from 0 to 9e+09, got nothing"),
        ("kind=step,at=soon,factor=2", "at: expected a number from 0 to 9e+09, got 'soon'"),
        ("kind=step,at=1,factor=nan", "factor: expected a number from 0.001 to 1000, got nan"),
        ("kind=step,at=1,factor=2,until=1", "until: expected a number above at (1), got 1.0"),
        ("kind=ramp,at=1,factor=2", "until: expected a number above at (1), got nothing"),
        ("kind=season,at=1,factor=2", "period: expected a number: how long a season is, got nothing"),
        ("kind=step,at=1,factor=2,period=3", "period: goes with a season, not with a step"),
        ("kind=step,at=1,factor=2,what=mix", "category: expected the name of the category"),
        ("kind=step,at=1,factor=2,what=rate,category=report", "category: goes with lengths and mix"),
        ("kind=step,at=1,factor=2,tenant=batch", "tenant: expected one of tenant-premium"),
        ("kind=step,at=1,factor=2,wht=rate", "wht: no such key here"),
    ],
)
def test_drifts_that_cannot_be(drift: str, words: str) -> None:
    with pytest.raises(LineError, match=re.escape(words)):
        preset(drift)


def test_a_drift_after_the_last_request_is_said_to_change_nothing() -> None:
    call = ["gen", "--preset", "driftsched", "--requests", "9"]
    result = run([*call, "--drift", "kind=step,at=3600,factor=2", "--drift", "kind=step,at=0,factor=2"])
    (warning,) = said(result, 0)
    last_s = records(result.stdout)[-1]["arrival_s"]
    assert warning == (
        f"driftkit gen: drift at 3600 s changes nothing: the last request arrives at {last_s:g} s"
    )


def test_a_bad_drift_is_a_bad_call() -> None:
    lines = said(run(["gen", "--preset", "driftsched", "--drift", "kind=stp,at=1,factor=2"]), 2)
    assert lines[0].startswith("driftkit gen: --drift: kind: expected one of step, ramp, season")
    lines = said(run(["gen", "--trace", "x.csv", "--drift", "kind=step,at=1,factor=2"]), 2)
    assert lines[0].endswith("--drift goes with --preset and --spec, not with --trace")
