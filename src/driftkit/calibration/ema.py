"""The paper's calibration: an exponential moving average of actual / base, per category.

    measured = clip(actual / base, 0.25, 3)
    bias = (1 - 0.1) * bias + 0.1 * measured

It starts at 1. The tier's and the input's factors stay outside, and cut outputs count as they are; both
are the paper's (DriftSched, arXiv 2606.02982), and what `ratio` mends.
"""

from __future__ import annotations

from typing import Any, ClassVar

from driftkit.calibration.base import History, category_of, observed_output
from driftkit.estimation.base import unbiased_tokens
from driftkit.records.schema import Record

RATE = 0.1
LOWEST, HIGHEST = 0.25, 3.0


class Ema:
    name: ClassVar[str] = "ema"
    caps = False

    def __init__(self) -> None:
        self._biases: dict[str, History] = {}

    def bias(self, record: Record, before: float) -> float:
        history = self._biases.get(category_of(record))
        return history.at(before)[0] if history is not None else 1.0

    def interval(self, record: Record, before: float) -> None:
        return None

    def learn(self, record: Record, finished_s: float) -> None:
        actual = observed_output(record)
        base = record.get("est_base_tokens") or unbiased_tokens(record)
        if actual is None or not base:
            return
        measured = min(max(actual / base, LOWEST), HIGHEST)
        history = self._biases.setdefault(category_of(record), History(1.0))
        history.append(finished_s, (1 - RATE) * history.latest[0] + RATE * measured)

    def forget(self, tenant: str, finished_s: float) -> None:
        """Nothing: it knows no tenants, and has forgotten what is 30 completions old."""

    def start_run(self) -> None:
        for history in self._biases.values():
            history.restart()

    def to_json(self) -> dict[str, Any]:
        return {"bias_ratio": {category: h.latest[0] for category, h in sorted(self._biases.items())}}

    def load_json(self, state: dict[str, Any]) -> None:
        self._biases = {category: History(_bias(bias)) for category, bias in state["bias_ratio"].items()}


def _bias(value: Any) -> float:
    """The value, if an average of clipped ratios can be that."""
    if not LOWEST <= value <= HIGHEST:
        raise ValueError(f"bias out of range: {value}")
    return float(value)
