"""ADWIN: is there a moment at which the mean of all before and the mean of all since differ too much?

Bifet and Gavalda (SDM 2007): the past is kept in buckets of 1, 2, 4, 8... values, at most five of each size,
so that memory and the number of moments that are tried grow with the logarithm. Two means of n and m values
differ by more than sqrt(2 v log(2 / level) (1/n + 1/m)) no more often than `level`, and that is exact for
uniform ranks, which are strictly sub-Gaussian with v = 1/12 (Arbel, Marchal and Nguyen, ESAIM: Probability
and Statistics 24, 2020); the original has to estimate v and to add for that. Every 32 values each moment is
tried; the level is shared among them (union bound), so that false alarms are rarer than one in a million.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from driftkit.calibration.drift.base import ARL, Alarm

BUCKETS = 5
STRIDE = 32
VARIANCE = 1 / 12

Bucket = tuple[float, float]  # sum of its values, and when its first began


class Adwin:
    name: ClassVar[str] = "adwin"
    watches: ClassVar[tuple[str, ...]] = ("residual",)

    def __init__(self, arl: float = ARL) -> None:
        self._level = STRIDE / arl
        self._rows: list[list[Bucket]] = [[]]  # by size, 2 ** place; the oldest first
        self._count = 0
        self._sum = 0.0

    def update(self, value: float, at_s: float) -> Alarm | None:
        self._rows[0].append((value, at_s))
        self._count += 1
        self._sum += value
        self._merge()
        return self._test() if self._count % STRIDE == 0 else None

    def _merge(self) -> None:
        for size, row in enumerate(self._rows):
            if len(row) <= BUCKETS:
                return
            (one, since_s), (other, _) = row[:2]
            del row[:2]
            if size + 1 == len(self._rows):
                self._rows.append([])
            self._rows[size + 1].append((one + other, since_s))

    def _test(self) -> Alarm | None:
        moments = sum(map(len, self._rows)) - 1
        width = 2 * VARIANCE * math.log(2 * moments / self._level)
        recent, recent_sum = 0, 0.0
        worst, found = 1.0, None
        for size, row in enumerate(self._rows):
            for total, since_s in reversed(row):
                recent += 1 << size
                recent_sum += total
                before = self._count - recent
                if not before:
                    break
                apart = abs(recent_sum / recent - (self._sum - recent_sum) / before)
                least = math.sqrt(width * (1 / recent + 1 / before))
                if apart / least > worst:
                    worst, found = apart / least, Alarm(apart, least, since_s)
        return found

    def start_run(self) -> None:
        self._rows = [[(total, 0.0) for total, _ in row] for row in self._rows]

    def to_json(self) -> dict[str, Any]:
        return {"sums": [[total for total, _ in row] for row in self._rows]}

    def load_json(self, state: dict[str, Any]) -> None:
        self._rows = [[(float(total), 0.0) for total in row] for row in state["sums"]]
        for size, row in enumerate(self._rows):
            if len(row) > BUCKETS or not all(0 <= total <= 1 << size for total, _ in row):
                raise ValueError(f"sums out of range: {row}")
        self._count = sum(len(row) << size for size, row in enumerate(self._rows))
        self._sum = sum(total for row in self._rows for total, _ in row)
