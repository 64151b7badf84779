"""Whether estimates got better or worse while a run went on: drift shows here first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.error_parts import MEASURES, NOTE, estimated, measures
from driftkit.reporting.errors_table import ESTIMATES
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import kendall_tau
from driftkit.reporting.tables import Table

PARTS = 10


def error_over_time(data: Columns, by: Sequence[str]) -> Table:
    """Errors per label, group, run and tenth of the time from the run's first arrival to its last.

    By arrival, not by end: long outputs end later than short ones that came with them, so what ends last is
    longer than what ends first, drift or none.
    """
    columns = [("label", "label"), *((name, name) for name in dict.fromkeys((*by, "run_id")))]
    columns += [("estimate", "estimate"), ("tenth", "tenth"), ("from_s", "from s"), ("to_s", "to s")]
    columns += [*MEASURES, ("tau", "tau")]
    table = Table("error_over_time", "Estimate error over time", columns)
    spans = _arrivals(data)
    for group, part in groups(data.ok, by):
        for run_id, run in part.split("run_id"):
            if run_id not in spans:
                continue
            begin, end = spans[run_id]
            edges = np.linspace(begin, end, PARTS + 1)
            for field, name in ESTIMATES:
                known = estimated(run, field)
                known = known.where(~np.isnan(known["offered_s"]))
                place = np.searchsorted(edges[1:-1], known["offered_s"], side="right")
                for tenth in np.unique(place).tolist():
                    some = known.where(place == tenth)
                    actual, _ = some.observed
                    table.rows.append(
                        {
                            **group,
                            "run_id": run_id,
                            "estimate": name,
                            "tenth": tenth + 1,
                            "from_s": float(edges[tenth] - begin),
                            "to_s": float(edges[tenth + 1] - begin),
                            **measures(some, field),
                            "tau": kendall_tau(some[field], actual),
                        }
                    )
    if table.rows:
        table.notes.append("by arrival, in tenths of the time from a run's first arrival to its last")
        table.notes.append(NOTE)
    if np.isfinite(data["est_output_tokens"]).any():
        for run_id, _ in data.split("run_id"):
            if run_id not in spans:
                table.notes.append(
                    f"{run_id} is left out: its requests came all at once, or nobody says when"
                )
    return table


def _arrivals(data: Columns) -> dict[str, tuple[float, float]]:
    """First and last arrival of each run that took any time to come in, whoever was served."""
    found = {}
    for run_id, run in data.split("run_id"):
        offered = run["offered_s"][~np.isnan(run["offered_s"])]
        if offered.size and offered.max() > offered.min():
            found[run_id] = (float(offered.min()), float(offered.max()))
    return found
