"""The Azure LLM inference traces (2023): `TIMESTAMP,ContextTokens,GeneratedTokens`, no tenants, no text.

https://github.com/Azure/AzurePublicDataset, CC-BY-4.0. Timestamps have seven fractional digits, no zone.
"""

from __future__ import annotations

from datetime import datetime

from driftkit.errors import FieldError, LineError
from driftkit.records.schema import SCHEMA, Record, shown

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens"


class Azure:
    """Arrivals count from the first row's timestamp; ids are the row's number."""

    def __init__(self) -> None:
        self._rows = 0
        self._start: tuple[int, int] | None = None

    def parse(self, line: bytes) -> Record | None:
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not text or text == HEADER:
            return None
        self._rows += 1
        cells = text.decode("utf-8", "replace").split(",")
        if len(cells) != 3:
            raise LineError(f"expected TIMESTAMP,ContextTokens,GeneratedTokens, got {len(cells)} columns")
        instant = _ticks(cells[0])
        if self._start is None:
            self._start = instant
        ticks = (instant[0] - self._start[0]) * 10_000_000 + instant[1] - self._start[1]
        if ticks < 0:
            raise FieldError("TIMESTAMP", f"{cells[0]} is before the trace's first row")
        return {
            "kind": "request",
            "schema": SCHEMA,
            "id": f"azure-{self._rows:06d}",
            "arrival_s": ticks / 10_000_000,
            "prompt_tokens": _tokens("ContextTokens", cells[1]),
            "trace_output_tokens": _tokens("GeneratedTokens", cells[2]),
        }


def _ticks(cell: str) -> tuple[int, int]:
    """Whole seconds and tenths of microseconds, exactly: a float would lose the last digits."""
    whole, _, fraction = cell.partition(".")
    try:
        if fraction and not fraction.isdecimal():
            raise ValueError
        seconds = datetime.fromisoformat(whole + "+00:00").timestamp()
        return int(seconds), int(fraction[:7].ljust(7, "0"))
    except ValueError:
        expected = "expected YYYY-MM-DD HH:MM:SS.fffffff"
        raise FieldError("TIMESTAMP", f"{expected}, got {shown(cell)}") from None


def _tokens(name: str, cell: str) -> int:
    tokens = int(cell) if cell.isdecimal() else 0
    if tokens < 1:
        raise FieldError(name, f"expected an integer >= 1, got {shown(cell)}")
    return tokens
