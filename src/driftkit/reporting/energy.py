"""What it cost in joules, where the engine or its telemetry knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.tables import Table

ASSUMES = (
    "A request's joules are its share, by tokens computed, of the steps it was in; what the GPU draws "
    "between steps is nobody's. The simulator's watts are a model: see energy_j in driftkit-records(5)."
)


def energy(data: Columns, by: Sequence[str]) -> Table:
    """Joules per label and group: in all, per request, and output tokens for each."""
    columns = [("label", "label"), *((name, name) for name in by), ("count", "count")]
    columns += [
        ("energy_j", "joules"),
        ("request_j", "joules/request"),
        ("tokens_per_j", "output tokens/joule"),
    ]
    table = Table("energy", "Energy", columns, notes=[ASSUMES])
    for group, part in groups(data, by):
        known = part.where(~np.isnan(part["energy_j"]))
        joules = known.total("energy_j")
        if joules is None:
            continue
        tokens = known.total("actual_output_tokens")
        table.rows.append(
            {
                **group,
                "count": len(known),
                "energy_j": joules,
                "request_j": joules / len(known),
                "tokens_per_j": tokens / joules if tokens is not None and joules else None,
            }
        )
    return table
