"""Completions, asked of the real shells."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from driftkit.commands import COMMANDS
from driftkit.registry import names
from manual import shells, surface
from test_documents import ROOT
from test_manual import program

SCRIPTS = ROOT / "completions"

#: what bash does at TAB at the end of each line: split where readline does, call, print the candidates
BASH = r"""
source "$0"
function=$(complete -p driftkit | sed 's/.*-F \(\S*\) .*/\1/')
for line in "$@"; do
    COMP_WORDS=()
    read -ra spaced <<< "$line"
    for word in "${spaced[@]}"; do
        while [[ $word == *=* ]]; do
            [[ ${word%%=*} ]] && COMP_WORDS+=("${word%%=*}")
            COMP_WORDS+=(=)
            word=${word#*=}
        done
        [[ $word ]] && COMP_WORDS+=("$word")
    done
    [[ $line == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    "$function"
    printf '%s\n' "${COMPREPLY[@]}" "<next>"
done
"""

FISH = r"""
source $argv[1]
for line in $argv[2..]
    complete -C $line
    echo "<next>"
end
"""

#: zsh completes only in an interactive shell: one on a pseudo-terminal, where compadd tells what it is given
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1= PS2=; autoload -Uz compinit; fpath=('"${1:h}"' $fpath); compinit -D -u'
zpty -w shell 'compadd () {
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        typeset -a hits
        builtin compadd -A hits "$@"
        (( $#hits )) && print -rl -- "<"${^hits}">"
    fi
    builtin compadd "$@"
}'
zpty -w shell 'zstyle ":completion:*" menu no; LISTMAX=10000; unsetopt list_beep beep'
zpty -w shell 'next () { BUFFER=; print -r "<ne""xt>" }; zle -N next; bindkey "^O" next'
zpty -w shell 'bindkey "^I" complete-word; print read""y'
while zpty -r shell line && [[ $line != *ready* ]]; do :; done
for typed in "${@[2,-1]}"; do
    zpty -n -w shell "$typed"$'\t\x0f'
    while zpty -r shell line; do
        print -r -- "$line"
        [[ $line == *"<next>"* ]] && break
    done
done
"""


def asked(command: list[str | Path], lines: Sequence[str], folder: Path) -> list[str]:
    """What a shell prints for each line."""
    done = subprocess.run(
        [*command, *lines], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    answers = done.stdout.split("<next>")[:-1]
    assert len(answers) == len(lines)
    return answers


def bash(lines: Sequence[str], folder: Path, scripts: Path = SCRIPTS) -> list[set[str]]:
    answers = asked([program("bash"), "-c", BASH, scripts / "driftkit.bash"], lines, folder)
    return [set(answer.split("\n")) - {""} for answer in answers]


def zsh(lines: Sequence[str], folder: Path, scripts: Path = SCRIPTS) -> list[set[str]]:
    answers = asked([program("zsh"), "-f", "-c", ZSH, "zsh", scripts / "_driftkit"], lines, folder)
    return [set(re.findall(r"<([^<>\r\n]+)>", answer)) for answer in answers]


def fish(lines: Sequence[str], folder: Path, scripts: Path = SCRIPTS) -> list[set[str]]:
    command = [program("fish"), "--no-config", "-c", FISH, scripts / "driftkit.fish"]
    answers = [
        {row.partition("\t")[0] for row in answer.split("\n")} - {""}
        for answer in asked(command, lines, folder)
    ]
    # where --option=value was typed, fish gives it back whole
    return [
        {word.partition("=")[2] if word.startswith("--") and "=" in word else word for word in answer}
        for answer in answers
    ]


Shell = Callable[..., list[set[str]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fresh.jsonl").touch()
    (tmp_path / "learned").mkdir()
    return tmp_path


@pytest.fixture(params=[bash, zsh, fish], ids=lambda shell: shell.__name__)
def complete(request: pytest.FixtureRequest) -> Shell:
    shell: Shell = request.param
    return shell


CASES = {
    "driftkit ": set(COMMANDS),
    "driftkit sch": {"schedule"},
    "driftkit schedule --policy ": set(names("policies")),
    "driftkit schedule --policy=a": {"aging"},
    "driftkit schedule --policy aging --param ": {"rate="},
    "driftkit schedule --policy=random --param ": {"seed="},
    "driftkit run --batching s": {"static"},
    "driftkit gen --lengths ": {"near-cap", "chat"},
    "driftkit report --color ": {"auto", "always", "never"},
    "driftkit calibrate --method ": set(names("calibrators")),
    "driftkit calibrate --detector ": set(names("detectors")),
}


def test_names(complete: Shell, folder: Path) -> None:
    assert dict(zip(CASES, complete(list(CASES), folder), strict=True)) == CASES


def test_options(complete: Shell, folder: Path) -> None:
    commands = list(surface.subcommands())
    found = complete([f"driftkit {command.name} --" for command in commands], folder)
    for command, flags in zip(commands, found, strict=True):
        options = {flag for option in command.options for flag in option.flags if flag.startswith("--")}
        assert {flag.rstrip("=") for flag in flags} == options


PATHS: dict[str, set[str]] = {
    "driftkit run fr": {"fresh.jsonl"},
    "driftkit run --rejects fr": {"fresh.jsonl"},
    "driftkit estimate --tokenizer fr": {"fresh.jsonl"},
    "driftkit estimate --tokenizer wh": {"whitespace"},
    "driftkit calibrate --state ": {"learned"},
    "driftkit run --label fr": set(),
}


def test_files_and_folders(complete: Shell, folder: Path) -> None:
    found = [{path.rstrip("/") for path in paths} for paths in complete(list(PATHS), folder)]
    assert dict(zip(PATHS, found, strict=True)) == PATHS


def test_an_option_before_the_command_may_have_a_value(
    complete: Shell, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = surface.driftkit()
    rejects = next(o for command in surface.subcommands() for o in command.options if o.name == "rejects")
    config = dataclasses.replace(rejects, name="config", flags=("--config",), help="Take options from there.")
    extended = dataclasses.replace(group, options=(*group.options, config))
    monkeypatch.setattr(surface, "driftkit", lambda: extended)
    for name, text in shells.scripts().items():
        (tmp_path / name).write_text(text)
    cases = {
        "driftkit --config fr": {"fresh.jsonl"},
        "driftkit --config run sch": {"schedule"},  # a file of the name of a command
        "driftkit --config=run sch": {"schedule"},
        "driftkit --config run run --batching st": {"static"},
    }
    assert dict(zip(cases, complete(list(cases), folder, tmp_path), strict=True)) == cases
