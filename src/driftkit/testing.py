"""Checks for policies and engines of other packages; driftkit's own pass them too.

    from driftkit.testing import check_policy, check_engine
    check_policy(MyPolicy)

Each raises AssertionError that says what does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from driftkit import rng
from driftkit.engines.base import Engine
from driftkit.engines.dispatcher import Arrivals, dispatch
from driftkit.engines.real_time import RealTime
from driftkit.policies.base import EXACT, Policy, StaticPolicy, describe, parse
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.job import Job


def sample_jobs(count: int = 60, seed: int = 0) -> list[Job]:
    """Jobs of three tiers with every field that policies read, in order of arrival, some at one instant."""
    stream = rng.stream(seed, "testing")
    jobs = []
    for number in range(count):
        gap_u, prompt_u, output_u, tier_u = stream.random(4).tolist()
        level = 1 + int(tier_u * 3)
        prompt, output = 1 + int(prompt_u * 80), 1 + int(output_u * 60)
        record = {
            "id": f"job-{number}",
            "arrival_s": round(number * 0.05 + (gap_u > 0.5) * gap_u, 6) if number % 7 else 0.05 * number,
            "tenant": f"tenant-{level}",
            "tier": f"tier-{level}",
            "tier_level": level,
            "weight": 4 - level,
            "prompt_tokens": prompt,
            "max_tokens": 60,
            "trace_output_tokens": output,
            "est_output_tokens": 30,
            "est_total_tokens": prompt + 30,
        }
        jobs.append(job_of(record, output))
    return in_order_of_arrival(jobs)


def check_policy(cls: Callable[[], Policy]) -> None:
    """A policy with its default knobs: its name finds it again, its keys are stable integers that jq can
    hold, and its queue gives back every job once, in an order that is the same every time."""
    policy = cls()
    spec = describe(policy)
    assert describe(parse(spec)) == spec, f"{spec!r} is not found again by its own name"
    assert policy.static == isinstance(policy, StaticPolicy), "static policies derive from StaticPolicy"
    orders = []
    for _ in range(2):
        jobs = sample_jobs()
        if isinstance(policy, StaticPolicy):
            for job in jobs:
                key = policy.key(job.record)
                assert type(key) is int, f"key of {job.record['id']}: {key!r} is not an integer"
                assert abs(key) < EXACT, f"key {key} is not exact in jq"
                assert key == policy.key(dict(job.record)), "a key must depend on the record alone"
                job.priority = key
        orders.append(_emptied(policy, jobs))
        names = sorted(job.record["id"] for job in jobs)
        assert sorted(orders[-1]) == names, "the queue lost or repeated jobs"
    assert orders[0] == orders[1], "the same jobs came out in another order the second time"


def _emptied(policy: Policy, jobs: list[Job]) -> list[str]:
    """Ids as the queue gives them, two pushes to a pop, then the rest."""
    queue = policy.queue()
    order: list[str] = []
    for place, job in enumerate(jobs):
        job.offered_s = job.arrival_s
        queue.push(job, job.arrival_s)
        if place % 2:
            order.append(queue.pop(job.arrival_s).record["id"])
        assert len(queue) == place + 1 - len(order), "len() of the queue is not what is in it"
    while len(queue):
        order.append(queue.pop(jobs[-1].arrival_s).record["id"])
    return order


def check_engine(make: Callable[[], Engine]) -> None:
    """An engine of at least 140 tokens of context: every job ends once, together means at one instant
    unless its clock is the wall's, instants are in order, and nothing is computed for a job before it was
    handed over."""
    jobs = sample_jobs()
    engine = make()
    last = -math.inf
    ended: list[Job] = []
    for together in dispatch(Arrivals(jobs, None), engine, None, engine.max_num_seqs):
        ends = [job.finished_s for job in together]
        if not isinstance(engine, RealTime):
            assert len(set(ends)) == 1, "advance() returned jobs of several instants"
        assert min(ends) >= last, "time ran backwards between two calls of advance()"
        last = max(ends)
        ended += together
    assert sorted(map(id, ended)) == sorted(map(id, jobs)), "some job did not end, or ended twice"
    for job in ended:
        name = job.record["id"]
        assert job.status == "ok", f"{name} was {job.status}: {job.error}"
        assert job.dispatched_s is not None, f"{name} was never handed over"
        assert job.started_s is not None, f"{name} has no started_s"
        first = job.first_token_s if job.first_token_s is not None else job.finished_s
        instants = (job.offered_s, job.dispatched_s, job.started_s, first, job.finished_s)
        assert list(instants) == sorted(instants), f"{name}: instants out of order: {instants}"
        assert job.output_tokens == job.record["trace_output_tokens"], f"{name}: tokens were lost"
