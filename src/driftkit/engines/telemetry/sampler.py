"""Samples sources at even intervals while a run goes on, and disturbs it as little as threads can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from driftkit.engines.telemetry.source import Source, UnavailableError
from driftkit.records.schema import SCHEMA, Record

EVERY_S = 0.2
#: a source that fails is asked so many times less often: it may be somebody's production server
SELDOM = 10
#: how long the end of the run waits for last samples
PATIENCE_S = 0.5


class Telemetry:
    """Writes a record of kind telemetry for each sample of each source, from `start` to `stop`.

    `run` are fields that every record has, run_id and label; `clock` tells seconds on the run's clock, and
    nothing is written while that is negative. Each source has a thread, so that one that hangs delays nobody;
    `write` is called by one of them at a time, and never after `stop`. `warn` is told once of a source that
    does not answer from the start.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        run: Record,
        clock: Callable[[], float],
        write: Callable[[Record], None],
        *,
        every_s: float = EVERY_S,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._head = {"kind": "telemetry", "schema": SCHEMA, **run}
        self._clock = clock
        self._write = write
        self._every_s = every_s
        self._warn = warn
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._ended = False
        self._error: Exception | None = None
        # daemons: a thread that hangs in a source keeps no process alive
        self._threads = [
            threading.Thread(target=self._watch, args=(source,), name=source.name, daemon=True)
            for source in sources
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take the last samples, of what answers soon; raises what `write` has raised."""
        self._end()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Telemetry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:  # which says more than a record that could not be written
            self._end()

    def _end(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._writing:
            self._ended = True

    def _watch(self, source: Source) -> None:
        answered = told = False
        due = time.monotonic()
        last = False
        while not last:
            last = self._stopping.is_set()
            wait_s = self._every_s
            try:
                samples = source.sample()
            except UnavailableError as problem:
                if not (answered or told):
                    told = True
                    self._warn(f"telemetry: {source.name}: {problem}; there are no samples until it answers")
                wait_s *= SELDOM
                last = self._stopping.is_set()
            else:
                answered = True
                self._keep(samples)
            now = time.monotonic()
            due = max(due + wait_s, now)  # samples that are late are not made up for
            self._stopping.wait(due - now)
        source.close()

    def _keep(self, samples: list[Record]) -> None:
        at = self._clock()
        with self._writing:
            if self._ended or self._error is not None or at < 0:
                return
            try:
                for sample in samples:
                    self._write({**self._head, "at_s": round(at, 6), **sample})
            except Exception as error:  # it is the run's: `stop` raises it
                self._error = error
                self._stopping.set()
