"""One request on its way through a run: what the dispatcher, the policies and the engines share."""

from __future__ import annotations

from dataclasses import dataclass

from driftkit.records.schema import Record


@dataclass(slots=True, eq=False)
class Job:
    """A request and what has become of it. Instants are seconds on the run's clock.

    `order` is the place in the order of arrival, `priority` an integer in vLLM's sense (lower first),
    `output_tokens` the length the engine is to produce (simulator, replay) and then what it produced;
    `counted` is false where nobody counted that. `received_tokens` had come of an output that was cut short
    on this side, at least. None is what the engine does not tell.
    """

    record: Record
    order: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int = 0
    priority: int = 0
    barrier: bool = False
    offered_s: float = 0.0
    dispatched_s: float | None = None
    started_s: float | None = None
    first_token_s: float | None = None
    finished_s: float = 0.0
    status: str = "ok"
    error: str | None = None
    finish_reason: str | None = None
    preemptions: int | None = None
    cached_tokens: int | None = None
    energy_j: float | None = None
    batch_id: int | None = None
    batch_requests: int | None = None
    counted: bool = True
    received_tokens: int | None = None
    output_words: int | None = None
    output_text: str | None = None
    client_lag_s: float | None = None
    retries: int = 0
    replica: str | None = None
