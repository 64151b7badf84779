"""What a cell or JSON value of a foreign trace may be: a number of tokens, a number, an instant."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from driftkit.errors import FieldError
from driftkit.records.schema import LATEST_S, MOST, shown


def tokens(name: str, value: Any, minimum: int = 1) -> int:
    """A number of tokens: an integer, or its decimal digits."""
    if type(value) is str and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not minimum <= value <= MOST:
        raise FieldError(name, f"expected an integer >= {minimum}, got {shown(value)}")
    return value


def number(name: str, value: Any) -> float:
    """A finite number, or its text."""
    try:
        if type(value) is str and "_" not in value:
            value = float(value)
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise FieldError(name, f"expected a number, got {shown(value)}")


def instant(name: str, value: Any, divisor: float = 1.0) -> float:
    """Seconds on the trace's own clock: a number over `divisor`, or ISO 8601 (UTC if no zone)."""
    if type(value) is str and not _looks_numeric(value):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            expected = "expected a number or an ISO 8601 timestamp"
            raise FieldError(name, f"{expected}, got {shown(value)}") from None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    seconds = number(name, value) / divisor
    if abs(seconds) > LATEST_S:
        hint = "in seconds, milliseconds as in --map arrival_s=COLUMN/1000"
        raise FieldError(name, f"expected seconds, at most {LATEST_S:g}, got {shown(value)}", hint=hint)
    return seconds


def _looks_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return len(text) != 8 or "." in text or not text.startswith(("19", "20"))  # 20240510 is a date
