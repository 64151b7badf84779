"""Whether estimated quantiles hold what they promise: 80 % of outputs between the 10 % and 90 % ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.errors_table import ESTIMATES
from driftkit.reporting.groups import groups
from driftkit.reporting.tables import Table


def coverage(data: Columns, by: Sequence[str]) -> Table:
    """Share of actual outputs below, within and above P10 to P90, and how wide that is: of estimates as they
    were made, and calibrated."""
    columns = [("label", "label"), *((name, name) for name in by), ("estimate", "estimate")]
    columns += [
        ("count", "count"),
        ("below_percent", "below P10 %"),
        ("within_percent", "within %"),
        ("above_percent", "above P90 %"),
    ]
    columns += [("width_tokens", "mean width")]
    table = Table("coverage", "Coverage", columns)
    for group, part in groups(data.ok, by):
        actual, _ = part.observed
        for field, name in ESTIMATES:
            low, high = part[f"{field}_p10"], part[f"{field}_p90"]
            known = ~(np.isnan(actual) | np.isnan(low) | np.isnan(high))
            if not known.any():
                continue
            below = float(np.mean(actual[known] < low[known])) * 100
            above = float(np.mean(actual[known] > high[known])) * 100
            row = {"below_percent": below, "within_percent": 100 - below - above, "above_percent": above}
            width = float(np.mean(high[known] - low[known]))
            count = int(known.sum())
            table.rows.append({**group, "estimate": name, "count": count, **row, "width_tokens": width})
    if table.rows:
        table.notes.append("estimates that hold have 10 % below, 80 % within and 10 % above")
    return table
