"""driftkit-records(5), from the schema module."""

from __future__ import annotations

import itertools
import re

from driftkit.records import schema
from driftkit.records.schema import Field
from manual.mdoc import argument, block, prose, verbatim
from manual.pages import EXTRA, examples, header, name_section, see_also

UNITS = {
    "_s": "seconds",
    "_tokens": "tokens",
    "_words": "words",
    "_rps": "requests per second",
    "_w": "watts",
    "_j": "joules",
    "_bytes": "bytes",
    "_c": "degrees Celsius",
    "_mhz": "megahertz",
}


def page() -> str:
    lines = [
        *header("driftkit-records", 5),
        *name_section("driftkit-records", "the records that driftkit pipes"),
    ]
    lines += [".Sh DESCRIPTION", *block(EXTRA["records"]["description"])]
    lines += [".Sh REQUIRED FIELDS", *block(EXTRA["records"]["required"])]
    lines += [".Bl -tag -width calibrate"]
    for command, fields in EXTRA["needs"].items():
        needed = "; ".join(" or ".join(f"`{name}`" for name in field.split("|")) for field in fields)
        lines += [f".It Cm {command}", *prose(needed + ".")]
    lines.append(".El")
    lines += [".Sh FIELDS BY STAGE", *prose("By the stage that adds them. Bounds include their ends.")]
    for stage, fields in itertools.groupby(schema.FIELDS.values(), lambda field: field.stage):
        lines += [f".Ss Added by {stage}", ".Bl -tag -width Ds"]
        for field in fields:
            lines += [f".It Va {field.name} Pq {argument(_constraint(field))}", *prose(_sentence(field.doc))]
        lines.append(".El")
    lines.append(".Sh EXAMPLES")
    for number, (does, run) in enumerate(examples("records")):
        lines += [*([".Pp"] if number else []), *prose(does), *verbatim(run)]
    lines += see_also(["driftkit 1"])
    return "\n".join(lines) + "\n"


def _constraint(field: Field) -> str:
    """Type, unit, bounds: `number of seconds, 0 to 9e9`."""
    text: str = field.type
    if unit := unit_of(field.name):
        text += f", {unit}"
    if field.choices:
        text += ": " + ", ".join(field.choices)
    if field.minimum is not None and field.maximum is not None:
        text += f", {number(field.minimum)} to {number(field.maximum)}"
    return text


def unit_of(name: str) -> str:
    return next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")


def number(value: float) -> str:
    if value == 2**63 - 1:
        return "2^63-1"
    if value == -(2**63):
        return "-2^63"
    return f"{value:g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a value (`stop, or ...`), a field or a name."""
    first = text.split()[0]
    capital = re.fullmatch(r"[a-z]+('s)?", first)
    return f"{first.capitalize() if capital else first}{text[len(first) :]}."
