"""Requests before the clock starts: connections, caches and kernels that only the first would wait for.

And a probe of whether a server orders by priority: one that does not says nothing.
"""

from __future__ import annotations

import math

from driftkit import rng
from driftkit.engines.real_time import RealTime
from driftkit.errors import DriftkitError
from driftkit.records.completion import job_of
from driftkit.records.job import Job
from driftkit.records.schema import Record

WARMUP_WORDS, WARMUP_TOKENS = 64, 16
PROBES = 8
CLEARLY = 0.5  # of Kendall's tau between the order of sending and that of first tokens


def warm_up(engine: RealTime, count: int, seed: int, like: Record) -> None:
    """Run `count` requests with prompts that nobody else sends; DriftkitError when one fails.

    They are chats if `like`, a request of the run, is one.
    """
    for ended in _run(
        engine, [_request(f"warmup-{n}", WARMUP_WORDS, WARMUP_TOKENS, seed, like) for n in range(count)]
    ):
        if ended.status != "ok":
            raise DriftkitError(f"warm-up: a request was {ended.status}: {ended.error}")


def orders_by_priority(engine: RealTime, prompt_tokens: int, seed: int, like: Record) -> bool | None:
    """Whether the server takes the lowest `priority` first; None when that could not be seen.

    A few requests with long prompts and one token to answer, each more urgent than the one before, are sent
    at once: more than fit into a step, so a queue orders them. The first is taken in as it comes.
    """
    jobs = []
    for number in range(PROBES):
        job = _request(f"probe-{number}", prompt_tokens, 1, seed, like)
        job.priority = PROBES - number
        jobs.append(job)
    ended = _run(engine, jobs)
    if any(job.status != "ok" for job in ended):
        return None
    first = [job.first_token_s or job.finished_s for job in sorted(ended, key=lambda job: job.order)][1:]
    pairs = [
        (first[b] > first[a]) - (first[b] < first[a])
        for a in range(len(first))
        for b in range(a + 1, len(first))
    ]
    tau = sum(pairs) / len(pairs)
    return None if abs(tau) < CLEARLY else tau < 0


def _request(name: str, words: int, tokens: int, seed: int, like: Record) -> Job:
    stream = rng.stream(seed, name)
    text = " ".join(str(int(u * 1000)) for u in stream.random(words))
    chat = bool(like.get("messages"))
    record: Record = {"id": name, "arrival_s": 0.0, "max_tokens": tokens}
    record |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    job = job_of(record, tokens)
    job.prompt_tokens = words
    return job


def _run(engine: RealTime, jobs: list[Job]) -> list[Job]:
    ended: list[Job] = []
    for order, job in enumerate(jobs):
        job.order = order
        job.dispatched_s = engine.now()
        engine.submit(job)
    while len(ended) < len(jobs):
        ended += engine.advance(math.inf) or []
    return ended
