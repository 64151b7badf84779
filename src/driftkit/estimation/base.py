"""What an estimator says of one request, and how that becomes the `est_*` fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from driftkit.errors import FieldError, UsageError
from driftkit.records.schema import MOST, Record, length_class

WIDEST = math.log(20.0)  # an error beyond 1/20 or 20 says that something else is wrong


class Estimate(NamedTuple):
    """Output tokens before any factor, and the factors of the paper: the tier's and the input's.

    `interval_tokens` are the lengths that one output in ten and nine in ten stay under, where the estimator
    knows them. `memory_ratio` is the factor of remembered errors, where there is a memory; then the product
    is cut at `max_tokens`.
    """

    base_tokens: int
    safety_ratio: float = 1.0
    input_ratio: float = 1.0
    category: str | None = None
    interval_tokens: tuple[int, int] | None = None
    memory_ratio: float | None = None


class Estimator(Protocol):
    """Made by `build`: with a function that tells people something, or from the state folder.

    One that is quicker over many records at once also has `estimate_many(records)`, a list of estimates.
    """

    @property
    def name(self) -> str:
        """What `est_model` says."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields that must be there."""
        ...

    def estimate(self, record: Record) -> Estimate:
        """The estimate for a record that has its `prompt_tokens`."""
        ...


def build(
    cls: Any,
    folder: Path | None,
    served_model: str,
    warn: Callable[[str], None],
    base: str | None = None,
) -> Estimator:
    """The estimator of a registered class; `base` names the one below it, for a class that `has_base`.

    One that was fitted has a class method `from_state(folder, served_model, warn)`, which raises StateError
    for a model that is not there or cannot be used; without a folder it is a UsageError. One that `has_base`
    is given the base too.
    """
    estimator: Estimator
    has_base = getattr(cls, "has_base", False)
    if base is not None and not has_base:
        raise UsageError(f"--base {base}: --model {cls.name} has no estimator below it")
    if not hasattr(cls, "from_state"):
        estimator = cls(warn)
    elif folder is None:
        raise UsageError(
            f"--model {cls.name}: it is fitted to completions, and kept in a state folder",
            hint=f"`driftkit calibrate --fit {cls.name} --state DIR`, then estimate with --state DIR",
        )
    elif has_base:
        estimator = cls.from_state(folder, served_model, warn, base)
    else:
        estimator = cls.from_state(folder, served_model, warn)
    return estimator


def estimate_many(estimator: Estimator, records: Sequence[Record]) -> list[Estimate]:
    """The estimates for records that have their `prompt_tokens`, at once where the estimator can."""
    at_once: Callable[[Sequence[Record]], list[Estimate]] | None
    at_once = getattr(estimator, "estimate_many", None)
    return at_once(records) if at_once is not None else [estimator.estimate(record) for record in records]


class Correction(Protocol):
    """What calibration has learned, as the estimator applies it."""

    #: whether an estimate is cut at `max_tokens`
    caps: bool

    def bias(self, record: Record, before: float) -> float:
        """The factor for a record, from what was known strictly before that instant on the run's clock."""
        ...

    def interval(self, record: Record, before: float) -> tuple[float, float] | None:
        """The factors for P10 and P90, likewise; None from who learns none: there `bias` is for all.

        They are of the estimator's own P10 and P90 where it has them, else of the estimate.
        """
        ...


class NoCorrection:
    caps = False

    def bias(self, record: Record, before: float) -> float:
        return 1.0

    def interval(self, record: Record, before: float) -> tuple[float, float] | None:
        return None


def output_tokens(record: Record, bias: float, caps: bool) -> int:
    """The estimate that the record's own factors give under `bias`: `int(base * bias * safety * input)`, and
    that times `memory` where errors were remembered.

    An estimate of somebody else's making, without factors, is scaled from what it was. `caps` cuts at
    `max_tokens`, and so does a memory.
    """
    return _tokens(record, record.get("est_base_tokens"), bias, caps)


def interval_tokens(record: Record, correction: Correction, before: float) -> tuple[int, int] | None:
    """P10 and P90 as `correction` knows them before that instant; None when neither it nor the estimator
    knows any. They are not put in order: `add_interval` does that."""
    factors = correction.interval(record, before)
    low, high = record.get("est_base_tokens_p10"), record.get("est_base_tokens_p90")
    if low is None or high is None:
        if factors is None:
            return None
        low = high = record.get("est_base_tokens")
    elif factors is None:
        bias = correction.bias(record, before)
        factors = bias, bias
    return _tokens(record, low, factors[0], correction.caps), _tokens(
        record, high, factors[1], correction.caps
    )


def add_interval(record: Record, field: str, interval: tuple[int, int] | None) -> None:
    """Add `field` with `_p10` and `_p90`, around the median that is in `field`; None takes them away."""
    low, high = f"{field}_p10", f"{field}_p90"
    if interval is None:
        record.pop(low, None)
        record.pop(high, None)
    else:
        record[low] = min(*interval, record[field])
        record[high] = max(*interval, record[field])


def _tokens(record: Record, base: int | None, bias: float, caps: bool) -> int:
    if base is None:
        tokens = int(unbiased_tokens(record) * bias)
    else:
        safety, stretch = record.get("est_safety_ratio") or 1.0, record.get("est_input_ratio") or 1.0
        remembered = record.get("est_memory_ratio")
        tokens = int(base * bias * safety * stretch * (remembered or 1.0))
        caps = caps or remembered is not None
    if caps and record.get("max_tokens") is not None:
        tokens = min(tokens, record["max_tokens"])
    return max(1, min(tokens, MOST))


def unbiased_tokens(record: Record) -> float:
    """The estimate as it was before calibration, so that nothing is corrected twice."""
    return unremembered_tokens(record) * (record.get("est_memory_ratio") or 1.0)


def unremembered_tokens(record: Record) -> float:
    """The same before what a memory of errors made of it: that of the estimator below."""
    base = record.get("est_base_tokens")
    if base is None:
        estimate: float = record["est_output_tokens"] / (record.get("est_bias_ratio") or 1.0)
        return estimate / (record.get("est_memory_ratio") or 1.0)
    product: float = base * (record.get("est_safety_ratio") or 1.0) * (record.get("est_input_ratio") or 1.0)
    return product


def annotate(
    record: Record, estimator: Estimator, correction: Correction, estimate: Estimate | None = None
) -> None:
    """Add the `est_*` fields to a record that has its `prompt_tokens`; `estimate`, if it was made before."""
    if estimate is None:
        estimate = estimator.estimate(record)
    if estimate.category is not None:
        record["est_category"] = estimate.category
    else:
        record.pop("est_category", None)
    bias = correction.bias(record, float("inf"))
    record["est_base_tokens"] = estimate.base_tokens
    if estimate.interval_tokens is not None:
        record["est_base_tokens_p10"], record["est_base_tokens_p90"] = estimate.interval_tokens
    else:
        record.pop("est_base_tokens_p10", None)
        record.pop("est_base_tokens_p90", None)
    record["est_bias_ratio"] = bias
    record["est_safety_ratio"] = estimate.safety_ratio
    record["est_input_ratio"] = estimate.input_ratio
    if estimate.memory_ratio is not None:
        record["est_memory_ratio"] = estimate.memory_ratio
    else:
        record.pop("est_memory_ratio", None)
    record["est_output_tokens"] = output_tokens(record, bias, correction.caps)
    add_interval(record, "est_output_tokens", interval_tokens(record, correction, float("inf")))
    record["est_total_tokens"] = record["prompt_tokens"] + record["est_output_tokens"]
    record["est_class"] = length_class(record["est_total_tokens"])
    record["est_model"] = estimator.name


def prompt_text(record: Record) -> str | None:
    """The text of `prompt`, or of all `messages`; None when the record has neither."""
    prompt = record.get("prompt")
    if prompt is not None:
        return str(prompt)
    messages = record.get("messages")
    if not messages:
        return None
    parts: list[str] = []
    for message in messages:
        content = message.get("content") if type(message) is dict else None
        if content is None and type(message) is dict and "content" in message:
            continue  # null: a message that only calls tools
        if type(content) is list:
            content = "\n".join(part.get("text") or "" for part in content if type(part) is dict)
        if type(content) is not str:
            problem = "expected objects with a text content"  # and not what it has: that is private
            raise FieldError("messages", problem)
        parts.append(content)
    return "\n".join(parts)


def count_prompt(record: Record, count: Callable[[str], int], tokenizer: str) -> None:
    """Add `prompt_tokens`, unless somebody else has counted already; `est_tokenizer` says who did."""
    text = prompt_text(record)
    counted_by = record.get("est_tokenizer")
    given = record.get("prompt_tokens") is not None and counted_by in (None, "given")
    if given or text is None:
        record["est_tokenizer"] = counted_by or "given"
        return
    record["prompt_tokens"] = max(1, count(text))  # an empty prompt still has its first token
    record["est_tokenizer"] = tokenizer
