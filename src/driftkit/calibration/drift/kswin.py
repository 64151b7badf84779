"""KSWIN: has the distribution of the last residuals changed, in level, spread or shape?

Kolmogorov-Smirnov on a window that slides (Raab, Heusinger and Schleif, Neurocomputing 416, 2020). There the
last values are held against a sample of older ones; ranks are known to be uniform, so that the last 200 are
held against that, by the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (Annals of Probability
18, 1990): P(distance > d) <= 2 exp(-400 d^2). It is tried every 20 values, which the level allows for.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, ClassVar

from driftkit.calibration.drift.base import ARL, Alarm

SIZE = 200
STRIDE = 20


class Kswin:
    name: ClassVar[str] = "kswin"
    watches: ClassVar[tuple[str, ...]] = ("residual",)

    def __init__(self, arl: float = ARL) -> None:
        self._threshold = math.sqrt(math.log(2 * arl / STRIDE) / (2 * SIZE))
        self._values: deque[float] = deque(maxlen=SIZE)
        self._times: deque[float] = deque(maxlen=SIZE)
        self._count = 0

    def update(self, value: float, at_s: float) -> Alarm | None:
        self._values.append(value)
        self._times.append(at_s)
        self._count += 1
        if self._count < SIZE or self._count % STRIDE:
            return None
        distance = max(
            max((place + 1) / SIZE - rank, rank - place / SIZE)
            for place, rank in enumerate(sorted(self._values))
        )
        if distance <= self._threshold:
            return None
        return Alarm(distance, self._threshold, self._times[0])

    def start_run(self) -> None:
        self._times = deque([0.0] * len(self._times), maxlen=SIZE)

    def to_json(self) -> dict[str, Any]:
        return {"count": self._count, "ranks": list(self._values)}

    def load_json(self, state: dict[str, Any]) -> None:
        ranks = [float(rank) for rank in state["ranks"]]
        if len(ranks) > SIZE or not all(0 <= rank <= 1 for rank in ranks):
            raise ValueError("ranks out of range")
        self._values.extend(ranks)
        self._times.extend([0.0] * len(ranks))
        self._count = int(state["count"])
