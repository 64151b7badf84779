"""What the tables that cut requests into parts, by estimate or by time, say of each part."""

from __future__ import annotations

from typing import Any

import numpy as np

from driftkit.reporting.completions import Columns

MEASURES = [
    ("count", "count"),
    ("unit", "unit"),
    ("mean_estimate", "mean estimate"),
    ("mean_actual", "mean actual"),
    ("median_actual", "median actual"),
    ("mae", "MAE"),
    ("bias", "bias"),
    ("log_ratio", "log ratio"),
    ("within_percent", "within %"),
]
NOTE = (
    "bias is estimate minus actual; log ratio is the mean of ln(estimate / actual); within: between P10 and "
    "P90, which should be 80 %; an output cut at max_tokens counts as long as it was"
)


def estimated(part: Columns, field: str) -> Columns:
    """Those of whom both the estimate `field` and the actual length are known."""
    actual, _ = part.observed
    return part.where(~(np.isnan(part[field]) | np.isnan(actual)))


def measures(part: Columns, field: str) -> dict[str, Any]:
    """Of `estimated` requests, at least one: lengths and errors, in the unit of the estimates.

    Lengths of 0 are left out of `log_ratio`, estimates without quantiles out of `within_percent`; where that
    leaves none, the measure is missing.
    """
    estimate = part[field]
    actual, unit = part.observed
    off = estimate - actual
    row: dict[str, Any] = {
        "count": len(part),
        "unit": unit,
        "mean_estimate": float(np.mean(estimate)),
        "mean_actual": float(np.mean(actual)),
        "median_actual": float(np.median(actual)),
        "mae": float(np.mean(np.abs(off))),
        "bias": float(np.mean(off)),
    }
    positive = (estimate > 0) & (actual > 0)
    if positive.any():
        row["log_ratio"] = float(np.mean(np.log(estimate[positive] / actual[positive])))
    low, high = part[f"{field}_p10"], part[f"{field}_p90"]
    promised = ~(np.isnan(low) | np.isnan(high))
    if promised.any():
        within = (low <= actual) & (actual <= high)
        row["within_percent"] = float(np.mean(within[promised])) * 100
    return row
