"""The tier's level, less a little for every second waited, so that nobody waits for ever.

The paper picks the smallest `level - rate * waited`. With `waited = now - arrival`, `now` is the same for
everybody in the queue, so the order is that of `level / rate + arrival`: a key that never changes.
"""

from typing import ClassVar

from driftkit.policies.base import StaticPolicy
from driftkit.records.schema import Record


class Aging(StaticPolicy):
    """`rate` is in levels per second waited (the paper: 0.01, so a tier is worth 100 seconds)."""

    name: ClassVar[str] = "aging"
    reads: ClassVar[tuple[str, ...]] = ("tier_level", "arrival_s")

    def __init__(self, rate: float = 0.01) -> None:
        if not 1e-6 <= rate < float("inf"):
            raise ValueError(f"rate: expected a number >= 0.000001, got {rate:g}")
        self.rate = rate

    def key(self, record: Record) -> int:
        seconds: float = record["tier_level"] / self.rate + record["arrival_s"]
        return round(seconds * 1e6)
