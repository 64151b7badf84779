"""Every field driftkit knows: type, unit, bounds, the stage that adds it, and what it means.

Fields that are not listed here pass through every stage untouched. Missing is absent or null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from driftkit.errors import FieldError

Record = dict[str, Any]
Check = Callable[[Record], None]
Type = Literal["string", "integer", "number", "boolean", "array"]

SCHEMA = 1
KINDS = ("request", "completion", "summary", "step", "telemetry", "alarm")
ACTIONS = ("warn", "refit", "refit-recent")
STATUSES = ("ok", "error", "timeout", "rejected", "cancelled")

PRIVATE = ("prompt", "messages", "output_text")  # what a user has written, and what was answered

# What is larger is a mistake of unit (milliseconds, bytes), and would overflow where it is computed with.
MOST = 10**9
MOST_BYTES = 10**15
LATEST_S = 9e9  # in microseconds just under 2**53, which jq and spreadsheets still hold exactly
SMALLEST_RATIO, LARGEST_RATIO = 1e-6, 1e6
HIGHEST_PRIORITY = 2**63 - 1  # vLLM's over HTTP


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type
    stage: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """The constraint in words, as error messages say it."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        bound = "" if self.minimum is None or self.minimum < 0 else f" >= {self.minimum:g}"
        return self._kind + (" > 0" if self.minimum == SMALLEST_RATIO else bound)

    @property
    def _kind(self) -> str:
        return f"{'an' if self.type in ('integer', 'array') else 'a'} {self.type}"

    def refusal(self, value: Any) -> str:
        """What to say of a value that the field does not accept."""
        expected = self.expected
        if type(value) is int or (type(value) is float and self.type == "number"):
            if self.maximum is not None and value > self.maximum:
                expected = f"{self._kind} <= {self.maximum:g}"
            elif self.minimum is not None and value < self.minimum and (value > 0 or self.minimum < 0):
                expected = f"{self._kind} >= {self.minimum:g}"
        return f"expected {expected}, got {shown(value) if self.name not in PRIVATE else nature(value)}"

    def accepts(self, value: Any) -> bool:
        if self.type == "string":
            return type(value) is str and (not self.choices or value in self.choices)
        if self.type == "boolean":
            return type(value) is bool
        if self.type == "array":
            return type(value) is list
        if type(value) is not int and not (self.type == "number" and type(value) is float):
            return False
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )


def _seconds(name: str, stage: str, doc: str) -> Field:
    return Field(name, "number", stage, doc, minimum=0, maximum=LATEST_S)


def _tokens(name: str, stage: str, doc: str, minimum: int = 0) -> Field:
    return Field(name, "integer", stage, doc, minimum=minimum, maximum=MOST)


def _ratio(name: str, stage: str, doc: str) -> Field:
    return Field(name, "number", stage, doc, minimum=SMALLEST_RATIO, maximum=LARGEST_RATIO)


def _bytes(name: str, stage: str, doc: str) -> Field:
    return Field(name, "integer", stage, doc, minimum=0, maximum=MOST_BYTES)


STEPS = "run --steps"
TELEMETRY = "run --telemetry"
ALARM = "calibrate --drift"

_FIELDS = (
    Field("kind", "string", "gen", "what the record is: " + ", ".join(KINDS)),
    Field("schema", "integer", "gen", "the schema's major version, 1", minimum=1, maximum=MOST),
    Field("id", "string", "gen", "the request's name, unique within a run"),
    Field("tenant", "string", "gen", "who sent it"),
    Field("tier", "string", "gen", "the service class of the tenant"),
    Field("tier_level", "integer", "gen", "rank of the tier, lower is served first", -MOST, MOST),
    _ratio("weight", "gen", "share of the tier under weighted policies"),
    _seconds("slo_ttft_s", "gen", "objective: first token within this time of the scheduled arrival"),
    _seconds("slo_e2e_s", "gen", "objective: finished within this time of the scheduled arrival"),
    Field("category", "string", "gen", "the kind of job that the sender declares"),
    Field("phase", "string", "gen", "the part of the experiment it belongs to"),
    Field("barrier", "boolean", "gen", "true: held until everything before it has finished"),
    _seconds("arrival_s", "gen", "scheduled arrival, seconds from the start of the trace; never changed"),
    Field("prompt", "string", "gen", "the text sent"),
    Field("messages", "array", "gen", "the chat messages sent, instead of prompt"),
    _tokens("prompt_tokens", "gen", "length of the prompt in tokens", minimum=1),
    _tokens("max_tokens", "gen", "cap on the output in tokens", minimum=1),
    Field("temperature", "number", "gen", "sampling temperature", minimum=0, maximum=MOST),
    _tokens("trace_output_tokens", "gen", "true output length, for replay, simulation and oracles only", 1),
    _tokens("trace_output_words", "gen", "the same output counted in whitespace words", 1),
    Field(
        "session", "string", "gen", "its conversation; a prompt as long as all said before begins with that"
    ),
    Field("turn", "integer", "gen", "place in the conversation, from 1", minimum=1, maximum=MOST),
    Field(
        "prefix_hashes",
        "array",
        "gen",
        "names of the prompt's first blocks, each for all up to its end; equal ones share a cache",
    ),
    _tokens("prefix_block_tokens", "gen", "tokens in a block of prefix_hashes", minimum=1),
    Field("est_category", "string", "estimate", "the category the estimator saw"),
    _tokens("est_output_tokens", "estimate", "estimated output length (median)", minimum=0),
    Field(
        "est_total_tokens",
        "integer",
        "estimate",
        "the token budget: prompt plus estimated output",
        minimum=0,
        maximum=2 * MOST,
    ),
    Field("est_class", "string", "estimate", "class of the budget", choices=("short", "medium", "long")),
    _tokens("est_base_tokens", "estimate", "estimate before every factor", minimum=0),
    _tokens("est_base_tokens_p10", "estimate", "the estimator's own P10, likewise, if it has one"),
    _tokens("est_base_tokens_p90", "estimate", "the estimator's own P90, likewise, if it has one"),
    _ratio("est_bias_ratio", "estimate", "factor learned by calibration"),
    _ratio("est_safety_ratio", "estimate", "the tier's safety factor"),
    _ratio("est_input_ratio", "estimate", "factor for long prompts"),
    _ratio("est_memory_ratio", "estimate", "factor of remembered errors of requests like it"),
    Field("est_model", "string", "estimate", "which estimator"),
    Field("est_tokenizer", "string", "estimate", "how the prompt was counted; given: as the record had it"),
    _tokens("est_output_tokens_p10", "estimate", "a length that one output in ten stays under"),
    _tokens("est_output_tokens_p90", "estimate", "a length that nine outputs in ten stay under"),
    Field("policy", "string", "schedule", "the policy with its knobs, as name:knob=value"),
    Field(
        "priority",
        "integer",
        "schedule",
        "vLLM's priority, lower is served first; static policies only",
        -HIGHEST_PRIORITY - 1,
        HIGHEST_PRIORITY,
    ),
    _tokens("sched_rank", "schedule", "place in the order of planned starts, from 0"),
    _seconds("sched_start_s", "schedule", "when the plan starts it"),
    _seconds("sched_finish_s", "schedule", "when the plan ends it"),
    Field("run_id", "string", "run", "the run's name, derived from its input and options"),
    Field("label", "string", "run", "the run's name for people; by default the policy"),
    Field("engine", "string", "run", "what executed it"),
    Field("served_model", "string", "run", "the model that the engine served"),
    Field("run_started_at", "string", "run", "wall-clock start of a real run, RFC 3339"),
    Field("status", "string", "run", "how it ended", choices=STATUSES),
    Field("error", "string", "run", "why it failed"),
    Field("finish_reason", "string", "run", "stop, or length when cut at max_tokens or the model's limit"),
    _tokens("actual_output_tokens", "run", "output tokens produced"),
    _tokens(
        "received_output_tokens", "run", "of an output that did not come whole: tokens that came, at least"
    ),
    _tokens("actual_output_words", "run", "whitespace words produced, where the engine can count them"),
    _seconds("offered_s", "run", "when it was due on the run's clock; every latency counts from it"),
    _seconds("dispatched_s", "run", "when driftkit handed it to the engine"),
    _seconds("client_lag_s", "run", "how much later than it should have been; real engines only"),
    _seconds("started_s", "run", "when the engine first computed for it"),
    _seconds("first_token_s", "run", "when its first token was there; absent for gang batches"),
    _seconds("finished_s", "run", "when it ended"),
    _seconds("queue_wait_s", "run", "started_s - offered_s"),
    _seconds("inference_s", "run", "finished_s - started_s"),
    _seconds("ttft_s", "run", "first_token_s - offered_s"),
    _seconds("tpot_s", "run", "time per output token after the first"),
    _seconds("e2e_s", "run", "finished_s - offered_s"),
    Field("replica", "string", "run", "the server that it went to, or that telemetry is of"),
    Field("retries", "integer", "run", "how often it was sent again, if at all", minimum=0, maximum=MOST),
    Field("output_text", "string", "run", "the answer's text, with --save-output"),
    Field("batch_id", "integer", "run", "the gang batch, from 0", minimum=0, maximum=MOST),
    Field("batch_requests", "integer", "run", "requests in that batch", minimum=1, maximum=MOST),
    Field("preemptions", "integer", "run", "how often it lost its KV blocks", minimum=0, maximum=MOST),
    _tokens(
        "cached_tokens", "run", "prompt tokens that it found computed when it was first taken in", minimum=0
    ),
    Field("energy_j", "number", "run", "its share of the steps' energy, by tokens", minimum=0, maximum=MOST),
    Field("step", "integer", STEPS, "the engine's step, from 1", minimum=1, maximum=MOST),
    _seconds("start_s", STEPS, "when the step began"),
    _seconds("end_s", STEPS, "when it ended"),
    Field("running_requests", "integer", STEPS, "requests that had been taken in", minimum=0, maximum=MOST),
    Field("waiting_requests", "integer", STEPS, "requests in the engine's queue", minimum=0, maximum=MOST),
    _tokens("prefill_tokens", STEPS, "prompt tokens computed, and what the preempted computed anew"),
    _tokens("decode_tokens", STEPS, "tokens computed one to a request, to draw the next"),
    Field("kv_blocks", "integer", STEPS, "KV blocks held, prefixes that nobody uses left out", 0, MOST),
    Field("kv_ratio", "number", STEPS, "the same, of those that there are", minimum=0, maximum=1),
    Field("power_w", "number", STEPS, "what the GPU drew", minimum=0, maximum=MOST),
    _seconds("at_s", TELEMETRY, "when it was so, on the clock of the run"),
    Field("gpu", "integer", TELEMETRY, "the GPU that it is of, from 0", minimum=0, maximum=MOST),
    Field("gpu_busy_ratio", "number", TELEMETRY, "share of the last moments in which any kernel ran", 0, 1),
    _bytes("gpu_memory_bytes", TELEMETRY, "memory of the GPU that is taken"),
    Field("temperature_c", "number", TELEMETRY, "the GPU's temperature", -MOST, MOST),
    Field("sm_clock_mhz", "integer", TELEMETRY, "clock of the GPU's multiprocessors", 0, MOST),
    Field("memory_clock_mhz", "integer", TELEMETRY, "clock of the GPU's memory", 0, MOST),
    Field(
        "preemptions_total",
        "integer",
        TELEMETRY,
        "the server's count of requests that lost their KV blocks, since it was started",
        0,
        MOST,
    ),
    Field(
        "cpu_ratio",
        "number",
        TELEMETRY,
        "processor time of driftkit and its descendants since the sample before; 1 is a core",
        0,
        MOST,
    ),
    _bytes("memory_bytes", TELEMETRY, "their resident memory; what they share counts for each"),
    _tokens("cal_output_tokens", "calibrate", "the estimate with what was known at its arrival"),
    _tokens("cal_output_tokens_p10", "calibrate", "a length that one output in ten stays under, likewise"),
    _tokens("cal_output_tokens_p90", "calibrate", "a length that nine outputs in ten stay under, likewise"),
    _ratio("cal_bias_ratio", "calibrate", "the calibration factor known at its arrival"),
    Field("cal_drift", "string", "calibrate", "the detectors whose alarm it raised, one after the other"),
    Field("detector", "string", ALARM, "who raises the alarm"),
    Field("drift_of", "string", ALARM, "what has drifted: residual, or an input by its field"),
    Field("statistic", "number", ALARM, "what the detector has found", 0, MOST),
    Field("threshold", "number", ALARM, "what that has passed", 0, MOST),
    _seconds("since_s", ALARM, "since when, as far as the detector can tell; 0: since before this run"),
    Field(
        "action",
        "string",
        ALARM,
        "what to do: warn; refit; or refit-recent, on nothing from before since_s",
        choices=ACTIONS,
    ),
)

FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}

#: where a value that is missing comes from
HINTS = {
    "prompt_tokens": "`driftkit estimate` counts the prompt",
    "est_output_tokens": "`driftkit estimate` adds it",
    "est_total_tokens": "`driftkit estimate` adds it",
    "tier_level": "it ranks the tiers, 1 is served before 2; the sender of the requests has to say it",
}


def nature(value: object) -> str:
    """What kind of value it is, where the value itself is not to be shown."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def shown(value: object, limit: int = 40) -> str:
    """A value as an error message shows it: JSON-like, cut to `limit` characters."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def checker(required: Iterable[str] = (), optional: Iterable[str] = ()) -> Check:
    """A function that checks those fields of a record and raises FieldError on the first that is wrong.

    `required` must be there; `optional` may be absent or null. Other fields are not looked at.
    """
    exact = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list}
    plan: list[tuple[str, type[Any] | None, Any, Any, bool]] = []
    for name, needed in [*((name, True) for name in required), *((name, False) for name in optional)]:
        field = FIELDS[name]
        kind = None if field.choices else exact[field.type]
        plan.append((name, kind, field.minimum, field.maximum, needed))

    def check(record: Record) -> None:
        get = record.get
        for name, kind, minimum, maximum, needed in plan:
            value = get(name)
            if value is None:
                if not needed:
                    continue
            elif type(value) is kind and (minimum is None or minimum <= value <= maximum):
                continue  # the usual case, decided without a call
            elif FIELDS[name].accepts(value):
                continue
            raise FieldError(
                name, FIELDS[name].refusal(value), hint=HINTS.get(name) if value is None else None
            )

    return check


def kind_of(record: Record) -> str:
    """The record's kind; raises FieldError for a schema this version cannot read."""
    schema = record.get("schema")
    if schema is not None and (schema != SCHEMA or type(schema) is not int):
        if type(schema) is int and schema > SCHEMA:
            hint = "it was written by a newer driftkit: upgrade this one"
            raise FieldError("schema", f"expected {SCHEMA}, got {schema}", hint=hint)
        raise FieldError("schema", f"expected {SCHEMA}, got {shown(schema)}")
    kind = record.get("kind")
    if kind is None:
        return "request"
    if type(kind) is not str:
        raise FieldError("kind", f"expected a string, got {shown(kind)}")
    return kind


def check_prompt(record: Record) -> None:
    """A request must say how long its input is: `prompt`, `messages` or `prompt_tokens`."""
    if not (record.get("prompt_tokens") or record.get("prompt") is not None or record.get("messages")):
        raise FieldError("prompt", "expected prompt, messages or prompt_tokens, got none of them")


def length_class(total_tokens: int) -> str:
    """Class of a budget or of what happened: short up to 128 tokens, medium up to 512, else long (paper)."""
    return "short" if total_tokens <= 128 else "medium" if total_tokens <= 512 else "long"
