"""A step as it was taken, for those who look on: what a plot of a run needs."""

from __future__ import annotations

from typing import NamedTuple


class StepTaken(NamedTuple):
    """Seconds on the run's clock; counts as they are once the step is planned, before anybody leaves.

    `prefill_tokens` are computed for prompts, and anew for whoever was preempted, `decode_tokens` one by one.
    `preemptions` are those since the step before. `power_w` is None where nobody knows.
    """

    start_s: float
    end_s: float
    running_requests: int
    waiting_requests: int
    prefill_tokens: int
    decode_tokens: int
    kv_blocks: int
    kv_ratio: float
    preemptions: int
    power_w: float | None
