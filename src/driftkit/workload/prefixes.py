"""What prompts begin with and share: system prompts, and in a session everything said before.

A prompt is named block by block. A block's hash stands for it and all before it, so equal hashes at equal
places are equal beginnings, which a server with a prefix cache computes once. As in vLLM only whole blocks
count. Blocks that nothing else can begin with (the new part of a single request) are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass

from driftkit import rng
from driftkit.records.schema import MOST
from driftkit.records.toml_table import Table

BLOCK_TOKENS = 16  # vLLM's


@dataclass(frozen=True, slots=True)
class Prefix:
    """`tokens` that the prompts of everybody who names this prefix begin with, in one of `variants`."""

    name: str
    tokens: int
    variants: int

    def variant(self, u: float) -> str:
        return f"{self.name}\0{int(u * self.variants)}"


def read(table: Table, name: str) -> Prefix:
    prefix = Prefix(name, table.integer("tokens", 1, MOST), table.integer("variants", 1, MOST, 1))
    table.done()
    return prefix


def extend(hashes: list[int], blocks: int, seed: int, owner: str) -> None:
    """Make `hashes` name `blocks` blocks; those that are new are `owner`'s."""
    hashes.extend(rng.keyed(seed, f"prefix\0{owner}", str(place)) for place in range(len(hashes), blocks))
