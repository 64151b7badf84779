"""KV blocks: how many are free, and which of the free ones still hold content that a request can hit.

vLLM keeps free blocks in a list and takes from its front. A freed block whose content has a name (a hash)
goes to the end of the list, the tail of a request before its head; a block without one goes to the front
(VLLM.md, rule 21). So the list is always some nameless blocks, then the named ones in the order in which
they were freed, and is kept here as numbers: how many are `_nameless`, and how many named blocks were ever
freed (`_freed`) and ever taken (`_taken`). A named block's place in that order, its `place`, tells whether it
was taken since: content at `_taken` or later is still there. What is hit leaves a hole in the order.

Nobody else can hit a request's own content, so that is a range of places, whole. Content that requests share,
named by `prefix_hashes` or `session`, is tracked block by block.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence


class Block:
    """A full block whose content others may share: how many requests hold it, or its place once free."""

    __slots__ = ("holders", "name", "place")

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.holders = 1
        self.place = -1


class KVCache:
    """`free` counts the free blocks and may be lowered directly: that is how blocks are taken."""

    def __init__(self, blocks: int) -> None:
        self.free = blocks
        self._most = 2 * blocks + 64  # entries kept of what was free; of what is, there are `blocks` at most
        self._nameless = blocks
        self._freed = 0
        self._taken = 0
        self._holes: list[tuple[int, int]] = []  # (place, blocks) hit before they were taken; a heap
        self._in_holes = 0
        self._named: dict[Hashable, list[Block]] = {}  # the longest there first
        self._shared_free: deque[tuple[int, Block]] = deque()  # shared blocks by the place they were freed at

    def release(self, named: int, nameless: int) -> int:
        """Free a request's own blocks, `named` full ones and others. Returns the place of the first."""
        self._settle()
        place = self._freed
        self._freed = place + named
        self._nameless += nameless
        self.free += named + nameless
        return place

    def release_shared(self, blocks: list[Block]) -> None:
        """Let go of shared blocks, given from head to tail; those that nobody holds any more are free."""
        self._settle()
        for block in reversed(blocks):
            block.holders -= 1
            if not block.holders:
                block.place = self._freed
                self._freed += 1
                self.free += 1
                self._shared_free.append((block.place, block))
        if len(self._shared_free) > self._most:  # most were hit since
            kept = [
                entry for entry in self._shared_free if entry[1].place == entry[0] and not entry[1].holders
            ]
            self._shared_free = deque(kept)

    def left(self, place: int, blocks: int) -> int:
        """How many of a request's own `blocks`, freed at `place`, are left; the tail is taken first."""
        self._settle()
        return min(blocks, max(0, place + blocks - self._taken))

    def reuse(self, place: int, blocks: int, hit: int) -> None:
        """Take the first `hit` of the request's own `blocks` that were freed at `place` out of the list."""
        self._hole(place + blocks - hit, hit)

    def find(self, names: Sequence[Hashable], also: Callable[[int], Hashable] | None) -> list[Block]:
        """The blocks with the longest run of `names` from the first; `also` says how else one is named."""
        self._settle()
        found = []
        for index, name in enumerate(names):
            same = self._named.get(name)
            if same is None and also is not None:
                same = self._named.get(also(index))
            if same is None:
                break
            found.append(same[0])
        return found

    def hold(self, blocks: list[Block]) -> None:
        """One more request holds these; those that were free are taken out of the list."""
        for block in blocks:
            if not block.holders:
                self._hole(block.place, 1)
            block.holders += 1

    def add(self, name: Hashable) -> Block:
        """A block, taken before, is full: from now on its content can be found."""
        block = Block(name)
        self._named.setdefault(name, []).append(block)
        return block

    def _hole(self, place: int, blocks: int) -> None:
        self._settle()
        heapq.heappush(self._holes, (place, blocks))
        self._in_holes += blocks
        self.free -= blocks
        if len(self._holes) > self._most:
            self._merge_holes()

    def _merge_holes(self) -> None:
        """Holes side by side are one: between those left are free blocks, so they are not many."""
        merged: list[tuple[int, int]] = []
        for place, blocks in sorted(self._holes):
            if merged and sum(merged[-1]) == place:
                merged[-1] = (merged[-1][0], merged[-1][1] + blocks)
            else:
                merged.append((place, blocks))
        self._holes = merged  # sorted, so a heap

    def _settle(self) -> None:
        """Take from the front of the list what `free` was lowered by since the last time."""
        take = self._nameless + self._freed - self._taken - self._in_holes - self.free
        if take <= self._nameless:
            self._nameless -= take
            return
        take -= self._nameless
        self._nameless = 0
        holes = self._holes
        while holes and holes[0][0] <= self._taken + take:
            place, blocks = heapq.heappop(holes)
            take -= place - self._taken
            self._taken = place + blocks
            self._in_holes -= blocks
        self._taken += take
        shared = self._shared_free
        while shared and shared[0][0] < self._taken:
            place, block = shared.popleft()
            if not block.holders and block.place == place:  # else it was hit since
                same = self._named[block.name]
                same.remove(block)
                if not same:
                    del self._named[block.name]
