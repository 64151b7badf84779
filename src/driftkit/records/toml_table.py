"""A TOML table, read key by key: a value that is wrong, and a key that nobody asked for, is one line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from typing import Any

from driftkit.errors import FieldError, LineError, near, near_or_known
from driftkit.records.schema import shown


def parse(data: bytes) -> Table:
    """The file's outermost table; LineError when it is not TOML."""
    try:
        return Table(tomllib.loads(data.decode()), "")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LineError(f"not UTF-8 (line {line})", hint="a TOML file is UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        first = str(error).partition("\n")[0] or "too deeply nested"
        raise LineError(f"not TOML: {first[0].lower()}{first[1:]}") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise LineError(f"not TOML: {str(error).partition(';')[0].lower()}") from None


class Table:
    """What is asked for is checked at once; `done` refuses what was never asked for.

    `path` is where the table is in the file, as jq would write it: `tenants[2].arrivals`.
    """

    def __init__(self, values: dict[str, Any], path: str) -> None:
        self._values = values
        self.path = path
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._asked.add(key)
        return key in self._values

    def names(self) -> list[str]:
        """Every key, where they are names of the user's own."""
        self._asked.update(self._values)
        return list(self._values)

    def place(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, problem: str, hint: str | None = None) -> FieldError:
        return FieldError(self.place(key), problem, hint=hint)

    def expected(self, key: str, what: str, hint: str | None = None) -> FieldError:
        if key not in self._values:  # by a slip of the pen, perhaps
            others = [name for name in self._values if name not in self._asked]
            for slip in difflib.get_close_matches(key, others, n=1, cutoff=0.8):
                return self.wrong(slip, "no such key here", f"did you mean {key}?")
        return self.wrong(key, f"expected {what}, got {shown(self._values.get(key))}", hint)

    def raw(self, key: str) -> Any:
        self._asked.add(key)
        return self._values.get(key)

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """A finite number from `least` to `most`; without a `default` it must be there."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.expected(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.expected(key, f"an integer from {least} to {most}")
        return value

    def name(self, key: str, default: str | None = None) -> str:
        """A name of the user's: printable and not empty."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if type(value) is not str or not value or not value.isprintable():
            raise self.expected(key, "a string, printable and not empty")
        return value

    def one_of(self, key: str, choices: Collection[str], default: str | None = None) -> str:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if type(value) is not str or value not in choices:
            what = "one of " + ", ".join(choices) if choices else "nothing: this file declares none"
            raise self.expected(key, what, near(str(value), choices))
        return value

    def boolean(self, key: str) -> bool:
        value = self.raw(key)
        if value is not None and type(value) is not bool:
            raise self.expected(key, "true or false")
        return bool(value)

    def numbers(self, key: str, least: float, most: float, at_least: int) -> list[float]:
        """An array of finite numbers from `least` to `most`."""
        values = self.raw(key)
        if type(values) is not list or len(values) < at_least:
            raise self.expected(key, f"an array of at least {at_least} numbers")
        for place, value in enumerate(values):
            if type(value) not in (int, float) or not least <= value <= most:
                raise self.wrong(
                    f"{key}[{place}]", f"expected a number from {least:g} to {most:g}, got {shown(value)}"
                )
        return [float(value) for value in values]

    def table(self, key: str) -> Table:
        """The table at `key`, an empty one when there is none."""
        value = self._values.get(key, {})
        self._asked.add(key)
        if type(value) is not dict:
            raise self.expected(key, "a table")
        return self._below(value, self.place(key))

    def tables(self, key: str) -> list[Table]:
        """The tables of the array at `key`."""
        values = self.raw(key)
        if values is None:
            return []
        if type(values) is not list or any(type(value) is not dict for value in values):
            raise self.expected(key, f"an array of tables ([[{self.place(key)}]])")
        return [self._below(value, f"{self.place(key)}[{place}]") for place, value in enumerate(values)]

    def _below(self, values: dict[str, Any], path: str) -> Table:
        """A table of this one's kind: tools/manual has one that notes what it is asked."""
        return Table(values, path)

    def shares(self, key: str, names: Collection[str]) -> dict[str, float] | None:
        """A table of shares by name, of which at least one is above 0; None when there is none."""
        if key not in self:
            return None
        table = self.table(key)
        for name in table.names():
            if name not in names:
                raise table.wrong(name, "not declared in this file", near_or_known(name, names))
        shares = {name: table.number(name, 0, 1e9) for name in table.names()}
        if not sum(shares.values()):
            raise self.wrong(key, "expected a share above 0, got none")
        return shares

    def done(self) -> None:
        """FieldError for the first key that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                raise self.wrong(key, "no such key here", near_or_known(key, sorted(self._asked)))
