"""How long things took, and how much got done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import PERCENTILES, summary
from driftkit.reporting.tables import Table, shown

OVERLOADED = (
    0.8  # of what is offered; a run's last requests end after the last arrival, so 1 is never reached
)
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
        "from the instant a request was due; served requests only; tpot: per output token after the first, "
        "preemptions included"
    )
    return table


def throughput(data: Columns, by: Sequence[str]) -> Table:
    """Requests and tokens per second of each label and group, over the span of its runs."""
    columns = [("label", "label"), *((name, name) for name in by), ("runs", "runs"), ("served", "served")]
    columns += [("failed", "failed"), ("cut", "cut"), ("duration_s", "seconds")]
    columns += [("offered_rps", "offered/s"), ("request_rps", "served/s")]
    columns += [("output_tokens_per_s", "output tokens/s"), ("preemptions", "preemptions")]
    table = Table("throughput", "Throughput", columns)
    for group, part in groups(data, by):
        served = part.ok
        runs = [run for _, run in part.split("run_id")]
        seconds = _span(runs, "offered_s", "finished_s")
        tokens = served.total("actual_output_tokens")
        table.rows.append(
            {
                **group,
                "runs": len(runs),
                "served": len(served),
                "failed": len(part) - len(served),
                "cut": int(served.equal("finish_reason", "length").sum()),
                "duration_s": seconds,
                "offered_rps": _offered_rps(runs),
                "request_rps": len(served) / seconds if seconds else None,
                "output_tokens_per_s": tokens / seconds if seconds and tokens is not None else None,
                "preemptions": _whole(served.total("preemptions")),
            }
        )
    table.notes.append(
        "seconds from the first arrival to the last end, summed over runs; offered/s over the arrivals "
        "alone; cut: outputs that ended at max_tokens or at the model's limit"
    )
    table.notes += _overloads(data)
    table.notes += _pooled(data)
    return table


def _offered_rps(runs: list[Columns]) -> float | None:
    """Arrivals per second while requests arrived; None when all came at once."""
    seconds = _span(runs, "offered_s", "offered_s")
    return sum(len(run) - 1 for run in runs) / seconds if seconds else None


def span_s(part: Columns) -> float | None:
    """Seconds from first arrival to last end, over all runs of the selection together."""
    return _span([run for _, run in part.split("run_id")], "offered_s", "finished_s")


def _span(runs: list[Columns], start: str, end: str) -> float | None:
    """Seconds of all runs together; None when one of them does not say."""
    seconds = [run.span(start, end) for run in runs]
    return None if None in seconds else sum(filter(None, seconds))


def _whole(total: float | None) -> int | None:
    return None if total is None else int(total)


def _overloads(data: Columns) -> Iterator[str]:
    """Latencies of an overloaded run are those of its length: say where that is so."""
    for label, part in data.split("label"):
        runs = [run for _, run in part.split("run_id")]
        offered = _offered_rps(runs)
        seconds = _span(runs, "offered_s", "finished_s")
        if offered is not None and seconds and len(part.ok) / seconds < OVERLOADED * offered:
            yield (
                f"{label}: {shown(offered)} requests/s came and {shown(len(part.ok) / seconds)} were served: "
                "the queue grew while they came, so latencies depend on how long that was"
            )


def _pooled(data: Columns) -> Iterator[str]:
    """Runs of the same requests under one label are added up, which may not be what was wanted."""
    for label, part in data.split("label"):
        seen: set[str] = set()
        for _, run in part.split("run_id"):
            ids = set(run.ids)
            if seen & ids:
                yield (
                    f"{label}: several runs of the same requests are pooled; `driftkit run --label` or "
                    "`report --by run_id` tells them apart"
                )
                break
            seen |= ids
