"""The report: its tables in their order, each made only when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from driftkit.errors import UsageError
from driftkit.reporting.completions import Columns
from driftkit.reporting.coverage import coverage
from driftkit.reporting.energy import energy
from driftkit.reporting.error_by_decile import error_by_decile
from driftkit.reporting.error_over_time import error_over_time
from driftkit.reporting.errors_table import class_stability, estimate_error
from driftkit.reporting.fairness import fairness, tier_inversions
from driftkit.reporting.goodput import goodput
from driftkit.reporting.groups import groups
from driftkit.reporting.latency import latency, throughput
from driftkit.reporting.paired import paired
from driftkit.reporting.queue_depth import queue_course, queue_depth
from driftkit.reporting.tables import Table
from driftkit.reporting.telemetry import Samples, telemetry
from driftkit.reporting.trend import trend

BY_GROUP: dict[str, Callable[[Columns, Sequence[str]], Table]] = {
    "latency": latency,
    "throughput": throughput,
    "goodput": goodput,
    "error": estimate_error,
    "error_by_decile": error_by_decile,
    "error_over_time": error_over_time,
    "coverage": coverage,
    "classes": class_stability,
    "queue": queue_depth,
    "queue_course": queue_course,
    "energy": energy,
}
WHOLE: dict[str, Callable[[Columns], Table]] = {
    "fairness": fairness,
    "tiers": tier_inversions,
    "trend": trend,
}
NAMES = (*BY_GROUP, "telemetry", *WHOLE, "paired")
#: what a table is made of, where completions of a run without failures may lack it
NEEDS = {
    "goodput": "slo_ttft_s or slo_e2e_s",
    "error": "est_output_tokens",
    "error_by_decile": "est_output_tokens",
    "error_over_time": "est_output_tokens",
    "coverage": "est_output_tokens_p10 and est_output_tokens_p90",
    "classes": "est_output_tokens",
    "queue": "started_s",
    "queue_course": "started_s",
    "energy": "energy_j",
    "paired": "runs of the same requests under two labels",
    "telemetry": "samples of run --telemetry",
}
LONG = ("error_by_decile", "error_over_time", "queue_course")  # for a program, or when asked for


def report(
    data: Columns,
    samples: Samples,
    by: Sequence[str],
    baseline: str | None,
    seed: int,
    names: Collection[str],
) -> dict[str, Table]:
    """The tables called `names`, in the report's order; `paired` needs a `baseline`.

    UsageError for a field of `by` that a table has as a column of its own.
    """
    tables: dict[str, Table] = {}
    for name in by:
        if name in ("kind", "schema", "table"):
            raise UsageError(f"--by: {name} is what a summary record says of itself")
    for name in NAMES:
        if name not in names:
            continue
        if name in BY_GROUP:
            tables[name] = BY_GROUP[name](data, by)
        elif name in WHOLE:
            tables[name] = WHOLE[name](data)
        elif name == "telemetry":
            tables[name] = telemetry(data, by, samples)
        elif baseline is not None:
            tables[name] = paired(data, baseline, by, seed)
    for table in tables.values():
        own = [key for key, _ in table.columns]
        for name in by:
            if own.count(name) > 1:
                raise UsageError(f"--by: {name} is a column of the table {table.title!r}")
    return tables


def groups_of(
    name: str, field: str, data: Columns, by: Sequence[str], baseline: str | None
) -> list[dict[str, str]]:
    """The groups of which the table `name` should know `field`, so that a gate can be held to all of them."""
    if name == "trend" and field != "p99_change_percent":  # which the first run cannot have
        by = ("run_id",)
    elif name in WHOLE:
        by = ()
    elif name == "telemetry":
        by = [field for field in by if field == "run_id"]
    found = [group for group, _ in groups(data, by)]
    return [group for group in found if name != "paired" or group["label"] != baseline]
