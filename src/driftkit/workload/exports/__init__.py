"""Requests as other load generators read them: one file per format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from driftkit.records.schema import Record

# what says what a record is, not something of the request that could be lost
_OUR_OWN = frozenset(("kind", "schema"))


class Export(Protocol):
    """`holds` are the fields that it has a place for, `remarks` what is to be said once, in order."""

    name: str
    holds: frozenset[str]
    remarks: dict[str, None]

    def row(self, record: Record) -> Record:
        """The request as the format has it; FieldError when it lacks what the format needs."""
        ...


class Lost:
    """The fields of exported records that the format has no place for, in order of appearance."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._fields: dict[str, None] = {}

    def note(self, record: Iterable[str]) -> None:
        for field in record:
            if field not in self._export.holds and field not in _OUR_OWN:
                self._fields[field] = None

    def said(self) -> str | None:
        """What to tell people, None when nothing was lost."""
        if not self._fields:
            return None
        return f"{self._export.name} has no place for {', '.join(self._fields)}"
