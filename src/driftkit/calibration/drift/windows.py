"""A reference window, and the recent one that is held against it: both of SIZE values, every STRIDE values.

Tests of windows that overlap are not independent, but the expected number of false alarms is at most the
number of tests times the level of one: a level of STRIDE / base.ARL gives base.ARL.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

from driftkit.calibration.drift.base import ARL

T = TypeVar("T", int, float, str)

SIZE = 250
STRIDE = 50
LEVEL = STRIDE / ARL


class Windows(Generic[T]):
    def __init__(self) -> None:
        self.reference: list[T] = []
        self.recent: deque[T] = deque(maxlen=SIZE)
        self._times: deque[float] = deque(maxlen=SIZE)
        self._tests_in = 1

    @property
    def since_s(self) -> float:
        """When the recent window begins."""
        return self._times[0]

    def add(self, value: T, at_s: float) -> bool:
        """Whether it is time for a test."""
        if len(self.reference) < SIZE:
            self.reference.append(value)
            return False
        self.recent.append(value)
        self._times.append(at_s)
        if len(self.recent) < SIZE:
            return False
        self._tests_in = (self._tests_in or STRIDE) - 1
        return self._tests_in == 0

    def start_run(self) -> None:
        self._times = deque([0.0] * len(self._times), maxlen=SIZE)

    def to_json(self) -> dict[str, Any]:
        """The reference alone: a run's last requests are not the recent ones of the next."""
        return {"reference": self.reference}

    def load_json(self, state: dict[str, Any], kinds: tuple[type, ...]) -> None:
        reference = state["reference"]
        if len(reference) > SIZE or not all(type(value) in kinds for value in reference):
            raise ValueError(f"no reference of at most {SIZE}")
        self.reference = list(reference)
