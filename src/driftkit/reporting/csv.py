"""Tables as CSV for spreadsheets: full precision, one header per table, no cell that runs as a formula."""

from __future__ import annotations

import csv
import io

from driftkit.reporting.tables import Table

# a text that starts so is a formula, or a link to another program, to a spreadsheet
# (OWASP, "CSV injection"); the apostrophe makes it text
FORMULA = ("=", "+", "-", "@")


def rendered(tables: list[Table]) -> str:
    """Each table with its fields' names as header; `table` is the first column; a blank line between."""
    stream = io.StringIO()
    # every text is quoted: one that holds a semicolon stays one cell where that is the separator
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for place, table in enumerate(tables):
        if place:
            stream.write("\n")
        names = list(dict.fromkeys(name for row in table.rows for name in row))
        writer.writerow(["table", *map(cell, names)])
        for row in table.rows:
            writer.writerow([table.name, *(cell(row.get(name)) for name in names)])
    return stream.getvalue()


def cell(value: object) -> object:
    """Numbers as they are, missing and NaN empty, texts disarmed."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else " " for c in value)  # no line break, tab or escape sequence
        return "'" + text if text.lstrip().startswith(FORMULA) else text
    return value
