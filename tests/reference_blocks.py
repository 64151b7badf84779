"""vLLM's KV blocks as they are: ids, reference counts, content hashes and the ordered free list.

Nothing is counted that could be listed. What the fast scheduler only keeps numbers of is here, block by
block, so that a number that is wrong has nowhere to hide. Rules are those of `reference_scheduler`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(eq=False)
class Block:
    number: int
    references: int = 0  # requests that hold it
    hash: int | None = None  # of what it and all blocks before it contain; None: not full, or forgotten


class BlockPool:
    """`num_gpu_blocks` blocks, one of them the null block (rule 23), which nobody ever gets."""

    def __init__(self, num_gpu_blocks: int, *, caching: bool) -> None:
        self.caching = caching
        self.null_block, *free = (Block(number) for number in range(num_gpu_blocks))
        self.free: list[Block] = free  # in the order in which they are taken
        self.cached: dict[int, list[Block]] = {}  # those of equal content in the order they were hashed
        self._chains: dict[tuple[int, Hashable], int] = {}

    def chain(self, before: int, content: Hashable) -> int:
        """The hash of a block that contains `content` and follows the block of hash `before` (0: none)."""
        return self._chains.setdefault((before, content), len(self._chains) + 1)

    def prefix(self, hashes: Iterable[int]) -> list[Block]:
        """Rule 14: the longest run of cached blocks; of several with equal content the one hashed first."""
        found: list[Block] = []
        if self.caching:
            for hash_ in hashes:
                if hash_ not in self.cached:
                    break
                found.append(self.cached[hash_][0])
        return found

    def touch(self, blocks: Iterable[Block]) -> None:
        """Rule 18: one holder more; a block that nobody held leaves the free list."""
        for block in blocks:
            if block.references == 0:
                self.free.remove(block)
            block.references += 1

    def take(self, count: int) -> list[Block]:
        """Rule 18: from the front of the free list; what a block contained before is forgotten."""
        taken, self.free = self.free[:count], self.free[count:]
        assert len(taken) == count
        for block in taken:
            assert block.references == 0
            block.references = 1
            self._forget(block)
        return taken

    def remember(self, block: Block, hash_: int) -> None:
        """Rule 19: from now on a request with this content can hit the block."""
        assert block.hash is None
        if self.caching:
            block.hash = hash_
            self.cached.setdefault(hash_, []).append(block)

    def release(self, blocks: list[Block]) -> None:
        """Rule 21: last block first, the hashed to the end of the free list, the others to its front."""
        unheld = []
        for block in reversed(blocks):
            block.references -= 1
            if block.references == 0:
                unheld.append(block)
        hashed = [block for block in unheld if block.hash is not None]
        unhashed = [block for block in unheld if block.hash is None]
        self.free = unhashed + self.free + hashed

    def _forget(self, block: Block) -> None:
        if block.hash is None:
            return
        same = self.cached[block.hash]
        same.remove(block)
        if not same:
            del self.cached[block.hash]
        block.hash = None
