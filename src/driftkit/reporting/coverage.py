"""Whether estimated quantiles hold what they promise: 80 % of outputs between the 10 % and 90 % ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.tables import Table


def coverage(data: Columns, by: Sequence[str]) -> Table:
    """Share of actual outputs below, within and above `est_output_tokens_p10` to `_p90`, and its width."""
    columns = [("label", "label"), *((name, name) for name in by), ("count", "count")]
    columns += [
        ("below_percent", "below P10 %"),
        ("within_percent", "within %"),
        ("above_percent", "above P90 %"),
    ]
    columns += [("width_tokens", "mean width")]
    table = Table("coverage", "Coverage", columns)
    for group, part in groups(data.ok, by):
        actual, _ = part.observed
        low, high = part["est_output_tokens_p10"], part["est_output_tokens_p90"]
        known = ~(np.isnan(actual) | np.isnan(low) | np.isnan(high))
        if not known.any():
            continue
        actual, low, high = actual[known], low[known], high[known]
        below, above = float(np.mean(actual < low)) * 100, float(np.mean(actual > high)) * 100
        row = {"below_percent": below, "within_percent": 100 - below - above, "above_percent": above}
        table.rows.append({**group, "count": actual.size, **row, "width_tokens": float(np.mean(high - low))})
    if table.rows:
        table.notes.append("estimates that hold have 10 % below, 80 % within and 10 % above")
    return table
