"""Ids never repeat within a run."""

from __future__ import annotations

from driftkit.errors import FieldError


class UniqueIds:
    """The ids seen so far."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, name: str) -> None:
        """Note an id; FieldError when it was there before."""
        if name in self._seen:
            raise FieldError("id", f"{name!r} was there before", hint="an id must be unique within a run")
        self._seen.add(name)

    def __len__(self) -> int:
        return len(self._seen)
