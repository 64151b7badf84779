"""From a request's record to the job that runs, and from the job that ran to its completion record."""

from __future__ import annotations

from driftkit.errors import FieldError
from driftkit.records.job import Job
from driftkit.records.schema import SCHEMA, Record, checker, shown

_check_request = checker(
    ("id", "arrival_s"),
    (
        "tenant",
        "tier",
        "tier_level",
        "weight",
        "barrier",
        "max_tokens",
        "policy",
        "priority",
        "prompt_tokens",
    ),
)
_check_sharing = checker((), ("session", "prefix_hashes", "prefix_block_tokens"))
_check_truth = checker(("trace_output_tokens",), ("trace_output_words",))


def check_request(record: Record) -> None:
    """What every engine reads of a record, checked when it is read."""
    _check_request(record)
    check_sharing(record)


def check_sharing(record: Record) -> None:
    """What says which prompts begin alike."""
    _check_sharing(record)
    hashes = record.get("prefix_hashes")
    if hashes:
        for name in hashes:
            if type(name) not in (str, int):
                raise FieldError("prefix_hashes", f"expected integers or strings, got {shown(name)}")
        if record.get("prefix_block_tokens") is None:
            raise FieldError("prefix_block_tokens", "prefix_hashes need it: expected an integer >= 1")


def check_prompt_tokens(record: Record) -> None:
    """The simulator computes with lengths, not with text."""
    if record.get("prompt_tokens") is None:
        hint = "`driftkit estimate` counts the prompt"
        raise FieldError("prompt_tokens", "expected an integer >= 1, got nothing", hint=hint)


def check_truth(record: Record) -> None:
    """The simulator needs the length that the model would have produced."""
    if record.get("trace_output_tokens") is None:
        hint = "the simulator needs the true output length; a real engine does not"
        raise FieldError("trace_output_tokens", "expected an integer >= 1, got nothing", hint=hint)
    _check_truth(record)


def job_of(record: Record, output_tokens: int, order: int = 0) -> Job:
    """The job of a checked record that the engine is to answer with `output_tokens` tokens.

    A job that is only ranked need not know its prompt's length.
    """
    return Job(
        record=record,
        order=order,
        arrival_s=float(record["arrival_s"]),
        prompt_tokens=record.get("prompt_tokens") or 0,
        output_tokens=output_tokens,
        priority=record.get("priority") or 0,
        barrier=bool(record.get("barrier")),
    )


def in_order_of_arrival(jobs: list[Job]) -> list[Job]:
    """Sorted by `(arrival_s, input order)`, numbered."""
    ordered = sorted(jobs, key=lambda job: job.arrival_s)
    for order, job in enumerate(ordered):
        job.order = order
    return ordered


def outcome(job: Job) -> Record:
    """What happened to a job that ended. Every latency counts from `offered_s`, when it was due."""
    offered, finished, started, first = job.offered_s, job.finished_s, job.started_s, job.first_token_s
    served = job.status == "ok"
    record: Record = {"offered_s": offered, "status": job.status}
    if job.error is not None:
        record["error"] = job.error
    if job.finish_reason is not None:
        record["finish_reason"] = job.finish_reason
    if served and job.counted:
        record["actual_output_tokens"] = job.output_tokens
        words = job.output_words if job.output_words is not None else _words(job)
        if words is not None:
            record["actual_output_words"] = words
    if not served and job.received_tokens:
        record["received_output_tokens"] = job.received_tokens
    if job.output_text is not None:
        record["output_text"] = job.output_text
    if job.dispatched_s is not None:
        record["dispatched_s"] = job.dispatched_s
    if job.client_lag_s is not None:
        record["client_lag_s"] = job.client_lag_s
    if served:
        if started is not None:
            record["started_s"] = started
        if first is not None:
            record["first_token_s"] = first
    record["finished_s"] = finished
    if served:
        if started is not None:
            record["queue_wait_s"] = started - offered
            record["inference_s"] = finished - started
        if first is not None:
            record["ttft_s"] = first - offered
            if job.counted and job.output_tokens > 1:
                record["tpot_s"] = (finished - first) / (job.output_tokens - 1)
        if job.preemptions is not None:
            record["preemptions"] = job.preemptions
        if job.cached_tokens is not None:
            record["cached_tokens"] = job.cached_tokens
    record["e2e_s"] = finished - offered
    if job.energy_j is not None:
        record["energy_j"] = job.energy_j
    if job.batch_id is not None:
        record["batch_id"] = job.batch_id
        record["batch_requests"] = job.batch_requests
    if job.replica is not None:
        record["replica"] = job.replica
    if job.retries:
        record["retries"] = job.retries
    return record


def _words(job: Job) -> int | None:
    """Of an output that is the trace's, or its beginning: the trace's words, by as much as was produced."""
    words, truth = job.record.get("trace_output_words"), job.record.get("trace_output_tokens")
    return round(words * job.output_tokens / truth) if words is not None and truth else None


def cut_by_the_engine(job: Job) -> bool:
    """Whether an output that was to be the trace's is shorter, though `max_tokens` allowed for more."""
    truth, cap = job.record.get("trace_output_tokens"), job.record.get("max_tokens")
    if job.finish_reason != "length" or truth is None:
        return False
    return bool(job.output_tokens < (truth if cap is None else min(truth, cap)))


def completion(job: Job, run: Record) -> Record:
    """The completion record: what came in, the run's own fields, and what happened."""
    return {**job.record, "kind": "completion", "schema": SCHEMA, **run, **outcome(job)}
