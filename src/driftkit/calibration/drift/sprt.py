"""Sequential probability ratio tests, one begun with every completion: have lengths moved since?

Wald's ratio (Annals of Mathematical Statistics 16, 1945) says how much likelier what came since is if lengths
have moved than if they have not. Nobody knows since when, so the ratios of all tests are added up:

    sum = (sum + 1) * ratio

Nor how they move, so that the mean of eight such sums is taken. The residual's rank as a normal score has
moved by half a deviation, up or down, as with lengths that are lognormal; or wherever an output is, it is
half or twice as likely to end there (proportional hazards), which is nearer to answers of a chat; or it is
about half of each, which is what is left to see once the moved ones are in the history too. The mean of sums
of uniform ranks, less how many they were, is a martingale: on average it takes 100,000 values or more until
it is over 100,000 (Shiryaev and Roberts; Pollak, Annals of Statistics 15, 1987; with ranks, Gordon and
Pollak, Annals of Statistics 22, 1994). Statistic and threshold are given as logarithms.

Of an output that was cut it is known that it got that far: its ratio is the chance of that, moved, over the
chance as it was. Where most outputs are cut, that more are is nearly all that longer answers show.

One wild answer is no drift: below rank LEAST and above 1 - LEAST a ratio is what it is there on average, so
that ratios of uniform ranks are 1 on average wherever outputs are cut.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, ClassVar

from driftkit.calibration.drift.base import Alarm, Rank
from driftkit.calibration.drift.page_hinkley import LEAST

ARL = 100_000  # a tenth of the others': longer answers that are mostly cut take long enough to be noticed
MOVES = 8
SHIFTS = (0.5, -0.5, 0.25, -0.25)  # of the score
HAZARDS = (0.5, 2.0, 0.75, 1.5)  # by what they were
EVEN, NEARLY = math.exp(-(0.5**2) / 2), math.exp(-(0.25**2) / 2)  # at a score of 0

_normal_quantile = NormalDist().inv_cdf


def _normal_above(score: float) -> float:
    return math.erfc(score * math.sqrt(0.5)) / 2


def _above(rank: float) -> tuple[float, ...]:
    """The chance of a higher rank after each of the moves."""
    score = _normal_quantile(rank)
    return (
        *(_normal_above(score - shift) for shift in SHIFTS),
        *((1 - rank) ** hazard for hazard in HAZARDS),
    )


LOWEST = tuple((1 - above) / LEAST for above in _above(LEAST))
HIGHEST = tuple(above / LEAST for above in _above(1 - LEAST))


def ratios(rank: Rank) -> tuple[float, ...]:
    """How much likelier it is after each move: of the score by SHIFTS, and of the hazard to HAZARDS."""
    least = rank.least
    longer = 1 - least
    if longer < LEAST:
        return HIGHEST
    if least < LEAST:
        return tuple((1 - least * ratio) / longer for ratio in LOWEST) if rank.cut else LOWEST
    if rank.cut:
        return tuple(above / longer for above in _above(least))
    root = math.sqrt(longer)
    up = math.exp(_normal_quantile(least) / 4)
    twice = up * up
    return (
        EVEN * twice,
        EVEN / twice,
        NEARLY * up,
        NEARLY / up,
        0.5 / root,
        2 * longer,
        0.75 / math.sqrt(root),
        1.5 * root,
    )


class Sprt:
    name: ClassVar[str] = "sprt"
    watches: ClassVar[tuple[str, ...]] = ("rank",)

    def __init__(self, arl: float = ARL) -> None:
        self._most = MOVES * arl
        self._sums = [0.0] * MOVES
        self._starts = [0.0] * MOVES  # the same sums, of ratios times when their tests began, s

    def update(self, value: Rank, at_s: float) -> Alarm | None:
        sums, starts = self._sums, self._starts
        total = 0.0
        for move, ratio in enumerate(ratios(value)):
            starts[move] = (starts[move] + at_s) * ratio
            sums[move] = one = (sums[move] + 1.0) * ratio
            total += one
        if total <= self._most:
            return None
        highest = max(range(MOVES), key=sums.__getitem__)
        since_s = starts[highest] / sums[highest]
        return Alarm(math.log(total / MOVES), math.log(self._most / MOVES), since_s)

    def start_run(self) -> None:
        self._starts = [0.0] * MOVES

    def to_json(self) -> dict[str, Any]:
        return {"sums": self._sums}

    def load_json(self, state: dict[str, Any]) -> None:
        self._sums = [float(one) for one in state["sums"]]
        if len(self._sums) != MOVES or not all(0 <= one <= self._most for one in self._sums):
            raise ValueError(f"sums out of range: {state}")
