"""BurstGPT: requests to ChatGPT and GPT-4 over months, one CSV row each, no text.

https://github.com/HPMLL/BurstGPT. Columns are found by the header's names: Timestamp (seconds), Model,
Request tokens, Response tokens, Total tokens, Log Type; the third file adds Session ID and Elapsed time. A
response of 0 tokens marks a request that failed: how long its answer would have been is not known, so it is
left out and counted.
"""

from __future__ import annotations

from typing import ClassVar

from driftkit.errors import FieldError, LineError
from driftkit.records.schema import SCHEMA, Record
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.cells import instant, tokens

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")
_WITHOUT_HEADER = (*COLUMNS, "Total tokens", "Log Type")
_KEPT = {"Session ID": "session", "Model": "model", "Log Type": "log_type"}


class BurstGpt(Trace):
    """Arrivals count from the first row; `model` and `log_type` are kept under their names."""

    name: ClassVar[str] = "burstgpt"

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._rows = 0
        self._start: float | None = None
        self._columns: dict[str, int] = {name: place for place, name in enumerate(_WITHOUT_HEADER)}

    def parse(self, line: bytes) -> list[Record]:
        text = line.removeprefix(b"\xef\xbb\xbf").strip().decode("utf-8", "replace")
        if not text:
            return []
        cells = text.split(",")
        if self._rows == 0 and "Timestamp" in cells:
            self._columns = {name: place for place, name in enumerate(cells)}
            missing = [name for name in COLUMNS if name not in self._columns]
            if missing:
                raise LineError(f"expected the columns {', '.join(COLUMNS)}, without {', '.join(missing)}")
            return []
        self._rows += 1
        columns = self._columns
        if len(cells) != len(columns):
            raise LineError(f"expected {len(columns)} columns, got {len(cells)}")
        at = instant("Timestamp", cells[columns["Timestamp"]])
        if self._start is None:
            self._start = at
        record: Record = {
            "kind": "request",
            "schema": SCHEMA,
            "id": f"burstgpt-{self._rows:07d}",
            "arrival_s": round(at - self._start, 6),
            "prompt_tokens": tokens("Request tokens", cells[columns["Request tokens"]], minimum=0),
            "trace_output_tokens": tokens("Response tokens", cells[columns["Response tokens"]], minimum=0),
        }
        if record["trace_output_tokens"] == 0:
            self.left_out["requests that failed (Response tokens 0)"] += 1
            return []
        if record["prompt_tokens"] == 0:
            raise FieldError("Request tokens", "expected an integer >= 1, got '0'")
        for theirs, ours in _KEPT.items():
            if (place := columns.get(theirs)) is not None and cells[place]:
                record[ours] = cells[place]
        return [record]
