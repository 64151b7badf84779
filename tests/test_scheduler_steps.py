"""The simulator's scheduling step against the plain reference: any requests, any switches, every step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftkit.engines.base import Engine
from driftkit.engines.dispatcher import Arrivals, dispatch
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.power import StepPower
from driftkit.engines.sim.scheduler import Limits
from driftkit.engines.sim.steps import StepTaken
from driftkit.errors import UsageError
from driftkit.records.job import Job
from grouped_scheduler import Grouped
from recordings import Arrival, PlainReference, Recording
from reference_engine import StepByStep


@st.composite
def limits(draw: st.DrawFn, threshold: int | None = None) -> Limits:
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    slots = draw(st.integers(1, 12))
    usable_tokens = draw(st.integers(100, 200))
    return Limits(
        max_num_batched_tokens=slots + draw(st.integers(0, 40)),
        max_num_seqs=slots,
        num_gpu_blocks=-(-usable_tokens // block_size) + 1,
        block_size=block_size,
        max_model_len=100,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 5, 17])),
        enable_prefix_caching=draw(st.booleans()),
        scheduler_reserve_full_isl=draw(st.booleans()),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.07])),
        async_scheduling=draw(st.booleans()),
    )


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[int, Arrival]]:
    """Each with the step before which it comes in."""
    found = []
    due = 0
    for order in range(draw(st.integers(1, 30))):
        due += draw(st.integers(0, 6))
        prompt = draw(st.integers(1, 60))
        arrival = Arrival(
            name=f"r{order}",
            prompt=prompt,
            output=draw(st.integers(1, 39)),
            order=order,
            arrival=float(order),
            priority=draw(st.integers(0, 3)),
            stops_by=draw(st.sampled_from(["length", "stop"])),
            group=draw(st.integers(0, 2)),
            shared=draw(st.integers(0, prompt)),
        )
        found.append((due, arrival))
    return found


@settings(max_examples=150, deadline=None)
@given(requests(), limits(), st.booleans())
def test_the_group_does_what_one_by_one_does(
    plan: list[tuple[int, Arrival]], limits: Limits, by_priority: bool
) -> None:
    recording = Recording(limits, by_priority, [])
    grouped, plain = Grouped(recording), PlainReference(recording)
    depth = 2 if limits.async_scheduling else 1
    step = in_flight = 0
    while (left := bool(plan or plain.reference.running or plain.reference.waiting)) or in_flight:
        assert step < 20_000
        while plan and plan[0][0] <= step:
            _, arrival = plan.pop(0)
            grouped.add(arrival)
            plain.add(arrival)
        step += 1
        if left:
            assert grouped.plan() == plain.plan()
            in_flight += 1
        if in_flight == depth or not left:
            in_flight -= 1
            assert grouped.update() == plain.update()
            assert grouped.scheduler.cache.free == plain.reference.free
    assert not grouped.scheduler.busy
    assert grouped.scheduler.cache.free == limits.num_gpu_blocks - 1


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ((100, 200, 100, 16, 100), "under --max-num-seqs"),
        ((2048, 256, 10, 16, 1000), "holds 144 tokens"),
        ((2048, 0, 100, 16, 100), "--max-num-seqs"),
    ],
)
def test_limits_that_vllm_refuses(limits: tuple[int, int, int, int, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Limits(*limits)


@settings(max_examples=60, deadline=None)
@given(requests(), limits(), st.booleans(), st.floats(0.01, 20), st.sampled_from([0.0, 0.4, 3.0]))
def test_steps_at_once_give_the_instants_of_single_steps(
    plan: list[tuple[int, Arrival]], limits: Limits, by_priority: bool, gap_s: float, frontend_s: float
) -> None:
    step_time = StepTime(0.1, 0.01, 0.2, 0.007, 0.003, 0.004)
    power = StepPower(30.0, 100.0, 0.2, 0.007, 0.003, 0.004, 0.001, 0.005, 0.006)

    def run(engine: Engine) -> list[Job]:
        jobs = [Job({"id": a.name}, a.order, due * gap_s, a.prompt, a.output, a.priority) for due, a in plan]
        for job, (_, arrival) in zip(jobs, plan, strict=True):
            if arrival.stops_by == "length":
                job.record["max_tokens"] = arrival.output
        ended = [job for together in dispatch(Arrivals(jobs, None), engine, None, 1) for job in together]
        assert len(ended) == len(jobs)
        return jobs

    told: list[StepTaken] = []
    fast = run(Simulator(limits, step_time, by_priority=by_priority, frontend_s=frontend_s, power=power))
    seen = run(
        Simulator(
            *(limits, step_time),
            by_priority=by_priority,
            frontend_s=frontend_s,
            power=power,
            on_step=told.append,
        )
    )
    reference = StepByStep(limits, step_time, by_priority=by_priority, frontend_s=frontend_s, power=power)
    slow = run(reference)
    for one, watched, other in zip(fast, seen, slow, strict=True):
        assert one.started_s == pytest.approx(other.started_s, rel=1e-9)
        assert one.first_token_s == pytest.approx(other.first_token_s, rel=1e-9)
        assert one.finished_s == pytest.approx(other.finished_s, rel=1e-9)
        assert one.energy_j == pytest.approx(other.energy_j, rel=1e-9)
        assert one.preemptions == other.preemptions
        assert (one.finished_s, one.preemptions) == (watched.finished_s, watched.preemptions)
        assert one.energy_j == pytest.approx(watched.energy_j, rel=1e-9)
    assert len(told) == len(reference.steps)
    for step, expected in zip(told, reference.steps, strict=True):
        assert tuple(step) == pytest.approx(tuple(expected), rel=1e-9)
    joules = sum((step.power_w or 0.0) * (step.end_s - step.start_s) for step in told)
    assert sum(job.energy_j or 0.0 for job in fast) == pytest.approx(joules, rel=1e-9)
