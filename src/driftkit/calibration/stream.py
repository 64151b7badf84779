"""Calibrating a stream of completions: each first gets what was known at its arrival, then is learned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from driftkit.calibration.base import Calibrator, add_calibrated
from driftkit.calibration.drift.watch import Watch
from driftkit.errors import FieldError
from driftkit.records.known_runs import KnownRuns
from driftkit.records.schema import Record, checker

check_completion = checker(
    ("id", "finished_s", "est_output_tokens"),
    (
        *("run_id", "tenant", "category", "arrival_s", "offered_s", "status", "max_tokens", "finish_reason"),
        *("est_base_tokens_p10", "est_base_tokens_p90"),
        *("est_base_tokens", "est_bias_ratio", "est_safety_ratio", "est_input_ratio", "est_category"),
        "est_memory_ratio",
        *("est_model", "est_tokenizer", "served_model", "actual_output_tokens", "actual_output_words"),
    ),
)


_FORGET_EVERY = 1024


class Key(NamedTuple):
    """What a correction belongs to: it is no good for another estimator, tokenizer or model."""

    estimator: str
    tokenizer: str
    served_model: str


def key_of(record: Record, served_model: str | None = None) -> Key:
    """The key of a record; `served_model` where the record is still a request."""
    return Key(
        record.get("est_model") or "unknown",
        record.get("est_tokenizer") or "given",
        served_model or record.get("served_model") or "unknown",
    )


@dataclass(slots=True)
class Learning:
    """A calibrator, the completions it has learned, and how many of each run since the start.

    `watch` looks out for drift; `drift` is what a state has of that, where nobody does this time.
    """

    calibrator: Calibrator
    runs: KnownRuns = field(default_factory=KnownRuns)
    new_runs: dict[str, int] = field(default_factory=dict)
    drift: dict[str, Any] | None = None
    watch: Watch | None = None

    def content(self) -> dict[str, Any]:
        """What a state keeps of it: the method, from which runs it has learned what, and the drift's."""
        learned = {
            "method": self.calibrator.name,
            **self.runs.to_json(),
            "learned": self.calibrator.to_json(),
        }
        drift = self.watch.to_json() if self.watch is not None else self.drift
        return learned if drift is None else {**learned, "drift": drift}


class Stream:
    """Completions, run after run. `live` takes them as they come and knows no instants.

    `start(key)` is asked once per key for what to start from. A completion that was learned before is
    calibrated but not learned again, and counted in `repeated`, by run; in `past` too if only its finished_s
    says so (`KnownRuns`). `reset`: after real drift of a tenant its past is forgotten.
    """

    def __init__(self, start: Callable[[Key], Learning], *, live: bool = False, reset: bool = False) -> None:
        self._reset = reset
        self._start_from = start
        self._live = live
        #: a run of which an earlier call has learned the beginning: this one has nothing but the rest
        self.resumed: str | None = None
        self._run: str | None = None
        self._last_finish = 0.0
        self._closed: set[str] = set()
        self.learning: dict[Key, Learning] = {}
        self.repeated: Counter[str] = Counter()
        self.past: Counter[str] = Counter()
        self._late_alarms: list[Record] = []

    def calibrate(self, record: Record) -> None:
        """Add `cal_*` to a completion; FieldError when it is out of order."""
        check_completion(record)
        run = record.get("run_id") or ""
        finished = record["finished_s"]
        if run != self._run:
            self._start_run(run)
        elif finished < self._last_finish and not self._live and not self._repeats(record):
            problem = f"{finished:g} comes after {self._last_finish:g}: completions must be in order"
            raise FieldError("finished_s", problem, hint="`driftkit calibrate --sort` reads all and sorts")
        self._last_finish = finished
        due = record.get("offered_s")
        if due is None:
            due = record.get("arrival_s")
        known_before = math.inf if self._live or due is None else due
        add_calibrated(record, self._of(record).calibrator, known_before)

    def watch(self, record: Record) -> list[Record]:
        """The alarms that a calibrated completion raises, named in its `cal_drift`, and before them those
        that the run before has left. One that was learned before raises none.
        """
        learning = self._of(record)
        alarms: list[Record] = []
        if learning.watch is not None and record.get("status", "ok") == "ok" and not self._repeats(record):
            alarms = learning.watch.observe(record)
        if alarms:
            record["cal_drift"] = " ".join(alarm["detector"] for alarm in alarms)
            self._heed(learning, alarms)
        late, self._late_alarms = self._late_alarms, []
        return late + alarms

    def end_watch(self) -> list[Record]:
        """The alarms of what came last, when nothing more comes."""
        self._end_watches()
        return self._late_alarms

    def learn(self, record: Record) -> None:
        """Learn a completion, after it was calibrated if it is to be."""
        run = record.get("run_id") or ""
        learning = self._of(record)
        if record.get("status", "ok") != "ok":
            return
        if self._repeats(record):
            self.repeated[run] += 1
            self.past[run] += not learning.runs.remembers(run, record["id"])
        else:
            learning.calibrator.learn(record, record["finished_s"])
            learning.runs.add(run, record["id"], record["finished_s"])
            learned = learning.new_runs[run] = learning.new_runs.get(run, 0) + 1
            if self._live and learned % _FORGET_EVERY == 0:
                learning.calibrator.start_run()  # nobody asks what was known before

    def learned(self, run: str) -> int:
        """How many completions of a run were learned."""
        return sum(learning.new_runs.get(run, 0) for learning in self.learning.values())

    def _repeats(self, record: Record) -> bool:
        run, known = record.get("run_id") or "", self._of(record).runs
        past = run != self.resumed and known.is_past(run, record["finished_s"])
        return past or known.remembers(run, record["id"])

    def _end_watches(self) -> None:
        for learning in self.learning.values():
            if learning.watch is not None:
                alarms = learning.watch.end_run(self._last_finish)
                self._heed(learning, alarms)
                self._late_alarms += alarms

    def _heed(self, learning: Learning, alarms: list[Record]) -> None:
        for alarm in alarms:
            if self._reset and alarm["action"] == "refit-recent":
                learning.calibrator.forget(alarm.get("tenant") or "", alarm["at_s"])

    def _of(self, record: Record) -> Learning:
        key = key_of(record)
        learning = self.learning.get(key)
        if learning is None:
            learning = self.learning[key] = self._start_from(key)
        return learning

    def _start_run(self, run: str) -> None:
        if run in self._closed and not self._live:
            hint = "`driftkit calibrate --sort` reads all and sorts"
            raise FieldError("run_id", f"run {run} continues after another run", hint=hint)
        if self._run is not None:
            self._closed.add(self._run)
            self._end_watches()
        self._run = run
        for learning in self.learning.values():
            learning.calibrator.start_run()


def in_order(records: list[Record]) -> list[Record]:
    """Run by run in order of first appearance, each by `(finished_s, offered_s, id)`, as `run` writes it."""
    first: dict[Any, int] = {}
    for record in records:
        first.setdefault(record.get("run_id"), len(first))
    return sorted(
        records,
        key=lambda r: (first[r.get("run_id")], r["finished_s"], r.get("offered_s") or 0.0, r["id"]),
    )
