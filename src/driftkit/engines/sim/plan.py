"""The order in which a policy is expected to serve requests."""

from __future__ import annotations

from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.policies.base import Policy
from driftkit.records.job import Job


def planned(jobs: list[Job], setup: Setup, policy: Policy) -> list[Job]:
    """By planned start, from a simulation with each job's expected `output_tokens`; the refused last."""
    ended = [job for together in simulate(jobs, setup, policy) for job in together]
    return sorted(ended, key=lambda job: (job.started_s is None, job.started_s or 0.0, job.order))


def ranked(jobs: list[Job], policy: Policy) -> list[Job]:
    """By `(priority, arrival)` only: the order in which the queue empties if all of a phase wait at once."""
    queue = policy.queue()
    order: list[Job] = []
    for job in jobs:
        if job.barrier:
            order += [queue.pop(job.arrival_s) for _ in range(len(queue))]
        job.offered_s = job.arrival_s
        queue.push(job, job.arrival_s)
    return order + [queue.pop(0.0) for _ in range(len(queue))]
