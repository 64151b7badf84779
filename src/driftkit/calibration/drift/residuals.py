"""Residuals as uniform numbers: the rank of each log(actual / estimate) among those before it in its cell.

While nothing drifts the residuals of a cell (tenant x category) are exchangeable. Then the rank of each among
itself and its predecessors is uniform and independent of the ranks before, whatever their distribution is
(McDonald, A CUSUM procedure based on sequential ranks, Naval Research Logistics 37, 1990). So thresholds hold
for any model and tenant, from the first completion on, without a time to train; cells can be pooled into one
sequence per tenant, and a change of the mix moves nothing.

- Memory is a histogram per cell: ranks among bins, with ties broken by a number in [0, 1), are as good.
- A cut output (censored) was going to be longer. It counts up to its cut, and of those that got there the
  rest say how many get further (product limit; Kaplan and Meier, Journal of the American Statistical
  Association 53, 1958), so that other caps, which are an input, do not look like other lengths.
- What drifts is soon held against itself too, so that after N completions a drift is best seen within as many
  again. To hold it against the first N alone would be sooner, and wrong: N are few, err by chance, and the
  same way for all that come.
"""

from __future__ import annotations

from bisect import insort
from typing import Any

from driftkit.calibration.drift.base import Rank
from driftkit.estimation.base import WIDEST

WIDTH = 0.05  # of a bin in log(actual / estimate): 5 % of a length
BINS = round(2 * WIDEST / WIDTH)
GOLDEN = (5**0.5 - 1) / 2


def tie_breaker(nth: int) -> float:
    """Evenly spread numbers in [0, 1) that need no generator: multiples of the golden ratio (Weyl 1916)."""
    return nth * GOLDEN % 1.0


class Ranks:
    """The residuals of one cell, by bins: of outputs that ended there, and of those that were cut there."""

    __slots__ = ("cut", "cut_at", "ended", "total")

    def __init__(self) -> None:
        self.ended = [0] * BINS
        self.cut = [0] * BINS
        self.cut_at: list[int] = []  # the bins with such, rising
        self.total = 0

    def rank(self, log_ratio: float, cut: bool, tie: float) -> tuple[Rank, int]:
        """The rank, in [0, 1), of one more, and its bin; `tie` in [0, 1) places it among its equals."""
        ended = self.ended
        place = min(max(int((log_ratio + WIDEST) / WIDTH), 0), BINS - 1)
        get_there, among, since = 1.0, self.total + 1, 0  # the share of all, and who they are, with this one
        for at in self.cut_at:
            if at >= place:
                break
            left = among - sum(ended[since : at + 1])
            get_there *= left / among
            among, since = left - self.cut[at], at + 1
        below = sum(ended[since:place])
        if not cut:
            drawn = 1 - get_there * (1 - (below + tie * (ended[place] + 1)) / among)
            return Rank(drawn, drawn, False), place
        get_further = get_there * (1 - (below + ended[place]) / among)
        return Rank(1 - get_further * (1 - tie), 1 - get_further, True), place

    def learn(self, place: int, cut: bool, count: int = 1) -> None:
        if cut and not self.cut[place]:
            insort(self.cut_at, place)
        (self.cut if cut else self.ended)[place] += count
        self.total += count


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
        cell.learn(place, cut)
        return rank

    def to_json(self) -> dict[str, Any]:
        cells = sorted(self._cells.items())
        return {
            "ended": {category: _counts(cell.ended) for category, cell in cells},
            "cut": {category: _counts(cell.cut) for category, cell in cells},
        }

    def load_json(self, state: dict[str, Any]) -> None:
        for kind in ("ended", "cut"):
            for category, counts in state[kind].items():
                cell = self._cells.setdefault(category, Ranks())
                for place, count in counts.items():
                    if not 0 <= int(place) < BINS or type(count) is not int or count < 1:
                        raise ValueError(f"no count of a bin: {place}: {count}")
                    cell.learn(int(place), kind == "cut", count)


def _counts(bins: list[int]) -> dict[str, int]:
    return {str(place): count for place, count in enumerate(bins) if count}
