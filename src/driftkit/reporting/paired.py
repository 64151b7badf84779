"""One label against another on the same requests: differences with intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from driftkit import rng
from driftkit.errors import UsageError
from driftkit.reporting.completions import Columns
from driftkit.reporting.stats import Array, t_interval
from driftkit.reporting.tables import Table

METRICS = ("e2e_s", "ttft_s")
STATISTICS: tuple[tuple[str, Callable[[Array], float]], ...] = (
    ("mean", lambda values: float(values.mean())),
    ("p50", lambda values: float(np.percentile(values, 50))),
    ("p95", lambda values: float(np.percentile(values, 95))),
    ("p99", lambda values: float(np.percentile(values, 99))),
)
RESAMPLES = 1000
MOST_DRAWS = 20_000_000  # resamples times requests; large inputs are resampled less often


def paired(data: Columns, baseline: str, seed: int) -> Table:
    """Change against `baseline`, per label, over runs that served the same ids.

    With several runs per label (seeds), the interval is Student's over the runs' changes; with one, it is
    a bootstrap over requests.
    """
    columns = [("label", "label"), ("metric", "seconds"), ("statistic", "of"), ("baseline", baseline)]
    columns += [("value", "value"), ("change_percent", "change %"), ("low_percent", "95 % from")]
    columns += [("high_percent", "to"), ("runs", "runs"), ("requests", "requests"), ("interval", "interval")]
    table = Table("paired", f"Against {baseline}", columns)
    runs: dict[str, dict[frozenset[str], Columns]] = {}
    for label, part in data.ok.split("label"):
        for _, run in part.split("run_id"):
            runs.setdefault(label, {})[frozenset(run.texts["id"].tolist())] = run
    if baseline not in runs:
        raise UsageError(f"--baseline: no run is labelled {baseline!r}", hint="labels: " + ", ".join(runs))
    for label, own in runs.items():
        if label == baseline:
            continue
        pairs = [(theirs, own[ids]) for ids, theirs in runs[baseline].items() if ids in own]
        if not pairs:
            table.notes.append(f"{label} served other ids than {baseline}: not compared")
            continue
        if len(pairs) < max(len(own), len(runs[baseline])):
            table.notes.append(
                f"{label}: only runs over the same ids are compared, {len(pairs)} of {len(own)}"
            )
        for metric in METRICS:
            for statistic, function in STATISTICS:
                row = _row([_aligned(a, b, metric) for a, b in pairs], function, seed)
                if row is not None:
                    table.rows.append({"label": label, "metric": metric, "statistic": statistic, **row})
    kinds = {row["interval"] for row in table.rows}
    if "t" in kinds:
        table.notes.append("t: Student's interval over the runs' changes, each run a workload of its own")
    if "bootstrap" in kinds:
        table.notes.append(
            "bootstrap: over the requests of one run, which wait in the same queue and are not independent: "
            "too narrow; several seeds tell more"
        )
    return table


def _aligned(baseline: Columns, other: Columns, metric: str) -> tuple[Array, Array]:
    """The metric of both runs, request by request."""
    a, b = np.argsort(baseline.texts["id"]), np.argsort(other.texts["id"])
    x, y = baseline[metric][a], other[metric][b]
    known = ~(np.isnan(x) | np.isnan(y))
    return x[known], y[known]


def _row(
    pairs: list[tuple[Array, Array]], statistic: Callable[[Array], float], seed: int
) -> dict[str, float | str] | None:
    pairs = [(x, y) for x, y in pairs if x.size]
    values = np.array([[statistic(x), statistic(y)] for x, y in pairs])
    if not values.size or not values[:, 0].all():
        return None
    changes = (values[:, 1] / values[:, 0] - 1) * 100
    if len(pairs) > 1:
        change, low, high = t_interval(changes)
        kind = "t"
    else:
        change = float(changes[0])
        low, high = _bootstrap(*pairs[0], statistic, seed)
        kind = "bootstrap"
    return {
        "baseline": float(values[:, 0].mean()),
        "value": float(values[:, 1].mean()),
        "change_percent": change,
        "low_percent": low,
        "high_percent": high,
        "runs": len(pairs),
        "requests": sum(x.size for x, _ in pairs),
        "interval": kind,
    }


def _bootstrap(x: Array, y: Array, statistic: Callable[[Array], float], seed: int) -> tuple[float, float]:
    """Percentile interval of the change in percent; requests are drawn in pairs."""
    stream = rng.stream(seed, "report/bootstrap")
    n = x.size
    changes = []
    for _ in range(max(100, min(RESAMPLES, MOST_DRAWS // n))):
        drawn = (stream.random(n) * n).astype(np.int64)
        base = statistic(x[drawn])
        if base:
            changes.append((statistic(y[drawn]) / base - 1) * 100)
    low, high = np.percentile(changes, [2.5, 97.5])
    return float(low), float(high)
