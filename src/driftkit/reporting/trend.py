"""Run after run: is it still true tonight?"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.stats import error
from driftkit.reporting.tables import Table


def trend(data: Columns) -> Table:
    """A row per run of each label, in order of `run_started_at`, else of the input.

    `drift_percent` is what calibration would still change in the mean estimate: actual over estimated total.
    """
    columns = [("label", "label"), ("run_id", "run"), ("run_started_at", "started"), ("served", "served")]
    columns += [("failed", "failed"), ("e2e_p50_s", "end-to-end P50 s"), ("e2e_p99_s", "P99 s")]
    columns += [("p99_change_percent", "P99 change %"), ("mae", "MAE"), ("bias", "bias"), ("tau", "tau")]
    columns += [("actual_ratio", "actual/estimated")]
    table = Table("trend", "Trend", columns)
    for label, part in data.split("label"):
        runs = sorted(part.split("run_id"), key=lambda run: _instant(run[1].text("run_started_at", 0)))
        before = None
        for name, run in runs:
            served = run.ok
            row = {"label": label, "run_id": name, "served": len(served), "failed": len(run) - len(served)}
            started = run.text("run_started_at", 0)
            if started != "-":
                row["run_started_at"] = started
            if len(served):
                middle, tail = np.percentile(served["e2e_s"], (50, 99)).tolist()
                row.update(e2e_p50_s=middle, e2e_p99_s=tail)
                if before:
                    row["p99_change_percent"] = (tail / before - 1) * 100
                before = tail
                row.update(_estimates(served))
            table.rows.append(row)
    table.notes.append("change against the run before; actual/estimated: of all output tokens together")
    return table


def _instant(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 timestamp; 0, so that the input's order stays, for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _estimates(served: Columns) -> dict[str, float]:
    """Errors of the estimates as they were made, and how far they were off in all."""
    actual, _ = served.observed
    estimated = served["est_output_tokens"]
    of = error(estimated, actual)
    if of is None:
        return {}
    known = ~(np.isnan(actual) | np.isnan(estimated))
    total = float(estimated[known].sum())
    ratio = {"actual_ratio": float(actual[known].sum()) / total} if total else {}
    return {"mae": of.mae, "bias": of.bias, "tau": of.tau, **ratio}
