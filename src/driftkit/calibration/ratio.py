"""The mean of the log-ratio actual / estimate per tenant and category.

The estimate enters with all its factors, so a tier's safety margin and a long prompt's stretch are learned
away like any other error. Three things make it hold with few and cut observations:

- A cell (tenant x category) is shrunk towards its category, and the category towards "the estimate is
  right": weights n / (n + k), the posterior mean of a normal mean under a normal prior.
- Memory is limited: beyond 300 observations (MEMORY) an old one fades, so that the factor follows drift.
- An output cut at `max_tokens` is censored: it was going to be at least that long. It enters with the
  mean of a normal distribution above the cut (the E step of a Tobit model; Tobin 1958), and the estimate
  is cut at `max_tokens` in turn. Counted in words the cap, which is in tokens, says nothing, so there a
  cut output counts as it is.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

from driftkit.calibration.base import History, category_of, observed_output
from driftkit.calibration.censored import above, was_cut
from driftkit.estimation.base import WIDEST, unbiased_tokens
from driftkit.records.schema import Record

MEMORY = 300.0
CELL_PRIOR = 10.0  # observations that the category's mean counts for in a cell
CATEGORY_PRIOR = 1.0  # observations that "the estimate is right" counts for in a category
KEPT = 1.0  # observations that what a tenant did before it drifted counts for
FIRST_VARIANCE = 0.25  # of the log-ratio, before anything was seen: a factor of 1.6 either way
LEAST_VARIANCE = 1e-4


class Moments(NamedTuple):
    """Observations (at most MEMORY), and mean and variance of their log-ratio."""

    n: float
    mean: float
    variance: float


_NOTHING = Moments(0.0, 0.0, FIRST_VARIANCE)


class Ratio:
    name: ClassVar[str] = "ratio"
    caps = True

    def __init__(self) -> None:
        self._categories: dict[str, History] = {}
        self._cells: dict[tuple[str, str], History] = {}

    def bias(self, record: Record, before: float) -> float:
        category = category_of(record)
        return math.exp(self._mean(record.get("tenant") or "", category, before))

    def interval(self, record: Record, before: float) -> None:
        return None

    def learn(self, record: Record, finished_s: float) -> None:
        actual, unbiased = observed_output(record), unbiased_tokens(record)
        if not actual or unbiased <= 0:
            return
        category, tenant = category_of(record), record.get("tenant") or ""
        overall = self._categories.setdefault(category, History(*_NOTHING))
        cell = self._cells.setdefault((tenant, category), History(*_NOTHING))
        log_ratio = min(max(math.log(actual / unbiased), -WIDEST), WIDEST)
        hidden = 0.0
        if was_cut(record):
            mean = self._mean(tenant, category, math.inf)
            variance = _shrunk_variance(Moments(*cell.latest), Moments(*overall.latest))
            log_ratio, hidden = above(log_ratio, mean, variance)
            log_ratio = min(log_ratio, WIDEST)
        for history in (overall, cell):
            history.append(finished_s, *_updated(Moments(*history.latest), log_ratio, hidden))

    def forget(self, tenant: str, finished_s: float) -> None:
        """Let the tenant's past count for KEPT observations in each of its cells."""
        for (of, _), history in self._cells.items():
            if of == tenant:
                n, mean, variance = history.latest
                history.append(finished_s, min(n, KEPT), mean, max(variance, FIRST_VARIANCE))

    def start_run(self) -> None:
        for histories in (self._categories.values(), self._cells.values()):
            for history in histories:
                history.restart()

    def to_json(self) -> dict[str, Any]:
        return {
            "category": {name: list(h.latest) for name, h in sorted(self._categories.items())},
            "cell": [[*key, *h.latest] for key, h in sorted(self._cells.items())],
        }

    def load_json(self, state: dict[str, Any]) -> None:
        self._categories = {name: History(*_moments(*m)) for name, m in state["category"].items()}
        self._cells = {(str(t), str(c)): History(*_moments(*m)) for t, c, *m in state["cell"]}

    def _mean(self, tenant: str, category: str, before: float) -> float:
        """The shrunk mean log-ratio."""
        overall = self._categories.get(category)
        if overall is None:
            return 0.0
        n, mean, _ = overall.at(before)
        mean *= n / (n + CATEGORY_PRIOR)
        cell = self._cells.get((tenant, category))
        if cell is None:
            return mean
        n, own, _ = cell.at(before)
        if not n:  # as if the cell were not there: it may be, with what was learned after `before`
            return mean
        return (n * own + CELL_PRIOR * mean) / (n + CELL_PRIOR)


def _moments(n: float, mean: float, variance: float) -> Moments:
    """Moments, if they can be those of clipped log-ratios."""
    if not (0 <= n <= MEMORY and -WIDEST <= mean <= WIDEST and LEAST_VARIANCE <= variance < math.inf):
        raise ValueError(f"moments out of range: {n}, {mean}, {variance}")
    return Moments(float(n), float(mean), float(variance))


def _shrunk_variance(cell: Moments, category: Moments) -> float:
    """The cell's own, so that a cut output is not imputed from how far the tenants lie apart."""
    return (cell.n * cell.variance + CELL_PRIOR * category.variance) / (cell.n + CELL_PRIOR)


def _updated(moments: Moments, x: float, hidden: float) -> Moments:
    """One more observation of mean `x` and, if it was cut, of variance `hidden` around it."""
    n = min(moments.n + 1, MEMORY)
    mean = moments.mean + (x - moments.mean) / n
    spread = (x - moments.mean) * (x - mean) + hidden
    # the first variance counts as one observation, so that a second alike does not make it 0
    variance = moments.variance + (spread - moments.variance) / (n + 1)
    return Moments(n, mean, max(variance, LEAST_VARIANCE))
