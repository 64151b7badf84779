"""The completion for fish: one `complete` a line."""

from __future__ import annotations

from collections.abc import Iterator

from manual.surface import MADE, Command, Option, policy_knobs, valued

_START = r"""
# Whether the first word that is no option is $argv; without $argv, whether there is none yet.
function __driftkit_command
    set -l previous ''
    for word in (commandline -opc)[2..-1]
        set -l before $previous
        set previous $word
        string match -q -- '-*' $word; and continue
        contains -- $before@VALUED@; and continue
        test "$word" = "$argv"
        return
    end
    test -z "$argv"
end

function __driftkit_knobs
    set -l words (string split = -- (commandline -opc))
    set -l at (contains -i -- --policy $words); or return
    set -l policy (math $at + 1)
    switch "$words[$policy]"
"""


def script(group: Command, commands: list[Command]) -> Iterator[str]:
    yield "# fish completion for driftkit"
    yield MADE
    yield _START.rstrip().replace("@VALUED@", "".join(f" {flag}" for flag in valued(group)))
    for policy, knobs in policy_knobs().items():
        yield f"        case {policy}"
        yield f"            printf '%s\\n' {' '.join(f'{knob}=' for knob in knobs)}"
    yield "    end"
    yield "end"
    yield ""
    yield "complete -c driftkit -f"
    for option in group.options:
        yield _option("__driftkit_command", option)
    for command in commands:
        summary = _quoted(command.summary.rstrip("."))
        yield f"complete -c driftkit -n __driftkit_command -a {command.name} -d {summary}"
    for command in commands:
        condition = f"'__driftkit_command {command.name}'"
        yield ""
        if command.files:
            yield f"complete -c driftkit -n {condition} -F"
        for option in command.options:
            yield _option(condition, option)


def _option(condition: str, option: Option) -> str:
    words = [f"complete -c driftkit -n {condition}"]
    words += [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
    if option.metavar is not None:
        words.append("-r -F" if option.path == "file" else "-x")
        if option.name == "params":
            words.append("-a '(__driftkit_knobs)'")
        elif option.path == "folder":
            words.append("-a '(__fish_complete_directories)'")
        elif option.values:
            words.append(f"-a '{' '.join(option.values)}'")
    return " ".join([*words, f"-d {_quoted(option.help.rstrip('.'))}"])


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
