"""Arrival processes against theory: gaps and counts have the mean *and* the variance that a process implies.

Statistics must lie within four of their standard errors (one failure in 16,000, if draws were not fixed).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftkit import rng
from driftkit.errors import FieldError
from driftkit.records.toml_table import Table
from driftkit.workload import arrivals, generate, spec

TENANTS = 2000

# each with the mean of its gaps, their coefficient of variation and their skewness
RENEWAL: dict[str, tuple[dict[str, Any], float, float, float]] = {
    "constant": ({"process": "constant", "rate_rps": 2}, 0.5, 0, 0),
    "uniform": (
        {"process": "uniform", "shortest_gap_s": 0.2, "longest_gap_s": 0.8},
        0.5,
        0.6 / 12**0.5 / 0.5,
        0,
    ),
    "poisson": ({"process": "poisson", "rate_rps": 2}, 0.5, 1, 2),
    "gamma-clumped": ({"process": "gamma", "rate_rps": 2, "cv": 1.5}, 0.5, 1.5, 3),
    "gamma-even": ({"process": "gamma", "rate_rps": 2, "cv": 0.5}, 0.5, 0.5, 1),
    # shape 1/2: the square of an exponential; moments 1, 6 and 90 at mean 1
    "weibull": ({"process": "weibull", "rate_rps": 2, "cv": 5**0.5}, 0.5, 5**0.5, 74 / 5**1.5),
}
ON_OFF = {"process": "on-off", "rate_rps": 2, "on_s": 0.5, "off_s": 1.5}


def process(table: dict[str, Any]) -> arrivals.Arrivals:
    return arrivals.read(Table(table, "arrivals"))


def assert_mean(values: Sequence[float], mean: float) -> None:
    found = fmean(values)
    error = math.sqrt(fmean((value - found) ** 2 for value in values) / len(values))
    assert abs(found - mean) <= 4 * error + 1e-9, (found, mean, error)


def assert_variance(values: Sequence[float], variance: float) -> None:
    found = fmean(values)
    squares = [(value - found) ** 2 for value in values]
    assert_mean(squares, variance)


def counts(table: dict[str, Any], windows: Sequence[tuple[float, float]], **more: Any) -> list[list[int]]:
    """How many requests each of TENANTS independent tenants sends in each window."""
    lines = [f"duration_s = {max(end for _, end in windows)}", "input = 1", "output = 1"]
    tenant = {"name": "t", "count": TENANTS, "arrivals": table, **more}
    lines += ["[[tenants]]", *(f"{key} = {toml(value)}" for key, value in tenant.items())]
    found = [Counter[str]() for _ in windows]
    for record in generate.requests(spec.read("\n".join(lines).encode()), seed=0):
        for counter, (start, end) in zip(found, windows, strict=True):
            counter[record["tenant"]] += start <= record["arrival_s"] < end
    return [[counter[f"t-{n}"] for n in range(1, TENANTS + 1)] for counter in found]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)


# --- stationary -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RENEWAL)
def test_gaps_have_the_mean_and_the_spread_that_was_stated(name: str) -> None:
    table, mean, cv, _ = RENEWAL[name]
    gap = process(table).gap
    gaps = [gap(*rng.uniforms(0, name, place)[:2]) for place in range(20_000)]
    assert_mean(gaps, mean)
    assert_variance(gaps, (cv * mean) ** 2)


@pytest.mark.parametrize("name", RENEWAL)
def test_the_first_gap_is_what_a_late_comer_sees_of_one(name: str) -> None:
    """The rest of a gap that is met at random: its mean is (1 + cv^2) / 2 of a gap's."""
    table, mean, cv, _ = RENEWAL[name]
    first = process(table).first
    assert_mean([first(*rng.uniforms(1, name, n)[:2]) for n in range(20_000)], mean * (1 + cv * cv) / 2)


@pytest.mark.parametrize("name", RENEWAL)
def test_counts_have_the_mean_and_the_variance_of_a_renewal_process(name: str) -> None:
    """In equilibrium the mean is exactly rate * time from the first moment on; the variance tends to
    cv^2 * rate * time + 1/6 + cv^4 / 2 - skewness * cv^3 / 3 (Cox, Renewal Theory, 1962, section 4.5)."""
    table, mean, cv, skewness = RENEWAL[name]
    early, late, whole = counts(table, [(0, 0.75), (4, 6.25), (0, 8.75)])
    assert_mean(early, 0.75 / mean)
    assert_mean(late, 2.25 / mean)
    assert_mean(whole, 8.75 / mean)
    if name == "constant":  # 17 or 18 of them
        assert set(whole) == {17, 18}
    else:
        assert_variance(whole, cv**2 * 8.75 / mean + 1 / 6 + cv**4 / 2 - skewness * cv**3 / 3)


def test_poisson_has_index_of_dispersion_one_at_every_scale() -> None:
    for window in counts(RENEWAL["poisson"][0], [(0, 0.25), (1, 2), (0, 6)]):
        assert_variance(window, fmean(window))


def test_bursts_have_the_counts_of_a_poisson_process_that_is_switched_on_and_off() -> None:
    """On with probability p = 1/4, correlated as exp(-s * lag) with s = 1/on + 1/off, at 8 rps while on:
    variance = mean + 2 * 8^2 * p * (1 - p) * (T / s - (1 - exp(-s * T)) / s^2), far above the mean."""
    length, s = 6.0, 1 / 0.5 + 1 / 1.5
    early, whole = counts(ON_OFF, [(0, 0.5), (0, length)])
    assert_mean(early, 1.0)
    assert_mean(whole, 2 * length)
    for window, t in ((early, 0.5), (whole, length)):
        extra = 2 * 64 * 3 / 16 * (t / s - (1 - math.exp(-s * t)) / s**2)
        assert_variance(window, 2 * t + extra)
    assert fmean((n - 12) ** 2 for n in whole) / 12 > 3


def test_gaps_within_and_between_bursts() -> None:
    """From the transform of the interrupted Poisson process: mean 1/rate, cv^2 = 1 + 2 L a / (a + b)^2 with
    L = 8 while on, a = 1/on, b = 1/off (Kuczura 1973; Fischer and Meier-Hellstern 1993)."""
    gap = process(ON_OFF).gap
    gaps = [gap(*rng.uniforms(2, "on-off", place)[:2]) for place in range(40_000)]
    assert_mean(gaps, 0.5)
    a, b = 2, 1 / 1.5
    assert_variance(gaps, 0.25 * (1 + 2 * 8 * a / (a + b) ** 2))


# --- rates that change ----------------------------------------------------------------------------


def test_a_ramp_counts_the_area_under_it() -> None:
    """From 3 to 1 rps over 4 s, then 1 rps: 2.75 in the first second, 1.25 in the fourth, 1 in the sixth."""
    table = {"process": "ramp", "start_rps": 3, "end_rps": 1, "over_s": 4}
    for window, expected in zip(counts(table, [(0, 1), (3, 4), (5, 6)]), (2.75, 1.25, 1.0), strict=True):
        assert_mean(window, expected)
        assert_variance(window, expected)


def test_a_ramp_to_nothing_ends() -> None:
    (window,) = counts({"process": "ramp", "start_rps": 2, "end_rps": 0, "over_s": 3}, [(0, 1000)])
    assert_mean(window, 3.0)
    assert_variance(window, 3.0)


def test_a_day_counts_the_area_under_its_wave() -> None:
    """2 * (1 + 0.9 cos(2 pi (t - 1) / 4)): the second around the peak has 2 + 1.8 * sqrt(2) * 2 / pi."""
    table = {"process": "diurnal", "rate_rps": 2, "amplitude": 0.9, "period_s": 4, "peak_s": 1}
    swing = 1.8 * math.sqrt(2) * 2 / math.pi
    windows = [(0.5, 1.5), (2.5, 3.5), (4.5, 5.5), (0, 4)]
    for window, expected in zip(counts(table, windows), (2 + swing, 2 - swing, 2 + swing, 8), strict=True):
        assert_mean(window, expected)
        assert_variance(window, expected)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 1e4), st.floats(0, 3e4))
def test_the_clock_of_a_ramp_undoes_its_integral(start: float, end: float, over_s: float, t: float) -> None:
    if start + end < 1e-3:
        return
    within = min(t, over_s)
    expected = start * within + (end - start) / over_s * within**2 / 2 + end * (t - within)
    found = arrivals.ramp(start, end, over_s)(expected)
    rate = start + (end - start) * within / over_s
    if rate > 1e-2:  # elsewhere a rounding error is a long time
        assert found == pytest.approx(t, rel=1e-6, abs=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(0, 1), st.floats(0.01, 1e5), st.floats(0, 1e5), st.floats(0, 10))
def test_the_clock_of_a_day_undoes_its_integral(
    rate: float, amplitude: float, period_s: float, peak_s: float, days: float
) -> None:
    t, omega = days * period_s, 2 * math.pi / period_s
    wave = amplitude / omega * (math.sin(omega * (t - peak_s)) + math.sin(omega * peak_s))
    found = arrivals.diurnal(rate, amplitude, period_s, peak_s)(rate * (t + wave))
    found_wave = amplitude / omega * (math.sin(omega * (found - peak_s)) + math.sin(omega * peak_s))
    assert found + found_wave == pytest.approx(t + wave, rel=1e-7, abs=1e-6)


# --- sessions -------------------------------------------------------------------------------------


def test_sessions_keep_the_rate_of_requests() -> None:
    """Three turns on average, cut at four: 3 * (1 - (2/3)^4) = 65/27. All count, however late they come.
    Of Poisson sessions the variance is the mean times E[turns^2] / E[turns]."""
    sessions = {"turns_mean": 3, "turns_most": 4, "think_median_s": 1, "think_sigma": 0.5}
    lines = f"duration_s = 20\ninput = 1\noutput = 1\n[[tenants]]\nname = 't'\ncount = {TENANTS}\n"
    lines += f"arrivals = {toml(RENEWAL['poisson'][0])}\nsessions = {toml(sessions)}"
    found = Counter(r["tenant"] for r in generate.requests(spec.read(lines.encode()), seed=0))
    window = [found[f"t-{n}"] for n in range(1, TENANTS + 1)]
    assert_mean(window, 40.0)
    shares = {1: 1 / 3, 2: 2 / 9, 3: 4 / 27, 4: 8 / 27}
    turns, squares = (sum(share * n**power for n, share in shares.items()) for power in (1, 2))
    assert turns == pytest.approx(65 / 27)
    assert_variance(window, 40 * squares / turns)


# --- the edges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table", [*(entry[0] for entry in RENEWAL.values()), ON_OFF], ids=[*RENEWAL, "on-off"]
)
@pytest.mark.parametrize("u", [0.0, 2**-53, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("v", [0.0, 1 - 2**-53])
def test_no_draw_is_negative_or_endless(table: dict[str, Any], u: float, v: float) -> None:
    made = process(table)
    for draw in (made.gap, made.first):
        assert 0 <= draw(u, v) < 1e6


@pytest.mark.parametrize("name", ["gamma", "weibull"])
@pytest.mark.parametrize("cv", [0.01, 0.3, 1.0, 3.0, 10.0])
def test_gaps_of_every_spread_have_the_stated_mean(name: str, cv: float) -> None:
    """By numerical integration over u, the tail on its own: no sampling error."""
    gap = process({"process": name, "rate_rps": 4, "cv": cv}).gap
    total, left, n = 0.0, 1.0, 2000
    while left > 1e-14:  # ever thinner slices of the tail
        half = left / 2
        total += half / n * sum(gap(1 - left + half * (i + 0.5) / n, 0) for i in range(n))
        left, n = half, 60
    assert total == pytest.approx(0.25, rel=2e-3)


def test_one_without_spread_is_the_exponential() -> None:
    reference = arrivals.exponential(2)[0]
    for name in ("gamma", "weibull"):
        gap = process({"process": name, "rate_rps": 2, "cv": 1}).gap
        for u in (0.01, 0.5, 0.99):
            assert gap(u, 0) == pytest.approx(reference(u, 0), rel=1e-9)


def test_a_start_with_a_whole_gap() -> None:
    made = process({"process": "constant", "rate_rps": 2, "start": "gap"})
    assert made.first(0.1, 0.2) == 0.5
    with pytest.raises(FieldError, match="start"):
        process({"process": "ramp", "start_rps": 1, "end_rps": 2, "over_s": 3, "start": "gap"})
