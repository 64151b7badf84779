"""A cycle of picks by tier, each as many as its weight: five, three and two in the paper.

The cycle is read off the records: each tier (or tenant, where there are no tiers) takes as many turns as
its `weight` says, 1 without one, better tiers first. An empty tier's turn goes to the next in the cycle.
Fractions are carried over to the next cycle; where a weight is below 1, all are multiples of the smallest.
"""

from collections import deque
from heapq import heappop, heappush
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
    """Tiers with somebody waiting are in one of two heaps: those still to come in this cycle, and the rest.

    So a pick costs the logarithm of the tenants, of whom there may be a million.
    """

    def __init__(self) -> None:
        self._waiting: dict[Tier, deque[Job]] = {}
        self._this_cycle: list[Tier] = []
        self._next_cycle: list[Tier] = []
        self._turn: Tier = (-(2**63), "")
        self._picks_left = 0
        self._carried: dict[Tier, float] = {}
        self._smallest = 1.0
        self._size = 0

    def push(self, job: Job, now: float) -> None:
        record = job.record
        tier = (record.get("tier_level") or 0, record.get("tier") or record.get("tenant") or "")
        waiting = self._waiting.get(tier)
        if waiting is None:
            waiting = self._waiting[tier] = deque()
            if tier != self._turn or not self._picks_left:  # else its turn is not over
                heappush(self._this_cycle if tier > self._turn else self._next_cycle, tier)
        waiting.append(job)
        self._smallest = min(self._smallest, record.get("weight") or 1.0)
        self._size += 1

    def pop(self, now: float) -> Job:
        if not self._picks_left or self._turn not in self._waiting:
            self._take_turn()
        waiting = self._waiting[self._turn]
        job = waiting.popleft()
        if not waiting:
            del self._waiting[self._turn]
            self._carried.pop(self._turn, None)
        self._picks_left -= 1
        if not self._picks_left and waiting:
            heappush(self._next_cycle, self._turn)
        self._size -= 1
        return job

    def __len__(self) -> int:
        return self._size

    def _take_turn(self) -> None:
        """On to the next tier of the cycle, or of the next one."""
        if not self._this_cycle:
            self._this_cycle, self._next_cycle = self._next_cycle, self._this_cycle
        self._turn = heappop(self._this_cycle)
        self._picks_left = self._turns(self._turn)

    def _turns(self, tier: Tier) -> int:
        """Picks of the tier in this cycle, by the record at its head and what the last cycle left."""
        weight = self._waiting[tier][0].record.get("weight") or 1.0
        turns = self._carried.get(tier, 0.0) + weight / self._smallest
        self._carried[tier] = turns % 1
        return int(turns)
