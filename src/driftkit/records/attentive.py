"""A source that tells when nothing more has come, so that what was gathered need not wait."""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

AT_ONCE = 1 << 16  # bytes: what a pipe holds


@contextmanager
def attentive(stream: IO[bytes], before_waiting: Callable[[], None]) -> Iterator[IO[bytes]]:
    """The same; `before_waiting` is called whenever the next read would wait for whoever writes."""
    yield cast(IO[bytes], BufferedReader(Attentive(stream.fileno(), before_waiting), AT_ONCE))


class Attentive(io.RawIOBase):
    def __init__(self, descriptor: int, before_waiting: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._before_waiting = before_waiting
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        if not self._ready.poll(0):
            self._before_waiting()
            self._ready.poll()  # whoever has started us may have made the descriptor one that does not wait
        return os.readv(self._descriptor, [buffer])
