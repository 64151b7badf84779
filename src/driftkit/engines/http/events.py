"""Server-sent events: the data of each, from bytes that come in pieces cut anywhere.

The format is the WHATWG's (HTML Living Standard, "Server-sent events", section "Interpreting an event
stream"). Of its fields only `data` counts here; comments and the others are read over. Data stays bytes, so
a character that was cut in two comes out whole.
"""

from __future__ import annotations

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_WAITING = 1 << 20  # bytes; an event with one token takes a few hundred
_LF, _CR = b"\n\r"


class EventStream:
    """The events of one response. The last is not told if no blank line ends it, as the format wants."""

    __slots__ = ("_after_cr", "_at_start", "_data", "_data_bytes", "_line", "_line_bytes", "_most")

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most = most_waiting
        self._line: list[bytes] = []  # the line that is not over, in pieces
        self._line_bytes = 0
        self._data: list[bytes] = []  # the event that is not over, by line
        self._data_bytes = 0  # with the fields' names, so that empty lines count too
        self._at_start = True
        self._after_cr = False  # an LF that comes now belongs to the end of the line before

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that ends in `piece`, its lines joined by LF.

        ValueError when more than `most_waiting` bytes are left waiting for the end of their event.
        """
        if self._after_cr and piece:
            self._after_cr = False
            if piece[0] == _LF:
                piece = piece[1:]
        if not piece:
            return []
        lines = piece.splitlines()  # of bytes: at CRLF, LF and CR, and nowhere else
        rest = b"" if piece[-1] in b"\n\r" else lines.pop()
        self._after_cr = piece[-1] == _CR
        if lines and (self._line or self._at_start):
            lines[0] = self._whole(lines[0])
        data = self._data
        events = []
        for line in lines:
            if line.startswith(b"data: "):
                data.append(line[6:])
                self._data_bytes += len(line)
            elif not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._data_bytes = 0
            elif line.startswith(b"data:") or line == b"data":
                data.append(line[5:])
                self._data_bytes += len(line)
        if rest:
            self._line.append(rest)
            self._line_bytes += len(rest)
        if self._line_bytes + self._data_bytes > self._most:
            raise ValueError(f"more than {self._most} bytes without the end of an event")
        return events

    def _whole(self, end: bytes) -> bytes:
        """The line of which `end` is the last piece."""
        line = b"".join([*self._line, end])
        self._line.clear()
        self._line_bytes = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        return line
