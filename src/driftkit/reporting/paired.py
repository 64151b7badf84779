"""One label against another on the same requests: differences with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from driftkit import rng
from driftkit.errors import UsageError
from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array, t_interval
from driftkit.reporting.tables import Table

METRICS = ("e2e_s", "ttft_s")
STATISTICS = ("mean", "p50", "p95", "p99")
RESAMPLES = 1000
MOST_DRAWS = 20_000_000  # resamples times requests; large inputs are resampled less often


def paired(data: Columns, baseline: str, by: Sequence[str], seed: int) -> Table:
    """Change against `baseline`, per label and group, over runs that served the same ids.

    With several runs per label (seeds), the interval is Student's over the runs' changes; with one, it is
    a bootstrap over requests.
    """
    columns = [("label", "label"), *((name, name) for name in by), ("metric", "seconds")]
    columns += [("statistic", "of"), ("baseline", baseline), ("value", "value")]
    columns += [("change_percent", "change %"), ("low_percent", "95 % low"), ("high_percent", "95 % high")]
    columns += [("runs", "runs"), ("requests", "requests"), ("interval", "interval")]
    table = Table("paired", f"Against {baseline}", columns)
    labels = data.texts["label"].values
    if baseline not in labels:
        raise UsageError(f"--baseline: no run is labelled {baseline!r}", hint="labels: " + ", ".join(labels))
    for group, part in groups(data, by, label=False):
        _compare(table, part, baseline, group, seed)
    kinds = {row["interval"] for row in table.rows}
    if "t" in kinds:
        table.notes.append("t: Student's interval over the runs' changes, each run a workload of its own")
    if "bootstrap" in kinds:
        table.notes.append(
            "bootstrap: over the requests of one run, which wait in the same queue and are not independent: "
            "too narrow; several seeds tell more"
        )
    return table


def _compare(table: Table, data: Columns, baseline: str, group: dict[str, str], seed: int) -> None:
    """Add the rows of one group. A run's requests are all that it was given, served or not."""
    runs: dict[str, dict[frozenset[str], list[Columns]]] = {}
    for label, part in data.split("label"):
        for _, run in part.split("run_id"):
            runs.setdefault(label, {}).setdefault(frozenset(run.ids), []).append(run)
    if baseline not in runs:
        return
    for label, own in runs.items():
        if label == baseline:
            continue
        pairs = [
            pair
            for ids, theirs in runs[baseline].items()
            if ids in own
            for pair in _repeats(theirs, own[ids])
        ]
        given = max(sum(map(len, own.values())), sum(map(len, runs[baseline].values())))
        if not pairs:
            table.notes.append(f"{label} was given other ids than {baseline}: not compared")
            continue
        if len(pairs) < given:
            table.notes.append(f"{label}: {len(pairs)} pairs of runs over the same ids, of {given} runs")
        lost = sum(len(set(a.ids) - (set(a.ok.ids) & set(b.ok.ids))) for a, b in pairs)
        if lost:
            table.notes.append(
                f"{label}: {lost} requests that it or {baseline} did not serve are left out, which flatters "
                "whoever refused the longest"
            )
        for metric in METRICS:
            for row in _rows([_aligned(a, b, metric) for a, b in pairs], seed):
                table.rows.append({"label": label, **group, "metric": metric, **row})


def _repeats(baseline: list[Columns], other: list[Columns]) -> list[tuple[Columns, Columns]]:
    """Runs of the same requests in pairs, as they came; a single one is compared with each of the others."""
    if len(baseline) == 1:
        return [(baseline[0], run) for run in other]
    if len(other) == 1:
        return [(run, other[0]) for run in baseline]
    return list(zip(baseline, other, strict=False))


def _aligned(baseline: Columns, other: Columns, metric: str) -> tuple[Array, Array]:
    """The metric of both runs, request by request, where both served it."""
    theirs, ours = baseline.ok, other.ok
    place = {name: row for row, name in enumerate(ours.ids)}
    rows = [(row, place[name]) for row, name in enumerate(theirs.ids) if name in place]
    left, right = np.array(rows, dtype=np.intp).reshape(-1, 2).T
    x, y = theirs[metric][left], ours[metric][right]
    known = ~(np.isnan(x) | np.isnan(y))
    return x[known], y[known]


def _statistics(values: Array) -> Array:
    """The STATISTICS of a latency, in their order."""
    return np.array([values.mean(), *np.percentile(values, (50, 95, 99))])


def _rows(pairs: list[tuple[Array, Array]], seed: int) -> Iterator[dict[str, float | str]]:
    """A row per statistic; none when a run has no such latency, or a baseline of 0."""
    pairs = [(x, y) for x, y in pairs if x.size]
    if not pairs:
        return
    before = np.array([_statistics(x) for x, _ in pairs])
    after = np.array([_statistics(y) for _, y in pairs])
    if not before.all():
        return
    changes = (after / before - 1) * 100
    resampled = _bootstrap(*pairs[0], seed) if len(pairs) == 1 else None
    for place, statistic in enumerate(STATISTICS):
        if resampled is None:
            change, low, high = t_interval(changes[:, place])
        else:
            change = float(changes[0, place])
            low, high = np.percentile(resampled[:, place], (2.5, 97.5)).tolist()
        yield {
            "statistic": statistic,
            "baseline": float(before[:, place].mean()),
            "value": float(after[:, place].mean()),
            "change_percent": change,
            "low_percent": low,
            "high_percent": high,
            "runs": len(pairs),
            "requests": sum(x.size for x, _ in pairs),
            "interval": "t" if resampled is None else "bootstrap",
        }


def _bootstrap(x: Array, y: Array, seed: int) -> Array:
    """Changes in percent, one row per resample; requests are drawn in pairs."""
    stream = rng.stream(seed, "report/bootstrap")
    n = x.size
    changes = []
    for _ in range(max(100, min(RESAMPLES, MOST_DRAWS // n))):
        drawn = (stream.random(n) * n).astype(np.int64)
        changes.append((_statistics(y[drawn]) / _statistics(x[drawn]) - 1) * 100)
    return np.array(changes)
