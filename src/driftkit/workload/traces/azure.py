"""The Azure LLM inference traces (2023, 2024): `TIMESTAMP,ContextTokens,GeneratedTokens`, without text.

https://github.com/Azure/AzurePublicDataset, CC-BY-4.0. Timestamps have up to seven fractional digits; those
of 2023 have no zone, those of 2024 end in +00:00.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from driftkit.errors import FieldError, LineError
from driftkit.records.schema import SCHEMA, Record, shown
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.cells import tokens

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens"


class Azure(Trace):
    """Arrivals count from the first row's timestamp; ids are the row's number."""

    name: ClassVar[str] = "azure"

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._rows = 0
        self._start: tuple[int, int] | None = None

    def parse(self, line: bytes) -> list[Record]:
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not text or text == HEADER:
            return []
        self._rows += 1
        cells = text.decode("utf-8", "replace").split(",")
        if len(cells) != 3:
            raise LineError(f"expected TIMESTAMP,ContextTokens,GeneratedTokens, got {len(cells)} columns")
        instant = _ticks(cells[0])
        if self._start is None:
            self._start = instant
        ticks = (instant[0] - self._start[0]) * 10_000_000 + instant[1] - self._start[1]
        return [
            {
                "kind": "request",
                "schema": SCHEMA,
                "id": f"azure-{self._rows:06d}",
                "arrival_s": ticks / 10_000_000,
                "prompt_tokens": tokens("ContextTokens", cells[1]),
                "trace_output_tokens": tokens("GeneratedTokens", cells[2]),
            }
        ]


def _ticks(cell: str) -> tuple[int, int]:
    """Whole seconds and tenths of microseconds, exactly: a float would lose the last digits."""
    whole, _, fraction = cell.removesuffix("+00:00").partition(".")
    try:
        if fraction and not fraction.isdecimal():
            raise ValueError
        seconds = datetime.fromisoformat(whole + "+00:00").timestamp()
        return int(seconds), int(fraction[:7].ljust(7, "0"))
    except ValueError:
        expected = "expected YYYY-MM-DD HH:MM:SS.fffffff"
        raise FieldError("TIMESTAMP", f"{expected}, got {shown(cell)}") from None
