"""What an output that was cut at `max_tokens` was going to be: at least that long."""

from __future__ import annotations

import math

from driftkit.calibration.base import counted_in_words
from driftkit.records.schema import Record


def was_cut(record: Record) -> bool:
    """Whether the observed length is a lower bound. Counted in words the cap, in tokens, says nothing."""
    return record.get("finish_reason") == "length" and not counted_in_words(record)


def above(cut: float, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of a normal variable, known to lie above `cut`."""
    sigma = math.sqrt(variance)
    z = (cut - mean) / sigma
    if z > 8:  # the tail is exponential there, and erfc is about to vanish
        return cut + sigma / z, (sigma / z) ** 2
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    hazard = density / (math.erfc(z / math.sqrt(2)) / 2)
    return mean + sigma * hazard, variance * max(0.0, 1 + z * hazard - hazard * hazard)
