"""Gates: conditions on the rows of the report that make a nightly job fail.

    [TABLE.]FIELD OP NUMBER [NAME=VALUE ...]

`e2e_s.p99>30`, `throughput.failed>0`, `error.mae>50 estimate=calibrated`, `paired.change_percent>5
metric=e2e_s statistic=p99`, `ttft_s.p95>2 tenant="Big Corp"`. A latency's name stands for its rows of the
latency table. A gate that has nothing to look at, because all requests of a night failed, is crossed.
"""

from __future__ import annotations

import math
import operator
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from driftkit.errors import UsageError, near_or_known
from driftkit.reporting.latency import METRICS
from driftkit.reporting.tables import Table, shown

_FORM = re.compile(r"\s*(\w+)\.(\w+)\s*(<=|>=|==|!=|<|>)\s*(\S+)(\s.*)?")
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
        bound = math.nan
    if not math.isfinite(bound):
        raise UsageError(f"--fail-if {text!r}: expected a number, got {number!r}")
    try:
        pairs = [pair.partition("=") for pair in shlex.split(rest or "")]
    except ValueError:
        raise UsageError(f"--fail-if {text!r}: a quotation mark is not closed") from None
    for name, equals, _ in pairs:
        if not (name and equals):
            raise UsageError(f"--fail-if {text!r}: expected NAME=VALUE after the number, got {name!r}")
    where = {name: value for name, _, value in pairs}
    if table in METRICS:
        table, where = "latency", {"metric": table, **where}
    if table not in tables:
        raise UsageError(
            f"--fail-if {text!r}: no table named {table!r}", hint=near_or_known(table, [*METRICS, *tables])
        )
    return Gate(text, table, field, sign, bound, where)


def crossed(gate: Gate, table: Table, groups: Sequence[dict[str, str]]) -> Iterator[str]:
    """A line for each row that crosses the gate, and for each of `groups` of which it learns nothing.

    `groups` are those that must have a value: the labels, split as the report is. UsageError for a field or a
    condition that no row has, with the nearest name.
    """
    known = {key for key, _ in table.columns} | {name for row in table.rows for name in row}
    rows = table.rows
    for name in (gate.field, *gate.where):
        if name not in known:
            hint = near_or_known(name, sorted(known))
            raise UsageError(f"--fail-if {gate.text!r}: {gate.table} has no field {name!r}", hint=hint)
    for name, value in gate.where.items():
        values = sorted({_text(row.get(name)) for row in (*table.rows, *groups) if row.get(name) is not None})
        if table.rows and value not in values:
            raise UsageError(
                f"--fail-if {gate.text!r}: no row has {name}={value}", hint=near_or_known(value, values)
            )
        rows = [row for row in rows if _text(row.get(name)) == value]
    holds = _OPERATORS[gate.operator]
    answered = []
    for row in rows:
        number = row.get(gate.field)
        if isinstance(number, str):
            raise UsageError(f"--fail-if {gate.text!r}: {gate.field} is a text, not a number")
        if number is None or number != number:
            continue
        answered.append(row)
        if holds(number, gate.bound):
            about = " ".join(
                f"{name}={row[name]}" for name in _identity(row, groups) if name not in gate.where
            )
            yield f"--fail-if {gate.text!r}: crossed: {gate.field} is {shown(number)} ({about})"
    for group in groups:
        if any(_text(group.get(name, value)) != value for name, value in gate.where.items()):
            continue
        if not any(all(row.get(name) == value for name, value in group.items()) for row in answered):
            about = " ".join(f"{name}={value}" for name, value in group.items())
            yield f"--fail-if {gate.text!r}: crossed: {gate.field} is not known ({about})"


def _identity(row: dict[str, Any], groups: Sequence[dict[str, str]]) -> list[str]:
    """What tells a row from others: its group, and what else names it (no sparkline, no sentence)."""
    names = dict.fromkeys(name for group in groups for name in group)
    own = ("source", "metric", "estimate", "statistic", "class", "decile", "tenth")
    return [name for name in (*names, *own) if name in row]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
