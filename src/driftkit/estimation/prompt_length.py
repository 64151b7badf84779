"""As long as the prompt: what most shortest-job-first proposals for serving engines assume."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from driftkit.estimation.base import Estimate
from driftkit.records.schema import Record


class PromptLength:
    name: ClassVar[str] = "prompt-length"
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, warn: Callable[[str], None]) -> None:
        pass

    def estimate(self, record: Record) -> Estimate:
        return Estimate(base_tokens=record["prompt_tokens"], category=record.get("category"))
