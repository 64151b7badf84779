"""Requests as JSON lines, driftkit's own or, with --map, anybody's."""

from __future__ import annotations

from typing import ClassVar

from driftkit.records.io import parse_json
from driftkit.records.schema import SCHEMA, Record, check_prompt, checker, kind_of
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.mapping import Mapping
from driftkit.workload.traces.timings import INSTANTS

_check = checker(
    ("arrival_s",),
    (
        *("id", "tenant", "tier", "tier_level", "prompt", "messages", "session"),
        *("prompt_tokens", "max_tokens", "trace_output_tokens"),
        *INSTANTS[1:],
    ),
)
_check_completion = checker(("id",), INSTANTS)


class Jsonl(Trace):
    """A record without an id is named by its place in the trace.

    Without --map everything is kept as it is. With it, a row gives the mapped fields and those that have
    driftkit's names, and its arrivals count from the first row.
    """

    name: ClassVar[str] = "jsonl"

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._rows = 0
        self._mapping = Mapping(self.options.maps) if self.options.maps else None

    def parse(self, line: bytes) -> list[Record]:
        if line.isspace():
            return []
        self._rows += 1
        record = parse_json(line)
        if self._mapping is not None:
            return [self._mapping.record(record, self._rows, self.label, line)]
        kind = kind_of(record)
        if kind == "completion":
            _check_completion(record)
        if kind != "request":
            return [record]
        record = {"kind": "request", "schema": SCHEMA, **record}
        if record.get("id") is None:
            record["id"] = f"trace-{self._rows:06d}"
        _check(record)
        check_prompt(record)
        return [record]
