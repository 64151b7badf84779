"""Who is handed to the engine, and when: the one loop behind every engine, policy and kind of batching.

Two ways to dispatch. `engine`: every request is handed over when it is due, and the engine's own queue
orders. `client`: requests wait here, in the policy's queue, while enough are in flight. Gang batches, the
paper's, are a third loop over the same parts: fill a batch from the queue, wait for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from driftkit.engines.base import Engine
from driftkit.policies.base import Queue
from driftkit.records.job import Job


class Feedback(Protocol):
    """Online calibration: asked when a request arrives, told when one has finished."""

    def admit(self, job: Job) -> None:
        """Estimate the job with what had finished strictly before `job.offered_s`; set its priority."""
        ...

    def learn(self, job: Job) -> None:
        """A job has ended. Called in order of `(finished_s, offered_s, id)`."""
        ...


class Arrivals:
    """The jobs in order of arrival, on the run's clock: a barrier holds until everything before has ended.

    After a barrier, the gap it was written with passes; it and what follows shift together.
    """

    def __init__(self, jobs: Iterable[Job], feedback: Feedback | None) -> None:
        self._jobs = iter(jobs)
        self._feedback = feedback
        self._head = next(self._jobs, None)
        self._gap = 0.0  # between the head and the one before it, as written
        self._shift = 0.0
        self._taken = 0
        self._ended = 0
        self._last_end = 0.0
        #: when the next job is due; infinity when there is none or a barrier holds it
        self.due = math.inf if self._head is None else self._head.arrival_s

    @property
    def more(self) -> bool:
        return self._head is not None

    def take(self) -> Job:
        """The next job, offered when it is due."""
        job = self._head
        assert job is not None, "there is no more"
        job.offered_s = self.due
        self._taken += 1
        head = self._head = next(self._jobs, None)
        if head is None:
            self.due = math.inf
        elif head.barrier:
            self._gap = head.arrival_s - job.arrival_s
            self.due = math.inf
            self._pass_barrier()
        else:
            # the shift is rounded: one who comes with a barrier must not be due a digit before it
            self.due = max(self.due, head.arrival_s + self._shift)
        if self._feedback is not None:
            self._feedback.admit(job)
        return job

    def ended(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._ended += 1
            self._last_end = job.finished_s
            if self._feedback is not None:
                self._feedback.learn(job)
        if self.due == math.inf and self.more:
            self._pass_barrier()

    def _pass_barrier(self) -> None:
        """Let the barrier at the head through if everything before it has ended."""
        if self._ended == self._taken and self._head is not None:
            self.due = self._last_end + self._gap
            self._shift = self.due - self._head.arrival_s


def in_order_of_end(job: Job) -> tuple[float, float, str]:
    """The order in which completions are told: one that can be found again from the records alone."""
    return job.finished_s, job.offered_s, job.record["id"]


def dispatch(
    arrivals: Arrivals, engine: Engine, queue: Queue | None, max_concurrency: int
) -> Iterator[list[Job]]:
    """Run every job; yields those that ended together, in order of `finished_s`.

    Without a queue jobs go to the engine when they are due; with one, `max_concurrency` are in flight at
    most. At equal instants an arrival comes before a completion, so a policy sees it when a slot is freed.
    """
    in_flight = 0
    refused: list[Job] = []

    def hand_over(job: Job, now: float) -> None:
        nonlocal in_flight
        job.dispatched_s = now
        if engine.submit(job):
            in_flight += 1
        else:
            refused.append(job)
            arrivals.ended([job])

    def refill(now: float) -> None:
        while queue and in_flight < max_concurrency:
            hand_over(queue.pop(now), now)

    def arrive(now: float) -> None:
        job = arrivals.take()
        if queue is None:
            hand_over(job, now)
        else:
            queue.push(job, now)
            refill(now)

    while arrivals.more or in_flight:
        due = arrivals.due
        ended = engine.advance(due) if in_flight else []
        until = ended[0].finished_s if ended else due
        if math.isinf(until):
            raise RuntimeError(f"engine {engine.name} stopped with {in_flight} requests in flight")
        while arrivals.due <= until:
            arrive(arrivals.due)
        if ended:
            in_flight -= len(ended)
            ended.sort(key=in_order_of_end)
            arrivals.ended(ended)
            refill(until)
        if refused:
            yield refused[:]
            refused.clear()
        if ended:
            yield ended


def dispatch_gangs(
    arrivals: Arrivals, engine: Engine, queue: Queue, batch_size: int, batch_wait: float
) -> Iterator[list[Job]]:
    """The paper's gang batches: pop up to `batch_size`, wait `batch_wait` s at most to fill, run, repeat.

    Every member ends when the batch's longest ends, and its first token is not seen. Yields whole batches.
    """
    now = 0.0
    batches = 0
    while arrivals.more or len(queue):
        if not len(queue):
            now = max(now, arrivals.due)
        while arrivals.due <= now:
            due = arrivals.due
            queue.push(arrivals.take(), due)
        batch = [queue.pop(now)]
        closes = now + batch_wait
        while len(batch) < batch_size:
            if len(queue):
                batch.append(queue.pop(now))
            elif arrivals.due <= closes:
                now = max(now, arrivals.due)
                queue.push(arrivals.take(), now)
            else:
                now = closes
                break
        left = 0
        for job in batch:
            job.dispatched_s = now
            left += engine.submit(job)
        end = now
        while left:
            ended = engine.advance(math.inf)
            left -= len(ended)
            end = ended[0].finished_s
        for job in batch:
            job.batch_id, job.batch_requests = batches, len(batch)
            if job.status == "ok":
                job.started_s, job.first_token_s, job.finished_s = now, None, end
        batch.sort(key=in_order_of_end)  # the refused ended at once
        while arrivals.due <= end:
            due = arrivals.due
            queue.push(arrivals.take(), due)
        now = end
        batches += 1
        arrivals.ended(batch)
        yield batch
