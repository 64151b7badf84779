"""Who is handed to the engine, and when: the one loop behind every engine, policy and kind of batching.

Two ways to dispatch. `engine`: every request is handed over when it is due, and the engine's own queue
orders. `client`: requests wait here, in the policy's queue, while enough are in flight. Gang batches, the
paper's, are a third loop over the same parts: fill a batch from the queue, wait for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from driftkit.engines.base import Engine
from driftkit.errors import UsageError
from driftkit.policies.base import Policy, Queue
from driftkit.records.job import Job

NOTHING_HELD = "--max-concurrency: under --dispatch engine nothing is held back"


@dataclass(frozen=True, slots=True)
class Dispatching:
    """How requests are batched and who holds the queue; UsageError for what cannot be.

    None takes the policy's way, and the engine's slots. `batch_wait` is in seconds.
    """

    batching: Literal["continuous", "static"] = "continuous"
    batch_size: int = 32
    batch_wait: float = 0.01
    dispatch: Literal["engine", "client"] | None = None
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.batching == "static" and self.dispatch == "engine":
            raise UsageError("--dispatch engine: gang batches are filled by driftkit, not by the engine")
        if self.batching == "static" and self.max_concurrency is not None:
            raise UsageError("--max-concurrency: a gang has --batch-size requests, and one runs at a time")
        if self.dispatch == "engine" and self.max_concurrency is not None:
            raise UsageError(NOTHING_HELD, hint="use --dispatch client")

    def by_engine(self, policy: Policy) -> bool:
        """Whether the engine's own queue orders; UsageError when it cannot."""
        if self.batching == "static" or self.dispatch == "client":
            return False
        if self.dispatch is None and not policy.static:
            return False
        if self.max_concurrency is not None:
            raise UsageError(NOTHING_HELD, hint="use --dispatch client")
        if not policy.static:
            raise UsageError(
                f"--dispatch engine: {policy.name} must watch the queue, an engine's priorities are fixed",
                hint="use --dispatch client",
            )
        return True

    def by_priority(self, policy: Policy, prioritised: bool) -> bool:
        """Whether the engine's queue is to be vLLM's priority queue, else it is fcfs.

        fifo is what a server without priorities runs; under equal priorities vLLM's priority queue admits
        alike, but evicts others. `prioritised`: somebody wrote priorities though the policy is fifo.
        """
        return self.by_engine(policy) and (policy.name != "fifo" or prioritised)


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

    After a barrier, the gap it was written with passes; it and what follows shift together. `jobs` gives None
    where the next has not come yet, though one may (a live source): `look` asks again. Nothing is taken that
    is due at `ends_s` or later, nor after `stop`.
    """

    def __init__(
        self, jobs: Iterable[Job | None], feedback: Feedback | None, ends_s: float = math.inf
    ) -> None:
        self._jobs = iter(jobs)
        self._feedback = feedback
        self._ends_s = ends_s
        self._head: Job | None = None
        self._before = 0.0  # when the one before the head arrived, as written
        self._shift = 0.0
        self._last_due = 0.0
        self._taken = 0
        self._ended = 0
        self._last_end = 0.0
        #: whether the next job has yet to come
        self.pending = True
        #: whether nothing more is to be taken, whatever waits
        self.stopped = False
        #: when the next job is due; infinity when there is none, it has not come, or a barrier holds it
        self.due = math.inf
        self.look()

    @property
    def more(self) -> bool:
        return self._head is not None or self.pending

    def look(self) -> None:
        """Ask for the next job, if it had not come yet."""
        if not self.pending:
            return
        try:
            head = self._head = next(self._jobs)
        except StopIteration:
            self.pending = False
            return
        if head is not None:
            self.pending = False
            if head.barrier and self._taken:
                self._pass_barrier()
            else:
                # the shift is rounded: one who comes with a barrier must not be due a digit before it
                self._fall_due(max(self._last_due, head.arrival_s + self._shift))

    def take(self) -> Job:
        """The next job, offered when it is due."""
        job = self._head
        assert job is not None, "there is no more"
        job.offered_s = self._last_due = self.due
        self._before = job.arrival_s
        self._taken += 1
        self._head = None
        self.pending = True
        self.due = math.inf
        self.look()
        if self._feedback is not None:
            self._feedback.admit(job)
        return job

    def stop(self) -> None:
        """Take no more, and hand over nothing that waits."""
        self.stopped = True
        self._close()

    def _close(self) -> None:
        self._head = None
        self.pending = False
        self.due = math.inf

    def ended(self, job: Job) -> None:
        self._ended += 1
        self._last_end = job.finished_s
        if self._feedback is not None:
            self._feedback.learn(job)
        if self.due == math.inf and self._head is not None:
            self._pass_barrier()

    def _pass_barrier(self) -> None:
        """Let the barrier at the head through if everything before it has ended."""
        if self._ended == self._taken and self._head is not None:
            due = self._last_end + (self._head.arrival_s - self._before)
            self._shift = due - self._head.arrival_s
            self._fall_due(due)

    def _fall_due(self, due: float) -> None:
        self.due = due
        if due >= self._ends_s:
            self._close()


def in_order_of_end(job: Job) -> tuple[float, float, str]:
    """The order in which completions are told: one that can be found again from the records alone."""
    return job.finished_s, job.offered_s, job.record["id"]


def dispatch(
    arrivals: Arrivals, engine: Engine, queue: Queue | None, max_concurrency: int
) -> Iterator[list[Job]]:
    """Run every job; yields those that ended together, in order of `finished_s`.

    Without a queue jobs go to the engine when they are due; with one, `max_concurrency` are in flight at
    most. At equal instants an arrival comes before a slot is freed, so a policy sees it then. Once `arrivals`
    are stopped, those in flight are waited for, and those in the queue are left.
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
            arrivals.ended(job)

    def refill(now: float) -> None:
        while queue and in_flight < max_concurrency and not arrivals.stopped:
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
        ended = engine.advance(due)
        arrivals.look()
        if ended:
            now = ended[-1].finished_s
            ended.sort(key=in_order_of_end)
            for job in ended:
                while arrivals.due <= job.finished_s:
                    arrive(arrivals.due)
                arrivals.ended(job)
            in_flight -= len(ended)
            refill(now)
        elif ended is None:
            continue
        elif math.isinf(due):
            raise RuntimeError(f"engine {engine.name} stopped with {in_flight} requests in flight")
        else:
            while arrivals.due <= due:
                arrive(arrivals.due)
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

    def arrive(until: float) -> None:
        while arrivals.due <= until:
            due = arrivals.due
            queue.push(arrivals.take(), due)

    while arrivals.more or len(queue):
        while arrivals.more and not len(queue):
            due = arrivals.due
            reached = engine.advance(due) is not None  # nothing is in flight: time passes
            arrivals.look()
            if reached and due < math.inf:
                now = max(now, due)
                arrive(now)
        if not len(queue):
            return  # stopped, or a live source that had no more
        arrive(now)
        batch: list[Job] = []
        closes = now + batch_wait
        while len(batch) < batch_size and not arrivals.stopped:
            if len(queue):
                batch.append(queue.pop(now))
                continue
            reached = engine.advance(min(closes, arrivals.due)) is not None
            arrivals.look()
            if not reached:
                continue
            if arrivals.due <= closes:
                now = max(now, arrivals.due)
                queue.push(arrivals.take(), now)
            else:
                now = closes
                break
        engine.advance(now)
        if arrivals.stopped:
            return
        left = 0
        for job in batch:
            job.dispatched_s = now
            left += engine.submit(job)
        end = now
        while left:
            ended = engine.advance(math.inf)
            if ended:
                left -= len(ended)
                end = ended[-1].finished_s
            elif ended is not None:
                raise RuntimeError(f"engine {engine.name} stopped with {left} requests in flight")
            arrivals.look()
        for job in batch:
            job.batch_id, job.batch_requests = batches, len(batch)
            if job.status == "ok":
                job.started_s, job.first_token_s, job.finished_s = job.dispatched_s, None, end
        batch.sort(key=in_order_of_end)  # the refused ended at once
        arrive(end)
        now = end
        batches += 1
        for job in batch:
            arrivals.ended(job)
        yield batch


def dispatched(arrivals: Arrivals, engine: Engine, policy: Policy, way: Dispatching) -> Iterator[list[Job]]:
    """Run every job on `engine` under `policy`, as `way` says; yields those that ended together."""
    if way.batching == "static":
        return dispatch_gangs(arrivals, engine, policy.queue(), way.batch_size, way.batch_wait)
    if way.by_engine(policy):
        return dispatch(arrivals, engine, None, engine.max_num_seqs)
    return dispatch(arrivals, engine, policy.queue(), way.max_concurrency or engine.max_num_seqs)
