"""Population stability index of the category mix: sum over categories of (p - q) log(p / q) between windows.

The windows are the first 250 values and the last 250, tried every 50. Where nothing has changed the index is,
nearly, (1/250 + 1/250) times a chi-square variable with one degree of freedom less than there are categories
(Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020), which gives the threshold; the usual 0.1
and 0.25 are for windows of any size and so for none. Categories with under 5 % of both windows count as one,
because there that is not near.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, ClassVar

from driftkit.calibration.drift.base import Alarm
from driftkit.calibration.drift.windows import LEVEL, SIZE, Windows

RARE = 0.05


def index(one: Iterable[str], other: Iterable[str]) -> tuple[float, int]:
    """The index of two windows, and how many categories it is of."""
    ones, others = Counter(one), Counter(other)
    of_both = ones + others
    rare = [name for name, count in of_both.items() if count < RARE * of_both.total()]
    groups = [(ones[name], others[name]) for name in of_both if name not in rare]
    if rare:
        groups.append((sum(ones[name] for name in rare), sum(others[name] for name in rare)))
    shares = [((p + 0.5) / (ones.total() + 0.5), (q + 0.5) / (others.total() + 0.5)) for p, q in groups]
    return sum((p - q) * math.log(p / q) for p, q in shares), len(groups)


def threshold(level: float, categories: int) -> float:
    """What the index passes no more often than `level`; chi-square by Wilson and Hilferty (1931)."""
    free = categories - 1
    if not free:
        return math.inf
    spread = 2 / (9 * free)
    chi_square = free * (1 - spread + NormalDist().inv_cdf(1 - level) * math.sqrt(spread)) ** 3
    return 2 / SIZE * float(chi_square)


class Psi:
    name: ClassVar[str] = "psi"
    watches: ClassVar[tuple[str, ...]] = ("category",)

    def __init__(self, level: float = LEVEL) -> None:
        self._windows = Windows[str]()
        self._level = level

    def update(self, value: str, at_s: float) -> Alarm | None:
        windows = self._windows
        if not windows.add(value, at_s):
            return None
        found, categories = index(windows.reference, windows.recent)
        least = threshold(self._level, categories)
        return Alarm(found, least, windows.since_s) if found > least else None

    def start_run(self) -> None:
        self._windows.start_run()

    def to_json(self) -> dict[str, Any]:
        return self._windows.to_json()

    def load_json(self, state: dict[str, Any]) -> None:
        self._windows.load_json(state, (str,))
