"""The statistics that reports print, over numpy arrays; missing values are NaN and left out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)


class Summary(NamedTuple):
    """Of one latency: count, mean, percentiles 50/90/95/99 (linear interpolation), maximum."""

    n: int
    mean: float
    percentiles: tuple[float, ...]
    max: float


def summary(values: Array) -> Summary | None:
    """None when nothing is there."""
    present = values[~np.isnan(values)]
    if not present.size:
        return None
    percentiles = np.percentile(present, PERCENTILES)
    return Summary(present.size, float(present.mean()), tuple(percentiles.tolist()), float(present.max()))


class Error(NamedTuple):
    """Of estimates against actual lengths: mean absolute, root mean square, mean signed (estimate minus
    actual), mean absolute in percent of the actual, and Kendall's tau-b of the two orders."""

    n: int
    mae: float
    rmse: float
    bias: float
    mape: float
    tau: float


def error(estimate: Array, actual: Array) -> Error | None:
    """None when no pair is complete. Actual lengths of 0 are left out of MAPE."""
    known = ~(np.isnan(estimate) | np.isnan(actual))
    estimate, actual = estimate[known], actual[known]
    if not estimate.size:
        return None
    off = estimate - actual
    produced = actual > 0
    mape = float(np.mean(np.abs(off[produced]) / actual[produced]) * 100) if produced.any() else math.nan
    return Error(
        estimate.size,
        float(np.mean(np.abs(off))),
        math.sqrt(float(np.mean(off * off))),
        float(np.mean(off)),
        mape,
        kendall_tau(estimate, actual),
    )


def kendall_tau(x: Array, y: Array) -> float:
    """Kendall's tau-b, O(n log n) (Knight 1966); NaN when one of the two is constant.

    Here and not from scipy.stats because importing that takes most of a second, at every report.
    """
    n = x.size
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    pairs = n * (n - 1) // 2
    tied_x, tied_y = _tied_pairs(x), _tied_pairs(np.sort(y))
    new = np.r_[True, (x[1:] != x[:-1]) | (y[1:] != y[:-1])]
    tied_both = _tied_pairs(np.cumsum(new).astype(np.float64))
    discordant = _inversions(np.unique(y, return_inverse=True)[1].astype(np.int64))
    concordant = pairs - tied_x - tied_y + tied_both - discordant
    scale = math.sqrt(float(pairs - tied_x)) * math.sqrt(float(pairs - tied_y))
    return (concordant - discordant) / scale if scale else math.nan


def _tied_pairs(ordered: Array) -> int:
    """Pairs of equal values in an ordered array."""
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    runs = np.diff(starts)
    return int((runs * (runs - 1) // 2).sum())


def _inversions(ranks: NDArray[np.int64]) -> int:
    """Pairs i < j with ranks[i] > ranks[j]: a bottom-up merge sort, each level at once over all runs."""
    n = ranks.size
    top = int(ranks.max(initial=0)) + 1
    place = np.arange(n)
    inversions = 0
    width = 1
    while width < n:
        pair = place // (2 * width)
        keys = pair * top + ranks
        right = place // width % 2 == 1
        # how many of the left run, which is full where there is a right one, come before or with each
        before = np.searchsorted(keys[~right], keys[right], side="right")
        inversions += int(((pair[right] + 1) * width - before).sum())
        ranks = np.sort(keys, kind="stable") - pair * top
        width *= 2
    return inversions


def jain(values: Array) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything (Jain et al. 1984)."""
    return float(values.sum() ** 2 / (values.size * (values * values).sum()))


def quantile_interval(values: Array, q: float) -> tuple[float, float]:
    """A 95 % interval of the quantile `q` from order statistics, whatever the distribution.

    The ranks are those of a binomial count (normal approximation); a side for which there are too few
    values is infinite.
    """
    ordered = np.sort(values)
    n = ordered.size
    half = 1.96 * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - half), math.ceil(n * q + half)
    return (
        float(ordered[low]) if low >= 0 else -math.inf,
        float(ordered[high]) if high < n else math.inf,
    )


def t_interval(values: Array) -> tuple[float, float, float]:
    """Mean and 95 % interval over independent replicates (Student's t)."""
    from scipy.special import stdtrit

    n = values.size
    mean = float(values.mean())
    half = float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half
