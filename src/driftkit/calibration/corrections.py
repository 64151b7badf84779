"""What a state teaches estimates: read once, or again whenever somebody has replaced it."""

from __future__ import annotations

from collections.abc import Callable

from driftkit.calibration.learned import Learned
from driftkit.calibration.state import StateFolder
from driftkit.calibration.stream import Key
from driftkit.errors import StateError
from driftkit.estimation.base import Correction, NoCorrection


class Corrections:
    """The correction of each key. Under `follow` every question looks whether there is a newer one.

    A state that is unusable at the first question is a StateError. One that becomes so later, or is taken
    away, is told to `warn`, and what was known before goes on: who follows is not to stop for the writer.
    Where corrections are not all that the state is for, `optional`, none is nothing to speak of.
    """

    def __init__(
        self, folder: StateFolder, warn: Callable[[str], None], *, follow: bool, optional: bool = False
    ) -> None:
        self._folder = folder
        self._learned = Learned(folder, None)
        self._warn = warn
        self._follow = follow
        self._optional = optional
        self._corrections: dict[Key, Correction] = {}
        self._stamps: dict[Key, object] = {}
        self._unusable: set[Key] = set()

    def of(self, key: Key) -> Correction:
        known = self._corrections.get(key)
        if known is not None and not self._follow:
            return known
        stamp = self._folder.stamp(key)  # first: what is replaced while it is read is then read again
        if known is None:
            known = self._first(key)
        elif stamp != self._stamps[key]:
            known = self._newer(key, known)
        self._corrections[key], self._stamps[key] = known, stamp
        return known

    def _first(self, key: Key) -> Correction:
        learning = self._learned.known(key)
        if learning is not None:
            return learning.calibrator
        if not self._optional:
            until = " until something is" if self._follow else ""
            nothing = f"nothing learned yet for {'/'.join(key)}"
            self._warn(f"{self._folder.path}: {nothing}; estimates stay as they are{until}")
        return NoCorrection()

    def _newer(self, key: Key, known: Correction) -> Correction:
        try:
            learning = self._learned.known(key)
            problem = f"{self._folder.path}: what was learned for {'/'.join(key)} is gone"
        except StateError as error:
            learning, problem = None, error.message
        if learning is not None:
            self._unusable.discard(key)
            return learning.calibrator
        if key not in self._unusable:
            self._unusable.add(key)
            self._warn(f"{problem}; going on with what was known before")
        return known
