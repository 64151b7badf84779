"""Quantiles of the log-ratio actual / estimate, tracked online: their coverage holds while load drifts.

Each of P10, P50 and P90 is a sum of three terms: one of the category, one of the tenant, one of the cell
(tenant x category). After a completion with log-ratio x every term of the quantile at level p moves by

    rate * spread / density(p) * (p - [x <= quantile])

which is a step down the pinball loss, and the update of adaptive conformal inference (Gibbs and Candes,
2021) as the quantile tracker of conformal PID control has it (Angelopoulos, Candes and Tibshirani, 2023):
over T completions the share that a term's group had under its quantile differs from p by at most the way
that the term has gone, divided by T and by its step, whatever the lengths do. So coverage holds per tenant
and per category, not only over all. A tenant or category never seen starts with what the others have taught;
the rates fall as 1 / n at first, as stochastic approximation wants it, and stay at a floor, so that drift is
followed.

Cut outputs are censored. Where the cut lies under the quantile, [x <= quantile] is not known, and its mean
given that x lies above the cut stands in: (p - F(cut)) / (1 - F(cut)), F being the normal curve through the
three quantiles. It is Efron's (1967) redistribution to the right, which over a sample is Kaplan and Meier's
estimate. The quantiles are of what would have been, and are cut at `max_tokens` in turn.

Short outputs report first. In a steady state that is no bias: what ends in a window is then distributed as
what is sent (displaced Poisson arrivals with independent marks). It is one at the start and after a change,
while requests are in flight that were sent before the first had ended. Where n of a cell have ended and m are
in flight, m / (n + m) of the outcomes are missing at most, so the level that is tracked as p is a true one
between p n / (n + m) and (p n + m) / (n + m). It is not corrected: who would weigh by the chance to have
ended must know how long the rest will take, which is what is being estimated; and the steps forget it.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, ClassVar, NamedTuple

from driftkit.calibration.base import History, category_of, observed_output
from driftkit.calibration.censored import was_cut
from driftkit.estimation.base import WIDEST, unbiased_tokens
from driftkit.records.schema import Record

_NORMAL = NormalDist()
LEVELS = (0.1, 0.5, 0.9)
_Z = tuple(_NORMAL.inv_cdf(level) for level in LEVELS)
_DENSITY = tuple(_NORMAL.pdf(z) for z in _Z)

KEPT = 10.0  # completions that what was learned before a drift counts for
FIRST_SIGMA = 0.5  # of the log-ratio, before anything was seen: P10 and P90 are a factor of 1.9 away
LEAST_SIGMA = 0.01  # steps stay above 0 where all outputs are alike


class Rate(NamedTuple):
    """`gain` / (n + `delay`) after n completions, at least `floor`."""

    gain: float
    delay: float
    floor: float

    def after(self, n: float) -> float:
        return max(self.gain / (n + self.delay), self.floor)


# the category is quick at first, so that what is common to all is not learned as each tenant's own
RATES = {"category": Rate(2.0, 3.0, 0.005), "tenant": Rate(1.0, 20.0, 0.01), "cell": Rate(1.0, 20.0, 0.01)}
MEMORY = 1 / min(rate.floor for rate in RATES.values())  # beyond that, n says nothing more


class Quantile:
    name: ClassVar[str] = "quantile"
    caps = True

    def __init__(self) -> None:
        # n and the terms of the three quantiles, by ("category", c), ("tenant", t) and ("cell", t, c)
        self._terms: dict[tuple[str, ...], History] = {}

    def bias(self, record: Record, before: float) -> float:
        return math.exp(self._sums(record, before)[1])

    def interval(self, record: Record, before: float) -> tuple[float, float]:
        low, _, high = self._sums(record, before)
        return math.exp(low), math.exp(high)

    def learn(self, record: Record, finished_s: float) -> None:
        actual, unbiased = observed_output(record), unbiased_tokens(record)
        if not actual or unbiased <= 0:
            return
        length = math.log(actual)
        quantiles = [
            math.log(reference) + of
            for reference, of in zip(_references(record, unbiased), self._sums(record, math.inf), strict=True)
        ]
        ordered = sorted(quantiles)
        under = _below_the_cut(length, ordered) if was_cut(record) else None
        sigma = max((ordered[2] - ordered[0]) / (_Z[2] - _Z[0]), LEAST_SIGMA)
        steps = [
            sigma / density * (level - _is_under(length, quantile, level, under))
            for quantile, level, density in zip(quantiles, LEVELS, _DENSITY, strict=True)
        ]
        for group in _groups(record):
            history = self._terms.setdefault(group, History(0.0, 0.0, 0.0, 0.0))
            n, *terms = history.latest
            rate = RATES[group[0]].after(n)
            moved = (
                min(max(term + rate * step, -WIDEST), WIDEST) for term, step in zip(terms, steps, strict=True)
            )
            history.append(finished_s, min(n + 1, MEMORY), *moved)

    def forget(self, tenant: str, finished_s: float) -> None:
        """Let the tenant's terms go as fast as after KEPT completions."""
        for group, history in self._terms.items():
            if group[0] != "category" and group[1] == tenant:
                n, *terms = history.latest
                history.append(finished_s, min(n, KEPT), *terms)

    def start_run(self) -> None:
        for history in self._terms.values():
            history.restart()

    def to_json(self) -> dict[str, Any]:
        known: dict[str, list[tuple[str | float, ...]]] = {kind: [] for kind in RATES}
        for (kind, *names), history in sorted(self._terms.items()):
            known[kind].append((*names, *history.latest))
        return {kind: [list(row) for row in rows] for kind, rows in known.items()}

    def load_json(self, state: dict[str, Any]) -> None:
        names = {"category": 1, "tenant": 1, "cell": 2}
        self._terms = {
            (kind, *map(str, row[:n])): History(*_checked(*row[n:]))
            for kind, n in names.items()
            for row in state[kind]
        }

    def _sums(self, record: Record, before: float) -> list[float]:
        """The logarithms of the factors for P10, P50 and P90."""
        own = record.get("est_base_tokens_p10") is not None and record.get("est_base_tokens_p90") is not None
        sums = [0.0 if own else z * FIRST_SIGMA for z in _Z]
        for group in _groups(record):
            history = self._terms.get(group)
            if history is not None:
                _, low, middle, high = history.at(before)
                sums[0] += low
                sums[1] += middle
                sums[2] += high
        return sums


def _groups(record: Record) -> tuple[tuple[str, ...], ...]:
    category, tenant = category_of(record), record.get("tenant") or ""
    return ("category", category), ("tenant", tenant), ("cell", tenant, category)


def _references(record: Record, unbiased: float) -> tuple[float, float, float]:
    """What the factors for P10, P50 and P90 multiply: the estimator's own quantiles, else its estimate."""
    low, high = record.get("est_base_tokens_p10"), record.get("est_base_tokens_p90")
    base = record.get("est_base_tokens")
    if low is None or high is None or not base:
        return unbiased, unbiased, unbiased
    return unbiased * max(low, 1) / base, unbiased, unbiased * max(high, 1) / base


def _is_under(length: float, quantile: float, level: float, under: float | None) -> float:
    """[length <= quantile]; of a cut output, of which a share `under` ends before the cut, its mean."""
    if length > quantile:
        return 0.0
    if length == quantile:
        return level  # nothing to mend: at its kink the loss has a flat tangent
    if under is None:
        return 1.0
    return max(0.0, (level - under) / (1 - under))


def _below_the_cut(cut: float, quantiles: list[float]) -> float:
    """The share that ends before `cut`: the normal curve through the quantiles (rising logarithms)."""
    low, middle, high = quantiles
    part = middle - low if cut < middle else high - middle
    z = (cut - middle) / max(part / _Z[2], LEAST_SIGMA)
    return min(_NORMAL.cdf(z), LEVELS[2])


def _checked(n: float, *terms: float) -> tuple[float, ...]:
    """The numbers, if they can be those of a term."""
    if len(terms) != len(LEVELS) or not 0 <= n <= MEMORY or not all(-WIDEST <= t <= WIDEST for t in terms):
        raise ValueError(f"terms out of range: {n}, {terms}")
    return float(n), *map(float, terms)
