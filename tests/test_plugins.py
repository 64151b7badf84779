"""What other packages' policies and engines are held to, and that ours pass."""

from __future__ import annotations

from typing import ClassVar

import pytest

from driftkit import registry
from driftkit.engines.base import Engine
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.scheduler import Limits
from driftkit.policies.base import Queue, StaticPolicy
from driftkit.policies.fifo import Fifo
from driftkit.records.job import Job
from driftkit.records.schema import Record
from driftkit.testing import check_engine, check_policy


@pytest.mark.parametrize("name", registry.names("policies"))
def test_our_policies_pass(name: str) -> None:
    check_policy(registry.load("policies", name))


@pytest.mark.parametrize("by_priority", [False, True])
@pytest.mark.parametrize("blocks", [40, 2000])
def test_our_engine_passes(by_priority: bool, blocks: int) -> None:
    limits = Limits(256, 16, blocks, block_size=4, max_model_len=140)
    check_engine(
        lambda: Simulator(limits, StepTime(0.01, 1e-4, 0.02, 1e-4, 1e-5, 1e-7), by_priority=by_priority)
    )


class Floating(StaticPolicy):
    name: ClassVar[str] = "fifo"

    def key(self, record: Record) -> int:
        return record["est_total_tokens"] / 2  # type: ignore[no-any-return]


class Forgetful(Fifo):
    def queue(self) -> Queue:
        queue = super().queue()
        push = queue.push

        def forget(job: Job, now: float) -> None:
            if job.order != 3:
                push(job, now)

        queue.push = forget  # type: ignore[method-assign]
        return queue


@pytest.mark.parametrize(("policy", "says"), [(Floating, "not an integer"), (Forgetful, "not what is in it")])
def test_what_breaks_the_contract_is_said(policy: type[StaticPolicy], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_policy(policy)


class Backwards:
    name = "backwards"

    def __init__(self, engine: Engine) -> None:
        self.max_num_seqs = engine.max_num_seqs
        self.submit = engine.submit
        self._engine = engine

    def advance(self, until: float) -> list[Job]:
        ended = self._engine.advance(until)
        for job in ended:
            job.finished_s = 100 - job.finished_s
        return ended


def test_an_engine_whose_time_runs_backwards_is_caught() -> None:
    limits, step_time = (
        Limits(256, 16, 2000, block_size=4, max_model_len=140),
        StepTime(0.01, 0, 0.02, 0, 0, 0),
    )
    with pytest.raises(AssertionError, match=r"backwards|out of order"):
        check_engine(lambda: Backwards(Simulator(limits, step_time, by_priority=False)))
