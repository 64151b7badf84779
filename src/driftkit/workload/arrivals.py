"""When requests come: processes with a stated mean rate, and the variance that the process implies.

All but two are stationary renewal processes: independent gaps, and a first gap from the equilibrium
distribution (an observer who comes at a random moment sees the end of a gap that is longer than most), so
that the expected number of arrivals in *any* window is rate * window, to the digit. Over long windows the
variance of the count over its mean tends to the squared coefficient of variation of the gaps (Cox, Renewal
Theory, 1962, ch. 4-5). `ramp` and `diurnal` change their rate: arrivals of a unit-rate process are moved by
the inverse of the integrated rate (Cinlar, Introduction to Stochastic Processes, 1975, ch. 4.7).

Every draw is an inverse transform of two uniforms in [0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from driftkit.records.toml_table import Table

Draw = Callable[[float, float], float]
Gaps = tuple[Draw, Draw]  # every gap, and the first one

LOWEST_RPS, HIGHEST_RPS = 1e-9, 1e6
LONGEST_S = 1e9


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Draws of `gap` and `first` are seconds; with a `clock`, expected requests, which it turns into seconds
    since the phase began (infinity: never)."""

    gap: Draw
    first: Draw
    clock: Callable[[float], float] | None = None


def read(table: Table) -> Arrivals:
    """The process that a table describes; FieldError says what is wrong with it."""
    process = table.one_of("process", PROCESSES)
    arrivals = PROCESSES[process](table)
    if arrivals.clock is None and table.one_of("start", ("stationary", "gap"), "stationary") == "gap":
        arrivals = Arrivals(arrivals.gap, arrivals.gap)
    table.done()
    return arrivals


# --- gaps -----------------------------------------------------------------------------------------


def constant(rate: float) -> Gaps:
    """Equal gaps; the first is any part of one."""
    return lambda u, v: 1 / rate, lambda u, v: u / rate


def uniform(shortest: float, longest: float) -> Gaps:
    width = longest - shortest

    def first(u: float, v: float) -> float:
        return u * math.sqrt(shortest * shortest + v * (longest * longest - shortest * shortest))

    return lambda u, v: shortest + u * width, first


def exponential(rate: float) -> Gaps:
    def gap(u: float, v: float) -> float:
        return -math.log1p(-u) / rate

    return gap, gap  # it has no memory


def gamma(rate: float, cv: float) -> Gaps:
    """Gaps of coefficient of variation `cv`: above 1 they come in clumps, below 1 evenly."""
    from scipy.special import gammaincinv

    shape = 1 / (cv * cv)
    scale = 1 / (shape * rate)

    def gap(u: float, v: float) -> float:
        return scale * float(gammaincinv(shape, u))

    def first(u: float, v: float) -> float:  # a gap weighted by its length is a gamma of shape + 1
        return u * scale * float(gammaincinv(shape + 1, v))

    return gap, first


def weibull(rate: float, cv: float) -> Gaps:
    from scipy.special import gammaincinv

    inverse = _weibull_inverse_shape(cv)
    scale = 1 / (rate * math.gamma(1 + inverse))

    def gap(u: float, v: float) -> float:
        return float(scale * (-math.log1p(-u)) ** inverse)

    def first(u: float, v: float) -> float:  # (x / scale)**shape of a gap weighted by its length is a gamma
        return float(u * scale * float(gammaincinv(1 + inverse, v)) ** inverse)

    return gap, first


def _weibull_inverse_shape(cv: float) -> float:
    """1 / shape of the Weibull with that coefficient of variation, which grows with it."""

    def cv_of(inverse: float) -> float:
        return math.sqrt(math.expm1(math.lgamma(1 + 2 * inverse) - 2 * math.lgamma(1 + inverse)))

    low, high = 1e-3, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if cv_of(middle) < cv else (low, middle)
    return (low + high) / 2


def on_off(rate: float, on_s: float, off_s: float) -> Gaps:
    """Poisson while on, silent while off; both last exponential times of these means.

    Such a process is a renewal process whose gaps are one of two exponentials (Kuczura, The interrupted
    Poisson process as an overflow process, Bell System Technical Journal 52(3), 1973).
    """
    leaves, comes = 1 / on_s, 1 / off_s
    burst = rate * (on_s + off_s) / on_s
    total = burst + leaves + comes
    fast = (total + math.sqrt(total * total - 4 * burst * comes)) / 2
    slow = burst * comes / fast
    share = (burst - slow) / (fast - slow)
    first_share = share / fast * rate  # weighted by their lengths

    def gap(u: float, v: float) -> float:
        return -math.log1p(-v) / (fast if u < share else slow)

    def first(u: float, v: float) -> float:
        return -math.log1p(-v) / (fast if u < first_share else slow)

    return gap, first


# --- rates that change ----------------------------------------------------------------------------


def ramp(start_rps: float, end_rps: float, over_s: float) -> Callable[[float], float]:
    """Seconds until so many requests are expected, where the rate goes evenly from one to the other."""
    slope = (end_rps - start_rps) / over_s
    by_then = (start_rps + end_rps) / 2 * over_s

    def clock(expected: float) -> float:
        if expected <= 0:
            return 0.0
        if expected < by_then:
            root = math.sqrt(max(0.0, start_rps * start_rps + 2 * slope * expected))
            return 2 * expected / (start_rps + root)
        return over_s + (expected - by_then) / end_rps if end_rps else math.inf

    return clock


def diurnal(rate: float, amplitude: float, period_s: float, peak_s: float) -> Callable[[float], float]:
    """The same for rate * (1 + amplitude * cos(2 pi (t - peak_s) / period_s))."""
    omega = 2 * math.pi / period_s
    swing = amplitude / omega
    at_start = swing * math.sin(omega * peak_s)

    def clock(expected: float) -> float:
        periods, rest = divmod(expected / rate, period_s)
        low, high = max(0.0, rest - 2 * swing), min(period_s, rest + 2 * swing)
        t = rest
        for _ in range(100):  # Newton's steps, or halves where they lead astray
            miss = t + swing * math.sin(omega * (t - peak_s)) + at_start - rest
            if miss > 0:
                high = t
            else:
                low = t
            speed = 1 + amplitude * math.cos(omega * (t - peak_s))
            step = t - miss / speed if speed > 0 else low
            t, before = (step if low < step < high else (low + high) / 2), t
            if abs(t - before) < 1e-9:
                break
        return periods * period_s + t

    return clock


# --- their tables ---------------------------------------------------------------------------------


def _rate(table: Table, key: str = "rate_rps") -> float:
    return table.number(key, LOWEST_RPS, HIGHEST_RPS)


def _cv(table: Table) -> float:
    return table.number("cv", 0.01, 30)


def _seconds(table: Table, key: str, default: float | None = None) -> float:
    return table.number(key, 1e-6, LONGEST_S, default)


def _uniform(table: Table) -> Arrivals:
    shortest = table.number("shortest_gap_s", 0, LONGEST_S)
    longest = _seconds(table, "longest_gap_s")
    if longest < shortest:
        raise table.expected("longest_gap_s", f"a number >= shortest_gap_s ({shortest:g})")
    return Arrivals(*uniform(shortest, longest))


def _ramp(table: Table) -> Arrivals:
    start_rps, end_rps = (table.number(key, 0, HIGHEST_RPS) for key in ("start_rps", "end_rps"))
    if not start_rps and not end_rps:
        raise table.expected("end_rps", "start_rps or end_rps above 0")
    gap, first = exponential(1)
    return Arrivals(gap, first, ramp(start_rps, end_rps, _seconds(table, "over_s")))


def _diurnal(table: Table) -> Arrivals:
    amplitude = table.number("amplitude", 0, 1)
    period_s = _seconds(table, "period_s", 86_400.0)
    peak_s = table.number("peak_s", 0, LONGEST_S, 0.0)
    gap, first = exponential(1)
    return Arrivals(gap, first, diurnal(_rate(table), amplitude, period_s, peak_s))


PROCESSES: dict[str, Callable[[Table], Arrivals]] = {
    "constant": lambda table: Arrivals(*constant(_rate(table))),
    "uniform": _uniform,
    "poisson": lambda table: Arrivals(*exponential(_rate(table))),
    "gamma": lambda table: Arrivals(*gamma(_rate(table), _cv(table))),
    "weibull": lambda table: Arrivals(*weibull(_rate(table), _cv(table))),
    "on-off": lambda table: Arrivals(
        *on_off(_rate(table), _seconds(table, "on_s"), _seconds(table, "off_s"))
    ),
    "ramp": _ramp,
    "diurnal": _diurnal,
}
