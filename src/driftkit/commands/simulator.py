"""The simulator's options, shared by `schedule` (which plans with it) and `run` (which executes on it)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from driftkit.engines.sim.simulation import Setup

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--gpu", default="l4", show_default=True, metavar="NAME", help="GPU profile: l4."),
    click.option(
        "--served-model",
        default="qwen1.5-1.8b",
        show_default=True,
        metavar="NAME",
        help="Model profile: qwen1.5-1.8b.",
    ),
    click.option(
        "--batching",
        type=click.Choice(["continuous", "static"]),
        default="continuous",
        show_default=True,
        help="Iteration-level batching as vLLM does it, or the paper's gangs.",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Requests in a gang."
    ),
    click.option(
        "--batch-wait",
        type=click.FloatRange(0),
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
        type=click.IntRange(1),
        help="Requests in flight under client dispatch.  [default: the engine's slots]",
    ),
    click.option(
        "--max-num-batched-tokens",
        type=click.IntRange(1),
        help="Tokens in a step.  [default: the profile's]",
    ),
    click.option(
        "--max-num-seqs", type=click.IntRange(1), help="Requests in a step.  [default: the profile's]"
    ),
    click.option(
        "--num-gpu-blocks",
        type=click.IntRange(2),
        help="KV blocks, null block included.  [default: what fits into the GPU's memory]",
    ),
    click.option(
        "--gpu-memory-utilization",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.92,
        show_default=True,
        help="Share of the memory that the engine takes.",
    ),
    click.option(
        "--block-size", type=click.IntRange(1), default=16, show_default=True, help="Tokens in a KV block."
    ),
    click.option(
        "--max-model-len", type=click.IntRange(2), help="Longest context.  [default: the model's own]"
    ),
    click.option(
        "--long-prefill-token-threshold",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Most prompt tokens of one request in a step; 0 is no limit.",
    ),
    click.option(
        "--step-time-scale",
        type=click.FloatRange(0, min_open=True),
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

    from driftkit.engines.sim.simulation import Setup

    return Setup(**{field.name: options.pop(field.name) for field in fields(Setup)})
