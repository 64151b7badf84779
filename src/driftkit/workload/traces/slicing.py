"""A part of a trace: between two instants, so many requests, at another rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from driftkit.errors import UsageError
from driftkit.records.schema import Record
from driftkit.workload.traces import Trace, Window
from driftkit.workload.traces.timings import shift

FAR = 2.0  # a slice whose rate is that many times the trace's, or less than its inverse, is said


class Slice:
    """The requests that arrive in `window`, the first `limit` of them, arrivals divided by `rate_scale`.

    Arrivals count from the window's start. Where the trace does not know its rate it is read to its end to
    find it, in flat memory.
    """

    def __init__(self, window: Window | None, limit: int | None, rate_scale: float, trace: Trace) -> None:
        self.window = window or (0.0, math.inf)
        self.limit = limit
        self.rate_scale = rate_scale
        self._trace = trace
        self._taken = _Rate()
        self._all = _Rate()

    def of(self, records: Iterable[Record]) -> Iterator[Record]:
        start, end = self.window
        for record in records:
            if not _arrives(record):
                yield record
                continue
            arrival = record["arrival_s"]
            self._all.add(arrival)
            if self.limit is not None and self._taken.count >= self.limit:
                if self._trace.rate_rps is not None:
                    return
                continue
            if not start <= arrival < end:
                continue
            self._taken.add(arrival)
            if start:
                shift(record, start)
            if self.rate_scale != 1:
                if record["kind"] == "completion":
                    hint = "--as requests leaves the timings out"
                    raise UsageError("--rate-scale would change what was measured", hint=hint)
                record["arrival_s"] = round(record["arrival_s"] / self.rate_scale, 9)
            yield record

    def warning(self) -> str | None:
        """What to say when the part's rate, before scaling, is far from the whole's."""
        whole = self._trace.rate_rps or self._all.rps()
        start, end = self.window
        full = self.limit is None or self._taken.count < self.limit  # not cut short by the limit
        if full and self._taken.count and end < math.inf:
            part: float | None = self._taken.count / (end - start)
        else:
            part = self._taken.rps()
        if not whole or not part or 1 / FAR <= part / whole <= FAR:
            return None
        return (
            f"the slice's rate is {part:.3g} requests/s, the whole trace's {whole:.3g}: "
            "what is seen with it does not hold for the trace"
        )


class _Rate:
    """Arrivals, counted, and the time they span, in whatever order they come."""

    def __init__(self) -> None:
        self.count = 0
        self._first, self._last = math.inf, -math.inf

    def add(self, arrival: float) -> None:
        self.count += 1
        self._first, self._last = min(self._first, arrival), max(self._last, arrival)

    def rps(self) -> float | None:
        return (self.count - 1) / (self._last - self._first) if self._last > self._first else None


def in_order(records: Iterable[Record]) -> list[Record]:
    """Every record, by arrival, in the trace's order where they are equal; no arrival before 0."""
    ordered = sorted(records, key=_arrival_s)
    earliest = min(map(_arrival_s, ordered), default=0.0)
    if earliest < 0:
        for record in ordered:
            if _arrives(record):
                shift(record, earliest)
    return ordered


def _arrives(record: Record) -> bool:
    """Whether it is a record of ours that says when it arrived; others pass through."""
    return record.get("kind") in ("request", "completion") and record.get("arrival_s") is not None


def _arrival_s(record: Record) -> float:
    return float(record["arrival_s"]) if _arrives(record) else 0.0


def parse_window(text: str) -> Window:
    """`START:END` in seconds; either may be left out."""
    start, colon, end = text.partition(":")
    try:
        window = (float(start or 0), float(end or "inf"))
    except ValueError:
        window = (math.nan, math.nan)
    if not colon or not 0 <= window[0] < window[1]:
        raise UsageError(f"--window: expected START:END in seconds, got {text!r}")
    return window
