"""Requests that come while others run, read by a thread of their own: waiting for one stops nobody."""

from __future__ import annotations

import io
import os
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Thread
from typing import TYPE_CHECKING

from driftkit.records.job import Job

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer


class Live:
    """An iterator over `source`; it gives None where the next has not come yet, and `wake` tells when it has.

    Once `late` says so, what has not come is not waited for. What the source raises ends it; `check` raises
    that, once those that run have ended.
    """

    def __init__(
        self, source: Iterable[Job], wake: Callable[[], None], late: Callable[[], bool] = lambda: False
    ) -> None:
        self._source = source
        self._wake = wake
        self._late = late
        self._came: deque[Job] = deque()
        self._error: BaseException | None = None
        self._over = False
        Thread(target=self._read, name="driftkit-requests", daemon=True).start()

    def __iter__(self) -> Iterator[Job | None]:
        return self

    def __next__(self) -> Job | None:
        over = self._over  # asked first: what comes between is not lost
        if self._came:
            return self._came.popleft()
        if not over and not self._late():
            return None
        raise StopIteration

    def check(self) -> None:
        """Raise what the source has raised, if it has ended."""
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            for job in self._source:
                self._came.append(job)
                self._wake()
        except BaseException as error:
            self._error = error
        self._over = True
        self._wake()


class Stoppable(io.RawIOBase):
    """What comes from a descriptor that may keep silent; `stop`, from any thread, is its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopped, self._stop = os.pipe()

    def stop(self) -> None:
        os.write(self._stop, b".")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        ready, _, _ = select.select([self._descriptor, self._stopped], [], [])
        if self._stopped in ready:
            return 0
        view = memoryview(buffer)
        piece = os.read(self._descriptor, len(view))
        view[: len(piece)] = piece
        return len(piece)
