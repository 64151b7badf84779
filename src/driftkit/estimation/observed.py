"""What a completion says of its output's length: the whole, or that it was going to be longer (censored)."""

from __future__ import annotations

from typing import NamedTuple

from driftkit.records.schema import Record

#: ended on this side, while the output was coming: it was in flight when the run ended, or its server hung
CUT_SHORT = ("cancelled", "timeout")

FIELDS = ("status", "finish_reason", "actual_output_tokens", "received_output_tokens")


class Observed(NamedTuple):
    """At least `tokens`, and just so many if it was not `cut`."""

    tokens: int
    cut: bool


def observed(record: Record) -> Observed | None:
    """None where nothing of an output was seen, or it failed."""
    if record.get("status") in CUT_SHORT:
        tokens, cut = record.get("received_output_tokens"), True
    elif record.get("status", "ok") == "ok":
        tokens, cut = record.get("actual_output_tokens"), record.get("finish_reason") == "length"
    else:
        return None
    return Observed(tokens, cut) if tokens else None
