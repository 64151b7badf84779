"""The command line as plain data: what the man pages and the completions are made of.

Everything is read off the click commands, the registry and the packaged profiles.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from driftkit import cli, registry
from driftkit.commands import COMMANDS
from driftkit.engines.sim import profiles
from driftkit.workload import presets

#: options that take a name of the registry, by the parameter's name; each is a section of the man page
TABLES = {
    "policy": "policies",
    "model": "estimators",
    "trace_format": "traces",
    "export": "exports",
    "method": "calibrators",
    "detectors": "detectors",
}
#: options that take the name of a packaged profile, by the parameter's name
PROFILES = {"gpu": profiles.GPUS, "served_model": profiles.MODELS}
#: what --tokenizer takes besides files; tiktoken's encodings depend on its version
TOKENIZERS = ("builtin", "whitespace")

#: the head of every script
MADE = "# Made by tools/make_docs.py from the commands; do not edit."

_DEFAULT = re.compile(r"\s*\[default: (?P<default>.*)\]$")


@dataclass(frozen=True)
class Option:
    """`flags` as typed; `metavar` None for one without a value; `values` those it is known to take."""

    name: str
    flags: tuple[str, ...]
    metavar: str | None
    choices: bool  # whether `values` are all there are
    values: tuple[str, ...]
    path: str  # "file", "folder" or ""
    help: str
    default: str
    bounds: str
    repeatable: bool
    required: bool
    variables: tuple[str, ...]  # environment variables of other names than its own that set it
    ends: bool  # prints something and exits, as --help does


@dataclass(frozen=True)
class Command:
    name: str  # "" for driftkit itself
    summary: str
    description: tuple[str, ...]  # paragraphs
    epilog: tuple[str, ...]
    options: tuple[Option, ...]
    files: bool  # whether it reads the files that it is given
    prefix: str  # of the environment variables that set its options, if there are any


def driftkit() -> Command:
    """The command without a subcommand."""
    context = click.Context(cli.group, info_name="driftkit", **cli.group.context_settings)
    return _command("", "compare scheduling policies for LLM serving", context)


def subcommands() -> Iterator[Command]:
    """The subcommands, in the order of the pipe."""
    parent = click.Context(cli.group, info_name="driftkit", **cli.group.context_settings)
    for name, summary in COMMANDS.items():
        command = cli.group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, parent, info_name=name, **command.context_settings)
        yield _command(name, summary, context)


def entries(table: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, documentation (paragraphs) and facts (fields read, knobs) of each entry of a registry table.

    What a module says of itself is about the thing; what its class says, about its knobs or its warnings.
    """
    for name in registry.names(table):
        cls = registry.load(table, name)
        module = importlib.import_module(cls.__module__)
        paragraphs = _paragraphs(inspect.getdoc(module))
        if cls.__doc__:
            paragraphs += _paragraphs(inspect.getdoc(cls))
        facts = []
        if getattr(cls, "reads", ()):
            facts.append("Needs " + ", ".join(f"`{field}`" for field in cls.reads) + ".")
        if known := knobs(cls) if table == "policies" else {}:
            facts.append("Knobs: " + ", ".join(f"`{k}` (default {v})" for k, v in known.items()) + ".")
        yield name, paragraphs, facts


def policy_knobs() -> dict[str, list[str]]:
    """The knobs of each policy that has some."""
    found = {name: list(knobs(registry.load("policies", name))) for name in registry.names("policies")}
    return {name: names for name, names in found.items() if names}


def takes_value(option: Option) -> bool:
    return option.metavar is not None


def valued(group: Command) -> list[str]:
    """Options before the subcommand that are followed by a value."""
    return [flag for option in filter(takes_value, group.options) for flag in option.flags]


def knobs(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _command(name: str, summary: str, context: click.Context) -> Command:
    command = context.command
    parameters = command.get_params(context)
    description = _paragraphs(command.help)
    return Command(
        name=name,
        summary=summary,
        # the first paragraph is the summary again
        description=tuple(p for p in description if p.rstrip(".") != summary.rstrip(".")),
        epilog=tuple(_paragraphs(command.epilog)),
        options=tuple(_option(p) for p in parameters if isinstance(p, click.Option) and not p.hidden),
        files=any(isinstance(p, click.Argument) for p in parameters),
        prefix=f"DRIFTKIT_{name}_".upper() if name else "DRIFTKIT_",
    )


def _option(option: click.Option) -> Option:
    name = option.name or ""
    text = " ".join((option.help or "").split())
    default = ""
    if match := _DEFAULT.search(text):
        text, default = text[: match.start()], match["default"]
    elif option.show_default and not option.is_flag and option.default is not None:
        default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    values = _values(option, name)
    if values and default and re.fullmatch(r"\S+", default) and default not in values:
        values = (*values, default)
    flag = bool(option.is_flag or option.count)
    return Option(
        name=name,
        flags=(*option.opts, *option.secondary_opts),
        metavar=None if flag else _metavar(option),
        choices=isinstance(option.type, click.Choice),
        values=values,
        path=_path(option),
        help=text,
        default=default,
        bounds=_bounds(option.type),
        repeatable=option.multiple,
        required=option.required,
        variables=_variables(option),
        ends=bool({"--help", "--version"} & set(option.opts)),
    )


def _values(option: click.Option, name: str) -> tuple[str, ...]:
    if isinstance(option.type, click.Choice):
        return tuple(map(str, option.type.choices))
    if option.is_flag:
        return ()
    if name in TABLES:
        return tuple(registry.names(TABLES[name]))
    if name in PROFILES:
        return PROFILES[name]
    if name == "lengths":
        return tuple(
            model
            for preset in presets.NAMES
            for model in tomllib.loads(presets.text(preset).decode())["lengths"]
        )
    return TOKENIZERS if name == "tokenizer" else ()


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar.lower()
    if isinstance(option.type, click.types.IntParamType):
        return "integer"
    if isinstance(option.type, click.types.FloatParamType):
        return "number"
    return "file" if isinstance(option.type, click.Path) else "text"


def _path(option: click.Option) -> str:
    if isinstance(option.type, click.Path):
        return "file" if option.type.file_okay else "folder"
    words = (option.metavar or "").split("|")
    return "file" if "FILE" in words else "folder" if "DIR" in words else ""


def _bounds(type_: Any) -> str:
    """A range in words: `1 or more`, `over 0, at most 1`."""
    if not isinstance(type_, click.types.IntRange | click.types.FloatRange):
        return ""
    parts = []
    if type_.min is not None:
        parts.append(f"over {type_.min:g}" if type_.min_open else f"at least {type_.min:g}")
    if type_.max is not None:
        parts.append(f"under {type_.max:g}" if type_.max_open else f"at most {type_.max:g}")
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), ", ".join(parts))


def _variables(option: click.Option) -> tuple[str, ...]:
    """The variables whose names do not follow from the option's."""
    return (str(option.envvar),) if option.envvar and option.is_eager else ()


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring; one that click is told not to wrap is indented."""
    found = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        if paragraph.startswith("\b\n"):
            paragraph = textwrap.indent(paragraph.removeprefix("\b\n"), "    ")
        if paragraph.strip():
            found.append(paragraph.strip("\n"))
    return found
