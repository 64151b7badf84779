"""The tier's level first, arrival inside a tier."""

from typing import ClassVar

from driftkit.policies.base import StaticPolicy
from driftkit.records.schema import Record


class Priority(StaticPolicy):
    name: ClassVar[str] = "priority"
    reads: ClassVar[tuple[str, ...]] = ("tier_level",)

    def key(self, record: Record) -> int:
        level: int = record["tier_level"]
        return level
