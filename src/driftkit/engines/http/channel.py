"""JSON values, one a line, both ways between driftkit and one of its worker processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import orjson


class Channel(asyncio.Protocol):
    """One end of a socket pair. `told` gets each value that comes, `lost` is called once nobody is there.

    A line that was begun when the other side died is not told.
    """

    def __init__(self, told: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._told = told
        self._lost = lost
        self._begun: list[bytes] = []  # the line that is not over, in pieces
        self._transport: asyncio.Transport | None = None

    def open(self, loop: asyncio.AbstractEventLoop, end: socket.socket) -> None:
        loop.run_until_complete(loop.create_connection(lambda: self, sock=end))

    def tell(self, value: object) -> None:
        """Never blocks: what the socket does not take waits in memory."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(line(value))

    def close(self) -> None:
        """What was not sent yet is not."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._begun, whole[0]])
            self._begun.clear()
        self._begun.append(rest)
        for one in whole:
            self._told(orjson.loads(one))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()


def line(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
