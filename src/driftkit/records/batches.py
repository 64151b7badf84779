"""Records in batches as large as what has come: work on many at once, where nobody is to wait for more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Condition, Thread
from typing import TypeVar

T = TypeVar("T")


def in_batches(source: Iterable[T], most: int) -> Iterator[list[T]]:
    """What `source` gives, in order, `most` at a time or fewer: what was there when the last batch was done.

    The source is read by a thread, two batches ahead at most. What it raises is raised here, after what came
    before.
    """
    came: list[T] = []
    ended: list[BaseException | None] = []  # with one element: what the source has failed with, if it has
    changed = Condition()

    def read() -> None:
        error: BaseException | None = None
        try:
            for one in source:
                with changed:
                    while len(came) >= 2 * most:
                        changed.wait()
                    came.append(one)
                    changed.notify()
        except BaseException as failure:
            error = failure
        with changed:
            ended.append(error)
            changed.notify()

    Thread(target=read, name="driftkit-batches", daemon=True).start()
    while True:
        with changed:
            while not came and not ended:
                changed.wait()
            batch = came[:most]
            del came[:most]
            changed.notify()
        if batch:
            yield batch
        elif ended[0] is not None:
            raise ended[0]
        else:
            return
