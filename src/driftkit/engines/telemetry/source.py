"""What can be asked for samples."""

from __future__ import annotations

from typing import Protocol

from driftkit.records.schema import Record


class UnavailableError(Exception):
    """The source has nothing to tell this time; the message says why, for people."""


class Source(Protocol):
    """Asked again and again by a thread of its own, which also closes it."""

    name: str

    def sample(self) -> list[Record]:
        """Fields of this instant, a record for each thing that it watches; raises UnavailableError."""
        ...

    def close(self) -> None: ...
