"""The simulator's scheduling step, against real vLLM's recorded steps and against the plain reference."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.scheduler import Limits, Scheduler, Sequence
from driftkit.errors import UsageError
from driftkit.records.job import Job
from reference_scheduler import Reference, Request

RECORDING = Path(__file__).parent / "fixtures" / "vllm_cpu_steps_f3.jsonl.gz"


def sequence(
    name: str, prompt: int, output: int, arrival: float, priority: int = 0, order: int = 0
) -> Sequence:
    job = Job({"id": name}, order, arrival, prompt, output, priority)
    return Sequence(job, arrival)


def names(scheduler: Scheduler) -> list[str]:
    return [s.job.record["id"] for s in scheduler.running.values()]


def test_every_step_of_a_real_vllm_run_is_reproduced() -> None:
    with gzip.open(RECORDING, "rt") as lines:
        config, *steps = [json.loads(line) for line in lines]
    cfg = config["cfg"]
    limits = Limits(cfg["mnbt"], cfg["mns"], cfg["nb"], cfg["bs"], max_model_len=cfg["bs"] * (cfg["nb"] - 1))
    scheduler = Scheduler(limits, by_priority=False)
    order = 0
    preemptions = 0
    everyone: dict[str, Sequence] = {}
    for step in steps:
        for name, prompt, output in step["adds"]:
            everyone[name] = sequence(name, prompt, output, float(order), order=order)
            scheduler.add(everyone[name])
            order += 1
        if not step["sch"]:
            assert not scheduler.busy
            continue
        held = {name: s.job.preemptions for name, s in everyone.items()}
        before = {name: scheduler.computed(s) for name, s in everyone.items()}
        load = scheduler.schedule(0.0)
        preempted = {name for name, s in everyone.items() if s.job.preemptions > held[name]}
        preemptions += len(preempted)
        assert preempted == set(step["pre"])
        assert names(scheduler) == step["run"]
        assert scheduler.free_blocks == step["free"]
        assert scheduler.waiting == step["wait"]
        assert load.tokens == sum(step["sch"].values())
        assert load.decode_kv + load.prefill_kv == sum(step["kv"])
        finished = scheduler.update(0.0)
        assert [s.job.record["id"] for s in finished] == step["fin"]
        for (name, n), computed in zip(step["sch"].items(), step["kv"], strict=True):
            start = 0 if name in preempted or before[name] + n != computed else before[name]
            assert start + n == computed == scheduler.computed(everyone[name])
    assert len(steps) > 300
    assert preemptions == 23
    assert not scheduler.busy


arrivals = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps since the arrival before
        st.integers(1, 60),  # prompt
        st.integers(1, 40),  # output
        st.integers(0, 3),  # priority
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(
    arrivals,
    st.booleans(),
    st.sampled_from([1, 2, 4, 16]),
    st.integers(100, 160),
    st.integers(1, 12),
    st.integers(0, 40),
    st.sampled_from([0, 0, 5, 17]),
)
def test_the_group_does_what_one_by_one_does(
    plan: list[tuple[int, int, int, int]],
    by_priority: bool,
    block_size: int,
    usable_tokens: int,
    slots: int,
    more_budget: int,
    threshold: int,
) -> None:
    blocks = -(-usable_tokens // block_size) + 1
    limits = Limits(slots + more_budget, slots, blocks, block_size, 100, threshold)
    fast = Scheduler(limits, by_priority=by_priority)
    plain = Reference(limits, by_priority)
    pairs: list[tuple[Sequence, Request]] = []
    due = 0
    pending: list[tuple[int, Any, Any]] = []
    for order, (gap, prompt, output, priority) in enumerate(plan):
        due += gap
        name = f"r{order}"
        pending.append(
            (
                due,
                sequence(name, prompt, output, float(order), priority, order),
                Request(name, prompt, output, priority, float(order), order),
            )
        )
    step = 0
    while pending or fast.busy:
        assert step < 20_000
        while pending and pending[0][0] <= step:
            _, mine, theirs = pending.pop(0)
            fast.add(mine)
            plain.add(theirs)
            pairs.append((mine, theirs))
        step += 1
        if not fast.busy:
            assert not plain.running
            assert not plain.waiting
            continue
        load = fast.schedule(float(step))
        planned = plain.plan()
        given = planned.scheduled.values()
        parts = [(computed - n, n) for computed, n in zip(planned.computed, given, strict=True)]
        prompts = [(computed, n) for computed, n in parts if n > 1]
        assert load.tokens == sum(n for _, n in parts)
        assert load.sequences == len(parts)
        assert load.decode_kv == sum(computed + 1 for computed, n in parts if n == 1)
        assert load.prefill_kv == sum(computed + n for computed, n in prompts)
        assert load.prefill_pairs == sum(n * computed + n * (n + 1) // 2 for computed, n in prompts)
        assert names(fast) == [r.name for r in plain.running]
        assert fast.free_blocks == plain.free
        assert fast.waiting == len(plain.waiting)
        finished = fast.update(float(step))
        assert [s.job.record["id"] for s in finished] == [r.name for r in plain.update(planned)]
        assert fast.free_blocks == plain.free
        for mine, theirs in pairs:
            assert mine.job.preemptions == theirs.preemptions
            if theirs in plain.running:
                assert fast.computed(mine) == theirs.computed
    assert fast.free_blocks == blocks - 1


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


@settings(max_examples=200, deadline=None)
@given(
    arrivals,
    st.booleans(),
    st.sampled_from([1, 4, 16]),
    st.integers(1, 12),
    st.lists(st.floats(0, 60), max_size=8),
)
def test_coasting_gives_the_same_instants_as_single_steps(
    plan: list[tuple[int, int, int, int]],
    by_priority: bool,
    block_size: int,
    slots: int,
    stops: list[float],
) -> None:
    limits = Limits(slots + 20, slots, 120 // block_size + 1, block_size, 100)
    step_time = StepTime(0.1, 0.01, 0.2, 0.007, 0.003, 0.004)

    def requests() -> list[Job]:
        return [
            Job({"id": f"r{order}"}, order, float(gap), prompt, output, priority, dispatched_s=0.0)
            for order, (gap, prompt, output, priority) in enumerate(plan)
        ]

    coasting, single = requests(), requests()
    engine = Simulator(limits, step_time, by_priority=by_priority)
    for job in coasting:
        engine.submit(job)
    # stopping in between, as the dispatcher does for arrivals, must not matter either
    for stop in [*sorted(stops), float("inf")]:
        while engine.advance(stop):
            pass
    scheduler = Scheduler(limits, by_priority=by_priority)
    for job in single:
        scheduler.add(Sequence(job, 0.0))
    now = 0.0
    while scheduler.busy:
        now += step_time.seconds(scheduler.schedule(now))
        for ended in scheduler.update(now):
            ended.job.finished_s = now
    for one, other in zip(coasting, single, strict=True):
        assert one.finished_s == other.finished_s
        assert one.first_token_s == other.first_token_s
        assert one.preemptions == other.preemptions
