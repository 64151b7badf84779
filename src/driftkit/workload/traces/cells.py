"""What a cell or JSON value of a foreign trace may be: a number of tokens, a number, an instant."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from driftkit.errors import FieldError
from driftkit.records.schema import LATEST_S, MOST, shown


def tokens(name: str, value: Any, minimum: int = 1) -> int:
    """A number of tokens: an integer, or its decimal digits."""
    amount = int(value) if type(value) is str and value.isdecimal() and len(value) < 20 else value
    if type(amount) is not int or not minimum <= amount <= MOST:
        raise FieldError(name, f"expected an integer >= {minimum}, got {shown(value)}")
    return amount


def number(name: str, value: Any) -> float:
    """A finite number, or its text."""
    amount = _float(value)
    if not math.isfinite(amount):
        raise FieldError(name, f"expected a number, got {shown(value)}")
    return amount


def instant(name: str, value: Any, divisor: float = 1.0) -> float:
    """Seconds on the trace's own clock: a number over `divisor`, or ISO 8601 (UTC if no zone)."""
    seconds = _float(value) / divisor
    if -LATEST_S <= seconds <= LATEST_S:
        return seconds
    if math.isfinite(seconds):
        hint = "in seconds, milliseconds as in --map arrival_s=COLUMN/1000"
        raise FieldError(name, f"expected seconds, at most {LATEST_S:g}, got {shown(value)}", hint=hint)
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        expected = "expected a number or an ISO 8601 timestamp"
        raise FieldError(name, f"{expected}, got {shown(value)}") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _float(value: Any) -> float:
    """NaN for what is no number."""
    kind = type(value)
    if kind is float or kind is int or (kind is str and "_" not in value):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return math.nan
