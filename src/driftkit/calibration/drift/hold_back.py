"""Completions put back into the order in which they began.

Completions come in order of their ends, so that the short ones are first when a load begins and the long
ones last when it ends: that looks like drift and is none. In the order of their beginnings they have no such
bias. Each is held back until whatever began before it must have ended: twice the longest that any has taken
lately. What is held is bounded; the oldest then goes early.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 10_000
PATIENCE = 2.0  # with 1, of those that begin a run together the short ones would go first
FADING = 0.999  # one that took for ever is not waited for, for ever


class HoldBack(Generic[T]):
    def __init__(self) -> None:
        self._held: list[tuple[float, float, str, int, T]] = []
        self._longest_s = 0.0
        self._now_s = 0.0
        self._count = 0

    def push(self, began_s: float, due_s: float, name: str, ended_s: float, item: T) -> list[T]:
        """Hold `item`; what need not wait any longer comes out, by when it began, was due, and its name."""
        if ended_s > self._now_s:
            self._now_s = ended_s
        longest_s, took_s = self._longest_s * FADING, ended_s - began_s
        self._longest_s = took_s if took_s > longest_s else longest_s
        self._count += 1
        held = self._held
        heappush(held, (began_s, due_s, name, self._count, item))
        before = self._now_s - PATIENCE * self._longest_s
        out: list[T] = []
        while held and (held[0][0] <= before or len(held) > MOST):
            out.append(heappop(held)[-1])
        return out

    def end(self) -> Iterator[T]:
        """All that is held; a new run may begin."""
        while self._held:
            yield heappop(self._held)[-1]
        self._longest_s = self._now_s = 0.0
