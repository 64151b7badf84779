"""Real traces: one file per foreign format, each a parser that is fed line by line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from driftkit import rng
from driftkit.errors import DriftkitError
from driftkit.records.schema import Record
from driftkit.workload.tenants import DRIFTSCHED


class Trace(Protocol):
    """A parser of one trace; it may remember what it has read (a header, the first instant)."""

    def parse(self, line: bytes) -> Record | None:
        """The request on a line, None for a line that holds none; LineError for a bad one."""
        ...


def sniff(first_line: bytes) -> str:
    """The name of the format that a trace's first line shows; DriftkitError when it shows none."""
    head = first_line.removeprefix(b"\xef\xbb\xbf").strip()
    if head.startswith(b"{"):
        return "jsonl"
    if head.startswith(b"TIMESTAMP,"):
        return "azure"
    raise DriftkitError(
        "the trace's format is not recognised by its first line", hint="name it with --trace-format"
    )


def tenant_assigner(seed: int) -> Callable[[Record], None]:
    """A function that gives a record without tenant and tier one of the paper's three, with probability 1/3.

    The draw depends on the seed and the place in the trace only; records with a tenant draw as well.
    """
    stream = rng.stream(seed, "trace/tenant")

    def assign(record: Record) -> None:
        u = stream.random()
        if record.get("tenant") is None and record.get("tier") is None:
            for field, value in DRIFTSCHED[int(u * len(DRIFTSCHED))].fields().items():
                if record.get(field) is None:
                    record[field] = value

    return assign
