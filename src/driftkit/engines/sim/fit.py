"""Fitting the simulator's few constants to what a real engine did.

The observed arrivals and lengths are replayed; the constants that bring the replay's latencies closest to the
observed ones are kept. The first half, by arrival, is fitted, the second only judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from driftkit.engines.sim.profile import GPU_NUMBERS, Gpu, Model
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.errors import DriftkitError, FieldError
from driftkit.policies.base import Policy
from driftkit.records.completion import check_sharing, in_order_of_arrival, job_of
from driftkit.records.job import Job
from driftkit.records.schema import Record, checker

#: what is fitted, and what a constant that is 0 starts from; all else is the profile's
FITTED = {
    "memory_efficiency": 0.001,
    "compute_efficiency": 0.001,
    "step_overhead_s": 1e-5,
    "sequence_overhead_s": 1e-6,
    "frontend_s": 1e-4,
}
LEAST = 20  # completions: 10 to fit and 10 to judge by
MOST_FITTED = 1000  # completions that are fitted; a replay has twice as many, for what they share steps with
#: how far a constant may go that the completions say nothing of: as much as a residual of this many e-folds
PRIOR = 0.02
STEP = 0.03  # e-folds, of the difference quotients: coarser than one step more or less in a replay
SCALE = 0.1  # e-folds: a residual beyond counts by its size, not by its square
MOST_STEPS = 25  # of the minimisation by slopes; each costs a replay, and ten more when it is taken
CORNER = 0.1  # e-folds, of the simplex at its start
MOST_REPLAYS = 300  # of the minimisation by simplex, which follows

check_observed = checker(
    ("id", "prompt_tokens", "finished_s"),
    (
        *("arrival_s", "offered_s", "first_token_s", "actual_output_tokens", "trace_output_tokens"),
        *("status", "policy", "priority", "max_tokens"),
    ),
)


class Observed(NamedTuple):
    """One completion of a real run: seconds from when it was due to its first token (NaN where nobody noted
    it) and to its end.
    """

    record: Record
    output_tokens: int
    ttft_s: float
    e2e_s: float


def observed(record: Record) -> Observed | None:
    """What a checked completion says; None for one that failed. FieldError for one without timings."""
    check_observed(record)
    check_sharing(record)
    if record.get("status", "ok") != "ok":
        return None
    tokens = record.get("actual_output_tokens")
    if tokens is None:
        tokens = record.get("trace_output_tokens")
    if not tokens:
        raise FieldError("actual_output_tokens", "expected an integer >= 1, got nothing")
    offered = record.get("offered_s")
    if offered is None:
        offered = record.get("arrival_s")
    if offered is None:
        raise FieldError(
            "offered_s", "expected a number >= 0, got nothing", hint="or arrival_s: when it was due"
        )
    first, finished = record.get("first_token_s"), record["finished_s"]
    if finished <= offered:
        raise FieldError("finished_s", f"expected a number > {offered:g}, when it was due, got {finished:g}")
    if first is not None and not offered <= first <= finished:
        problem = f"expected a number from {offered:g} (due) to {finished:g} (finished), got {first:g}"
        raise FieldError("first_token_s", problem)
    if first == offered or (first == finished and tokens > 1):
        first = None  # all at once: nobody noted it
    # replayed as it came: what a barrier has delayed is in offered_s already
    replayed = {**record, "arrival_s": float(offered), "barrier": False}
    return Observed(replayed, tokens, math.nan if first is None else first - offered, finished - offered)


class Latencies(NamedTuple):
    """Per request, in order of arrival; NaN where there is none."""

    e2e_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]

    def part(self, these: slice) -> Latencies:
        return Latencies(*(values[these] for values in self))


def _latencies(e2e: Iterable[float], ttft: Iterable[float], tokens: Iterable[int]) -> Latencies:
    ends, firsts = np.array(list(e2e)), np.array(list(ttft))
    more = np.array(list(tokens)) - 1
    tpot = np.divide(ends - firsts, more, out=np.full(len(ends), np.nan), where=more > 0)
    return Latencies(ends, firsts, tpot)


@dataclass(frozen=True)
class Run:
    """A real run to be replayed: its completions in order of arrival, and how they are dispatched."""

    completions: Sequence[Observed]
    policy: Policy

    @property
    def latencies(self) -> Latencies:
        return _latencies(
            (one.e2e_s for one in self.completions),
            (one.ttft_s for one in self.completions),
            (one.output_tokens for one in self.completions),
        )

    def replayed(self, setup: Setup) -> Latencies:
        """The same requests on the simulator; DriftkitError for one that it would refuse."""
        jobs = in_order_of_arrival([job_of(one.record, one.output_tokens) for one in self.completions])
        prioritised = any(job.priority for job in jobs)
        for job in _ended(jobs, setup, self.policy, prioritised):
            if job.status != "ok" or job.output_tokens != self.completions[job.order].output_tokens:
                why = job.error or f"cut to {job.output_tokens} tokens"
                problem = f"request {job.record['id']} ended well in the run, not in its replay: {why}"
                raise DriftkitError(problem, hint="--max-model-len, --num-gpu-blocks: as the server had them")
        return _latencies(
            (job.finished_s - job.offered_s for job in jobs),
            (math.nan if job.first_token_s is None else job.first_token_s - job.offered_s for job in jobs),
            (job.output_tokens for job in jobs),
        )


def _ended(jobs: list[Job], setup: Setup, policy: Policy, prioritised: bool) -> Iterable[Job]:
    return (job for together in simulate(jobs, setup, policy, prioritised=prioritised) for job in together)


def run_of(completions: Iterable[Observed], policy: Policy) -> Run:
    """DriftkitError when there are too few to fit and to judge by."""
    ordered = sorted(completions, key=lambda one: float(one.record["arrival_s"]))
    if len(ordered) < LEAST:
        raise DriftkitError(f"{len(ordered)} completions that ended well: a fit needs at least {LEAST}")
    return Run(ordered, policy)


class Fit(NamedTuple):
    """`setup` has the fitted constants, `start` those it began with; the first `fitted` completions were
    fitted, those from `judged` on were not.
    """

    start: Setup
    setup: Setup
    fitted: int
    judged: int

    @property
    def at_bounds(self) -> list[str]:
        """Constants that would have gone further."""
        constants = {name: getattr(self.setup.gpu, name) for name in FITTED}
        return [
            name
            for name, value in constants.items()
            if not _bounds(name)[0] * 1.001 < value < _bounds(name)[1] * 0.999
            and abs(value / _start(self.start.gpu, name) - 1) > 0.001
        ]


class Error(NamedTuple):
    """One statistic of one latency, in seconds: as it was, and as the replay has it before and after."""

    metric: str
    statistic: str
    measured_s: float
    before_s: float
    after_s: float

    @property
    def percent(self) -> float:
        return 100 * (self.after_s / self.measured_s - 1)


def errors(measured: Latencies, before: Latencies, after: Latencies) -> list[Error]:
    """Mean, P50, P90 and P99 of every latency that the run has."""
    found = []
    for metric in Latencies._fields:
        sides = [
            values[np.isfinite(values)] for values in (getattr(s, metric) for s in (measured, before, after))
        ]
        if all(len(values) for values in sides):
            found.append(Error(metric, "mean", *(float(values.mean()) for values in sides)))
            found += [
                Error(metric, f"p{p}", *(float(np.percentile(values, p)) for values in sides))
                for p in (50, 90, 99)
            ]
    return found


def fit(run: Run, start: Setup) -> Fit:
    """Fit FITTED, from the constants of `start`, to the first half of `run`, at most MOST_FITTED of it.

    Minimises per request the logarithm of replayed over observed end-to-end latency, TTFT and TPOT, the mean
    of each added to both sides (a short wait, less than a step or two, is a matter of luck), robustly (soft
    L1) and in the logarithm of the constants, each within its bounds. A constant of which the run says
    nothing stays where it was (PRIOR): the front end where queues are long, what a request costs where
    as many always share a step. So the constants are good for what they say together, not one by one.
    """
    half = len(run.completions) // 2
    fitted = min(half, MOST_FITTED)
    replay = Run(run.completions[: 2 * fitted], run.policy)
    part = slice(fitted)
    real = replay.latencies.part(part)
    typical = [float(np.nanmean(values)) if np.isfinite(values).any() else 1.0 for values in real]
    names = list(FITTED)
    first = np.log([_start(start.gpu, name) for name in names])
    low, high = (np.log([_bounds(name)[end] for name in names]) for end in (0, 1))
    first = np.clip(first, low, high)

    def residuals(constants: NDArray[np.float64]) -> NDArray[np.float64]:
        ours = replay.replayed(_with(start, names, constants)).part(part)
        apart = [
            np.log((now + usual) / (was + usual)) for now, was, usual in zip(ours, real, typical, strict=True)
        ]
        flat = np.concatenate([values[np.isfinite(values)] for values in apart])
        # as many prior residuals as constants, weighed as a share of the whole
        pull = PRIOR * math.sqrt(len(flat) / len(names)) * (constants - first)
        return np.concatenate([flat, pull])

    def slopes(constants: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = []
        for place in range(len(names)):
            ends = np.tile(constants, (2, 1))
            ends[:, place] += (-STEP, STEP)
            ends = np.clip(ends, low, high)
            below, above = (residuals(end) for end in ends)
            columns.append((above - below) / (ends[1, place] - ends[0, place]))
        return np.column_stack(columns)

    solution = least_squares(
        residuals,
        first,
        slopes,
        bounds=(low - 1e-9, high + 1e-9),  # the start may lie on a bound
        loss="soft_l1",
        f_scale=SCALE,
        max_nfev=MOST_STEPS,
        xtol=1e-3,
        ftol=1e-4,
    )
    # replays jump where a request comes a step later: what gradients cannot see, a simplex finds
    away = np.where(solution.x + CORNER > high, -CORNER, CORNER)
    corners = np.vstack([solution.x, solution.x + np.diag(away)])

    def cost(constants: NDArray[np.float64]) -> float:
        return _soft(residuals(np.clip(constants, low, high)))

    polished = minimize(
        cost,
        solution.x,
        method="Nelder-Mead",
        bounds=list(zip(low, high, strict=True)),
        options={
            "initial_simplex": corners,
            "maxfev": MOST_REPLAYS,
            "xatol": 1e-3,
            "fatol": 1e-5,
        },
    )
    return Fit(start, _with(start, names, np.clip(polished.x, low, high)), fitted, half)


def _soft(residuals: NDArray[np.float64]) -> float:
    """least_squares' own cost with this loss."""
    ratio = residuals / SCALE
    return float(SCALE**2 * np.sum(np.sqrt(1 + ratio * ratio) - 1))


def _start(gpu: Gpu, name: str) -> float:
    return max(float(getattr(gpu, name)), FITTED[name])


def _bounds(name: str) -> tuple[float, float]:
    least, most = GPU_NUMBERS[name]
    return max(least, FITTED[name] / 10), most


def _with(setup: Setup, names: list[str], logarithms: NDArray[np.float64]) -> Setup:
    """Four digits of each constant are kept: as many as are written, and more than a run can tell."""
    constants: dict[str, Any] = {
        name: float(f"{math.exp(x):.4g}") for name, x in zip(names, logarithms, strict=True)
    }
    return replace(setup, gpu=replace(setup.gpu, **constants))


def profile_of(setup: Setup) -> tuple[Gpu, Model]:
    """What `setup` was, with the limits that a profile holds."""
    limits = setup.limits()
    gpu = replace(
        setup.gpu,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
        async_scheduling=limits.async_scheduling,
    )
    return gpu, replace(setup.served_model, max_model_len=limits.max_model_len)


def written(gpu: Gpu, model: Model, comments: Iterable[str]) -> str:
    """A profile as `--profile` reads it."""
    lines = [f"# {comment}".rstrip() for comment in comments]
    for table, profile in (("gpu", gpu), ("model", model)):
        lines += ["", f"[{table}]"]
        for field in fields(profile):
            value = getattr(profile, field.name)
            lines.append(f"{field.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: str | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"{value:.12g}" if isinstance(value, float) else str(value)
