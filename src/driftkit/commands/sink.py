"""Where `run` writes its completions: standard output, or a file that a later run can go on with."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, cast

import click
import orjson

from driftkit.commands.stdio import manifest_of, stdout
from driftkit.errors import DriftkitError, UsageError
from driftkit.records.io import Writer, open_beside
from driftkit.records.schema import Record

Then = Callable[[Record], None]

#: what a run that goes on must agree about with what it goes on with
IDENTITY = ("run_id", "label", "engine", "served_model")


@dataclass
class Done:
    """What an earlier, interrupted run has left in its file: the ids that are done, and its identity.
    `begun`: there is something in it.
    """

    begun: bool = False
    ids: set[str] = field(default_factory=set)
    run: dict[str, str] = field(default_factory=dict)

    def check(self, run: dict[str, str]) -> None:
        """Take the run_id of the run that is gone on with; UsageError when all else says it is another."""
        for name in IDENTITY if self.run else ():
            if name != "run_id" and self.run[name] != run[name]:
                problem = f"--resume: {name}: the file has {self.run[name]}, this run {run[name]}"
                raise UsageError(problem, hint="go on with the options that it was begun with")
        run["run_id"] = self.run.get("run_id", run["run_id"])


class Sink:
    """Takes completions, from a thread of its own under `threaded`: a reader that is slow must not hold up
    requests that are due. What the thread fails with is raised by the next `write`, or at the end. What
    is to be done once a record is out, `then`, is done there too.
    """

    def __init__(self, writer: Writer, *, threaded: bool) -> None:
        self._writer = writer
        self._waiting: SimpleQueue[tuple[Record, Then | None] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._drain, name="driftkit-output", daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    def write(self, record: Record, then: Then | None = None) -> None:
        if self._thread is None:
            self._write(record, then)
            return
        self.check()
        self._waiting.put((record, then))

    def check(self) -> None:
        """Raise what writing has failed with, if it has."""
        if self._error is not None:
            raise self._error

    @contextmanager
    def drained(self) -> Iterator[None]:
        """At the end all is written, also when something else has failed; Ctrl-C alone waits for nothing."""
        try:
            yield
        except Exception:
            self._close()
            raise
        self._close()

    def _close(self) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self.check()

    def _drain(self) -> None:
        try:
            while (waiting := self._waiting.get()) is not None:
                self._write(*waiting)
                if self._waiting.empty():  # what has ended is there, whatever ends this process
                    self._writer.flush()
            self._writer.flush()
        except BaseException as error:
            self._error = error

    def _write(self, record: Record, then: Then | None) -> None:
        self._writer.write(record)
        if then is not None:
            then(record)


class Anew:
    """A file that loses what it had when the first record comes: a run that cannot begin spares it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._begun = False
        self.flush = stream.flush
        self.isatty = stream.isatty

    def begin(self) -> None:
        if not self._begun and stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
            self._stream.truncate(0)
        self._begun = True

    def write(self, data: bytes) -> int:
        self.begin()
        return self._stream.write(data)


@contextmanager
def output(
    path: str | None, sources: Sequence[str], unbuffered: bool, redact: bool, resume: bool, threaded: bool
) -> Iterator[tuple[Sink, Done]]:
    """The Sink on standard output or on `path`, and what `path` held that is gone on with.

    A file is made new, or under `resume` appended to; UsageError when that would lose what is read.
    """
    if path is None:
        sink = Sink(Writer(stdout(), unbuffered=unbuffered, redact=redact), threaded=threaded)
        with sink.drained():
            yield sink, Done()
        return
    done = Done()
    if resume:
        done, keep = _left_in(path)
        stream = _append(path, keep)
    else:
        stream = open_beside("--output", path, sources, buffering=-1, append=True)
    try:
        with stream:
            manifest = manifest_of(click.get_current_context())
            anew = cast(IO[bytes], stream if resume else Anew(stream))
            watched = anew if manifest is None else manifest.writing(anew, path)
            sink = Sink(Writer(watched, unbuffered=unbuffered, redact=redact), threaded=threaded)
            with sink.drained():
                yield sink, done
            if isinstance(anew, Anew):
                anew.begin()
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def _append(path: str, keep: bytes | None) -> IO[bytes]:
    """`path` opened to be appended to, holding `keep` where that is less than it held."""
    try:
        if keep is not None:
            temporary = Path(f"{path}.resuming")
            temporary.write_bytes(keep)
            temporary.replace(path)
        return open(path, "ab")
    except OSError as error:
        raise DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _left_in(path: str) -> tuple[Done, bytes | None]:
    """What an interrupted run has left, and the file without what is to be done again (None: all stays).

    A torn last line goes, and so do requests that were cancelled.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UsageError(f"--resume: {path} is not a regular file")
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return Done(), None  # nothing was done yet
    except OSError as error:
        raise DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    whole = content[: content.rfind(b"\n") + 1]
    hint = "--resume goes on with a file that `run -o` has written"
    if not whole and content and not content.startswith(b"{"):  # a file of another kind, not a torn line
        raise DriftkitError(f"{path}:1: not a completion of `run`", hint=hint)
    done = Done()
    kept: list[bytes] = []
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        where = f"{path}:{number}"
        try:
            record = orjson.loads(line)
            completed = record.get("kind") == "completion"
            name, status = (record["id"], record["status"]) if completed else ("", "")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise DriftkitError(f"{where}: not a completion of `run`", hint=hint) from None
        if status == "cancelled":
            continue
        kept.append(line)
        if not completed:
            continue
        run = {key: str(record.get(key)) for key in IDENTITY}
        if done.run and run != done.run:
            raise DriftkitError(f"{where}: completions of two runs in one file")
        done.run = run
        done.ids.add(name)
    keep = b"".join(kept)
    done.begun = bool(kept)
    return done, None if keep == content else keep
