"""The true length, cut where the engine will cut it: what no estimator can beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from driftkit.estimation.base import Estimate
from driftkit.records.schema import Record


class Oracle:
    name: ClassVar[str] = "oracle"
    reads: ClassVar[tuple[str, ...]] = ("trace_output_tokens",)

    def __init__(self, warn: Callable[[str], None]) -> None:
        pass

    def estimate(self, record: Record) -> Estimate:
        tokens = record["trace_output_tokens"]
        cap = record.get("max_tokens")
        return Estimate(base_tokens=min(tokens, cap or tokens), category=record.get("category"))
