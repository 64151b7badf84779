"""Two-sample Kolmogorov-Smirnov: the greatest distance between two windows' distribution functions.

The windows are the first 250 values and the last 250, tried every 50. The threshold is the two-sample
Dvoretzky-Kiefer-Wolfowitz inequality with the constant of Wei and Dudley (Statistics and Probability Letters
82, 2012), which holds for windows of any equal size n: P(distance > d) <= 2.169 exp(-n d^2). With values that
are equal it holds all the more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, ClassVar

from driftkit.calibration.drift.base import Alarm
from driftkit.calibration.drift.windows import LEVEL, SIZE, Windows

CONSTANT = 2.169


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    ones, others = sorted(one), sorted(other)
    return max(
        abs(bisect_right(ones, value) / len(ones) - bisect_right(others, value) / len(others))
        for value in {*ones, *others}
    )


def threshold(level: float) -> float:
    """What the distance of two windows that are alike passes no more often than `level`."""
    return math.sqrt(math.log(CONSTANT / level) / SIZE)


class Ks:
    name: ClassVar[str] = "ks"
    watches: ClassVar[tuple[str, ...]] = ("prompt_tokens", "est_output_tokens")

    def __init__(self, level: float = LEVEL) -> None:
        self._windows = Windows[float]()
        self._threshold = threshold(level / len(self.watches))

    def update(self, value: float, at_s: float) -> Alarm | None:
        windows = self._windows
        if not windows.add(value, at_s):
            return None
        found = distance(windows.reference, windows.recent)
        return Alarm(found, self._threshold, windows.since_s) if found > self._threshold else None

    def start_run(self) -> None:
        self._windows.start_run()

    def to_json(self) -> dict[str, Any]:
        return self._windows.to_json()

    def load_json(self, state: dict[str, Any]) -> None:
        self._windows.load_json(state, (int, float))
