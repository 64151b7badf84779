"""driftkit-spec(5): words from spec.toml; types, bounds and defaults as driftkit's own reader asks for them.

Every example of the page and every preset is read with a table that notes what it is asked for.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from driftkit.records.toml_table import Table
from driftkit.workload import presets, spec
from manual.mdoc import argument, block, prose, verbatim
from manual.pages import examples, header, name_section, see_also
from manual.records_page import number, unit_of

WORDS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "spec.toml").read_text())
#: tables whose keys are names of the user's own
NAMED = ("prefixes", "categories", "lengths")

#: by the kind of table and its process or model: what each of its keys is asked to be, as the page says it
Asked = dict[tuple[str, str], dict[str, set[str]]]


def table_of(path: str) -> str:
    """The kind of table that is at a path: `tenants[2].arrivals` is `arrivals`; the outermost is ``."""
    *above, last = re.sub(r"\[\d+\]", "", path).split(".")
    return above[-1] if above and above[-1] in NAMED else last


def kind_of(values: dict[str, Any]) -> str:
    return str(values.get("process") or values.get("model") or "")


def choice(choices: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in choices)


class Noting(Table):
    """A table that notes what it is asked for."""

    def __init__(self, values: dict[str, Any], path: str, asked: Asked) -> None:
        super().__init__(values, path)
        self._all = asked
        self._tried: set[str] = set()  # whether they are there
        names = path in NAMED or table_of(path) == "mix"
        self._keys = {} if names else asked[table_of(path), kind_of(values)]

    def _below(self, values: dict[str, Any], path: str) -> Table:
        return Noting(values, path, self._all)

    def __contains__(self, key: str) -> bool:
        self._tried.add(key)
        self._keys.setdefault(key, set())
        return super().__contains__(key)

    def _note(self, key: str, what: str, default: str | None = None) -> None:
        if default is not None:
            what += f"; default {default}"
        elif key not in self._tried:
            what += "; required"
        self._keys.setdefault(key, set()).add(what)

    def _bounded(self, type_: str, key: str, least: float, most: float, default: float | None) -> None:
        words = [type_, *filter(None, [unit_of(f"_{key}")]), f"{number(least)} to {number(most)}"]
        self._note(key, ", ".join(words), None if default is None else number(default))

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        self._bounded("number", key, least, most, default)
        return super().number(key, least, most, default)

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        self._bounded("integer", key, least, most, default)
        return super().integer(key, least, most, default)

    def name(self, key: str, default: str | None = None) -> str:
        self._note(key, "string", default and f'"{default}"')
        return super().name(key, default)

    def one_of(self, key: str, choices: Collection[str], default: str | None = None) -> str:
        named = f"name of one of [{key}es]" if f"{key}es" in NAMED else choice(choices)
        self._note(key, named, default and f'"{default}"')
        return super().one_of(key, choices, default)

    def boolean(self, key: str) -> bool:
        self._note(key, "boolean", "false")
        return super().boolean(key)

    def numbers(self, key: str, least: float, most: float, at_least: int) -> list[float]:
        self._note(key, f"array of numbers, each {number(least)} to {number(most)}")
        return super().numbers(key, least, most, at_least)

    def table(self, key: str) -> Table:
        self._tried.add(key)
        self._note(key, "tables by name" if key in NAMED else "table")
        return super().table(key)

    def tables(self, key: str) -> list[Table]:
        self._tried.add(key)
        self._note(key, "array of tables")
        return super().tables(key)

    def raw(self, key: str) -> Any:
        self._keys.setdefault(key, set())
        return super().raw(key)


def samples() -> list[str]:
    """Spec files that together have every key, every process and every model."""
    shown = [file for _, run in examples("spec") for file in re.findall(r"<< 'END'\n(.*?\n)END", run, re.S)]
    return [*shown, *(presets.text(name).decode() for name in presets.NAMES), *_kinds()]


def _kinds() -> Iterator[str]:
    least = {"output": "9", "arrivals": '{ process = "constant", rate_rps = 1 }'}
    for section in WORDS["section"]:
        for kind in section.get("kinds", {}).values():
            inline = least | {section["at"][0]: kind["example"]}
            tenant = "".join(f"{key} = {value}\n" for key, value in inline.items())
            yield f"requests = 1\ninput = 9\nmax_tokens = 64\n[[tenants]]\nname = 'a'\n{tenant}"


@cache
def asked() -> Asked:
    """What driftkit asks of the samples."""
    found: Asked = defaultdict(dict)
    for text in samples():
        spec.read_table(Noting(tomllib.loads(text), "", found))
    return {table: keys for table, keys in found.items() if keys}


def written() -> dict[tuple[str, str], set[str]]:
    """The keys of which the page says something, of the same tables."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for section in WORDS["section"]:
        kinds = section.get("kinds", {"": {}})
        for table in section.get("at", []):
            for name, kind in kinds.items():
                found[table, name] |= {*section["keys"], *kind.get("keys", {})} - {*kind.get("without", [])}
    return found


def page() -> str:
    lines = [
        *header("driftkit-spec", 5),
        *name_section("driftkit-spec", "a workload as a file for driftkit gen --spec"),
        ".Sh DESCRIPTION",
        *block(WORDS["description"]),
    ]
    for section in WORDS["section"]:
        lines += [f".Sh {section['title']}", *block(section["says"])]
        lines += _keys(section, section)
        for name, kind in section.get("kinds", {}).items():
            lines += [f".Ss {argument(name)}", *block([*kind["says"], *_variance(kind)])]
            lines += [*verbatim(kind["example"]), *_keys(section, kind, name)]
    lines.append(".Sh EXAMPLES")
    for place, (does, run) in enumerate(examples("spec")):
        lines += [*([".Pp"] if place else []), *prose(does), *verbatim(run)]
    return "\n".join([*lines, *see_also(["driftkit 1", "driftkit-gen 1", "driftkit-records 5"])]) + "\n"


def _variance(kind: dict[str, str]) -> list[str]:
    if "rate" not in kind:
        return []
    rate, dispersion = (kind[name].replace("**", "^") for name in ("rate", "dispersion"))
    return [f"Mean rate: {rate}. Variance over mean, in the long run: {dispersion}."]


def _keys(section: dict[str, Any], words: dict[str, Any], kind: str = "") -> list[str]:
    lines = [".Bl -tag -width Ds"]
    for key, says in words["keys"].items():
        lines += [f".It Va {key} Pq {argument(form(section, words, kind, key))}", *prose(says)]
    return [*lines, ".El"]


def form(section: dict[str, Any], words: dict[str, Any], kind: str, key: str) -> str:
    """Type, bounds and default of a key of a section, or of one of its kinds; `types` are those of which
    driftkit asks nothing or several things, and `required` are arrays that it takes for empty first."""
    if key in words.get("types", {}):
        return str(words["types"][key])
    tables = [keys for (table, k), keys in asked().items() if table in section["at"] and kind in ("", k)]
    (what,) = {what for keys in tables for what in keys.get(key, ())}
    return f"{what}; required" if key in words.get("required", ()) else what
