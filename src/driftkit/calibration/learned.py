"""Between the state folder and the calibrators: what to start from, what to keep."""

from __future__ import annotations

from collections.abc import Sequence

from driftkit import registry
from driftkit.calibration.base import Calibrator
from driftkit.calibration.drift.watch import VERSION, Watch
from driftkit.calibration.state import StateFolder
from driftkit.calibration.stream import Key, Learning, Stream
from driftkit.errors import StateError, UsageError
from driftkit.records.known_runs import KnownRuns


class Learned:
    """The calibrators of a state folder, or of none. `method` None takes the state's, or the default.
    `detectors` are those that watch for drift, if any.
    """

    def __init__(self, folder: StateFolder | None, method: str | None, detectors: Sequence[str] = ()) -> None:
        self._folder = folder
        self._method = method
        self._detectors = detectors

    def start(self, key: Key) -> Learning:
        """What to learn on from: the state for `key`, or a new calibrator when it holds nothing."""
        known = self.known(key)
        if known is not None:
            return known
        return Learning(_new(self._method or registry.names("calibrators")[0]), watch=self._watch())

    def known(self, key: Key) -> Learning | None:
        """What the state holds for `key`, if anything."""
        document = self._folder.read(key) if self._folder is not None else None
        if document is None or self._folder is None:
            return None
        method = str(document.get("method"))
        if self._method is not None and method != self._method:
            raise UsageError(
                f"{self._folder.path}: learned with --method {method}, not {self._method}",
                hint=f"use --method {method}, or another --state DIR",
            )
        try:
            calibrator = _new(method)
            calibrator.load_json(document["learned"])
            runs = KnownRuns.from_json(document)
            watch, drift = self._watch(), document.get("drift")
            if watch is not None and drift is not None:
                if drift.get("version") != VERSION:
                    problem = f"its watch for drift has version {drift.get('version', 1)}"
                    raise StateError(
                        f"{self._folder.path}: {'/'.join(key)}: {problem}, this driftkit reads {VERSION}",
                        hint="it was written by another driftkit: calibrate without --drift, or move it away",
                    )
                watch.load_json(drift)
        except (KeyError, ValueError, TypeError, AttributeError, UsageError):
            hint = "restore it from a backup, or move it away to start anew"
            raise StateError(f"{self._folder.path}: damaged state for {'/'.join(key)}", hint=hint) from None
        return Learning(calibrator, runs, drift=drift, watch=watch)

    def _watch(self) -> Watch | None:
        return Watch(self._detectors) if self._detectors else None

    def save(self, stream: Stream) -> None:
        """Write what `stream` has learned; where it learned nothing, nothing is written."""
        if self._folder is None:
            return
        for key, learning in stream.learning.items():
            if learning.new_runs:
                self._folder.write(key, learning.content())


def _new(method: str) -> Calibrator:
    calibrator: Calibrator = registry.load("calibrators", method)()
    return calibrator
