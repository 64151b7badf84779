"""How long things took, and how much got done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import PERCENTILES, summary
from driftkit.reporting.tables import Table

METRICS = ("e2e_s", "queue_wait_s", "ttft_s", "tpot_s")


def latency(data: Columns, by: Sequence[str]) -> Table:
    """Mean, percentiles and maximum of each latency, per label and group, in seconds."""
    columns = [("label", "label"), *((name, name) for name in by), ("metric", "seconds"), ("count", "count")]
    columns += [("mean", "mean"), *((f"p{p}", f"P{p}") for p in PERCENTILES), ("max", "max")]
    table = Table("latency", "Latency", columns)
    for group, part in groups(data.ok, by):
        for metric in METRICS:
            of = summary(part[metric])
            if of is not None:
                values = {f"p{p}": value for p, value in zip(PERCENTILES, of.percentiles, strict=True)}
                row = {"metric": metric, "count": of.n, "mean": of.mean, **values, "max": of.max}
                table.rows.append({**group, **row})
    table.notes.append(
        "from the scheduled arrival on; served requests only; percentiles interpolate linearly"
    )
    return table


def throughput(data: Columns, by: Sequence[str]) -> Table:
    """Requests and tokens per second of each label and group, over the span of its runs."""
    columns = [("label", "label"), *((name, name) for name in by), ("runs", "runs"), ("served", "served")]
    columns += [("failed", "failed"), ("duration_s", "seconds"), ("request_rps", "requests/s")]
    columns += [("output_tokens_per_s", "output tokens/s"), ("preemptions", "preemptions")]
    table = Table("throughput", "Throughput", columns)
    for group, part in groups(data, by):
        served = part.ok
        runs = list(part.split("run_id"))
        seconds = sum(float(np.nanmax(run["finished_s"]) - np.nanmin(run["offered_s"])) for _, run in runs)
        tokens = float(np.nansum(served["actual_output_tokens"]))
        table.rows.append(
            {
                **group,
                "runs": len(runs),
                "served": len(served),
                "failed": len(part) - len(served),
                "duration_s": seconds,
                "request_rps": len(served) / seconds if seconds else None,
                "output_tokens_per_s": tokens / seconds if seconds else None,
                "preemptions": int(np.nansum(served["preemptions"])),
            }
        )
    table.notes.append("from the first arrival to the last end, summed over runs")
    return table
