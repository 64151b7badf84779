"""The simulator's options, shared by `schedule` (which plans with it) and `run` (which executes on it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from driftkit.commands.ranges import Numbers
from driftkit.commands.stdio import Outcome
from driftkit.engines.sim import profiles

if TYPE_CHECKING:
    from driftkit.calibration.feedback import OnlineCalibration
    from driftkit.commands.intake import Intake
    from driftkit.engines.sim.profile import Gpu, Model
    from driftkit.engines.sim.simulation import Setup
    from driftkit.engines.sim.steps import StepTaken
    from driftkit.records.job import Job
    from driftkit.records.schema import Record

F = TypeVar("F", bound=Callable[..., Any])

#: more tokens, blocks or requests than a simulation can be about
MOST = 10**9
LARGEST_BLOCK = 4096  # vLLM takes up to 256
MOST_SECONDS = 1e6

#: those that are not the simulator's alone
DISPATCHING = ("batching", "batch_size", "batch_wait", "dispatch", "max_concurrency")
OWN = ("gpu", "served_model", "profile", "power_cap", "step_time_scale")
#: those that are vLLM's too, which calls the number of blocks otherwise
VLLM = (
    *("max_num_batched_tokens", "max_num_seqs", "num_gpu_blocks", "gpu_memory_utilization", "block_size"),
    *("max_model_len", "long_prefill_token_threshold", "enable_prefix_caching"),
    *("scheduler_reserve_full_isl", "watermark", "async_scheduling"),
)

DEFAULT_GPU = "l4"
DEFAULT_MODEL = "qwen1.5-1.8b"

_OPTIONS = (
    click.option(
        "--gpu",
        metavar="NAME",
        help=f"GPU profile: {', '.join(profiles.GPUS)}.  [default: {DEFAULT_GPU}]",
    ),
    click.option(
        "--served-model",
        metavar="NAME|FILE",
        help=f"Model profile: {', '.join(profiles.MODELS)}; or a Hugging Face config.json, or its folder.  "
        f"[default: {DEFAULT_MODEL}]",
    ),
    click.option(
        "--profile",
        metavar="FILE",
        help="A GPU and a model of your own: a TOML file with every constant of both, in tables [gpu] and "
        "[model].",
    ),
    click.option(
        "--batching",
        type=click.Choice(["continuous", "static"]),
        default="continuous",
        show_default=True,
        help="Iteration-level batching as vLLM does it, or the paper's gangs.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1, MOST),
        default=32,
        show_default=True,
        help="Requests in a gang.",
    ),
    click.option(
        "--batch-wait",
        type=Numbers(0, MOST_SECONDS),
        default=0.01,
        show_default=True,
        metavar="SECONDS",
        help="How long a gang waits to fill.",
    ),
    click.option(
        "--dispatch",
        type=click.Choice(["engine", "client"]),
        help="Who holds the queue.  [default: engine, or client for policies that watch the queue]",
    ),
    click.option(
        "--max-concurrency",
        type=click.IntRange(1, MOST),
        help="Requests in flight under client dispatch.  [default: the engine's slots]",
    ),
    click.option(
        "--max-num-batched-tokens",
        type=click.IntRange(1, MOST),
        help="Tokens in a step.  [default: the profile's]",
    ),
    click.option(
        "--max-num-seqs", type=click.IntRange(1, MOST), help="Requests in a step.  [default: the profile's]"
    ),
    click.option(
        "--num-gpu-blocks",
        type=click.IntRange(2, MOST),
        help="KV blocks, null block included.  [default: what fits into the GPU's memory]",
    ),
    click.option(
        "--gpu-memory-utilization",
        type=Numbers(0, 1, min_open=True),
        default=0.92,
        show_default=True,
        help="Share of the memory that the engine takes.",
    ),
    click.option(
        "--block-size",
        type=click.IntRange(1, LARGEST_BLOCK),
        default=16,
        show_default=True,
        help="Tokens in a KV block.",
    ),
    click.option(
        "--max-model-len", type=click.IntRange(2, MOST), help="Longest context.  [default: the model's own]"
    ),
    click.option(
        "--long-prefill-token-threshold",
        type=click.IntRange(0, MOST),
        default=0,
        show_default=True,
        help="Most prompt tokens of one request in a step; 0 is no limit.",
    ),
    click.option(
        "--enable-prefix-caching/--no-enable-prefix-caching",
        default=True,
        help="Find prompts' beginnings, and what a preempted request had computed, in the KV cache.  "
        "[default: yes]",
    ),
    click.option(
        "--scheduler-reserve-full-isl/--no-scheduler-reserve-full-isl",
        default=True,
        help="Admit only whom the KV cache has blocks for to the last known token.  [default: yes]",
    ),
    click.option(
        "--watermark",
        type=Numbers(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Share of the KV blocks that an admission leaves free.",
    ),
    click.option(
        "--async-scheduling/--no-async-scheduling",
        default=None,
        help="Plan a step while the one before it runs, as vLLM does on a GPU.  [default: the profile's]",
    ),
    click.option(
        "--power-cap",
        type=Numbers(0, min_open=True),
        metavar="WATTS",
        help="Lock the GPU's clock where it draws so much at most: arithmetic slows, memory does not.  "
        "[default: the profile's peak_watts]",
    ),
    click.option(
        "--step-time-scale",
        type=Numbers(1e-6, 1e6),
        default=1.0,
        show_default=True,
        help="Multiply every step's time, to see what hangs on it.",
    ),
)


def simulator_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def setup_of(options: dict[str, Any]) -> Setup:
    """The Setup that the simulator's options describe; they are taken out of `options`."""
    from dataclasses import fields

    from driftkit.engines.sim.power import capped
    from driftkit.engines.sim.simulation import Setup

    gpu, model = _profile(options.pop("profile"), options.pop("gpu"), options.pop("served_model"))
    if (watts := options.pop("power_cap")) is not None:
        gpu = capped(gpu, watts)
    others = {field.name for field in fields(Setup)} - {"gpu", "served_model"}
    return Setup(gpu, model, **{name: options.pop(name) for name in others})


def _profile(path: str | None, gpu: str | None, model: str | None) -> tuple[Gpu, Model]:
    from driftkit.engines.sim import profile
    from driftkit.errors import DriftkitError, LineError, UsageError

    if path is None:
        found = profile.load_gpu(DEFAULT_GPU if gpu is None else gpu)
        return found, _model(DEFAULT_MODEL if model is None else model)
    for option, value in (("--gpu", gpu), ("--served-model", model)):
        if value is not None:
            raise UsageError(f"--profile and {option} exclude each other: a profile is whole")
    data = _content("--profile", Path(path))
    try:
        return profile.read(data)
    except LineError as error:
        raise DriftkitError(f"{path}: {error.message}", hint=error.hint) from None


def _model(name: str) -> Model:
    """The packaged profile of that name, else what the config.json at that path describes."""
    from driftkit.engines.sim import hf_config, profile
    from driftkit.errors import DriftkitError, LineError, printable

    path = Path(name)
    try:
        there, folder = bool(name) and path.exists(), path.is_dir()
    except OSError:  # longer than a file's name can be
        there = folder = False
    if name in profiles.MODELS or not (there or "/" in name):
        return profile.load_model(name)
    if folder:
        path /= "config.json"
    data = _content("--served-model", path)
    called = path.absolute().parent.name if path.name == "config.json" else ""
    try:
        return hf_config.read(data, printable(called or path.stem))
    except LineError as error:
        raise DriftkitError(f"{path}: {error.message}", hint=error.hint) from None


def _content(option: str, path: Path) -> bytes:
    from driftkit.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # a null character, from a --config
        raise UsageError(f"{option}: {error}") from None


class Simulating:
    """The simulator, as the command uses an engine."""

    replays = True

    def __init__(self, setup: Setup, steps: str | None, kept: list[str]) -> None:
        self.identity = setup
        self.served_model = setup.served_model.name
        self._setup = setup
        self._steps = steps
        self._kept = kept

    def length(self, record: Record) -> int:
        """The output tokens of a record; FieldError when it has not what the simulator needs."""
        from driftkit.records.completion import check_prompt_tokens, check_truth

        check_prompt_tokens(record)
        check_truth(record)
        tokens: int = record["trace_output_tokens"]
        return tokens

    def open(self, stack: ExitStack, intake: Intake, first: Job, *, resumes: bool) -> None:
        self._intake = intake
        self._write_step: Callable[[Record], None] | None = None
        if self._steps is not None:
            from driftkit.records.io import records_beside

            follow = bool(click.get_current_context().params["follow"])
            self._write_step = stack.enter_context(records_beside("--steps", self._steps, self._kept, follow))

    def ended(
        self,
        jobs: Iterable[Job],
        run: dict[str, str],
        online: OnlineCalibration | None,
        ends_s: float,
        check: Callable[[], None],
    ) -> Iterator[list[Job]]:
        """The jobs as they end."""
        from driftkit.engines.sim.simulation import simulate
        from driftkit.records.schema import SCHEMA

        write_step, numbers = self._write_step, count(1)

        def on_step(step: StepTaken) -> None:
            assert write_step is not None
            known = {name: value for name, value in step._asdict().items() if value is not None}
            head = {"kind": "step", "schema": SCHEMA, "run_id": run["run_id"], "label": run["label"]}
            write_step({**head, "step": next(numbers), **known})

        return simulate(
            *(jobs, self._setup, self._intake.policy, online),
            prioritised=self._intake.prioritised,
            ends_s=ends_s,
            on_step=None if write_step is None else on_step,
        )

    def status(self, outcome: Outcome, unserved: int) -> int:
        outcome.failed += unserved
        return outcome.status
