"""What a calibration method is, and what it may look at: what had ended strictly before an arrival."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Any, ClassVar, Protocol

from driftkit.estimation.base import add_interval, interval_tokens, output_tokens
from driftkit.records.schema import Record


class Calibrator(Protocol):
    """Learns from completions factors for the estimate; applies to a record what was known at an instant."""

    name: ClassVar[str]
    #: whether an estimate is cut at `max_tokens`
    caps: bool

    def bias(self, record: Record, before: float) -> float:
        """The factor for a record from completions that ended strictly before `before`, seconds."""
        ...

    def interval(self, record: Record, before: float) -> tuple[float, float] | None:
        """The factors for P10 and P90, as Correction says; None where only `bias` is learned."""
        ...

    def learn(self, record: Record, finished_s: float) -> None:
        """Take in a completion. They come in order of `finished_s` within a run."""
        ...

    def forget(self, tenant: str, finished_s: float) -> None:
        """What was learned of a tenant before has been wrong since about `finished_s`: hold to it loosely."""
        ...

    def start_run(self) -> None:
        """A new clock begins: what is known now counts as known from the start."""
        ...

    def to_json(self) -> dict[str, Any]: ...

    def load_json(self, state: dict[str, Any]) -> None:
        """Restore what `to_json` gave; ValueError or KeyError when it is something else."""
        ...


class History:
    """A few numbers and when they changed, so that a lookup sees only what was known before an instant.

    Packed, eight bytes a number: a run's changes are all kept, because who ended last may have arrived first.
    """

    __slots__ = ("_initial", "_times", "_values", "latest")

    def __init__(self, *initial: float) -> None:
        self._initial = self.latest = initial
        self._times = array("d")
        self._values = array("d")

    def at(self, before: float) -> tuple[float, ...]:
        """The numbers from the last change strictly before `before`."""
        place = bisect_left(self._times, before)
        if place == len(self._times):
            return self.latest
        if not place:
            return self._initial
        width = len(self._initial)
        return tuple(self._values[(place - 1) * width : place * width])

    def append(self, time: float, *numbers: float) -> None:
        self._times.append(time)
        self._values.extend(numbers)
        self.latest = numbers

    def restart(self) -> None:
        self._initial = self.latest
        del self._times[:], self._values[:]


def category_of(record: Record) -> str:
    """The category that the estimator saw, else the declared one, else none."""
    category: str = record.get("est_category") or record.get("category") or ""
    return category


def counted_in_words(record: Record) -> bool:
    """Whether the estimate was made by counting whitespace words, so that the actual is counted alike."""
    return record.get("est_tokenizer") == "whitespace" and record.get("actual_output_words") is not None


def observed_output(record: Record) -> int | None:
    """The actual output length in the unit of the estimate; None when nothing was produced."""
    field = "actual_output_words" if counted_in_words(record) else "actual_output_tokens"
    length: int | None = record.get(field)
    return length


def add_calibrated(record: Record, calibrator: Calibrator, before: float) -> None:
    """Add `cal_bias_ratio`, `cal_output_tokens` and, where they are known, its `_p10` and `_p90`: the
    estimate with what was known before `before`."""
    bias = calibrator.bias(record, before)
    record["cal_bias_ratio"] = bias
    record["cal_output_tokens"] = output_tokens(record, bias, calibrator.caps)
    add_interval(record, "cal_output_tokens", interval_tokens(record, calibrator, before))
