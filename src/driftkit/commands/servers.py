"""The options of `run` for engines on the wall's clock: real servers, and vLLM in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from driftkit.commands.configuration import Lines
from driftkit.commands.ranges import Numbers

F = TypeVar("F", bound=Callable[..., Any])

API_KEY = "DRIFTKIT_API_KEY"
MOST = 10**9
FEWEST = 20  # requests, before a ratio of them says anything

#: by their parameters' names: those of one engine, and those of both
HTTP = ("base_url", "route", "api_key_file", "insecure", "timeout", "retries", "workers")
VLLM = ("engine_args",)
REAL = (
    *("model", "endpoint", "replay_lengths", "save_output", "warmup", "no_probe", "max_rps", "max_failed"),
    *("abort_error_ratio", "max_client_lag", "strict", "dry_run", "resume", "telemetry"),
)

_OPTIONS = (
    click.option(
        "--base-url",
        metavar="URL",
        type=Lines(),
        multiple=True,
        help="http: the server; repeat it for replicas of one another. /v1 is added where there is no path.",
    ),
    click.option(
        "--route",
        type=click.Choice(["round-robin", "least-loaded", "two-choices", "prefix-affinity"]),
        default="round-robin",
        show_default=True,
        help="http: which replica gets a request.",
    ),
    click.option(
        "--model",
        metavar="NAME",
        help="http: the model to ask for.  [default: the first that the server lists]  vllm: what to "
        "serve, a folder or a name.",
    ),
    click.option(
        "--endpoint",
        type=click.Choice(["completions", "chat"]),
        help="Whether prompts are completed or chats answered.  [default: chats for those with messages]",
    ),
    click.option(
        "--api-key-file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help=f"http: holds the API key.  [default: the environment's {API_KEY}, if any]",
    ),
    click.option("--insecure", is_flag=True, help="http: do not verify the server's certificate."),
    click.option(
        "--timeout",
        type=Numbers(0.001, 1e6),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="http: give a request up when no byte came for so long.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, 100),
        default=0,
        show_default=True,
        help="http: send again, after Retry-After, what got 429, 503 or no connection.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 256),
        default=1,
        show_default=True,
        metavar="N",
        help="http: send from so many processes; --route then sees what the own process has in flight.",
    ),
    click.option(
        "--replay-lengths",
        is_flag=True,
        help="Ask for exactly trace_output_tokens (ignore_eos, min_tokens), whatever the model would say.",
    ),
    click.option(
        "--engine-arg",
        "engine_args",
        type=Lines(),
        multiple=True,
        metavar="KEY=VALUE",
        help="vllm: an engine argument as `vllm serve` has it; repeatable.",
    ),
    click.option("--save-output", is_flag=True, help="Keep the answers' text, as output_text."),
    click.option(
        "--warmup",
        type=click.IntRange(0, 100_000),
        default=0,
        show_default=True,
        metavar="N",
        help="Send N throw-away requests before the clock starts.",
    ),
    click.option(
        "--no-probe",
        is_flag=True,
        help="Do not find out first, with 16 prompts of up to 2,000 tokens, whether the engine orders by "
        "priority, where that matters.",
    ),
    click.option(
        "--max-rps",
        type=Numbers(0, min_open=True),
        metavar="RATE",
        help="Never send more requests a second; what is due sooner is held back.",
    ),
    click.option(
        "--max-failed",
        type=click.IntRange(0, MOST),
        metavar="N",
        help="Stop sending when more have failed; up to N are no reason for exit status 3.",
    ),
    click.option(
        "--abort-error-ratio",
        type=Numbers(0, 1),
        metavar="RATIO",
        help=f"Stop sending when a larger share of {FEWEST} or more has failed.",
    ),
    click.option(
        "--max-client-lag",
        type=Numbers(0, 1e6),
        default=0.01,
        show_default=True,
        metavar="SECONDS",
        help="Warn when the P99 of client_lag_s, driftkit's own lateness, is more.",
    ),
    click.option(
        "--telemetry",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Write there, five times a second, what GPUs, processes and servers' /metrics say; for report.",
    ),
    click.option("--strict", is_flag=True, help="That warning is a failure: exit status 3."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Send nothing: say how many requests, at which peak rate, with how many tokens.",
    ),
)


def serving_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
