"""How many waited and how many ran, over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array
from driftkit.reporting.tables import Table

BINS = 60
BARS = "▁▂▃▄▅▆▇█"


def queue_depth(data: Columns, by: Sequence[str]) -> Table:
    """Mean and largest number of waiting requests per label and group, and its course as a sparkline."""
    columns = [("label", "label"), *((name, name) for name in by), ("mean", "mean"), ("max", "max")]
    columns += [("max_at_s", "at s"), ("course", "waiting over time")]
    table = Table("queue", "Queue depth", columns)
    spans = data.spans
    for group, part in groups(data, by):
        depths = []
        deepest, at = 0, 0.0
        for name, run in part.split("run_id"):
            begin, end = spans[name]
            if not end > begin:
                continue
            waits = _waits(run)
            if waits is None:
                continue
            depths.append(mean_depth(*waits, np.linspace(begin, end, BINS + 1)))
            most, instant = _deepest(*waits)
            if most > deepest:
                deepest, at = most, instant - begin
        if depths:
            course = np.mean(depths, axis=0)
            row = {"mean": float(course.mean()), "max": deepest, "max_at_s": at, "course": sparkline(course)}
            table.rows.append({**group, **row})
    if table.rows:
        table.notes.append(
            f"waiting: due and not yet started; {BINS} equal parts from a run's first arrival to its last "
            "end, mean over runs; times from the run's first arrival"
        )
    return table


def queue_course(data: Columns, by: Sequence[str]) -> Table:
    """The same as rows for a program: per run, mean waiting and running in each of the parts."""
    columns = [("label", "label"), *((name, name) for name in dict.fromkeys((*by, "run_id")))]
    columns += [("from_s", "from s"), ("to_s", "to s"), ("waiting", "waiting"), ("running", "running")]
    table = Table("queue_course", "Queue over time", columns)
    spans = data.spans
    for group, part in groups(data, by):
        for name, run in part.split("run_id"):
            begin, end = spans[name]
            if not end > begin:
                continue
            edges = np.linspace(begin, end, BINS + 1)
            waits = _waits(run)
            if waits is None:
                continue
            waiting = mean_depth(*waits, edges)
            started, finished = run["started_s"], run["finished_s"]
            ran = ~np.isnan(started)
            running = mean_depth(started[ran], finished[ran], edges)
            for i in range(BINS):
                table.rows.append(
                    {
                        **group,
                        "run_id": name,
                        "from_s": float(edges[i] - begin),
                        "to_s": float(edges[i + 1] - begin),
                        "waiting": float(waiting[i]),
                        "running": float(running[i]),
                    }
                )
    return table


def _waits(run: Columns) -> tuple[Array, Array] | None:
    """From when to when each waited: who was never served waited to the end.

    None when there are served ones and nobody says when they started, as in a gateway's log.
    """
    offered, started = run["offered_s"], run["started_s"]
    served = run.equal("status", "ok")
    if served.any() and np.isnan(started[served]).all():
        return None
    ends = np.where(np.isnan(started) & ~served, run["finished_s"], started)
    known = ~(np.isnan(offered) | np.isnan(ends))
    return offered[known], ends[known]


def mean_depth(starts: Array, ends: Array, edges: Array) -> Array:
    """Mean number of open intervals in each bin: the overlap of all intervals with it over its width.

    The time spent before t is the sum of (t - start) over those started less that of (t - end) over those
    ended, so each edge costs a search in a sorted array.
    """

    def spent(instants: Array) -> Array:
        ordered = np.sort(instants)
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        count = np.searchsorted(ordered, edges)
        time: Array = count * edges - sums[count]
        return time

    area = spent(starts) - spent(ends)
    depth: Array = np.maximum(np.diff(area), 0) / np.diff(edges)
    return depth


def _deepest(starts: Array, ends: Array) -> tuple[int, float]:
    """Most intervals open at once, and since when; one that starts as another ends does not meet it."""
    instants = np.concatenate([ends, starts])
    changes = np.concatenate([np.full(ends.size, -1), np.ones(starts.size, dtype=np.int64)])
    order = np.argsort(instants, kind="stable")
    depth = np.cumsum(changes[order])
    if not depth.size:
        return 0, 0.0
    most = int(np.argmax(depth))
    return int(depth[most]), float(instants[order][most])


def sparkline(values: Array) -> str:
    """One bar per value, from nothing to the largest."""
    top = float(values.max(initial=0))
    if top <= 0:
        return BARS[0] * values.size
    steps = np.minimum((values / top * len(BARS)).astype(np.int64), len(BARS) - 1)
    return "".join(BARS[step] for step in steps.tolist())
