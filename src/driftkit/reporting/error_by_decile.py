"""The calibration curve: what came of short, middling and long estimates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftkit.reporting.completions import Columns
from driftkit.reporting.error_parts import MEASURES, NOTE, estimated, measures
from driftkit.reporting.errors_table import ESTIMATES
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array
from driftkit.reporting.tables import Table


def error_by_decile(data: Columns, by: Sequence[str]) -> Table:
    """Actual lengths and errors per label, group and decile of the estimate: as made, and calibrated.

    By the estimate, not by the actual length: that is known in advance, and any estimate that is not certain
    is too long for the shortest outputs and too short for the longest, however good it is.
    """
    columns = [("label", "label"), *((name, name) for name in by), ("estimate", "estimate")]
    columns += [("decile", "decile"), *MEASURES]
    table = Table("error_by_decile", "Estimate error by decile of the estimate", columns)
    for group, part in groups(data.ok, by):
        for field, name in ESTIMATES:
            known = estimated(part, field)
            place = deciles(known[field])
            for decile in np.unique(place).tolist():
                row = measures(known.where(place == decile), field)
                table.rows.append({**group, "estimate": name, "decile": decile, **row})
    if table.rows:
        table.notes.append(
            "deciles of the estimate, within each row's label and group; equal estimates stay together, so "
            "that a few different ones fill a few deciles"
        )
        table.notes.append(NOTE)
    return table


def deciles(values: Array) -> NDArray[np.int64]:
    """1 to 10 for each value, by the middle of the ranks of those equal to it."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    twice_middle = 2 * np.cumsum(counts) - counts  # whole numbers: a rank on an edge is not left to rounding
    decile: NDArray[np.int64] = 5 * twice_middle // max(values.size, 1) + 1
    return decile[place]
