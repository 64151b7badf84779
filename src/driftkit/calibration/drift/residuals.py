"""Residuals as uniform numbers: the rank of each log(actual / estimate) among those before it in its cell.

While nothing drifts the residuals of a cell (tenant x category) are exchangeable. Then the rank of each among
itself and its predecessors is uniform and independent of the ranks before, whatever their distribution is
(McDonald, A CUSUM procedure based on sequential ranks, Naval Research Logistics 37, 1990). So thresholds hold
for any model and tenant, from the first completion on, without a time to train; cells can be pooled into one
sequence per tenant, and a change of the mix moves nothing.

- Memory is a histogram per cell: ranks among bins, with ties broken by a number in [0, 1), are as good.
- A cut output (censored) was going to be longer: its rank is drawn from above the cut, and in the histogram
  it goes where a longer one went before, or beyond them all (redistribution to the right; Efron 1967), so
  that other caps, which are an input, do not look like other lengths.
- What drifts is soon held against itself too, so that after N completions a drift is best seen within as many
  again. To hold it against the first N alone would be sooner by little and wrong by much: they err, the same
  way for all that come, and of tenants with 500 completions each ten times as many would raise a false alarm.
"""

from __future__ import annotations

from typing import Any

from driftkit.calibration.censored import WIDEST
from driftkit.calibration.drift.base import Rank

WIDTH = 0.05  # of a bin in log(actual / estimate): 5 % of a length
BINS = round(2 * WIDEST / WIDTH)
BEYOND = BINS  # the place of what was cut when none longer was known
GOLDEN = (5**0.5 - 1) / 2


def tie_breaker(nth: int) -> float:
    """Evenly spread numbers in [0, 1) that need no generator: multiples of the golden ratio (Weyl 1916)."""
    return nth * GOLDEN % 1.0


class Ranks:
    """The residuals of one cell, by bins."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (BINS + 1)
        self.total = 0

    def rank(self, log_ratio: float, cut: bool, tie: float) -> tuple[Rank, int]:
        """The rank, in [0, 1), of one more, and its bin; `tie` in [0, 1) places it among its equals."""
        counts, total = self.counts, self.total + 1
        bins = min(max((log_ratio + WIDEST) / WIDTH, 0.0), BINS - 1)
        place = int(bins)
        below = sum(counts[:place])
        if not cut:
            drawn = (below + tie * (counts[place] + 1)) / total
            return Rank(drawn, drawn, False), place
        reached = below + counts[place]
        least = below + (bins - place) * counts[place]  # so much of its bin is shorter than the cut
        drawn = least + tie * (total - least)
        if drawn >= self.total - counts[BEYOND]:
            place = BEYOND
        while reached <= drawn and place < BEYOND:
            place += 1
            reached += counts[place]
        return Rank(drawn / total, least / total, True), place

    def learn(self, place: int) -> None:
        self.counts[place] += 1
        self.total += 1


class Residuals:
    """Those of one tenant."""

    def __init__(self) -> None:
        self._cells: dict[str, Ranks] = {}

    def rank(self, category: str, log_ratio: float, cut: bool, tie: float) -> Rank:
        """The rank of one more."""
        cell = self._cells.get(category)
        if cell is None:
            cell = self._cells[category] = Ranks()
        rank, place = cell.rank(log_ratio, cut, tie)
        cell.learn(place)
        return rank

    def to_json(self) -> dict[str, Any]:
        bins = {
            category: {str(place): count for place, count in enumerate(cell.counts) if count}
            for category, cell in sorted(self._cells.items())
        }
        return {"cells": bins}

    def load_json(self, state: dict[str, Any]) -> None:
        for category, bins in state["cells"].items():
            cell = self._cells[category] = Ranks()
            for place, count in bins.items():
                if type(count) is not int or count < 1:
                    raise ValueError(f"no count of a bin: {count}")
                cell.counts[_bin(int(place))] = count
            cell.total = sum(cell.counts)


def _bin(place: int) -> int:
    if type(place) is not int or not 0 <= place <= BEYOND:
        raise ValueError(f"no bin: {place}")
    return place
