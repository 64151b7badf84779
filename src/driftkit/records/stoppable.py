"""A source that may keep silent, and that a thread waits for: the thread can be let go."""

from __future__ import annotations

import io
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer


@contextmanager
def stoppable(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """The same; a thread that waits for it is let go at the end, or it could not be closed."""
    raw = Stoppable(stream.fileno())
    try:
        yield cast(IO[bytes], BufferedReader(raw))
    finally:
        raw.stop()


class Stoppable(io.RawIOBase):
    """What comes from a descriptor that may keep silent; `stop`, from any thread, is its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopped, self._stop = os.pipe()
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLIN)
        self._ready.register(self._stopped, select.POLLIN)

    def stop(self) -> None:
        os.write(self._stop, b".")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        if self._stopped in dict(self._ready.poll()):
            return 0
        view = memoryview(buffer)
        piece = os.read(self._descriptor, len(view))
        view[: len(piece)] = piece
        return len(piece)
