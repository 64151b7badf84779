"""Lengths that were cut: all that is known of such an output is that it was going to be at least as long.

Two ways to use them without bias: in a mean, each by what it is expected to be (the E step of a Tobit model;
Tobin 1958); in quantiles, by the product-limit estimate (Kaplan and Meier 1958).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def above(cut: Floats, mean: Floats | float, sigma: float) -> tuple[Floats, Floats]:
    """Mean and variance of normal variables that are known to lie above `cut`."""
    if sigma <= 0:
        return np.maximum(cut, mean), np.zeros_like(cut)
    z = (cut - mean) / sigma
    hazard = np.exp(-z * z / 2 - log_ndtr(-z)) / np.sqrt(2 * np.pi)
    variance = sigma**2 * np.clip(1 + z * hazard - hazard**2, 0, 1)
    return np.maximum(mean + sigma * hazard, cut), variance


def moments(values: Floats, cut: Bools, mean: Floats | None = None, rounds: int = 50) -> tuple[float, float]:
    """Mean and standard deviation of normal values of which those that are `cut` were going to be larger.

    With `mean`, one for each value, the deviations from it: a mean of 0 and their standard deviation.
    """
    centre = float(values.mean()) if mean is None else 0.0
    rest = values - mean if mean is not None else values
    sigma = float(np.sqrt(np.mean((rest - centre) ** 2)))
    for _ in range(rounds if cut.any() else 0):
        filled, hidden = above(rest[cut], centre, sigma)
        whole = rest.copy()
        whole[cut] = filled
        if mean is None:
            centre = float(whole.mean())
        sigma = float(np.sqrt((((whole - centre) ** 2).sum() + hidden.sum()) / len(rest)))
    return centre, sigma


def quantiles(values: Floats, cut: Bools, levels: Sequence[float]) -> Floats:
    """Quantiles of values of which those that are `cut` were going to be larger.

    Without any that are: the sample quantile that is median-unbiased (Hyndman and Fan 1996, their 8th). A
    level beyond what was seen to its end is extrapolated as that of a normal distribution.
    """
    if not cut.any():
        whole: Floats = np.quantile(values, levels, method="median_unbiased")
        return whole
    order = np.lexsort((cut, values))  # at a tie those that ended come before those that were cut
    ended = ~cut[order]
    at_risk = np.arange(len(values), 0, -1)
    reached = 1 - np.cumprod(1 - ended / at_risk)
    seen = values[order][ended]
    reached = reached[ended]
    centre, sigma = moments(values, cut)
    normal = centre + sigma * ndtri(np.array(levels))
    if not len(seen):
        return normal
    found = np.interp(levels, reached, seen)
    return np.where(np.array(levels) > reached[-1], np.maximum(seen[-1], normal), found)
