"""`--map field=theirs`: which of a foreign row's values is which of driftkit's fields.

`theirs` is a column, or a JSON key with dots for what lies deeper (`usage.prompt_tokens`; a key that has the
dots itself comes first). `theirs/1000` divides a number, so that milliseconds become seconds. A row's values
that have driftkit's own names need no map. Instants are numbers or ISO 8601 timestamps, count from the first
row's arrival, and are kept to the microsecond, which is what a double holds of seconds since 1970.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from driftkit.errors import FieldError, UsageError
from driftkit.records.schema import FIELDS, SCHEMA, Record, check_prompt
from driftkit.workload.traces.cells import instant, number
from driftkit.workload.traces.timings import INSTANTS, completion

_OURS = [name for name in FIELDS if name not in ("kind", "schema", "barrier")]
_MICROSECONDS = 6
_SINCE_1970_S = 1e9  # an instant beyond September 2001 is of a clock that counts from 1970


@dataclass(frozen=True, slots=True)
class Item:
    """One field, where it is found, and what its number is divided by."""

    field: str
    theirs: str
    divisor: float = 1.0

    @property
    def shown(self) -> str:
        return self.field if self.field == self.theirs else f"{self.theirs} (as {self.field})"

    def value(self, row: Record) -> Any:
        """What the row holds there; None where it holds nothing."""
        if self.theirs in row:
            found: Any = row[self.theirs]
        else:
            found = row
            for key in self.theirs.split("."):
                found = found.get(key) if type(found) is dict else None
        return None if found == "" else found

    def converted(self, value: Any) -> Any:
        """The value as the field has it; FieldError under their name."""
        field = FIELDS.get(self.field)
        if self.field in INSTANTS:
            return instant(self.shown, value, self.divisor)
        if field is None or self.field in ("status", "error"):
            return value
        if field.type == "string":
            if type(value) in (int, float):
                value = str(value)
        elif field.type in ("number", "integer"):
            amount = number(self.shown, value) / self.divisor
            if amount == 0 and self.field == "trace_output_tokens":
                return None  # of a request that failed: how long it would have been nobody knows
            if field.type == "number" or amount == int(amount):
                value = amount if field.type == "number" else int(amount)
        if not field.accepts(value):
            raise FieldError(self.shown, field.refusal(value))
        return value


class Mapping:
    """The items of every --map; remembers the first row's arrival and what run it belongs to."""

    def __init__(self, maps: Iterable[str]) -> None:
        items = [_item(text) for text in maps]
        fields = [item.field for item in items]
        for field in fields:
            if fields.count(field) > 1:
                raise UsageError(f"--map: {field} is mapped twice")
        self._items = items
        self._own = {name: Item(name, name) for name in _OURS if name not in fields}
        self._start: float | None = None
        self._run_id = ""
        self._started_at: str | None = None

    def check_columns(self, columns: list[str]) -> None:
        """UsageError when a mapped column is not there, or none says when a request arrived."""
        hint = "the header has " + ", ".join(columns)
        for item in self._items:
            if item.theirs not in columns:
                raise UsageError(f"--map: no column named {item.theirs}", hint=hint)
        fields = {item.field for item in self._items} | set(columns)
        if "arrival_s" not in fields and not {"finished_s", "e2e_s"} <= fields:
            raise UsageError("no column says when a request arrived: --map arrival_s=COLUMN", hint=hint)

    def record(self, row: Record, number: int, label: str, line: bytes) -> Record:
        """The row's request, or completion when it says when it ended. `line` names the run."""
        values: Record = {}
        items = [*self._items, *(self._own[name] for name in row if name in self._own)]
        for item in items:
            if (value := item.value(row)) is not None and (value := item.converted(value)) is not None:
                values[item.field] = value
        arrival = self._arrival(values)
        if self._start is None:
            self._start = arrival
            if arrival > _SINCE_1970_S:
                self._started_at = datetime.fromtimestamp(arrival, UTC).isoformat().replace("+00:00", "Z")
            self._run_id = "trace-" + hashlib.blake2b(line, digest_size=6).hexdigest()
        for name in INSTANTS:
            if name in values:
                values[name] = round(values[name] - self._start, _MICROSECONDS)
        values["arrival_s"] = round(arrival - self._start, _MICROSECONDS)
        record: Record = {"kind": "request", "schema": SCHEMA, "id": f"trace-{number:06d}", **values}
        check_prompt(record)
        if any(item.field in ("finished_s", "e2e_s") for item in items):  # though this row may not say
            if self._started_at is not None:
                record.setdefault("run_started_at", self._started_at)
            return completion(record, self._run_id, label)
        return record

    def _arrival(self, values: Record) -> float:
        """When it arrived; logs written at the end say when that was and how long it took."""
        arrival: float | None = values.get("arrival_s")
        if arrival is None and "finished_s" in values and "e2e_s" in values:
            return float(values["finished_s"] - values["e2e_s"])
        if arrival is None:
            shown_as = next((item.shown for item in self._items if item.field == "arrival_s"), "arrival_s")
            hint = None if shown_as != "arrival_s" else "say which it is: --map arrival_s=COLUMN"
            raise FieldError(shown_as, "expected a number or an ISO 8601 timestamp, got nothing", hint=hint)
        return arrival


def _item(text: str) -> Item:
    field, equals, theirs = text.partition("=")
    if not (field and equals and theirs):
        raise UsageError(f"--map: expected FIELD=THEIRS, got {text!r}")
    if field in ("kind", "schema"):
        raise UsageError(f"--map: {field} is driftkit's own")
    if field not in FIELDS and (near := difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.8)):
        raise UsageError(f"--map: no field named {field!r}", hint=f"did you mean {near[0]}?")
    name, slash, divisor = theirs.rpartition("/")
    if slash:
        try:
            factor = float(divisor)
        except ValueError:
            return Item(field, theirs)
        if not 0 < factor < 1e18:
            raise UsageError(f"--map: expected a number > 0 after the slash, got {text!r}")
        if field in FIELDS and FIELDS[field].type not in ("number", "integer"):
            raise UsageError(f"--map: {field} is no number, and cannot be divided")
        return Item(field, name, factor)
    return Item(field, theirs)
