"""Keeping in a state folder what is being learned, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driftkit.calibration.state import StateFolder
    from driftkit.calibration.stream import Key, Stream
    from driftkit.records.schema import Record

PERIOD_S = 1.0


class Keeper:
    """Writes what `stream` has learned at most once a second, and when it ends, however it ends.

    In a thread of its own: the disk may take longer than a request may wait, and what came last is kept
    also when nothing more comes. A write that fails is told to `warn` and tried again; the last one's
    failure is an error. Hold `lock` to touch the stream. The folder's lock is the caller's to hold.
    """

    def __init__(self, folder: StateFolder, stream: Stream, warn: Callable[[str], None]) -> None:
        self.lock = Lock()
        self._folder = folder
        self.stream = stream
        self._warn = warn
        self._kept: dict[Key, int] = {}
        self._over = Event()
        self._thread = Thread(target=self._keep_on, daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            self._keep()
        else:
            self._keep_or_warn()

    def learn(self, record: Record) -> None:
        """Learn a completion, which is already written where it belongs: the state is never ahead of that."""
        with self.lock:
            self.stream.learn(record)
        for run in self.stream.repeated:
            self._warn(f"run {run}: completions that were learned before are not learned again")

    def _keep_on(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._keep_or_warn()

    def _keep_or_warn(self) -> None:
        from driftkit.errors import StateError

        try:
            self._keep()
        except StateError as error:
            self._warn(error.message)

    def _keep(self) -> None:
        with self.lock:
            learned = {key: sum(each.new_runs.values()) for key, each in self.stream.learning.items()}
            changed = [key for key, count in learned.items() if count != self._kept.get(key, 0)]
            contents = {key: self.stream.learning[key].content() for key in changed}
        for key, content in contents.items():
            self._folder.write(key, content)
            self._kept[key] = learned[key]
