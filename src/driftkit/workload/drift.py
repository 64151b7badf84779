"""Drift on purpose: from an instant on, lengths, a rate or a category's share times a factor.

What is drawn does not change, only what is made of it (common random numbers): everything before the drift
begins is as without it, and a request after it differs by the factor alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from driftkit.errors import LineError
from driftkit.records.schema import LATEST_S, shown
from driftkit.records.toml_table import Table

KINDS = ("step", "ramp", "season")
WHAT = ("lengths", "rate", "mix")
SMALLEST, LARGEST = 1e-3, 1e3


@dataclass(frozen=True, slots=True)
class Drift:
    """The factor on `what` of `tenant` and `category` (None: of all), from `at_s` of the workload on.

    A step is there at once, until `until_s`; a ramp grows evenly from 1, is there at `until_s`, and stays;
    a season swings between 1 and the factor, once in `period_s`, until `until_s`.
    """

    kind: str
    at_s: float
    factor: float
    what: str = "lengths"
    tenant: str | None = None
    category: str | None = None
    until_s: float = math.inf
    period_s: float = math.inf

    def ratio(self, time_s: float) -> float:
        """What is multiplied with at an instant; 1 before it begins."""
        if time_s < self.at_s:
            return 1.0
        if self.kind == "ramp":
            done = min((time_s - self.at_s) / (self.until_s - self.at_s), 1.0)
        elif time_s >= self.until_s:
            done = 0.0
        elif self.kind == "step":
            done = 1.0
        else:
            done = (1 - math.cos(2 * math.pi * (time_s - self.at_s) / self.period_s)) / 2
        return 1.0 + (self.factor - 1.0) * done


def ratio(drifts: Iterable[Drift], time_s: float) -> float:
    """Of several at once: their product."""
    product = 1.0
    for drift in drifts:
        product *= drift.ratio(time_s)
    return product


def read(table: Table, tenants: Collection[str], categories: Collection[str], unit: str = "_s") -> Drift:
    """The drift that a table describes; its instants' keys end in `unit`."""
    at, until, period = f"at{unit}", f"until{unit}", f"period{unit}"
    kind = table.one_of("kind", KINDS)
    what = table.one_of("what", WHAT, "lengths")
    at_s = table.number(at, 0, LATEST_S)
    until_s = table.number(until, 0, LATEST_S) if until in table else math.inf
    period_s = table.number(period, 1e-6, LATEST_S) if period in table else math.inf
    drift = Drift(
        kind=kind,
        at_s=at_s,
        factor=table.number("factor", SMALLEST, LARGEST),
        what=what,
        tenant=table.one_of("tenant", tenants) if "tenant" in table else None,
        category=table.one_of("category", categories) if "category" in table else None,
        until_s=until_s,
        period_s=period_s,
    )
    table.done()
    if (kind == "ramp" or until in table) and not at_s < until_s < math.inf:
        raise table.expected(until, f"a number above {at} ({at_s:g})")
    if kind == "season" and period not in table:
        raise table.expected(period, "a number: how long a season is")
    if kind != "season" and period in table:
        raise table.wrong(period, f"goes with a season, not with a {kind}")
    if what == "mix" and drift.category is None:
        raise table.expected("category", "the name of the category whose share is multiplied")
    if what == "rate" and drift.category is not None:
        raise table.wrong("category", "goes with lengths and mix, not with rate")
    return drift


def parse(text: str) -> Table:
    """The table of `key=value,...`, as an option has it; LineError when it is not that."""
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key or key in values:
            problem = "given twice" if key in values else f"expected key=value, got {shown(part)}"
            where = f"{key}: " if key in values else ""
            raise LineError(where + problem, hint="for instance kind=step,at=3600,factor=1.5,tenant=NAME")
        try:
            values[key] = value if key in ("kind", "what", "tenant", "category") else float(value)
        except ValueError:
            values[key] = value  # the reader says what it should be
    return Table(values, "")
