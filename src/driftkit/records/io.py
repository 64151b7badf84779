"""Reading and writing JSON lines: where each record came from, what happens to a bad one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import orjson

from driftkit.errors import DriftkitError, FieldError
from driftkit.records.schema import Record, kind_of, shown

T = TypeVar("T")
OnError = Literal["fail", "skip"]


class Reader:
    """Records of one or more JSONL sources, with the error policy.

    `where` names the line in hand as `file:line`. Under `skip` a bad line is counted in `skipped`, told
    to `warn`, copied to `rejects` and left out; under `fail` it raises DriftkitError.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, IO[bytes]]],
        *,
        on_error: OnError = "fail",
        rejects: IO[bytes] | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.sources = sources
        self.on_error = on_error
        self.rejects = rejects
        self.warn = warn
        self.skipped = 0
        self.where = ""
        self._line = b""

    def __iter__(self) -> Iterator[Record]:
        for name, stream in self.sources:
            for number, line in enumerate(stream, start=1):
                self.where = f"{name}:{number}"
                self._line = line
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    if line.isspace():
                        continue
                    self._bad(f"not JSON: {error.msg} (column {error.colno})", "each line must be one object")
                    continue
                if type(record) is not dict:
                    self._bad(f"expected a JSON object, got {shown(record)}", None)
                    continue
                yield record

    def map(self, kind: str, function: Callable[[Record], T], other: Callable[[Record], T]) -> Iterator[T]:
        """`function` of each record of `kind`, `other` of the rest; a FieldError of either is this line's."""
        for record in self:
            try:
                result = function(record) if kind_of(record) == kind else other(record)
            except FieldError as error:
                self._bad(error.message, error.hint)
                continue
            yield result

    def _bad(self, problem: str, hint: str | None) -> None:
        message = f"{self.where}: {problem}"
        if self.on_error == "fail":
            raise DriftkitError(message, hint=hint)
        self.skipped += 1
        self.warn(message)
        if self.rejects is not None:
            self.rejects.write(self._line if self._line.endswith(b"\n") else self._line + b"\n")


class Writer:
    """JSON lines on a binary stream, flushed per record where somebody waits for them."""

    def __init__(self, stream: IO[bytes], *, unbuffered: bool = False) -> None:
        self._write = stream.write
        self._flush = stream.flush
        self._unbuffered = unbuffered or stream.isatty()

    def write(self, record: Record) -> None:
        self._write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        if self._unbuffered:
            self._flush()

    def write_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self.write(record)


@contextmanager
def open_sources(paths: Sequence[str]) -> Iterator[list[tuple[str, IO[bytes]]]]:
    """The named files, opened for reading; no path, or `-`, is standard input."""
    with ExitStack() as stack:
        sources: list[tuple[str, IO[bytes]]] = []
        for path in paths or ["-"]:
            if path == "-":
                sources.append(("<stdin>", sys.stdin.buffer))
            else:
                sources.append((path, stack.enter_context(open_file(path))))
        yield sources


def open_file(path: str, mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    """`path` opened in binary; DriftkitError names it when that fails."""
    try:
        return open(path, mode)
    except OSError as error:
        raise DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def read_json(path: Path) -> Any:
    """The JSON document in `path`; DriftkitError when it is not one."""
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DriftkitError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
