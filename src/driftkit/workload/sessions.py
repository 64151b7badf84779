"""Conversations: how many turns, and how long people think between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from driftkit.records.toml_table import Table
from driftkit.workload.lengths import Lognormal, Mixture


@dataclass(frozen=True, slots=True)
class Sessions:
    """Turns are geometric (after each, another comes with the same probability), cut at `turns_most`.

    Think times, lognormal, run from a turn's arrival to the next one's: a generator cannot know when the
    answer will have been read.
    """

    turns_mean: float
    turns_most: int
    think: Mixture

    def turns(self, u: float) -> int:
        another = 1 - 1 / self.turns_mean
        if another == 0:
            return 1
        return min(1 + int(math.log1p(-u) / math.log(another)), self.turns_most)

    @property
    def requests(self) -> float:
        """How many turns a session has on average, as cut."""
        return self.turns_mean * (1 - (1 - 1 / self.turns_mean) ** self.turns_most)

    def think_s(self, u: float) -> float:
        return self.think.draw(u, 1)


def read(table: Table) -> Sessions:
    sessions = Sessions(
        turns_mean=table.number("turns_mean", 1, 1e4),
        turns_most=table.integer("turns_most", 1, 10_000, 10_000),
        think=Mixture(
            (
                Lognormal(
                    1.0,
                    table.number("think_median_s", 1e-6, 1e9),
                    table.number("think_sigma", 0, 10, 0.0),
                ),
            )
        ),
    )
    table.done()
    return sessions
