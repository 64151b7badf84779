"""How long things took, and how much got done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import PERCENTILES, summary
from driftkit.reporting.tables import Table, shown

OVERLOADED = (
    0.8  # of what is offered; a run's last requests end after the last arrival, so 1 is never reached
)
METRICS = ("e2e_s", "queue_wait_s", "ttft_s", "tpot_s", "client_lag_s")


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
    """Requests and tokens per second of each label and group, over the span of the runs they are part of."""
    columns = [("label", "label"), *((name, name) for name in by), ("runs", "runs"), ("served", "served")]
    columns += [("failed", "failed"), ("cut", "cut"), ("duration_s", "seconds")]
    real = not np.isnan(data["client_lag_s"]).all()
    sent = [("sent_rps", "sent/s")] if real else []  # a simulated client is never late
    columns += [("offered_rps", "offered/s"), *sent, ("request_rps", "served/s")]
    columns += [("output_tokens_per_s", "output tokens/s"), ("preemptions", "preemptions")]
    table = Table("throughput", "Throughput", columns)
    rates = Rates(data)
    for group, part in groups(data, by):
        served = part.ok
        tokens = served.total("actual_output_tokens")
        preemptions = served.total("preemptions")
        table.rows.append(
            {
                **group,
                "runs": len(list(part.split("run_id"))),
                "served": len(served),
                "failed": len(part) - len(served),
                "cut": int(served.equal("finish_reason", "length").sum()),
                "duration_s": rates.seconds(part),
                "offered_rps": rates.offered(part),
                **({"sent_rps": rates.sent(part)} if real else {}),
                "request_rps": rates.per_second(len(served), part),
                "output_tokens_per_s": rates.per_second(tokens, part),
                "preemptions": None if preemptions is None else int(preemptions),
            }
        )
    table.notes.append(
        "seconds from a run's first arrival to its last end, summed over runs; offered/s over the arrivals "
        "alone; cut: outputs that ended at max_tokens or at the model's limit"
    )
    if real:
        table.notes.append(
            "sent/s: what driftkit kept of offered/s; a policy that holds requests back lowers it"
        )
    table.notes += _overloads(data, rates)
    table.notes += _pooled(data)
    return table


class Rates:
    """Per second of the runs that a selection is part of: a tenant's rate is not over its own busy time."""

    def __init__(self, data: Columns) -> None:
        self._spans = data.spans
        self._arrivals = _course(data, "offered_s")
        self._sent = _course(data, "dispatched_s")

    def seconds(self, part: Columns) -> float | None:
        """The spans of all its runs together; None where a run's is not known."""
        spans = [self._spans[name] for name, _ in part.split("run_id")]
        total = sum(end - begin for begin, end in spans)
        return None if math.isnan(total) else total

    def per_second(self, amount: float | None, part: Columns) -> float | None:
        seconds = self.seconds(part)
        return amount / seconds if amount is not None and seconds else None

    def offered(self, part: Columns) -> float | None:
        """Arrivals per second while its runs' requests arrived; None when all came at once."""
        return self._rate(part, self._arrivals)

    def sent(self, part: Columns) -> float | None:
        """The same of the instants at which requests were sent."""
        return self._rate(part, self._sent)

    def _rate(self, part: Columns, course: dict[str, tuple[int, float]]) -> float | None:
        arrivals = [course[name] for name, _ in part.split("run_id")]
        seconds = sum(span for _, span in arrivals)
        count = sum(count for count, _ in arrivals)
        gaps = count - len(arrivals)  # one fewer than requests in each run
        return len(part) / count * gaps / seconds if seconds > 0 and gaps else None


def _course(data: Columns, instant: str) -> dict[str, tuple[int, float]]:
    """Of each run how many have that instant, and over how many seconds."""
    found = {}
    for name, run in data.split("run_id"):
        known = run[instant][~np.isnan(run[instant])]
        found[name] = (known.size, float(known.max() - known.min()) if known.size else math.nan)
    return found


def _overloads(data: Columns, rates: Rates) -> Iterator[str]:
    """Latencies of an overloaded run are those of its length: say where that is so."""
    for label, part in data.split("label"):
        offered = rates.offered(part)
        served = rates.per_second(len(part.ok), part)
        if offered is not None and served is not None and served < OVERLOADED * offered:
            yield (
                f"{label}: {shown(offered)} requests/s came and {shown(served)} were served: the queue grew "
                "while they came, so latencies depend on how long that was"
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
