"""Mooncake JSONL: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (blocks of 512 tokens).

https://github.com/kvcache-ai/Mooncake, FAST25-release. AIPerf's additions are read too: `text_input` or
`messages` instead of a length, and `session_id`
(https://docs.nvidia.com/aiperf, Trace Replay with Mooncake Traces).
"""

from __future__ import annotations

from typing import ClassVar

from driftkit.errors import FieldError
from driftkit.records.io import parse_json
from driftkit.records.schema import SCHEMA, Record, check_prompt, checker, shown
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.cells import number, tokens

_check = checker((), ("prompt", "messages"))


BLOCK_TOKENS = 512


class Mooncake(Trace):
    """Its clock is relative already, so arrivals are as they stand; ids are the row's number."""

    name: ClassVar[str] = "mooncake"

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._rows = 0

    def parse(self, line: bytes) -> list[Record]:
        if line.isspace():
            return []
        self._rows += 1
        row = parse_json(line)
        if "timestamp" not in row and "delay" in row:
            raise FieldError("timestamp", "expected milliseconds, got a row with delay alone")
        arrival_ms = number("timestamp", row.get("timestamp"))
        if not 0 <= arrival_ms <= 9e12:
            raise FieldError("timestamp", f"expected milliseconds >= 0, got {shown(row['timestamp'])}")
        record: Record = {
            "kind": "request",
            "schema": SCHEMA,
            "id": f"mooncake-{self._rows:06d}",
            "arrival_s": arrival_ms / 1000,
        }
        if (session := row.get("session_id")) is not None:
            record["session"] = str(session)
        if row.get("text_input") is not None:
            record["prompt"] = row["text_input"]
        elif row.get("messages") is not None:
            record["messages"] = row["messages"]
        else:
            record["prompt_tokens"] = tokens("input_length", row.get("input_length"))
        _check(record)
        check_prompt(record)
        if row.get("output_length") is not None:
            record["trace_output_tokens"] = tokens("output_length", row["output_length"])
        if (hashes := row.get("hash_ids")) is not None:
            if type(hashes) is not list or not all(type(block) is int for block in hashes):
                raise FieldError("hash_ids", f"expected an array of integers, got {shown(hashes)}")
            record["prefix_hashes"] = hashes
            record["prefix_block_tokens"] = BLOCK_TOKENS
        return [record]
