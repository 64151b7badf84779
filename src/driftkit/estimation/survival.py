"""How long outputs are when some were cut: the survival function of lengths, as counts in bins.

Bins are single tokens up to 50, then 2 % wide: 900 of them reach a billion tokens, so what is kept is bounded
and a quantile is off by 1 % at most.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from driftkit.records.schema import MOST

#: tokens that the mean of the wider group counts for: observations of a Dirichlet process prior
PRIOR = 10.0


def _edges() -> list[int]:
    edges = [1]
    while edges[-1] <= MOST:
        edges.append(edges[-1] + max(1, edges[-1] // 50))
    return edges


EDGES = _edges()


class Curve(NamedTuple):
    """The share of outputs longer than bin `bins[i]` is `shares[i]`; both in order, the shares falling.

    Beyond the last bin nothing is known: what is left there was cut.
    """

    bins: Sequence[int]
    shares: Sequence[float]

    def over(self, tokens: int) -> float:
        """The share of outputs longer than `tokens`."""
        place = bisect_right(EDGES, tokens) - 1
        found = bisect_right(self.bins, place)
        before = self.shares[found - 1] if found else 1.0
        if not found or self.bins[found - 1] != place:
            return before
        higher = self.shares[found - 2] if found > 1 else 1.0
        part = (tokens + 1 - EDGES[place]) / (EDGES[place + 1] - EDGES[place])
        return higher + part * (before - higher)

    def quantile(self, level: float, over: int = 0) -> int:
        """The length that a share `level` of the outputs longer than `over` stays within, tokens.

        The longest that was seen, where more than the rest was cut; `over` + 1 at least.
        """
        if not self.bins:
            return over + 1
        left = self.over(over) * (1 - level)
        place = bisect_left(self.shares, -left, key=lambda share: -share)
        if place == len(self.shares):
            return max(over + 1, EDGES[self.bins[-1] + 1] - 1)
        higher = self.shares[place - 1] if place else 1.0
        first, after = EDGES[self.bins[place]], EDGES[self.bins[place] + 1]
        part = (higher - left) / (higher - self.shares[place]) if higher > left else 0.0
        return max(over + 1, min(after - 1, first + int(part * (after - first))))

    def ends(self) -> float:
        """The share of outputs of which the length is known: 1 less what was cut."""
        return 1 - self.shares[-1] if self.shares else 0.0


class Lengths:
    """Counts of outputs that ended, and of those that were cut, by length."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._cut: dict[int, int] = {}

    @property
    def count(self) -> int:
        return sum(self._ended.values()) + self.cut

    @property
    def cut(self) -> int:
        return sum(self._cut.values())

    def add(self, tokens: int, cut: bool) -> None:
        """An output of `tokens`; `cut`, when it was going to be longer."""
        counts = self._cut if cut else self._ended
        place = bisect_right(EDGES, tokens) - 1
        counts[place] = counts.get(place, 0) + 1

    def curve(self, wider: Curve | None = None) -> Curve:
        """The survival function, shrunk towards that of a wider group: Kaplan and Meier's (1958) without one,
        with one the posterior mean under a Dirichlet process prior (Susarla and Van Ryzin, 1976).

        An output that was cut at a length had not ended by then, so it comes after those that end there.
        """
        bins = sorted({*self._ended, *self._cut, *(wider.bins if wider is not None else ())})
        at_risk, share = float(self.count), 1.0
        known: list[int] = []
        shares: list[float] = []
        wide, position = 1.0, 0
        for place in bins:
            ended, prior, prior_ended = float(self._ended.get(place, 0)), 0.0, 0.0
            if wider is not None:
                prior = PRIOR * wide
                if position < len(wider.bins) and wider.bins[position] == place:
                    prior_ended = PRIOR * (wide - wider.shares[position])
                    wide = wider.shares[position]
                    position += 1
            if at_risk + prior > 0:
                share *= max(0.0, 1 - (ended + prior_ended) / (at_risk + prior))
            known.append(place)
            shares.append(share)
            at_risk -= ended + self._cut.get(place, 0)
        return Curve(known, shares)

    def to_json(self) -> list[list[int]]:
        """`[from tokens, ended, cut]` of every bin that has any."""
        bins = sorted({*self._ended, *self._cut})
        return [[EDGES[b], self._ended.get(b, 0), self._cut.get(b, 0)] for b in bins]

    @classmethod
    def from_json(cls, rows: Any) -> Lengths:
        """What `to_json` gave; ValueError or TypeError when it is something else."""
        lengths = cls()
        for tokens, ended, cut in rows:
            if type(ended) is not int or type(cut) is not int or min(ended, cut) < 0 or ended + cut == 0:
                raise ValueError(f"expected counts, got {ended} and {cut}")
            place = bisect_left(EDGES, tokens, hi=len(EDGES) - 1)
            if EDGES[place] != tokens or place in lengths._ended or place in lengths._cut:
                raise ValueError(f"no bin, or one twice: {tokens}")
            if ended:
                lengths._ended[place] = ended
            if cut:
                lengths._cut[place] = cut
        return lengths
