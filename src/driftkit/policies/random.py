"""A random order: the yardstick for a policy that knows nothing."""

from typing import ClassVar

from driftkit import rng
from driftkit.policies.base import StaticPolicy
from driftkit.records.schema import Record


class Random(StaticPolicy):
    """Each id has its own draw under `seed`, whatever else is in the input."""

    name: ClassVar[str] = "random"
    reads: ClassVar[tuple[str, ...]] = ("id",)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def key(self, record: Record) -> int:
        return rng.keyed(self.seed, "policy/random", record["id"])
