"""The paper's admission-time estimate: a constant per category, stretched by tier and by input length.

    estimate = int(base * bias * safety * input)
    input = min(1.5, 1 + prompt_tokens / 1000)

Constants of DriftSched (arXiv 2606.02982), section "Admission-time estimate". They know the paper's
categories and tiers; any other category counts as 256 tokens and any other tier as factor 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from driftkit.estimation.base import Estimate, prompt_text
from driftkit.records.schema import Record

BASE_TOKENS = {"short_qa": 64, "summary": 256, "technical": 384, "report": 512}
UNKNOWN_TOKENS = 256
KEYWORDS = {
    "summary": ("summarize", "summary"),
    "report": ("detailed", "report", "comprehensive"),
    "technical": ("architecture", "code", "technical"),
}
SAFETY = {"premium": 1.2, "standard": 1.0, "batch": 0.8}


def classify(text: str) -> str:
    """The category with the most keywords in the lower-cased text; ties by order, none is short_qa."""
    lower = text.lower()
    best, most = "short_qa", 0
    for category, keywords in KEYWORDS.items():
        hits = sum(map(lower.count, keywords))
        if hits > most:
            best, most = category, hits
    return best


class Table:
    """Warns, once, of records that have neither a prompt nor a category that the table knows."""

    name: ClassVar[str] = "table"
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn

    def estimate(self, record: Record) -> Estimate:
        text = prompt_text(record)
        category = classify(text) if text is not None else record.get("category")
        base = BASE_TOKENS.get(category) if category is not None else None
        if base is None:
            self._warn(f"some records have no prompt and no known category: {UNKNOWN_TOKENS} tokens assumed")
            base = UNKNOWN_TOKENS
        return Estimate(
            base_tokens=base,
            safety_ratio=SAFETY.get(record.get("tier") or "", 1.0),
            input_ratio=min(1.5, 1 + record["prompt_tokens"] / 1000),
            category=category,
        )
