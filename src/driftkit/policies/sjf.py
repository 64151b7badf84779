"""Shortest job first: the smallest token budget over all tiers, ties by arrival."""

from typing import ClassVar

from driftkit.policies.base import StaticPolicy
from driftkit.records.schema import Record


class Sjf(StaticPolicy):
    name: ClassVar[str] = "sjf"
    reads: ClassVar[tuple[str, ...]] = ("est_total_tokens",)

    def key(self, record: Record) -> int:
        budget: int = record["est_total_tokens"]
        return budget
