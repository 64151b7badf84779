"""Completions as columns: what the tables are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from driftkit.errors import FieldError
from driftkit.records.schema import Record, checker
from driftkit.reporting.stats import Array

NUMBERS = (
    "offered_s",
    "finished_s",
    "queue_wait_s",
    "inference_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "prompt_tokens",
    "actual_output_tokens",
    "actual_output_words",
    "est_output_tokens",
    "cal_output_tokens",
    "preemptions",
    "tier_level",
)
TEXTS = ("id", "run_id", "label", "tenant", "tier", "category", "phase", "status", "est_tokenizer")

check_completion = checker(
    ("id", "finished_s", "e2e_s"),
    tuple(name for name in NUMBERS if name not in ("finished_s", "e2e_s"))
    + tuple(name for name in TEXTS if name not in ("id",)),
)


@dataclass
class Columns:
    """One array per field: numbers as floats (NaN where missing), texts as objects ("-" where missing)."""

    numbers: dict[str, Array]
    texts: dict[str, NDArray[np.object_]]

    def __len__(self) -> int:
        return len(self.texts["id"])

    def __getitem__(self, name: str) -> Array:
        return self.numbers[name]

    def where(self, mask: NDArray[np.bool_]) -> Columns:
        return Columns(
            {name: column[mask] for name, column in self.numbers.items()},
            {name: column[mask] for name, column in self.texts.items()},
        )

    @property
    def ok(self) -> Columns:
        """Those that were served."""
        return self.where(self.texts["status"] == "ok")

    def split(self, by: str) -> Iterator[tuple[str, Columns]]:
        """Groups by a text column, in order of first appearance."""
        column = self.texts[by]
        for value in dict.fromkeys(column.tolist()):
            yield value, self.where(column == value)

    @property
    def observed(self) -> tuple[Array, str]:
        """Actual output lengths in the unit that the estimates were made in, and that unit."""
        words = (self.texts["est_tokenizer"] == "whitespace") & ~np.isnan(self["actual_output_words"])
        actual = np.where(words, self["actual_output_words"], self["actual_output_tokens"])
        unit = "words" if words.all() and len(self) else "tokens" if not words.any() else "tokens and words"
        return actual, unit


@dataclass
class Collector:
    """Takes completions in one by one. `by` are further text fields to group by."""

    by: Sequence[str] = ()
    where: Callable[[Record], bool] = lambda record: True
    _rows: list[list[object]] = field(default_factory=list)
    _seen: set[tuple[object, str]] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """FieldError when the record is not a completion that can be reported."""
        check_completion(record)
        key = (record.get("run_id"), record["id"])
        if key in self._seen:
            problem = f"{record['id']!r} was there before in the same run"
            raise FieldError("id", problem, hint="was the same file given twice?")
        self._seen.add(key)
        if self.where(record):
            get = record.get
            self._rows.append([get(name) for name in (*NUMBERS, *TEXTS, *self.by)])

    def columns(self) -> Columns:
        names = (*NUMBERS, *TEXTS, *self.by)
        columns = (
            dict(zip(names, map(list, zip(*self._rows, strict=True)), strict=True)) if self._rows else {}
        )
        numbers = {n: np.array(columns.get(n, []), dtype=np.float64) for n in NUMBERS}
        texts = {}
        for name in (*TEXTS, *self.by):
            missing = {"status": "ok", "label": "run"}.get(name, "-")
            values = [
                missing if v is None else v if type(v) is str else str(v) for v in columns.get(name, [])
            ]
            texts[name] = np.array(values, dtype=object)
        return Columns(numbers, texts)
