"""Any log as rows of cells under a header: commas, semicolons or tabs between them, whichever the header has.

A quoted cell may hold the separator, not the end of a line. An empty cell is a missing value.
"""

from __future__ import annotations

import csv
from typing import ClassVar

from driftkit.errors import LineError
from driftkit.records.schema import Record
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.mapping import Mapping


class Csv(Trace):
    """Columns are taken by --map, or by driftkit's own names; arrivals count from the first row."""

    name: ClassVar[str] = "csv"

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._rows = 0
        self._mapping = Mapping(self.options.maps)
        self._header: list[str] = []
        self._separator = ","

    def parse(self, line: bytes) -> list[Record]:
        if not line.strip():
            return []
        if not self._header:
            self._read_header(line.removeprefix(b"\xef\xbb\xbf"))
            return []
        self._rows += 1
        cells = self._cells(line)
        if len(cells) != len(self._header):
            raise LineError(f"expected {len(self._header)} columns, got {len(cells)}")
        row = dict(zip(self._header, cells, strict=True))
        return [self._mapping.record(row, self._rows, self.label, line)]

    def _read_header(self, line: bytes) -> None:
        self._separator = max(",", ";", "\t", key=lambda separator: line.count(separator.encode()))
        self._header = [cell.strip() for cell in self._cells(line)]
        self._mapping.check_columns(self._header)

    def _cells(self, line: bytes) -> list[str]:
        try:
            text = line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            raise LineError("not UTF-8") from None
        if '"' not in text:
            return text.split(self._separator)
        try:
            return next(csv.reader([text], delimiter=self._separator, strict=True))
        except csv.Error as error:
            raise LineError(f"not CSV: {error}", hint="a quoted cell must end on its own line") from None
