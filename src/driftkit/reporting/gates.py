"""Gates: conditions on the rows of the report that make a nightly job fail.

    [TABLE.]FIELD OP NUMBER [NAME=VALUE ...]

`e2e_s.p99>30`, `throughput.failed>0`, `error.mae>50 estimate=calibrated`, `paired.change_percent>5
metric=e2e_s statistic=p99`. A latency's name stands for its rows of the latency table.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from driftkit.errors import UsageError
from driftkit.reporting.latency import METRICS
from driftkit.reporting.tables import Table, shown

_FORM = re.compile(r"\s*(\w+)\.(\w+)\s*(<=|>=|==|!=|<|>)\s*(\S+)((?:\s+[^\s=]+=\S+)*)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that must not hold for any row of `table` that has all of `where`."""

    text: str
    table: str
    field: str
    operator: str
    bound: float
    where: dict[str, str]


def parse(text: str, tables: Sequence[str]) -> Gate:
    """The gate that `text` says; UsageError, with the nearest name, for a table there is none of."""
    form = _FORM.fullmatch(text)
    if form is None:
        hint = "for example 'e2e_s.p99>30' or 'throughput.failed>0 label=sjf'"
        raise UsageError(
            f"--fail-if {text!r}: expected TABLE.FIELD OPERATOR NUMBER [NAME=VALUE]...", hint=hint
        )
    table, field, sign, number, rest = form.groups()
    try:
        bound = float(number)
    except ValueError:
        raise UsageError(f"--fail-if {text!r}: expected a number, got {number!r}") from None
    where = dict(pair.split("=", 1) for pair in rest.split())
    if table in METRICS:
        table, where = "latency", {"metric": table, **where}
    if table not in tables:
        raise UsageError(
            f"--fail-if {text!r}: no table named {table!r}", hint=_near(table, [*METRICS, *tables])
        )
    return Gate(text, table, field, sign, bound, where)


def crossed(gate: Gate, table: Table) -> Iterator[str]:
    """A line for each row that crosses the gate.

    UsageError when no row has the field, or none is left by the conditions: a gate that looks at nothing
    must not pass.
    """
    known = {name for row in table.rows for name in row}
    for name in (gate.field, *gate.where):
        if name not in known:
            if not known:
                raise UsageError(f"--fail-if {gate.text!r}: the table {gate.table!r} is empty here")
            raise UsageError(
                f"--fail-if {gate.text!r}: {gate.table} has no field {name!r}",
                hint=_near(name, sorted(known)),
            )
    rows = table.rows
    for name, value in gate.where.items():
        values = sorted({_text(row.get(name)) for row in rows})
        rows = [row for row in rows if _text(row.get(name)) == value]
        if not rows:
            raise UsageError(f"--fail-if {gate.text!r}: no row has {name}={value}", hint=_near(value, values))
    numbers = [row[gate.field] for row in rows if row.get(gate.field) is not None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise UsageError(f"--fail-if {gate.text!r}: {gate.field} is a text, not a number")
    if not numbers:
        raise UsageError(f"--fail-if {gate.text!r}: no row that it looks at knows {gate.field}")
    holds = _OPERATORS[gate.operator]
    for row in rows:
        number = row.get(gate.field)
        if number is not None and holds(number, gate.bound):
            about = " ".join(f"{k}={v}" for k, v in row.items() if isinstance(v, str) and k not in gate.where)
            yield f"--fail-if {gate.text!r}: crossed: {gate.field} is {shown(number)} ({about})"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(names[:20])
