"""Where an option's value comes from: the flag, else DRIFTKIT_COMMAND_OPTION, else `--config FILE`.

click does the looking up; here a file becomes its defaults, and names that nobody looks up are refused,
because an option that is silently ignored is worse than none.
"""

from __future__ import annotations

import os
from typing import Any

import click

from driftkit.commands import COMMANDS
from driftkit.errors import UsageError, near


class Lines(click.types.StringParamType):
    """A text of a repeatable option; in an environment variable there is one a line, spaces and all."""

    envvar_list_splitter = "\n"


def on_command_line(name: str) -> bool:
    """Whether the option, by its parameter's name, was given as a flag and not configured."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def given(name: str) -> bool:
    """Whether the option, by its parameter's name, has another value than its default."""
    default = (None, click.core.ParameterSource.DEFAULT)
    return click.get_current_context().get_parameter_source(name) not in default


def configure(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Callback of --config: check the environment's names, take the file's values as defaults."""
    options = {
        option.opts[-1].removeprefix("--"): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and not option.is_eager
    }
    _check_environment(ctx, options)
    if path is not None:
        ctx.default_map = _values(ctx, path, options)


def _check_environment(ctx: click.Context, options: dict[str, click.Option]) -> None:
    prefix = f"DRIFTKIT_{ctx.info_name}_".upper()
    known = {str(option.envvar) for option in options.values()}
    for name in os.environ:
        if name.startswith(prefix) and name not in known:
            raise UsageError(f"environment: {ctx.info_name} has no option for {name}", hint=near(name, known))


def _values(ctx: click.Context, path: str, options: dict[str, click.Option]) -> dict[str, Any]:
    """The table of this command, by click's names; UsageError for what no command or option has."""
    import tomllib

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config: {path}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path}: not TOML: {str(error).splitlines()[0].lower()}") from None
    for name, table in document.items():
        if name not in COMMANDS or not isinstance(table, dict):
            hint = "a table per command, for example [run]"
            raise UsageError(
                f"--config: {path}: no command named {name!r}", hint=near(name, COMMANDS) or hint
            )
    values: dict[str, Any] = {}
    for name, value in document.get(ctx.info_name or "", {}).items():
        option = options.get(name)
        where = f"--config: {path}: [{ctx.info_name}] {name}"
        if option is None or option.name is None:
            raise UsageError(f"{where}: no such option", hint=near(name, options))
        if option.is_flag and type(value) is not bool:
            raise UsageError(f"{where}: expected true or false, got {value!r}")
        given = [value] if option.multiple and not isinstance(value, list) else value
        try:
            option.type_cast_value(ctx, given)
        except (click.BadParameter, TypeError) as error:
            said = error.message if isinstance(error, click.BadParameter) else f"cannot be {value!r}"
            raise UsageError(f"{where}: {said}") from None
        values[option.name] = given
    return values
