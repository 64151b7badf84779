"""Requests that come while others run, read by a thread of their own: waiting for one stops nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Thread

from driftkit.records.job import Job


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
