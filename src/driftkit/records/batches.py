"""Records in batches as large as what has come: work on many at once, where nobody is to wait for more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Empty, Queue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class _End(Generic[T]):
    """The source has no more, or has failed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def in_batches(source: Iterable[T], most: int) -> Iterator[list[T]]:
    """What `source` gives, in order, `most` at a time or fewer: what was there when the last batch was done.

    The source is read by a thread, a few batches ahead at most. What it raises is raised here, after what
    came before.
    """
    came: Queue[T | _End[T]] = Queue(2 * most)

    def read() -> None:
        error: BaseException | None = None
        try:
            for one in source:
                came.put(one)
        except BaseException as failure:
            error = failure
        came.put(_End(error))

    Thread(target=read, name="driftkit-batches", daemon=True).start()
    while True:
        batch: list[T] = []
        one = came.get()
        while not isinstance(one, _End):
            batch.append(one)
            if len(batch) == most:
                break
            try:
                one = came.get_nowait()
            except Empty:
                break
        if batch:
            yield batch
        if isinstance(one, _End):
            if one.error is not None:
                raise one.error
            return
