"""Requests before the clock starts: connections, caches and kernels that only the first would wait for.

And a probe of whether a server orders by priority: one that does not says nothing.
"""

from __future__ import annotations

import math
from itertools import combinations

from driftkit import rng
from driftkit.engines.real_time import RealTime
from driftkit.errors import DriftkitError
from driftkit.records.completion import job_of
from driftkit.records.job import Job
from driftkit.records.schema import Record

WARMUP_PROMPT_TOKENS, WARMUP_TOKENS = 64, 16
PROBES = 16
PROBE_TOKENS = 2000  # in each prompt: all together twice as many as vLLM's largest default of a step
ROOM = 40  # for the answer, and for what a chat template adds
TOKENS_PER_NUMBER = 4  # three digits and a space, at most
CLEARLY = 0.5  # of Kendall's tau between the order of sending and that of first tokens


def warm_up(engine: RealTime, count: int, seed: int, like: Record) -> None:
    """Run `count` requests with prompts that nobody else sends; DriftkitError when one fails.

    They are chats if `like`, a request of the run, is one.
    """
    for ended in _run(
        engine,
        [_request(f"warmup-{n}", WARMUP_PROMPT_TOKENS, WARMUP_TOKENS, seed, like) for n in range(count)],
    ):
        if ended.status != "ok":
            raise DriftkitError(f"warm-up: a request was {ended.status}: {ended.error}")


def orders_by_priority(
    engine: RealTime, replicas: int, max_model_len: int | None, seed: int, like: Record
) -> bool | None:
    """Whether the server takes the lowest `priority` first; None when that could not be seen.

    A few requests with long prompts and one token to answer, each more urgent than the one before, are sent
    at once: more than fit into a step, so a queue orders them. The one that is answered first was taken in
    as it came. Of several replicas each gets as many, and those of one are compared.
    """
    jobs = []
    length = min(PROBE_TOKENS, (max_model_len or PROBE_TOKENS + ROOM) - ROOM)
    for number in range(PROBES * replicas):
        job = _request(f"probe-{number}", length, 1, seed, like)
        job.priority = PROBES * replicas - number
        jobs.append(job)
    ended = _run(engine, jobs)
    if any(job.status != "ok" for job in ended):
        return None
    pairs = []
    for replica in {job.replica for job in ended}:
        # several worker processes may have sent them in another order than they were told to
        sent = sorted(
            (job for job in ended if job.replica == replica), key=lambda job: job.dispatched_s or 0.0
        )
        sent.remove(min(sent, key=_first))
        pairs += [
            (_first(b) > _first(a)) - (_first(b) < _first(a))
            for a, b in combinations(sent, 2)
            if b.priority < a.priority
        ]
    if not pairs:
        return None
    tau = sum(pairs) / len(pairs)
    return None if abs(tau) < CLEARLY else tau < 0


def _first(job: Job) -> float:
    """When its first token came, or the whole where that was not seen."""
    return job.first_token_s or job.finished_s


def _request(name: str, length: int, tokens: int, seed: int, like: Record) -> Job:
    """A prompt of about `length` tokens, exactly so where a prompt can be token ids."""
    record: Record = {"id": f"{name}-{seed}", "arrival_s": 0.0, "max_tokens": tokens, "prompt_tokens": length}
    if like.get("prompt") is not None or like.get("messages"):  # a server may know text alone
        numbers = rng.stream(seed, name).random(-(-length // TOKENS_PER_NUMBER))
        text = " ".join(str(100 + int(u * 900)) for u in numbers)
        record |= (
            {"messages": [{"role": "user", "content": text}]} if like.get("messages") else {"prompt": text}
        )
    return job_of(record, tokens)


def _run(engine: RealTime, jobs: list[Job]) -> list[Job]:
    ended: list[Job] = []
    for order, job in enumerate(jobs):
        job.order = order
        job.dispatched_s = engine.now()
        engine.submit(job)
    while len(ended) < len(jobs):
        ended += engine.advance(math.inf) or []
    return ended
