"""Wald's sequential probability ratio test, over and over: have the residuals moved by half a deviation?

One test asks for a move up, one for a move down. The log-likelihood ratio of a normal score z that has moved
by s = 0.5 is s z - s^2 / 2. Below log(miss / (1 - false)) a test ends with "no", and a new one begins; over
log((1 - miss) / false) with an alarm (Wald, Annals of Mathematical Statistics 16, 1945). `miss` is 0.1. A
"no" takes at least log(1 / miss) / (s^2 / 2) values on average, so `false` is that over a million, half of it
for each of the two; overshoot makes false alarms rarer still.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from driftkit.calibration.drift.base import ARL, Alarm
from driftkit.calibration.drift.page_hinkley import normal_score

SHIFT = 0.5
MISS = 0.1


def bounds(arl: float) -> tuple[float, float]:
    """Where a test ends without and with an alarm, for so many values between false ones."""
    false = math.log(1 / MISS) / (SHIFT * SHIFT / 2) / (2 * arl)
    return math.log(MISS / (1 - false)), math.log((1 - MISS) / false)


class Sprt:
    name: ClassVar[str] = "sprt"
    watches: ClassVar[tuple[str, ...]] = ("residual",)

    def __init__(self, arl: float = ARL) -> None:
        self._least, self._threshold = bounds(arl)
        self._ratios = [0.0, 0.0]
        self._since_s = [0.0, 0.0]

    def update(self, value: float, at_s: float) -> Alarm | None:
        z = normal_score(value)
        ratios = self._ratios
        for side, signed in enumerate((z, -z)):
            if ratios[side] == 0.0:
                self._since_s[side] = at_s
            ratios[side] += SHIFT * signed - SHIFT * SHIFT / 2
            if ratios[side] > self._threshold:
                return Alarm(ratios[side], self._threshold, self._since_s[side])
            if ratios[side] < self._least:
                ratios[side] = 0.0
        return None

    def start_run(self) -> None:
        self._since_s = [0.0, 0.0]

    def to_json(self) -> dict[str, Any]:
        return {"log_ratios": self._ratios}

    def load_json(self, state: dict[str, Any]) -> None:
        up, down = state["log_ratios"]
        for ratio in (up, down):
            if not self._least <= ratio <= self._threshold:
                raise ValueError(f"log-ratio out of range: {ratio}")
        self._ratios = [float(up), float(down)]
