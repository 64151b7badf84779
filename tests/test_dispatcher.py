"""The dispatcher on the simulator: what must hold for every workload, and small runs worked by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from driftkit import rng
from driftkit.engines.dispatcher import Arrivals, dispatch, dispatch_gangs
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.scheduler import Limits
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.errors import UsageError
from driftkit.policies.base import parse
from driftkit.policies.fifo import Fifo
from driftkit.policies.sjf import Sjf
from driftkit.records.completion import in_order_of_arrival, job_of, outcome
from driftkit.records.job import Job
from workloads import MAX_MODEL_LEN, STATIC, Case, Request, cases, engines, jobs_of, workloads


def run(workload: list[Request], case: Case) -> tuple[list[Job], list[list[Job]]]:
    """All jobs in order of arrival, and what `simulate` yielded."""
    jobs = jobs_of(workload, case.policy)
    return jobs, list(simulate(jobs, case.setup, parse(case.policy)))


def refused(request: Request) -> bool:
    return request.prompt >= MAX_MODEL_LEN


def facts(job: Job) -> tuple[Any, ...]:
    return (
        *(job.record["id"], job.status, job.output_tokens, job.finish_reason, job.offered_s),
        *(job.dispatched_s, job.started_s, job.first_token_s, job.finished_s, job.preemptions, job.batch_id),
    )


# --- what must hold for every workload and every way to run it ------------------------------------


@settings(max_examples=200, deadline=None)
@given(workloads, cases())
def test_every_request_ends_once_with_its_tokens_and_its_instants_in_order(
    workload: list[Request], case: Case
) -> None:
    jobs, yielded = run(workload, case)
    ended = [job for together in yielded for job in together]
    assert all(yielded)
    assert sorted(job.order for job in ended) == list(range(len(workload)))
    assert [job.finished_s for job in ended] == sorted(job.finished_s for job in ended)
    for job, request in zip(jobs, workload, strict=True):
        assert job.dispatched_s is not None
        assert job.offered_s <= job.dispatched_s <= job.finished_s
        if refused(request):
            assert (job.status, job.output_tokens, job.started_s) == ("rejected", 0, None)
            assert job.finished_s == job.dispatched_s
            continue
        longest = min(request.cap or MAX_MODEL_LEN, MAX_MODEL_LEN - request.prompt)
        assert (job.status, job.error) == ("ok", None)
        assert job.output_tokens == min(request.output, longest)
        assert job.finish_reason == ("stop" if request.output < longest else "length")
        assert job.started_s is not None
        assert job.dispatched_s <= job.started_s < job.finished_s
        if case.gangs:
            assert job.first_token_s is None
        else:
            assert job.first_token_s is not None
            assert job.started_s < job.first_token_s <= job.finished_s
            # one token a step at most, and the first and the last are the same step only for one token
            assert (job.first_token_s == job.finished_s) == (job.output_tokens == 1)
    event("preempted" if any(job.preemptions for job in jobs) else "nobody preempted")


@settings(max_examples=60, deadline=None)
@given(workloads, cases())
def test_the_same_run_again_gives_the_same(workload: list[Request], case: Case) -> None:
    first, second = (run(workload, case)[1] for _ in range(2))
    assert [[facts(j) for j in together] for together in first] == [
        [facts(j) for j in together] for together in second
    ]


@settings(max_examples=150, deadline=None)
@given(workloads, cases())
def test_a_barrier_waits_for_everybody_before_it_and_keeps_its_gap(
    workload: list[Request], case: Case
) -> None:
    jobs, _ = run(workload, case)
    shift = Fraction(0)
    for place, job in enumerate(jobs):
        if job.barrier and place:
            last_end = max(before.finished_s for before in jobs[:place])
            assert job.offered_s >= last_end
            gap = job.arrival_s - jobs[place - 1].arrival_s
            assert job.offered_s == pytest.approx(last_end + gap, abs=1e-9)
            shift = Fraction(job.offered_s) - Fraction(job.arrival_s)
            event("a barrier held somebody")
        # what follows a barrier shifts with it, and nothing shifts otherwise
        assert job.offered_s == pytest.approx(float(Fraction(job.arrival_s) + shift), abs=1e-9)
    assert [job.offered_s for job in jobs] == sorted(job.offered_s for job in jobs)


@pytest.mark.parametrize("arrival", [33.3, 33.4, 34.1, 35.7, 40.9])
def test_a_barrier_without_a_gap_is_offered_at_the_last_end_exactly(arrival: float) -> None:
    """`arrival + (last end - arrival)` is not always the last end: one bit less, and it comes too early."""
    for steps in range(90, 110):
        jobs = plain_jobs((0.0, steps), (arrival, 1), (arrival, 1), barrier=[False, False, True])
        simulator = Simulator(
            replace(ROOMY, max_num_seqs=1, num_gpu_blocks=500, max_model_len=500),
            StepTime(1.1, 0, 0, 0, 0, 0),
            by_priority=False,
        )
        list(dispatch(Arrivals(jobs, None), simulator, None, 1))
        assert jobs[2].offered_s == jobs[1].finished_s


@settings(max_examples=150, deadline=None)
@given(workloads, cases().filter(lambda case: case.client))
def test_the_client_keeps_the_engine_as_full_as_it_may_and_no_fuller(
    workload: list[Request], case: Case
) -> None:
    jobs, _ = run(workload, case)
    assert case.setup.max_num_seqs is not None
    at_most = case.setup.max_concurrency or case.setup.max_num_seqs
    served = [job for job in jobs if job.status == "ok"]
    for job in jobs:
        assert job.dispatched_s is not None
        # at its instant of dispatch, and while it waited, counting who was handed over and had not ended
        for instant in (job.dispatched_s, job.offered_s):
            inside = [j for j in served if (j.dispatched_s or 0.0) <= instant < j.finished_s]
            assert len(inside) <= at_most
        if job.dispatched_s > job.offered_s:
            for instant in waits(job, served):
                inside = [j for j in served if (j.dispatched_s or 0.0) <= instant < j.finished_s]
                assert len(inside) == at_most
            event("somebody waited in the client")


def waits(job: Job, served: list[Job]) -> Iterator[float]:
    """Instants at which a job waited in the client: one between any two at which something happened."""
    assert job.dispatched_s is not None
    happened = {job.offered_s, job.dispatched_s}
    happened |= {j.finished_s for j in served} | {j.dispatched_s or 0.0 for j in served}
    inside = sorted(t for t in happened if job.offered_s <= t <= job.dispatched_s)
    yield from ((a + b) / 2 for a, b in pairwise(inside) if a < (a + b) / 2 < b)


@settings(max_examples=60, deadline=None)
@given(workloads, engines, st.sampled_from(STATIC))
def test_under_engine_dispatch_nobody_waits_outside(
    workload: list[Request], setup: Setup, policy: str
) -> None:
    jobs, _ = run(workload, Case(replace(setup, dispatch="engine"), policy))
    assert [job.dispatched_s for job in jobs] == [job.offered_s for job in jobs]


@settings(max_examples=150, deadline=None)
@given(workloads, cases().filter(lambda case: case.gangs))
def test_a_gang_starts_when_it_is_full_or_has_waited_and_ends_together(
    workload: list[Request], case: Case
) -> None:
    jobs, yielded = run(workload, case)
    size, wait = case.setup.batch_size, case.setup.batch_wait
    left = set(jobs)
    free = 0.0  # when the batch before ended
    for number, batch in enumerate(yielded):
        assert {(job.batch_id, job.batch_requests) for job in batch} == {(number, len(batch))}
        assert len(batch) <= size
        starts = {job.dispatched_s for job in batch}
        ends = {job.finished_s for job in batch if job.status == "ok"}
        assert len(starts) == 1
        assert len(ends) <= 1
        assert all(job.started_s == job.dispatched_s for job in batch if job.status == "ok")
        (start,) = starts
        assert start is not None
        opened = max(free, min(job.offered_s for job in left))
        if len(batch) == size:
            # full: at once, when its last member was due
            assert start == max(opened, *(job.offered_s for job in batch))
            assert start <= opened + wait
        else:
            assert start == opened + wait
        left -= set(batch)
        if len(batch) < size and ends:
            # nobody was left standing (a batch of refused prompts ends at once and may let a barrier through)
            assert all(job.offered_s > start for job in left)
        free = max(ends, default=start)
    assert not left


@settings(max_examples=100, deadline=None)
@given(workloads, engines, st.sampled_from(STATIC), st.sampled_from(["engine", "client"]))
def test_refused_prompts_disturb_nobody(
    workload: list[Request], setup: Setup, policy: str, way: Literal["engine", "client"]
) -> None:
    """But for gangs, in which they take a place, and barriers, whose gap they may end."""
    workload = [request._replace(barrier=False) for request in workload]
    assume(any(map(refused, workload)))
    everybody, again = jobs_of(workload, policy), jobs_of(workload, policy)
    good = [job for job, request in zip(again, workload, strict=True) if not refused(request)]
    for jobs in (everybody, good):
        list(simulate(jobs, replace(setup, dispatch=way), parse(policy)))
    assert [facts(job) for job in everybody if job.status == "ok"] == [facts(job) for job in good]


# --- Little's law ---------------------------------------------------------------------------------


class Census:
    """Sits where online calibration sits, and integrates how many are in the system, exactly."""

    def __init__(self) -> None:
        self.inside = 0
        self.last = self.area = Fraction(0)

    def admit(self, job: Job) -> None:
        self._pass(job.offered_s)
        self.inside += 1

    def learn(self, job: Job) -> None:
        self._pass(job.finished_s)
        self.inside -= 1

    def _pass(self, instant: float) -> None:
        now = Fraction(instant)
        assert now >= self.last, "calibration is told of things in order of time"
        self.area += self.inside * (now - self.last)
        self.last = now


@settings(max_examples=150, deadline=None)
@given(workloads, cases())
def test_littles_law_holds_exactly(workload: list[Request], case: Case) -> None:
    """The sum of end-to-end times is the integral of the number in the system, whatever the policy."""
    if case.gangs:  # a refused member of a gang ends before arrivals that are told of earlier
        workload = [request._replace(prompt=min(request.prompt, MAX_MODEL_LEN - 1)) for request in workload]
    census = Census()
    jobs = jobs_of(workload, case.policy)
    list(simulate(jobs, case.setup, parse(case.policy), feedback=census))
    assert census.inside == 0
    assert sum(Fraction(job.finished_s) - Fraction(job.offered_s) for job in jobs) == census.area
    assert sum(outcome(job)["e2e_s"] for job in jobs) == pytest.approx(float(census.area), abs=1e-9)


# --- worked by hand -------------------------------------------------------------------------------

ONE_SECOND = StepTime(1.0, 0, 0, 0, 0, 0)
ROOMY = Limits(max_num_batched_tokens=64, max_num_seqs=8, num_gpu_blocks=100, block_size=16, max_model_len=64)


def plain_jobs(*arrival_and_output: tuple[float, int], **fields: list[Any]) -> list[Job]:
    """Prompts of one token; further fields by request."""
    jobs = []
    for number, (arrival, output) in enumerate(arrival_and_output):
        record = {"id": f"r{number}", "arrival_s": arrival, "prompt_tokens": 1}
        record |= {name: values[number] for name, values in fields.items()}
        jobs.append(job_of(record, output))
    return in_order_of_arrival(jobs)


def told(jobs: list[Job]) -> list[tuple[float, ...]]:
    return [(j.offered_s, j.dispatched_s or 0.0, j.started_s or 0.0, j.finished_s) for j in jobs]


def test_gangs_by_hand() -> None:
    """Two to a batch, 10 ms to fill, every step one second, and a token per member and step.

    0.000  r0 opens a batch, which would close at 0.010
    0.005  r1 fills it; three steps for r0's three tokens; r1's single one is there after the first step
    3.005  both end; r2 waits since 0.5 and opens a batch, which would close at 3.015; r3 comes at 3.5
    3.015  nobody else came: r2 alone, two steps
    5.015  r2 ends; r3 waits since 3.5 and opens a batch; nobody else will come, which nobody knows
    5.025  r3 alone, one step
    6.025  r3 ends
    """
    jobs = plain_jobs((0.0, 3), (0.005, 1), (0.5, 2), (3.5, 1))
    simulator = Simulator(ROOMY, ONE_SECOND, by_priority=False)
    batches = list(dispatch_gangs(Arrivals(jobs, None), simulator, Fifo().queue(), 2, 0.01))
    assert [[job.record["id"] for job in batch] for batch in batches] == [["r0", "r1"], ["r2"], ["r3"]]
    expected = [
        (0.0, 0.005, 0.005, 3.005),
        (0.005, 0.005, 0.005, 3.005),
        (0.5, 3.015, 3.015, 5.015),
        (3.5, 5.025, 5.025, 6.025),
    ]
    assert told(jobs) == [pytest.approx(instants, abs=1e-9) for instants in expected]
    assert [(j.batch_id, j.batch_requests) for j in jobs] == [(0, 2), (0, 2), (1, 1), (2, 1)]
    assert outcome(jobs[1]) == {
        "offered_s": 0.005,
        "status": "ok",
        "finish_reason": "stop",
        "actual_output_tokens": 1,
        "dispatched_s": 0.005,
        "started_s": 0.005,
        "finished_s": pytest.approx(3.005),
        "queue_wait_s": 0.0,
        "inference_s": pytest.approx(3.0),
        "preemptions": 0,
        "cached_tokens": 0,
        "e2e_s": pytest.approx(3.0),
        "batch_id": 0,
        "batch_requests": 2,
    }


def test_gangs_take_their_members_in_the_policys_order() -> None:
    """r0 runs alone until 4.01; of r1-r4, there since 0.02, sjf takes r4 and r2, then r1 and r3."""
    jobs = plain_jobs(
        (0.0, 4), (0.02, 9), (0.02, 2), (0.02, 9), (0.02, 1), est_total_tokens=[5, 10, 3, 10, 2]
    )
    for job in jobs:
        job.priority = Sjf().key(job.record)
    simulator = Simulator(ROOMY, ONE_SECOND, by_priority=False)
    batches = list(dispatch_gangs(Arrivals(jobs, None), simulator, Sjf().queue(), 2, 0.01))
    assert [[job.record["id"] for job in batch] for batch in batches] == [["r0"], ["r2", "r4"], ["r1", "r3"]]
    # full batches start at once: 4.01 + 2 steps, + 9 steps
    ends = [batch[0].finished_s for batch in batches]
    assert ends == pytest.approx([4.01, 6.01, 15.01])


def test_a_barrier_by_hand() -> None:
    """r0 ends at 3; r1 is held, though written for 1.0, and comes its gap of 1.0 after that: at 4.

    r2 was written 0.5 after r1 and stays so, at 4.5; r1's step runs from 4 to 5, so r2 starts at 5.
    """
    jobs = plain_jobs((0.0, 3), (1.0, 1), (1.5, 1), barrier=[False, True, False])
    simulator = Simulator(ROOMY, ONE_SECOND, by_priority=False)
    ended = list(dispatch(Arrivals(jobs, None), simulator, None, 8))
    assert [[job.record["id"] for job in together] for together in ended] == [["r0"], ["r1"], ["r2"]]
    assert told(jobs) == [(0, 0, 0, 3), (4, 4, 4, 5), (4.5, 4.5, 5, 6)]
    assert [job.arrival_s for job in jobs] == [0.0, 1.0, 1.5]


def test_a_client_with_one_place_by_hand() -> None:
    """One at a time: r0 0-2, then the shorter of those waiting (r2), then r1, which was there first."""
    jobs = plain_jobs((0.0, 2), (0.5, 3), (1.0, 1), est_total_tokens=[3, 4, 2])
    for job in jobs:
        job.priority = Sjf().key(job.record)
    simulator = Simulator(ROOMY, ONE_SECOND, by_priority=False)
    list(dispatch(Arrivals(jobs, None), simulator, Sjf().queue(), 1))
    assert told(jobs) == [(0, 0, 0, 2), (0.5, 3, 3, 6), (1.0, 2, 2, 3)]


def test_one_who_comes_as_a_place_is_freed_is_considered_for_it() -> None:
    """r2, the shortest, comes at the very instant r0 ends: it is served before r1, who waited."""
    jobs = plain_jobs((0.0, 2), (0.5, 3), (2.0, 1), est_total_tokens=[3, 4, 2])
    for job in jobs:
        job.priority = Sjf().key(job.record)
    simulator = Simulator(ROOMY, ONE_SECOND, by_priority=False)
    list(dispatch(Arrivals(jobs, None), simulator, Sjf().queue(), 1))
    assert told(jobs) == [(0, 0, 0, 2), (0.5, 3, 3, 6), (2.0, 2, 2, 3)]


def test_an_input_of_refused_prompts_only_ends() -> None:
    jobs = [job_of({"id": f"r{i}", "arrival_s": float(i), "prompt_tokens": 64}, 1) for i in range(3)]
    jobs[2].barrier = True
    for queue in (None, Fifo().queue()):
        simulator = Simulator(ROOMY, ONE_SECOND, by_priority=False)
        ended = list(dispatch(Arrivals(in_order_of_arrival(jobs), None), simulator, queue, 1))
        assert [[(j.status, j.finished_s) for j in together] for together in ended] == [
            [("rejected", 0.0)],
            [("rejected", 1.0)],
            [("rejected", 2.0)],
        ]
    assert outcome(jobs[0]) == {
        "offered_s": 0.0,
        "status": "rejected",
        "error": "prompt of 64 tokens, max_model_len 64",
        "dispatched_s": 0.0,
        "finished_s": 0.0,
        "e2e_s": 0.0,
    }


@pytest.mark.parametrize(
    ("options", "policy", "says"),
    [
        ({"dispatch": "engine"}, "weighted", "weighted must watch the queue"),
        ({"dispatch": "engine", "batching": "static"}, "fifo", "filled by driftkit"),
        ({"dispatch": "engine", "max_concurrency": 3}, "fifo", "nothing is held back"),
        ({"max_concurrency": 3}, "fifo", "nothing is held back"),
        ({"batching": "static", "max_concurrency": 3}, "fifo", "--batch-size"),
    ],
)
def test_ways_to_dispatch_that_cannot_be(options: dict[str, Any], policy: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        simulate(jobs_of([Request(0, 1, 1, None, 0, False)], policy), Setup(**options), parse(policy))


# --- against queueing theory ----------------------------------------------------------------------


@pytest.mark.parametrize(("load", "steps"), [(0.3, 1), (0.6, 1), (0.6, 4)])
def test_one_slot_and_poisson_arrivals_wait_as_md1_says(load: float, steps: int) -> None:
    """Pollaczek-Khinchine for a constant service D: mean wait = load * D / (2 * (1 - load)).

    With D = 1 s: 0.3 -> 0.214 s, 0.6 -> 0.75 s. Twenty independent runs of 1,000, started empty, which
    biases little at these loads; four standard errors over the runs.
    """
    step_time = StepTime(1.0 / steps, 0, 0, 0, 0, 0)
    limits = replace(ROOMY, max_num_seqs=1)
    means = []
    for seed in range(20):
        gaps = -np.log1p(-rng.stream(seed, "test/md1").random(1000)) / load
        jobs = plain_jobs(*((arrival, steps) for arrival in np.cumsum(gaps).tolist()))
        list(dispatch(Arrivals(jobs, None), Simulator(limits, step_time, by_priority=False), None, 1))
        means.append(sum((job.started_s or 0.0) - job.offered_s for job in jobs) / len(jobs))
    expected = load / (2 * (1 - load))
    error = float(np.std(means, ddof=1)) / math.sqrt(len(means))
    assert abs(float(np.mean(means)) - expected) < 4 * error
    assert error < 0.05 * expected  # or the line above would say nothing


def test_what_came_before_the_end_of_the_run_is_served_though_it_waits() -> None:
    jobs = in_order_of_arrival(
        [
            job_of({"id": str(n), "arrival_s": n / 8, "prompt_tokens": 10, "trace_output_tokens": 50}, 50)
            for n in range(8)
        ]
    )
    setup = Setup(dispatch="client", max_concurrency=1)
    ended = [job for together in simulate(jobs, setup, Fifo(), ends_s=0.5) for job in together]
    assert [job.record["id"] for job in ended] == ["0", "1", "2", "3"]
    assert ended[-1].dispatched_s is not None
    assert ended[-1].dispatched_s > 0.5
