"""Completions as columns: what the tables are computed from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from driftkit.errors import FieldError
from driftkit.records.schema import Record, checker
from driftkit.reporting.stats import Array

NUMBERS = (
    "arrival_s",
    "offered_s",
    "dispatched_s",
    "client_lag_s",
    "started_s",
    "first_token_s",
    "finished_s",
    "queue_wait_s",
    "inference_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "prompt_tokens",
    "max_tokens",
    "actual_output_tokens",
    "actual_output_words",
    "est_output_tokens",
    "cal_output_tokens",
    "est_output_tokens_p10",
    "est_output_tokens_p90",
    "cal_output_tokens_p10",
    "cal_output_tokens_p90",
    "preemptions",
    "tier_level",
    "slo_ttft_s",
    "slo_e2e_s",
    "energy_j",
)
LATENCIES = {"queue_wait_s": "started_s", "ttft_s": "first_token_s", "e2e_s": "finished_s"}
TEXTS = (
    *("run_id", "run_started_at", "label", "tenant", "tier"),
    *("status", "finish_reason", "est_tokenizer"),
)
MISSING = {"status": "ok", "label": "run"}  # else "-"

check_completion = checker(
    ("id", "finished_s"), tuple(name for name in (*NUMBERS, *TEXTS) if name != "finished_s")
)

Mask = NDArray[np.bool_]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Text:
    """A text column: `codes[i]` is the place of row i's value in `values`."""

    values: list[str]
    codes: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of completions by field: numbers as floats (NaN where missing), texts ("-" where missing).

    A selection shares the columns and has its own `rows`.
    """

    numbers: dict[str, Array]
    texts: dict[str, Text]
    names: list[str]
    rows: Index

    def __len__(self) -> int:
        return self.rows.size

    def __getitem__(self, name: str) -> Array:
        return self.numbers[name][self.rows]

    def where(self, mask: Mask) -> Columns:
        return Columns(self.numbers, self.texts, self.names, self.rows[mask])

    def text(self, name: str, row: int) -> str:
        """The value in the text column `name` of the selection's row `row`."""
        column = self.texts[name]
        return column.values[int(column.codes[self.rows[row]])]

    def codes(self, name: str) -> NDArray[np.int32]:
        return self.texts[name].codes[self.rows]

    def equal(self, name: str, value: str) -> Mask:
        column = self.texts[name]
        code = column.values.index(value) if value in column.values else -1
        return np.equal(column.codes[self.rows], code)

    def total(self, name: str) -> float | None:
        """The sum of a column; None when no row knows it."""
        known = self[name][~np.isnan(self[name])]
        return float(known.sum()) if known.size else None

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """First arrival and last end of each run; NaN where nobody knows."""
        found = {}
        for name, run in self.split("run_id"):
            offered = run["offered_s"][~np.isnan(run["offered_s"])]
            found[name] = (float(offered.min()) if offered.size else math.nan, float(run["finished_s"].max()))
        return found

    @property
    def ids(self) -> list[str]:
        return [self.names[row] for row in self.rows.tolist()]

    @property
    def ok(self) -> Columns:
        """Those that were served."""
        return self.where(self.equal("status", "ok"))

    def split(self, by: str) -> Iterator[tuple[str, Columns]]:
        """Groups by a text column, in order of first appearance in the input."""
        column = self.texts[by]
        codes = column.codes[self.rows]
        order = np.argsort(codes, kind="stable")
        present, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
        for code, start, count in zip(present.tolist(), starts, counts, strict=True):
            rows = self.rows[order[start : start + count]]
            yield column.values[code], Columns(self.numbers, self.texts, self.names, rows)

    @property
    def observed(self) -> tuple[Array, str]:
        """Actual output lengths in the unit that the estimates were made in, and that unit."""
        counted = self["actual_output_words"]
        words = self.equal("est_tokenizer", "whitespace") & ~np.isnan(counted)
        actual = np.where(words, counted, self["actual_output_tokens"])
        unit = "words" if words.all() and len(self) else "tokens" if not words.any() else "both"
        return actual, unit


class Collector:
    """Takes completions in one by one. `by` are further text fields to group by.

    Rows wait in a list until a chunk is full and becomes arrays, so that a million completions take the
    memory of their columns, not of their records.
    """

    CHUNK = 8192

    def __init__(self, by: Sequence[str] = (), where: Callable[[Record], bool] | None = None) -> None:
        self._texts = tuple(dict.fromkeys((*TEXTS, *by)))
        self._where = where
        self._rows: list[list[object]] = []
        self._chunks: list[tuple[list[Array], list[NDArray[np.int32]]]] = []
        self._codes: list[dict[str, int]] = [{} for _ in self._texts]
        self._names: list[str] = []
        self._seen: dict[str | None, set[str]] = {}
        #: completions given, selected or not
        self.seen = 0

    def add(self, record: Record) -> None:
        """FieldError when the record is not a completion that can be reported."""
        check_completion(record)
        seen = self._seen.setdefault(record.get("run_id"), set())
        name = record["id"]
        if name in seen:
            problem = f"{name!r} was there before in the same run"
            raise FieldError("id", problem, hint="was the same file given twice?")
        seen.add(name)
        self.seen += 1
        if self._where is None or self._where(record):
            self._names.append(name)
            self._rows.append([*map(record.get, NUMBERS), *map(record.get, self._texts)])
            if len(self._rows) == self.CHUNK:
                self._pack()

    @property
    def run_ids(self) -> set[str | None]:
        """Of the completions given, selected or not."""
        return set(self._seen)

    def columns(self) -> Columns:
        """What was added."""
        self._pack()
        packed, texts = zip(*self._chunks, strict=True)
        numbers = {name: np.concatenate(parts) for name, *parts in zip(NUMBERS, *packed, strict=True)}
        # completions of others may know arrivals only, and leave the difference to us
        _fill(numbers["offered_s"], numbers["arrival_s"])
        for latency, instant in LATENCIES.items():
            _fill(numbers[latency], numbers[instant] - numbers["offered_s"])
        return Columns(
            numbers,
            {
                name: Text(list(codes), np.concatenate(parts))
                for name, codes, *parts in zip(self._texts, self._codes, *texts, strict=True)
            },
            self._names,
            np.arange(len(self._names)),
        )

    def _pack(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * (len(NUMBERS) + len(self._texts))
        numbers = [_floats(column) for column in columns[: len(NUMBERS)]]
        texts = []
        for name, codes, column in zip(self._texts, self._codes, columns[len(NUMBERS) :], strict=True):
            missing = MISSING.get(name, "-")
            shown = (missing if v is None else v if type(v) is str else as_text(v) for v in column)
            texts.append(np.array([codes.setdefault(v, len(codes)) for v in shown], dtype=np.int32))
        self._chunks.append((numbers, texts))
        self._rows = []


def _floats(column: Sequence[Any]) -> Array:
    if column.count(None) == len(column):  # a field that nobody has
        return np.full(len(column), np.nan)
    return np.array(column, dtype=np.float64)


def _fill(column: Array, other: Array) -> None:
    """Take from `other` what is missing in `column`."""
    np.copyto(column, other, where=np.isnan(column))


def as_text(value: object) -> str:
    """A field's value as `--by` shows it and `--where` compares it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
