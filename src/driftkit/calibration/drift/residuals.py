"""Residuals as uniform numbers: the rank of each log(actual / estimate) among those before it in its cell.

While nothing drifts the residuals of a cell (tenant x category) are exchangeable. Then the rank of each among
itself and its predecessors is uniform and independent of the ranks before (Barndorff-Nielsen 1963; sequential
ranks: McDonald, A CUSUM procedure based on sequential ranks, Naval Research Logistics 37, 1990), whatever
their distribution is. So thresholds hold for any model and tenant, from the first completion on, without a
time to train; cells can be pooled into one sequence per tenant, and a change of the mix moves nothing.

Memory is a histogram per cell: ranks among bins, with ties broken by a number in [0, 1), are as good. A cut
output (censored) was going to be longer: its rank is drawn from above the cut, and in the histogram it
goes where a longer one went before (redistribution to the right; Efron 1967), so that other caps, which are
an input, do not look like other lengths.
"""

from __future__ import annotations

from driftkit.calibration.ratio import WIDEST

WIDTH = 0.05  # of a bin in log(actual / estimate): 5 % of a length
BINS = round(2 * WIDEST / WIDTH)
GOLDEN = (5**0.5 - 1) / 2


def tie_breaker(nth: int) -> float:
    """Evenly spread numbers in [0, 1) that need no generator: multiples of the golden ratio (Weyl 1916)."""
    return nth * GOLDEN % 1.0


class Ranks:
    """The residuals of one cell so far."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BINS
        self.total = 0

    def add(self, log_ratio: float, cut: bool, tie: float) -> float:
        """The rank, in [0, 1), of one more; `tie` in [0, 1) places it among its equals."""
        counts = self.counts
        place = min(max(int((log_ratio + WIDEST) / WIDTH), 0), BINS - 1)
        below = sum(counts[:place])
        self.total += 1
        if not cut:
            rank = below + tie * (counts[place] + 1)
            counts[place] += 1
            return rank / self.total
        rank = below + tie * (self.total - below)
        reached = below + counts[place]
        for longer in range(place + 1, BINS):
            if reached > rank:
                break
            reached += counts[longer]
            if reached > rank:
                place = longer
        counts[place] += 1
        return rank / self.total

    def to_json(self) -> dict[str, int]:
        return {str(place): count for place, count in enumerate(self.counts) if count}

    def load_json(self, state: dict[str, int]) -> None:
        for place, count in state.items():
            if not (0 <= int(place) < BINS and type(count) is int and count > 0):
                raise ValueError(f"no count of a bin: {place}: {count}")
            self.counts[int(place)] = count
        self.total = sum(self.counts)
