"""vLLM's engine arguments, given as `key=value` and checked against the vLLM that is installed.

Names, types and choices are those of `vllm serve --KEY VALUE`, since vLLM's own parser reads them. The limits
of a batch are always set: AsyncLLM would choose them by who it thinks is asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from driftkit.errors import UsageError, near_or_known

# said elsewhere on the command line, or not for anybody to say
OURS = {
    "model": "--model names the model",
    "disable_log_stats": "driftkit needs vLLM's own instants",
    "scheduling_policy": "--dispatch says who orders: vLLM's queue (priority) or driftkit's (fcfs)",
}


def engine_args(model: str, given: Sequence[str], *, by_priority: bool) -> Any:
    """vLLM's AsyncEngineArgs for `model`, with `key=value` arguments; UsageError for one that it has not.

    `by_priority`: its queue is ordered by priority, else by arrival.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False, allow_abbrev=False))
    parser.error = _refuse  # argparse would print its usage and exit
    flags = {
        option: action.nargs == 0 for action in parser._actions for option in action.option_strings
    }  # whether it takes no value
    words: list[str] = []
    for argument in given:
        key, equals, value = argument.partition("=")
        name = key.replace("-", "_")
        option = "--" + key.partition(".")[0].replace("_", "-")
        if not equals:
            raise UsageError(f"--engine-arg {argument}: expected key=value")
        if name in OURS:
            raise UsageError(f"--engine-arg {key}: not to be set here", hint=OURS[name])
        if option not in flags:
            known = sorted(option[2:].replace("-", "_") for option in flags if option.startswith("--"))
            raise UsageError(
                f"--engine-arg {key}: vLLM has no such argument", hint=near_or_known(name, known)
            )
        if not flags[option]:
            words.append(f"--{key}={value}")
        elif value in ("true", "false"):
            words.append(option if value == "true" else "--no-" + option[2:])
        else:
            raise UsageError(f"--engine-arg {key}: expected true or false, got {value!r}")
    words += ["--scheduling-policy", "priority" if by_priority else "fcfs", f"--model={model}"]
    args = AsyncEngineArgs.from_cli_args(parser.parse_args(words))
    tokens, seqs = EngineArgs.get_batch_defaults(args.tensor_parallel_size * args.pipeline_parallel_size)
    context = UsageContext.LLM_CLASS  # those of an engine in process
    if args.max_num_batched_tokens is None:
        args.max_num_batched_tokens = tokens[context]
    if args.max_num_seqs is None:
        args.max_num_seqs = min(seqs[context], args.max_num_batched_tokens)
    return args


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"--engine-arg: {' '.join(message.split())[:300]}")
