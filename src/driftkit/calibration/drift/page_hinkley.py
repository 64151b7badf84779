"""Page-Hinkley: how far the sum of residuals has come from its extreme, up or down.

    up = max(0, up + z - 0.25)
    down = max(0, down - z - 0.25)

An alarm is raised over 23.7. `z` is the residual's rank as a normal score, standard normal without drift, so
that this is Page's CUSUM (Biometrika 41, 1954) with known run length. The tolerance of 0.25 is half the shift
to be found soonest, half a standard deviation: a step of 1.5 in lengths whose logarithm scatters by 0.8. The
threshold is Siegmund's approximation (Sequential Analysis, 1985, eq. 2.57) solved for a false alarm in a
million, on two sides: with b = threshold + 1.166 one side has (exp(b / 2) - b / 2 - 1) / 0.125.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, ClassVar

from driftkit.calibration.drift.base import Alarm

TOLERANCE = 0.25
THRESHOLD = 23.7
LEAST = 1e-3  # a rank is held within this and 1 - this: one wild answer is not drift

_normal_quantile = NormalDist().inv_cdf


def normal_score(rank: float) -> float:
    return _normal_quantile(min(max(rank, LEAST), 1 - LEAST))


class PageHinkley:
    name: ClassVar[str] = "page-hinkley"
    watches: ClassVar[tuple[str, ...]] = ("residual",)

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._up = self._down = 0.0
        self._up_since_s = self._down_since_s = 0.0

    def update(self, value: float, at_s: float) -> Alarm | None:
        z = normal_score(value)
        if self._up == 0.0:
            self._up_since_s = at_s
        if self._down == 0.0:
            self._down_since_s = at_s
        self._up = max(0.0, self._up + z - TOLERANCE)
        self._down = max(0.0, self._down - z - TOLERANCE)
        statistic = max(self._up, self._down)
        if statistic <= self._threshold:
            return None
        since_s = self._up_since_s if self._up > self._down else self._down_since_s
        return Alarm(statistic, self._threshold, since_s)

    def start_run(self) -> None:
        self._up_since_s = self._down_since_s = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"up": self._up, "down": self._down}

    def load_json(self, state: dict[str, Any]) -> None:
        self._up, self._down = float(state["up"]), float(state["down"])
        if not (0 <= self._up <= self._threshold and 0 <= self._down <= self._threshold):
            raise ValueError(f"sums out of range: {state}")
