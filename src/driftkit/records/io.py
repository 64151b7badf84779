"""Reading and writing JSON lines: where each record came from, what happens to a bad one."""

from __future__ import annotations

import gzip
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import IO, Literal, TypeVar, cast

import orjson

from driftkit.errors import DamageError, DriftkitError, LineError, UsageError
from driftkit.records.schema import PRIVATE, Record, kind_of, nature, shown

T = TypeVar("T")
OnError = Literal["fail", "skip"]
Source = tuple[str, Iterable[bytes]]  # a name and its lines
Wrapped = Callable[[IO[bytes]], AbstractContextManager[IO[bytes]]]

# every digit as 0, every other byte as a space: twenty digits in a row are then found at memory speed
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_TOO_MANY_DIGITS = b"0" * 20
MOST_OPEN = 100  # files: a folder may have more than a process may open
_WHOLE_NUMBERS = range(-(2**63), 2**64)  # what orjson reads and writes as such


def parse_json(line: bytes) -> Record:
    """The object on a line; LineError when it is not one. Blank lines are the caller's to leave out."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        hint = "each line must be one JSON object; `driftkit gen --trace` reads other formats"
        raise LineError(f"not JSON: {error.msg} (column {error.colno})", hint=hint) from None
    if type(record) is not dict:
        raise LineError(f"expected a JSON object, got {nature(record)}")
    if _TOO_MANY_DIGITS in line.translate(_DIGITS):
        _refuse_rounded_integers(line)
    return record


def _refuse_rounded_integers(line: bytes) -> None:
    """LineError for a whole number beyond 64 bits: orjson makes a float of it, and it would leave changed."""

    def check(digits: str) -> int:
        if len(digits) > 20 or int(digits) not in _WHOLE_NUMBERS:
            hint = "write it as a string"
            raise LineError(f"a whole number beyond 64 bits: {shown(digits).strip(chr(39))}", hint=hint)
        return int(digits)

    json.loads(line, parse_int=check)


class Reader:
    """Lines of one or more sources, with the error policy.

    `where` names the line in hand as `file:line`, or `file:<element>number` where a source's parts are no
    lines. Under `skip` a bad line is counted in `skipped`, told
    to `warn`, copied to `rejects` (an unbuffered file) and left out; under `fail` it raises DriftkitError.
    """

    def __init__(
        self,
        sources: Sequence[Source],
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
        self.taken = 0
        self.passed = 0
        self.where = ""
        self.element = ""

    def lines(self, parse: Callable[[bytes], T]) -> Iterator[T]:
        """`parse` of each line that is not blank; a LineError of it is this line's. Where a packed file is
        damaged it has one bad line more, its last."""
        for name, stream in self.sources:
            number = 0
            try:
                for number, line in enumerate(readable(name, stream), start=1):
                    try:
                        result = parse(line)
                    except LineError as error:
                        if not line.isspace():
                            self.where = f"{name}:{self.element}{number}"
                            self._bad(error, line)
                        continue
                    self.where = f"{name}:{self.element}{number}"
                    yield result
            except DamageError as error:
                self.where = f"{name}:{self.element}{number + 1}"
                self._bad(LineError(error.problem, hint=error.hint), b"")

    def records(
        self, kind: str, function: Callable[[Record], T], other: Callable[[Record], T]
    ) -> Iterator[T]:
        """`function` of each record of `kind`, `other` of the rest; counted in `taken` and `passed`."""

        def parse(line: bytes) -> T:
            record = parse_json(line)
            if kind_of(record) != kind:
                self.passed += 1
                return other(record)
            self.taken += 1
            return function(record)

        return self.lines(parse)

    def _bad(self, error: LineError, line: bytes) -> None:
        message = f"{self.where}: {error.message}"
        if self.on_error == "fail":
            raise DriftkitError(message, hint=error.hint) from None
        self.skipped += 1
        self.warn(message)
        if self.rejects is not None and line:
            self._keep(self.rejects, line if line.endswith(b"\n") else line + b"\n")

    def _keep(self, rejects: IO[bytes], line: bytes) -> None:
        """Write a line to an unbuffered file, so that a full disk is told of at once and by its name."""
        try:
            while line:
                line = line[rejects.write(line) :]
        except OSError as error:
            raise DriftkitError(f"{rejects.name}: {(error.strerror or str(error)).lower()}") from error


def readable(name: str, stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines; DamageError when the packed file that they come from is damaged."""
    try:
        yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        hint = "the file is damaged or not whole; --on-error skip goes by what comes before"
        raise DamageError(name, f"gzip: {str(error).lower()}", hint=hint) from None


class Writer:
    """JSON lines on a binary stream, flushed per record where somebody waits for them.

    `redact` leaves out what a user has written and was answered: `prompt`, `messages` and `output_text`.
    """

    def __init__(self, stream: IO[bytes], *, unbuffered: bool = False, redact: bool = False) -> None:
        self._write = stream.write
        self._flush = stream.flush
        self._unbuffered = unbuffered or stream.isatty()
        self._redact = redact

    def write(self, record: Record) -> None:
        if self._redact:
            record = {name: value for name, value in record.items() if name not in PRIVATE}
        self._write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        if self._unbuffered:
            self._flush()

    def flush(self) -> None:
        self._flush()


@contextmanager
def open_sources(paths: Sequence[str], wrapped: Wrapped = nullcontext) -> Iterator[list[Source]]:
    """The named files, opened for reading, unpacked where gzipped; no path, or `-`, is standard input. They
    are read through what `wrapped` makes of them. Beyond MOST_OPEN each is opened when it is its turn."""
    with ExitStack() as stack:
        sources: list[Source] = []
        for path in paths or ["-"]:
            if path == "-":
                if sys.stdin is None:
                    raise DriftkitError("standard input is closed")
                sources.append(("<stdin>", unpacked(stack.enter_context(wrapped(sys.stdin.buffer)))))
            elif len(paths) > MOST_OPEN:
                sources.append((path, lines_later(path)))
            else:
                stream = stack.enter_context(open_file(path))
                sources.append((path, unpacked(stack.enter_context(wrapped(stream)))))
        yield sources


def lines_later(path: str) -> Iterator[bytes]:
    """The lines of a file that is opened when the first is asked for: another program may still write it."""
    with open_file(path) as stream:
        yield from unpacked(stream)


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """The stream, or what it holds when it starts as gzip does."""
    if cast(BufferedReader, stream).peek(2)[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(stream))
    return stream


def open_file(path: str) -> IO[bytes]:
    """`path` opened to be read; DriftkitError names it when that fails."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def open_beside(
    option: str, path: str, sources: Sequence[str], buffering: int, *, append: bool = False
) -> IO[bytes]:
    """`path`, which `option` names, opened anew, or under `append` to go on; UsageError when it is one of the
    files that are read.
    """
    for source in sources or ["-"]:
        try:
            read = os.fstat(0) if source == "-" else Path(source).stat()
            same = os.path.samestat(read, Path(path).stat())
        except OSError:
            continue  # one of the two is not there
        if same and stat.S_ISREG(read.st_mode):
            raise UsageError(f"{option}: {path} is read from, and would be lost", hint="name another file")
    try:
        return open(path, "ab" if append else "wb", buffering=buffering)
    except OSError as error:
        raise DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}") from error


@contextmanager
def records_beside(
    option: str, path: str, sources: Sequence[str], unbuffered: bool, *, append: bool = False
) -> Iterator[Callable[[Record], None]]:
    """Writes records to `path`, which `option` names, beside the output; errors tell its name.

    Under `append` they go after the last whole line.
    """
    stream = open_beside(option, path, sources, buffering=-1, append=append)
    if append and Path(path).is_file():
        stream.truncate(Path(path).read_bytes().rfind(b"\n") + 1)
    writer = Writer(stream, unbuffered=unbuffered)

    def told(error: OSError) -> DriftkitError:
        return DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}")

    def write(record: Record) -> None:
        try:
            writer.write(record)
        except OSError as error:
            raise told(error) from error

    try:
        yield write
    finally:
        try:
            stream.close()
        except OSError as error:
            raise told(error) from error
