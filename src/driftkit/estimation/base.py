"""What an estimator says of one request, and how that becomes the `est_*` fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

from driftkit.errors import FieldError
from driftkit.records.schema import MOST, Record, length_class


class Estimate(NamedTuple):
    """Output tokens before any factor, and the factors of the paper: the tier's and the input's."""

    base_tokens: int
    safety_ratio: float = 1.0
    input_ratio: float = 1.0
    category: str | None = None


class Estimator(Protocol):
    name: ClassVar[str]
    #: fields that must be there
    reads: ClassVar[tuple[str, ...]]

    def estimate(self, record: Record) -> Estimate:
        """The estimate for a record that has its `prompt_tokens`."""
        ...


class Correction(Protocol):
    """What calibration has learned, as the estimator applies it."""

    #: whether an estimate is cut at `max_tokens`
    caps: bool

    def bias(self, record: Record, before: float) -> float:
        """The factor for a record, from what was known strictly before that instant on the run's clock."""
        ...


class NoCorrection:
    caps = False

    def bias(self, record: Record, before: float) -> float:
        return 1.0


def output_tokens(record: Record, bias: float, caps: bool) -> int:
    """The estimate that the record's own factors give under `bias`: `int(base * bias * safety * input)`.

    An estimate of somebody else's making, without factors, is scaled from what it was. `caps` cuts at
    `max_tokens`.
    """
    base = record.get("est_base_tokens")
    if base is None:
        tokens = int(unbiased_tokens(record) * bias)
    else:
        safety, stretch = record.get("est_safety_ratio") or 1.0, record.get("est_input_ratio") or 1.0
        tokens = int(base * bias * safety * stretch)
    if caps and record.get("max_tokens") is not None:
        tokens = min(tokens, record["max_tokens"])
    return max(1, min(tokens, MOST))


def unbiased_tokens(record: Record) -> float:
    """The estimate as it was before calibration, so that nothing is corrected twice."""
    base = record.get("est_base_tokens")
    if base is None:
        estimate: float = record["est_output_tokens"] / (record.get("est_bias_ratio") or 1.0)
        return estimate
    product: float = base * (record.get("est_safety_ratio") or 1.0) * (record.get("est_input_ratio") or 1.0)
    return product


def annotate(record: Record, estimator: Estimator, correction: Correction) -> None:
    """Add the `est_*` fields to a record that has its `prompt_tokens`."""
    estimate = estimator.estimate(record)
    if estimate.category is not None:
        record["est_category"] = estimate.category
    else:
        record.pop("est_category", None)
    bias = correction.bias(record, float("inf"))
    record["est_base_tokens"] = estimate.base_tokens
    record["est_bias_ratio"] = bias
    record["est_safety_ratio"] = estimate.safety_ratio
    record["est_input_ratio"] = estimate.input_ratio
    record["est_output_tokens"] = output_tokens(record, bias, correction.caps)
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
