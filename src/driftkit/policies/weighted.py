"""A cycle of picks by tier: five premium, three standard, two batch in the paper.

The cycle is read off the records: each tier (or tenant, where there are no tiers) takes as many turns as
its `weight` says, 1 without one, better tiers first. An empty tier's turn goes to the next in the cycle.
Fractions are carried over to the next cycle; where a weight is below 1, all are multiples of the smallest.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import ClassVar

from driftkit.policies.base import Queue
from driftkit.records.job import Job


class Weighted:
    name: ClassVar[str] = "weighted"
    static: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    def queue(self) -> Queue:
        return WeightedQueue()


Tier = tuple[int, str]  # (level, name): the order of the cycle


class WeightedQueue:
    """Only tiers with somebody waiting are kept, sorted, so a pick costs the same with a million tenants."""

    def __init__(self) -> None:
        self._waiting: dict[Tier, deque[Job]] = {}
        self._active: list[Tier] = []
        self._turn: Tier = (-(2**63), "")
        self._picks_left = 0
        self._carried: dict[Tier, float] = {}
        self._smallest = 1.0
        self._size = 0

    def push(self, job: Job, now: float) -> None:
        record = job.record
        tier = (record.get("tier_level") or 0, record.get("tier") or record.get("tenant") or "")
        waiting = self._waiting.setdefault(tier, deque())
        if not waiting:
            insort(self._active, tier)
        waiting.append(job)
        self._smallest = min(self._smallest, record.get("weight") or 1.0)
        self._size += 1

    def pop(self, now: float) -> Job:
        active = self._active
        place = bisect_left(active, self._turn)
        if not self._picks_left or place == len(active) or active[place] != self._turn:
            place = bisect_right(active, self._turn) % len(active)
            self._turn = active[place]
            self._picks_left = self._turns(self._turn)
        waiting = self._waiting[self._turn]
        job = waiting.popleft()
        if not waiting:
            del active[place], self._waiting[self._turn]
            self._carried.pop(self._turn, None)
        self._picks_left -= 1
        self._size -= 1
        return job

    def __len__(self) -> int:
        return self._size

    def _turns(self, tier: Tier) -> int:
        """Picks of the tier in this cycle, by the record at its head and what the last cycle left."""
        weight = self._waiting[tier][0].record.get("weight") or 1.0
        turns = self._carried.get(tier, 0.0) + weight / self._smallest
        self._carried[tier] = turns % 1
        return int(turns)
