"""Residuals as uniform numbers: the rank of each log(actual / estimate) among those before it in its cell.

While nothing drifts the residuals of a cell (tenant x category) are exchangeable. Then the rank of each among
itself and its predecessors is uniform and independent of the ranks before, whatever their distribution is
(McDonald, A CUSUM procedure based on sequential ranks, Naval Research Logistics 37, 1990). So thresholds hold
for any model and tenant, from the first completion on, without a time to train; cells can be pooled into one
sequence per tenant, and a change of the mix moves nothing.

- Memory is a histogram per cell: ranks among bins, with ties broken by a number in [0, 1), are as good.
- A cut output (censored) was going to be longer: its rank is drawn from above the cut, and in the histogram
  it goes where a longer one went before (redistribution to the right; Efron 1967), so that other caps, which
  are an input, do not look like other lengths.
- What drifts would soon be held against itself. So after the FIRST of a tenant a residual joins the histogram
  only when LAG more have come. Ranks then depend on each other a little, by what a histogram of so few
  errs; `benchmarks/drift_detection.py` measures what false alarms that costs.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from driftkit.calibration.censored import WIDEST

WIDTH = 0.05  # of a bin in log(actual / estimate): 5 % of a length
BINS = round(2 * WIDEST / WIDTH)
LAG = 200
FIRST = 200
GOLDEN = (5**0.5 - 1) / 2


def tie_breaker(nth: int) -> float:
    """Evenly spread numbers in [0, 1) that need no generator: multiples of the golden ratio (Weyl 1916)."""
    return nth * GOLDEN % 1.0


class Ranks:
    """The residuals of one cell, by bins."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BINS
        self.total = 0

    def rank(self, log_ratio: float, cut: bool, tie: float) -> tuple[float, int]:
        """The rank, in [0, 1), of one more, and its bin; `tie` in [0, 1) places it among its equals."""
        counts, total = self.counts, self.total + 1
        place = min(max(int((log_ratio + WIDEST) / WIDTH), 0), BINS - 1)
        below = sum(counts[:place])
        if not cut:
            return (below + tie * (counts[place] + 1)) / total, place
        rank = below + tie * (total - below)
        reached = below + counts[place]
        for longer in range(place + 1, BINS):
            if reached > rank:
                break
            reached += counts[longer]
            if reached > rank:
                place = longer
        return rank / total, place

    def learn(self, place: int) -> None:
        self.counts[place] += 1
        self.total += 1


class Residuals:
    """Those of one tenant."""

    def __init__(self) -> None:
        self._cells: dict[str, Ranks] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._learned = 0

    def rank(self, category: str, log_ratio: float, cut: bool, tie: float) -> float:
        """The rank of one more."""
        cell = self._cells.get(category)
        if cell is None:
            cell = self._cells[category] = Ranks()
        rank, place = cell.rank(log_ratio, cut, tie)
        waiting = self._waiting
        waiting.append((category, place))
        if self._learned < FIRST or len(waiting) > LAG:
            known, place = waiting.popleft()
            self._cells[known].learn(place)
            self._learned += 1
        return rank

    def to_json(self) -> dict[str, Any]:
        bins = {
            category: {str(place): count for place, count in enumerate(cell.counts) if count}
            for category, cell in sorted(self._cells.items())
        }
        return {"cells": bins, "waiting": list(self._waiting)}

    def load_json(self, state: dict[str, Any]) -> None:
        for category, bins in state["cells"].items():
            cell = self._cells[category] = Ranks()
            for place, count in bins.items():
                if type(count) is not int or count < 1:
                    raise ValueError(f"no count of a bin: {count}")
                cell.counts[_bin(int(place))] = count
            cell.total = sum(cell.counts)
            self._learned += cell.total
        for category, place in state["waiting"]:
            self._waiting.append((category, _bin(place)))
            self._cells.setdefault(category, Ranks())


def _bin(place: int) -> int:
    if type(place) is not int or not 0 <= place < BINS:
        raise ValueError(f"no bin: {place}")
    return place
