"""Isotonic calibration: the actual length as a rising step function of the estimate, over a recent window.

It corrects what no factor can: an estimator that is right on short outputs and half of what it should be on
long ones. Per tenant and category the last WINDOW completions are kept, per category as many, and the least
squares fit of log actual on log estimate among rising functions is made anew (pool adjacent violators; Ayer
et al. 1955; Barlow et al. 1972) whenever the window has a tenth more than at the last time, or a tenth of it
is new. Between the blocks the fit is a straight line, as scikit-learn's IsotonicRegression has it; beyond its
ends the ratio of the end holds, so that an estimate larger than any before is not held down. Own lines
rather than scikit-learn's: that takes a second to load, more than a window's fit ten thousand times over.

As in `ratio`, a cell is shrunk towards its category, and that towards "the estimate is right", and a cut
output enters with the mean of a normal distribution above the cut. A window forgets, so short outputs that
report first, before the long ones of their time, weigh no longer than until those have come; `quantile` says
how far that goes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

from driftkit.calibration.base import category_of, observed_output
from driftkit.calibration.censored import above, was_cut
from driftkit.calibration.ratio import CATEGORY_PRIOR, CELL_PRIOR, FIRST_VARIANCE, LEAST_VARIANCE
from driftkit.estimation.base import WIDEST, unbiased_tokens
from driftkit.records.schema import LARGEST_RATIO, MOST, Record

WINDOW = 300
MOST_HIDDEN = WIDEST**2
LONGEST = math.log(MOST * LARGEST_RATIO**2)  # of an estimate with its factors


class Point(NamedTuple):
    """A completion: logarithms of estimate and of actual length, and the variance of what a cut hides."""

    estimate: float
    actual: float
    hidden: float


class Fit(NamedTuple):
    """`n` points and their fit: knots, rising in both coordinates, and the variance around it."""

    n: int
    estimates: Sequence[float]
    actuals: Sequence[float]
    variance: float

    def log_ratio(self, estimate: float) -> float:
        """What the logarithm of an estimate is to be corrected by."""
        place = bisect_right(self.estimates, estimate)
        if place in (0, len(self.estimates)):
            end = max(place - 1, 0)
            return self.actuals[end] - self.estimates[end]
        left, right = self.estimates[place - 1], self.estimates[place]
        share = (estimate - left) / (right - left)
        low, high = self.actuals[place - 1], self.actuals[place]
        return low + share * (high - low) - estimate


class Window:
    """The last WINDOW points of a cell or category, and its fits by when they were made."""

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self.points = deque(points, maxlen=WINDOW)
        self._new = 0
        self._times: list[float] = []
        self._fits: list[Fit | None] = []
        self.restart()

    def at(self, before: float) -> Fit | None:
        """The last fit that was made strictly before `before`."""
        place = bisect_left(self._times, before)
        return self._fits[place - 1] if place else None

    def append(self, time: float, point: Point) -> None:
        self.points.append(point)
        self._new += 1
        if self._new * 10 >= len(self.points):
            self._new = 0
            self._times.append(time)
            self._fits.append(_fitted(self.points))

    def empty(self, time: float) -> None:
        """What was known until `time` is not known after."""
        self.points.clear()
        self._new = 0
        self._times.append(time)
        self._fits.append(None)

    def rows(self) -> list[list[float]]:
        return [list(point) for point in self.points]

    def restart(self) -> None:
        """What is known now is known from the start, all of it."""
        self._new = 0
        self._times = [-math.inf] if self.points else []
        self._fits = [_fitted(self.points)] if self.points else []


class Isotonic:
    name: ClassVar[str] = "isotonic"
    caps = True

    def __init__(self) -> None:
        self._windows: dict[tuple[str, ...], Window] = {}  # by (category,) and (tenant, category)

    def bias(self, record: Record, before: float) -> float:
        unbiased = unbiased_tokens(record)
        return math.exp(self._expected(record, math.log(max(unbiased, 1.0)), before)[0])

    def interval(self, record: Record, before: float) -> None:
        return None

    def learn(self, record: Record, finished_s: float) -> None:
        actual, unbiased = observed_output(record), unbiased_tokens(record)
        if not actual or unbiased <= 0:
            return
        estimate = math.log(max(unbiased, 1.0))
        log_ratio, hidden = min(max(math.log(actual) - estimate, -WIDEST), WIDEST), 0.0
        if was_cut(record):
            log_ratio, hidden = above(log_ratio, *self._expected(record, estimate, math.inf))
            log_ratio, hidden = min(log_ratio, WIDEST), min(hidden, MOST_HIDDEN)
        point = Point(estimate, estimate + log_ratio, hidden)
        for key, _ in _keys(record):
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = Window()
            window.append(finished_s, point)

    def forget(self, tenant: str, finished_s: float) -> None:
        """Begin the tenant's windows anew: until there is more, it is as others of its categories."""
        for key, window in self._windows.items():
            if len(key) == 2 and key[0] == tenant:
                window.empty(finished_s)

    def start_run(self) -> None:
        for window in self._windows.values():
            window.restart()

    def to_json(self) -> dict[str, Any]:
        windows = sorted(self._windows.items())
        return {
            "category": {key[0]: window.rows() for key, window in windows if len(key) == 1},
            "cell": [[*key, window.rows()] for key, window in windows if len(key) == 2],
        }

    def load_json(self, state: dict[str, Any]) -> None:
        self._windows = {(category,): _window(points) for category, points in state["category"].items()}
        for tenant, category, points in state["cell"]:
            self._windows[str(tenant), str(category)] = _window(points)

    def _expected(self, record: Record, estimate: float, before: float) -> tuple[float, float]:
        """Mean and variance of the log-ratio, shrunk."""
        mean, variance = 0.0, FIRST_VARIANCE
        for key, prior in _keys(record):
            window = self._windows.get(key)
            fit = window.at(before) if window is not None else None
            if fit is not None:
                mean = (fit.n * fit.log_ratio(estimate) + prior * mean) / (fit.n + prior)
                variance = (fit.n * fit.variance + prior * variance) / (fit.n + prior)
        return mean, variance


def _keys(record: Record) -> tuple[tuple[tuple[str, ...], float], ...]:
    """The windows of a record, and how many points what is known without each counts for."""
    category, tenant = category_of(record), record.get("tenant") or ""
    return ((category,), CATEGORY_PRIOR), ((tenant, category), CELL_PRIOR)


def _fitted(points: Iterable[Point]) -> Fit:
    """Pools points of one estimate, then neighbours for as long as a block lies under the one before it."""
    ordered = sorted(points)
    blocks: list[tuple[float, float, float, int]] = []  # first and last estimate, mean, points
    for estimate, group in groupby(ordered, key=lambda point: point.estimate):
        actuals = [point.actual for point in group]
        block = (estimate, estimate, math.fsum(actuals) / len(actuals), len(actuals))
        while blocks and blocks[-1][2] >= block[2]:
            first, _, mean, n = blocks.pop()
            total = n + block[3]
            block = (first, block[1], mean + (block[2] - mean) * block[3] / total, total)
        blocks.append(block)
    knots: list[tuple[float, float]] = []
    for first, last, mean, _ in blocks:
        knots.append((first, mean))
        if last > first:
            knots.append((last, mean))
    fit = Fit(len(ordered), [x for x, _ in knots], [y for _, y in knots], 0.0)
    squares = (
        (point.actual - point.estimate - fit.log_ratio(point.estimate)) ** 2 + point.hidden
        for point in ordered
    )
    # the first variance counts as one observation, so that a few alike do not make it 0
    variance = (math.fsum(squares) + FIRST_VARIANCE) / (len(ordered) + 1)
    return fit._replace(variance=max(variance, LEAST_VARIANCE))


def _window(points: list[Any]) -> Window:
    """A window of points, if they can be those of one."""
    checked = [Point(*map(float, point)) for point in points]
    if not 0 < len(checked) <= WINDOW:
        raise ValueError(f"a window of {len(checked)} points")
    for point in checked:
        ratio = point.actual - point.estimate
        inside = 0 <= point.estimate <= LONGEST and 0 <= point.hidden <= MOST_HIDDEN
        if not (inside and -WIDEST - 1e-9 <= ratio <= WIDEST + 1e-9):
            raise ValueError(f"point out of range: {point}")
    return Window(checked)
