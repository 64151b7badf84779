"""First come, first served."""

from typing import ClassVar

from driftkit.policies.base import StaticPolicy
from driftkit.records.schema import Record


class Fifo(StaticPolicy):
    name: ClassVar[str] = "fifo"

    def key(self, record: Record) -> int:
        return 0
