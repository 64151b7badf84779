"""The simulator as a single server, against the mean waits that queueing theory gives.

One slot and a second a step: a request is served for its output's tokens in seconds, and nothing else. Then
the mean wait is load / mean * second / (2 * (1 - load)), of the service's first two moments (M/G/1: Pollaczek
and Khinchine); exponential service makes it M/M/1. Constant service is in test_dispatcher.py.

Each case is a mean over independent runs, whose first requests are left out. It may be four standard errors
off, which it is with probability 6e-4 (Student's t, 23 degrees of freedom), 0.2 % for all four together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from driftkit import rng
from driftkit.engines.dispatcher import Arrivals, dispatch
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.scheduler import Limits
from driftkit.policies.fifo import Fifo
from driftkit.records.completion import job_of
from driftkit.records.job import Job

RUNS = 24
REQUESTS, WARM_UP = 1500, 300
SECOND = StepTime(1.0, 0, 0, 0, 0, 0)
LIMITS = Limits(64, 1, num_gpu_blocks=1000, block_size=16, max_model_len=10_000)
MEAN_STEPS = 50

Floats = npt.NDArray[np.float64]
Law = Callable[[Floats], Floats]


def exponential(uniform: Floats) -> Floats:
    return np.ceil(-MEAN_STEPS * np.log1p(-uniform))


def short_and_long(uniform: Floats) -> Floats:
    """Nine tenths take 20 steps, the others 320: a mean of 50, and cv = 1.8."""
    return np.where(uniform < 0.9, 20.0, 320.0)


#: first and second moments; an exponential service, rounded up to whole steps, is a geometric one
P = -math.expm1(-1 / MEAN_STEPS)
MOMENTS: dict[Law, tuple[float, float]] = {
    exponential: (1 / P, (2 - P) / P**2),
    short_and_long: (50.0, 0.9 * 20**2 + 0.1 * 320**2),
}


def mean_wait(seed: int, load: float, law: Law, mean: float, *, client: bool) -> float:
    uniform = rng.stream(seed, "test/queueing").random((REQUESTS, 2))
    arrivals = np.cumsum(-np.log1p(-uniform[:, 0]) * mean / load)
    jobs: list[Job] = []
    for order, (arrival, steps) in enumerate(
        zip(arrivals.tolist(), law(uniform[:, 1]).tolist(), strict=True)
    ):
        record = {"id": f"r{order}", "arrival_s": arrival, "prompt_tokens": 1}
        jobs.append(job_of(record, int(steps), order))
    engine = Simulator(LIMITS, SECOND, by_priority=False)
    assert sum(
        len(t) for t in dispatch(Arrivals(jobs, None), engine, Fifo().queue() if client else None, 1)
    ) == len(jobs)
    waits = [(job.started_s or 0.0) - job.offered_s for job in jobs]
    return math.fsum(waits[WARM_UP:]) / (REQUESTS - WARM_UP)


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize("law", MOMENTS, ids=lambda law: law.__name__)
def test_one_server_waits_as_pollaczek_and_khinchine_say(load: float, law: Law) -> None:
    mean, second = MOMENTS[law]
    expected = load / mean * second / (2 * (1 - load))
    means = [mean_wait(seed, load, law, mean, client=seed % 2 == 0) for seed in range(RUNS)]
    error = float(np.std(means, ddof=1)) / math.sqrt(RUNS)
    assert abs(float(np.mean(means)) - expected) < 4 * error
    assert error < 0.08 * expected  # or the line above would say nothing
