"""A table: rows that a program can read and a rendering for people. Only this file knows rich."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

from driftkit.errors import printable
from driftkit.records.schema import SCHEMA, Record

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Color = Literal["auto", "always", "never"]


@dataclass
class Table:
    """`rows` map field names to values; `columns` say which are shown under which heading.

    `notes` state what the numbers assume; they are printed under the table.
    """

    name: str
    title: str
    columns: list[tuple[str, str]]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def numeric(self, key: str) -> bool:
        """Whether the column holds nothing but numbers."""
        return all(isinstance(row.get(key), int | float | None) for row in self.rows)

    def records(self) -> Iterator[Record]:
        """One `summary` record per row."""
        for row in self.rows:
            known = {key: value for key, value in row.items() if value is not None and value == value}
            yield {"kind": "summary", "schema": SCHEMA, "table": self.name, **known}


def shown(value: Any) -> str:
    """A cell: four significant digits, never an exponent; a dash for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        if value == 0:
            return "0"
        if math.isinf(value):
            return str(value)
        rounded = float(f"{value:.4g}")  # 0.99996 has one digit before the point once it is shown
        digits = max(0, 3 - math.floor(math.log10(abs(rounded))))
        return f"{value:.{min(digits, 6)}f}"
    return printable(str(value))


def rendered(tables: list[Table], stream: IO[str], color: Color) -> str:
    """The tables as text of any width, coloured under `auto` if `stream`, where it will go, is a terminal."""
    from rich.console import Console

    console = Console(
        file=stream,
        width=10_000,  # lines are as long as they need to be: a cut or folded cell is a misread figure
        # what the user says is stronger than NO_COLOR and TERM, which decide under "auto"
        force_terminal={"auto": None, "always": True, "never": False}[color],
        no_color=False if color == "always" else None,
        color_system="standard" if color == "always" else "auto",
        highlight=False,
        soft_wrap=True,
    )
    with console.capture() as capture:
        for table in tables:
            if table.rows:
                console.print(_rich(table), soft_wrap=False)
            for note in table.notes:
                console.print(f"  {note}", markup=False, style="dim")
            console.print()
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip("\n") + "\n"


def _rich(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    out = RichTable(title=Text(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for key, heading in table.columns:
        out.add_column(heading, justify="right" if table.numeric(key) else "left", no_wrap=True)
    for row in table.rows:
        out.add_row(*(Text(shown(row.get(key))) for key, _ in table.columns))
    return out
