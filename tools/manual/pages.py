"""driftkit(1) and a page per command, in mdoc(7)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from driftkit import __version__, cli
from manual import surface
from manual.mdoc import argument, block, escape, prose, verbatim
from manual.surface import Command, Option

#: what the pages say that the commands do not: the date, environment, files, examples
EXTRA: dict[str, Any] = tomllib.loads((Path(__file__).parent / "manual.toml").read_text())
SECTIONS = {
    "policies": "POLICIES",
    "estimators": "MODELS",
    "traces": "TRACE FORMATS",
    "exports": "EXPORT FORMATS",
    "calibrators": "METHODS",
    "detectors": "DETECTORS",
}
FORMATS = ["driftkit-records 5", "driftkit-spec 5"]
#: what other sections say better than the epilog of --help can
_SHORTENED = {*(title.capitalize() for title in SECTIONS.values()), "Exit status"}
_TITLE = re.compile(r"(?P<title>[A-Z][a-z]+(?: [a-z]+)?): ")


def pages() -> dict[str, str]:
    """Every page of section 1, by file name."""
    commands = list(surface.subcommands())
    found = {"driftkit.1": _page("driftkit", _toplevel(surface.driftkit(), commands))}
    for command in commands:
        name = f"driftkit-{command.name}"
        found[f"{name}.1"] = _page(name, _subcommand(command, commands))
    return found


def _page(name: str, body: list[str], section: int = 1) -> str:
    return "\n".join([*header(name, section), *body]) + "\n"


def header(name: str, section: int) -> list[str]:
    return [
        '.\\" Made by tools/make_docs.py from the commands; do not edit.',
        f".Dd {EXTRA['dates'][__version__]}",
        f".Dt {name.upper()} {section}",
        ".Os",
    ]


def name_section(name: str, summary: str) -> list[str]:
    summary = summary.rstrip(".")
    return [".Sh NAME", f".Nm {name}", f".Nd {escape(summary[0].lower() + summary[1:])}"]


def _toplevel(group: Command, commands: list[Command]) -> list[str]:
    lines = name_section("driftkit", group.summary)
    lines += [".Sh SYNOPSIS", ".Nm", *map(_usage, group.options)]
    lines += [".Ar command", ".Op Ar argument ..."]
    lines += [
        ".Sh DESCRIPTION",
        *block(group.description),
        *block(EXTRA["driftkit"]["description"], inside=True),
    ]
    lines += [".Pp", "The commands, in the order of the pipe:", ".Bl -tag -width calibrate"]
    for command in commands:
        lines += [
            f".It Cm {command.name}",
            *prose(command.summary),
            "See",
            f".Xr driftkit-{command.name} 1 .",
        ]
    lines.append(".El")
    lines += _options(group)
    lines += _environment([group, *commands]) + _exit_status([group, *commands]) + _examples("driftkit")
    return lines + see_also([f"driftkit-{command.name} 1" for command in commands] + FORMATS)


def _subcommand(command: Command, commands: list[Command]) -> list[str]:
    lines = name_section(f"driftkit-{command.name}", command.summary)
    lines += [
        ".Sh SYNOPSIS",
        f'.Nm "driftkit {command.name}"',
        *(_usage(option) for option in command.options if not option.ends),
    ]
    if command.files:
        lines.append(".Op Ar")
    titled = [(match["title"], p) for p in command.epilog if (match := _TITLE.match(p))]
    rest = [p for p in command.epilog if not _TITLE.match(p)]
    lines += [".Sh DESCRIPTION", *block([*command.description, *rest])]
    if command.files:
        lines += [".Pp", "Reads each", ".Ar file", "in turn, unpacked where it is gzipped;"]
        lines += [".Ql -", "or no file is standard input, and a folder what it has of"]
        lines += [".Pa *.jsonl", "and", ".Pa *.jsonl.gz ,", "in the order of their names."]
    lines += _options(command)
    for option in command.options:
        if option.name in surface.TABLES:
            lines += _registry_section(surface.TABLES[option.name], option)
    for title, paragraph in titled:
        if title not in _SHORTENED:
            body = paragraph.removeprefix(f"{title}: ")
            lines += [f".Sh {title.upper()}", *prose(body[0].upper() + body[1:])]
    lines += _environment([command]) + _files(command) + _exit_status([command]) + _examples(command.name)
    others = ["driftkit 1", *(f"driftkit-{c.name} 1" for c in commands if c.name != command.name)]
    formats = FORMATS if any(option.name == "spec" for option in command.options) else FORMATS[:1]
    return lines + see_also([*others, *formats])


def _usage(option: Option) -> str:
    flags = [flag for flag in option.flags if flag.startswith("--")][:1] or list(option.flags)
    text = f"Fl {flags[0][1:]}{_value(option)}"
    if option.required:
        return f".{text}"
    return f".Op {text}" + (" ..." if option.repeatable else "")


def _value(option: Option) -> str:
    if option.metavar is None:
        return ""
    if option.choices:
        return " Cm " + " | ".join(map(argument, option.values))
    return " Ar " + " | ".join(map(argument, option.metavar.split("|")))


def _options(command: Command) -> list[str]:
    lines = [".Sh OPTIONS", ".Bl -tag -width Ds"]
    for option in command.options:
        flags = " , ".join(f"Fl {flag[1:]}" for flag in option.flags)
        lines += [f".It {flags}{_value(option)}", *_explained(option)]
    return [*lines, ".El"]


def _explained(option: Option) -> list[str]:
    text = option.help
    if text[-1] not in ".?!":
        text += "."
    facts = [option.bounds] if option.bounds else []
    if option.default:
        facts.append(f"default: {option.default}")
    if facts:
        text += f" ({'; '.join(facts)})"
        text = text.replace(f". ({'; '.join(facts)})", f" ({'; '.join(facts)}).")
    if option.required:
        text += " Required."
    return prose(text)


def _registry_section(table: str, option: Option) -> list[str]:
    flag = option.flags[0][1:]
    lines = [f".Sh {SECTIONS[table]}", "The names that", f".Fl {flag}", "takes;"]
    lines += ["other packages may add theirs by an entry point in the group", f".Ql driftkit.{table}.v1 ."]
    lines.append(".Bl -tag -width Ds")
    for name, paragraphs, facts in surface.entries(table):
        lines += [f".It Cm {argument(name)}", *block(paragraphs)]
        if facts:
            lines += [".Pp", *prose(" ".join(facts))]
    return [*lines, ".El"]


def _exit_status(commands: list[Command]) -> list[str]:
    """A status that comes of an option is on the pages of the commands that have it."""
    flags = {flag for command in commands for option in command.options for flag in option.flags}
    lines = [".Sh EXIT STATUS", ".Bl -tag -width Ds"]
    for code, meaning in cli.EXIT_STATUSES.items():
        if not set(re.findall(r"--[a-z-]+", meaning)) <= flags:
            continue
        lines += [f".It {code}", *prose(meaning[0].upper() + meaning[1:] + ".")]
    return [*lines, ".El"]


def _environment(commands: list[Command]) -> list[str]:
    options = {option.name: option for command in commands for option in command.options}
    known: dict[str, str] = {}
    command = commands[0]
    if command.prefix:
        variable = f"{command.prefix}{'OPTION' if command.name else 'COMMAND_OPTION'}"
        known[variable] = (
            f"Sets an option of {command.name or 'a command'} where the command line does not: the option's "
            f"name in capitals, `_` for `-`."
        )
    for option in options.values():
        known |= EXTRA["environment"].get(option.name, {})
        for variable in option.variables:
            if not command.name and any(variable.startswith(c.prefix) for c in commands[1:]):
                continue  # on the page of its command
            known[variable] = f"Sets {option.flags[0]} where the command line does not."
    if not known:
        return []
    lines = [".Sh ENVIRONMENT", ".Bl -tag -width Ds"]
    for variable, meaning in known.items():
        lines += [f".It Ev {variable}", *prose(meaning)]
    return [*lines, ".El"]


def _files(command: Command) -> list[str]:
    known = {p: m for option in command.options for p, m in EXTRA["files"].get(option.name, {}).items()}
    if not known:
        return []
    lines = [".Sh FILES", ".Bl -tag -width Ds"]
    for path, meaning in known.items():
        lines += [f".It Pa {argument(path)}", *prose(meaning)]
    return [*lines, ".El"]


def examples(name: str) -> list[tuple[str, str]]:
    """What each example of a page does, and its shell commands."""
    return [(example["does"], example["run"].strip()) for example in EXTRA["examples"][name]]


def _examples(name: str) -> list[str]:
    lines = [".Sh EXAMPLES"]
    for number, (does, run) in enumerate(examples(name)):
        lines += [*([".Pp"] if number else []), *prose(does), *verbatim(run)]
    return lines


def see_also(references: list[str]) -> list[str]:
    by_section = sorted(references, key=lambda reference: reference.split()[::-1])
    lines = [f".Xr {reference} ," for reference in by_section]
    return [".Sh SEE ALSO", *lines[:-1], lines[-1].removesuffix(" ,")]
