"""Requests as JSON lines, driftkit's own or anybody's that use its field names."""

from __future__ import annotations

from driftkit.records.io import parse_json
from driftkit.records.schema import SCHEMA, Record, check_prompt, checker, kind_of

_check = checker(
    ("arrival_s",),
    (
        *("id", "tenant", "tier", "tier_level", "prompt", "messages"),
        *("prompt_tokens", "max_tokens", "trace_output_tokens"),
    ),
)


class Jsonl:
    """A record without an id is named by its place in the trace."""

    def __init__(self) -> None:
        self._rows = 0

    def parse(self, line: bytes) -> Record | None:
        if line.isspace():
            return None
        self._rows += 1
        record = parse_json(line)
        if kind_of(record) != "request":
            return record
        record = {"kind": "request", "schema": SCHEMA, **record}
        if record.get("id") is None:
            record["id"] = f"trace-{self._rows:06d}"
        _check(record)
        check_prompt(record)
        return record
