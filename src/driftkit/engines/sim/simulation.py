"""One simulated run: a profile, admission limits, a way to batch and to dispatch, and jobs in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from driftkit.engines.dispatcher import Arrivals, Dispatching, Feedback, dispatched
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime, kv_blocks
from driftkit.engines.sim.power import StepPower
from driftkit.engines.sim.profile import Gpu, Model, load_gpu, load_model
from driftkit.engines.sim.scheduler import Limits
from driftkit.engines.sim.steps import StepTaken
from driftkit.errors import UsageError
from driftkit.policies.base import Policy
from driftkit.records.job import Job


@dataclass(frozen=True, slots=True)
class Setup:
    """How to simulate; UsageError for what cannot be.

    None takes the profile's or the model's own value; what is not of the simulator is Dispatching's.
    `step_time_scale` multiplies every step, to see what hangs on it.
    """

    gpu: Gpu = field(default_factory=lambda: load_gpu("l4"))
    served_model: Model = field(default_factory=lambda: load_model("qwen1.5-1.8b"))
    batching: Literal["continuous", "static"] = "continuous"
    batch_size: int = 32
    batch_wait: float = 0.01
    dispatch: Literal["engine", "client"] | None = None
    max_concurrency: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    num_gpu_blocks: int | None = None
    gpu_memory_utilization: float = 0.92
    block_size: int = 16
    max_model_len: int | None = None
    long_prefill_token_threshold: int = 0
    enable_prefix_caching: bool = True
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    async_scheduling: bool | None = None
    step_time_scale: float = 1.0

    def __post_init__(self) -> None:
        self.dispatching()

    def dispatching(self) -> Dispatching:
        return Dispatching(
            self.batching, self.batch_size, self.batch_wait, self.dispatch, self.max_concurrency
        )

    def limits(self) -> Limits:
        """The admission limits; UsageError where vLLM would refuse to start."""
        gpu, model = self.gpu, self.served_model
        blocks = self.num_gpu_blocks
        if blocks is None:
            blocks = kv_blocks(gpu, model, self.block_size, self.gpu_memory_utilization)
            if blocks < 2:
                share = f"{self.gpu_memory_utilization:g} of the memory of {gpu.name}"
                raise UsageError(
                    f"{model.name} and its KV cache do not fit into {share}",
                    hint="another --gpu or --served-model, or more --gpu-memory-utilization",
                )
        return Limits(
            max_num_batched_tokens=self.max_num_batched_tokens or gpu.max_num_batched_tokens,
            max_num_seqs=self.max_num_seqs or gpu.max_num_seqs,
            num_gpu_blocks=blocks,
            block_size=self.block_size,
            max_model_len=self.max_model_len or model.max_model_len,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            enable_prefix_caching=self.enable_prefix_caching,
            scheduler_reserve_full_isl=self.scheduler_reserve_full_isl,
            watermark=self.watermark,
            async_scheduling=gpu.async_scheduling if self.async_scheduling is None else self.async_scheduling,
        )

    def step_time(self) -> StepTime:
        return StepTime.of(self.gpu, self.served_model).scaled(self.step_time_scale)


def simulate(
    jobs: Iterable[Job],
    setup: Setup,
    policy: Policy,
    feedback: Feedback | None = None,
    *,
    prioritised: bool = False,
    ends_s: float = math.inf,
    on_step: Callable[[StepTaken], None] | None = None,
) -> Iterator[list[Job]]:
    """Run `jobs`, in order of arrival, under `policy`; yields those that ended together, in time's order.

    `prioritised`: some have a priority though the policy is fifo, because somebody wrote it there.
    Nothing is taken that is due at `ends_s`, or later. `on_step` is told of every step of the engine.
    """
    limits, step_time = setup.limits(), setup.step_time()
    power = StepPower.of(setup.gpu, step_time)
    way = setup.dispatching()
    simulator = Simulator(
        limits,
        step_time,
        by_priority=way.by_priority(policy, prioritised),
        frontend_s=setup.gpu.frontend_s,
        power=power,
        on_step=on_step,
    )
    return dispatched(Arrivals(jobs, feedback, ends_s), simulator, policy, way)
