"""The completion for zsh: specifications for _arguments."""

from __future__ import annotations

from collections.abc import Iterator

from manual.surface import MADE, Command, Option, policy_knobs

_KNOBS = r"""
_driftkit_knobs() {
    case ${opt_args[--policy]} in
"""


def script(group: Command, commands: list[Command]) -> Iterator[str]:
    yield "#compdef driftkit"
    yield MADE
    yield _KNOBS.rstrip()
    for policy, knobs in policy_knobs().items():
        yield f"        {policy}) compadd -S '' -- {' '.join(f'{knob}=' for knob in knobs)} ;;"
    yield "    esac"
    yield "}"
    yield ""
    yield "_driftkit() {"
    yield "    local context state state_descr line"
    yield "    typeset -A opt_args"
    yield "    _arguments -C \\"
    for option in group.options:
        yield from (f"        {spec} \\" for spec in _specs(option))
    yield "        '1:command:->command' \\"
    yield "        '*::argument:->argument' && return"
    yield "    case $state in"
    yield "        command)"
    yield "            local -a commands=("
    for command in commands:
        yield f"                {_single(command.name + ':' + command.summary)}"
    yield "            )"
    yield "            _describe command commands"
    yield "            ;;"
    yield "        argument)"
    yield "            case $words[1] in"
    for command in commands:
        yield f"                {command.name})"
        specs = [spec for option in command.options for spec in _specs(option)]
        specs += ["'*:file:_files'"] if command.files else []
        yield "                    _arguments \\"
        yield " \\\n".join(f"                        {spec}" for spec in specs)
        yield "                    ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"
    yield "}"
    yield ""
    yield '_driftkit "$@"'


def _specs(option: Option) -> Iterator[str]:
    """One `_arguments` specification per flag, with the flags it excludes."""
    if option.ends:
        exclude = "(- : *)"
    elif option.repeatable:
        exclude = "*"
    else:
        exclude = f"({' '.join(option.flags)})" if len(option.flags) > 1 else ""
    help_ = option.help.rstrip(".").replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    for flag in option.flags:
        equals = "=" if option.metavar is not None and flag.startswith("--") else ""
        value = f":{option.name if option.choices else option.metavar}:{_action(option)}" if equals else ""
        yield _single(f"{exclude}{flag}{equals}[{help_}]{value}")


def _action(option: Option) -> str:
    if option.name == "params":
        return "_driftkit_knobs"
    files = {"file": "_files", "folder": "_files -/", "": ""}[option.path]
    if not option.values:
        return files or " "
    words = f"({' '.join(option.values)})"
    if files:
        return f"_alternative 'names\\:name\\:{words}' 'paths\\:path\\:{files}'"
    return words


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
