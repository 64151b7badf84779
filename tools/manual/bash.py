"""The completion for bash: a function that fills COMPREPLY."""

from __future__ import annotations

from collections.abc import Iterator

from manual.surface import MADE, Command, Option, policy_knobs, takes_value, valued

_START = r"""
# `--option=value` reaches us as three words; readline puts in only what follows the `=`.
_driftkit() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command='' i
    if [[ $cur == = ]]; then
        cur=''
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
"""

_WORDS = r"""
_driftkit_words() {
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_driftkit_paths() { # -f for files, -d for folders
    compopt -o filenames 2> /dev/null
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen "$1" -- "$cur")
}

_driftkit_knobs() {
    local i policy=''
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == --policy ]]; then
            policy=${COMP_WORDS[i+1]}
            [[ $policy == = ]] && policy=${COMP_WORDS[i+2]}
        fi
    done
    case $policy in
"""


_COMMAND = r"""
            -*) ;;
            *)
                command=${COMP_WORDS[i]}
                break
                ;;
        esac
    done
"""


def script(group: Command, commands: list[Command]) -> Iterator[str]:
    yield "# bash completion for driftkit; bash 4 or newer"
    yield MADE
    yield _WORDS.rstrip()
    for policy, knobs in policy_knobs().items():
        yield f"        {policy}) _driftkit_words '{' '.join(f'{knob}=' for knob in knobs)}' ;;"
    yield "    esac"
    yield "    compopt -o nospace 2> /dev/null"
    yield "}"
    yield _START.rstrip()
    if before := valued(group):
        yield f"            {' | '.join(before)})"
        yield "                [[ ${COMP_WORDS[i+1]} == = ]] && ((i++))"
        yield "                ((i++))"
        yield "                ;;"
    yield from _COMMAND.strip("\n").splitlines()
    yield "    case $command:$prev in"
    for action, patterns in _actions([group, *commands]).items():
        yield "        " + " | \\\n            ".join(patterns) + ")"
        yield from (f"            {step}" for step in action)
        yield "            return"
        yield "            ;;"
    yield "    esac"
    yield "    case $command in"
    for command in (group, *commands):
        words = " ".join(flag for option in command.options for flag in option.flags)
        label = command.name or "''"
        yield f"        {label})"
        yield "            if [[ $cur == -* ]]; then"
        yield f"                _driftkit_words '{words}'"
        if not command.name:
            yield "            else"
            yield f"                _driftkit_words '{' '.join(c.name for c in commands)}'"
        elif command.files:
            yield "            else"
            yield "                _driftkit_paths -f"
        yield "            fi"
        yield "            ;;"
    yield "    esac"
    yield "}"
    yield ""
    yield "complete -F _driftkit driftkit"


def _actions(commands: list[Command]) -> dict[tuple[str, ...], list[str]]:
    """What to do at the value of an option, and the patterns of `command:option` that it is done for."""
    by_flag: dict[str, dict[str, tuple[str, ...]]] = {}
    for command in commands:
        for option in filter(takes_value, command.options):
            for flag in option.flags:
                by_flag.setdefault(flag, {})[command.name] = _action(option)
    actions: dict[tuple[str, ...], list[str]] = {}
    for flag, by_command in by_flag.items():
        same = len(set(by_command.values())) == 1
        for name, action in by_command.items():
            pattern = f"*:{flag}" if same else f"{name}:{flag}"
            if pattern not in actions.setdefault(action, []):
                actions[action].append(pattern)
    return actions


def _action(option: Option) -> tuple[str, ...]:
    if option.name == "params":
        return ("_driftkit_knobs",)
    words = f"_driftkit_words '{' '.join(option.values)}'" if option.values else ""
    paths = {"file": "_driftkit_paths -f", "folder": "_driftkit_paths -d", "": ""}[option.path]
    return tuple(step for step in (words, paths) if step)
