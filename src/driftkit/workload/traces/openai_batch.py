"""OpenAI's batch input: `custom_id`, `method`, `url`, and the request itself as `body`.

https://platform.openai.com/docs/guides/batch; `vllm run-batch` reads the same. The format has no arrivals:
a batch is there all at once, so every arrival is 0.
"""

from __future__ import annotations

from typing import ClassVar

from driftkit.errors import FieldError
from driftkit.records.io import parse_json
from driftkit.records.schema import SCHEMA, Record, checker, nature
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.chat import asked, check_messages

_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_check = checker(("id",), ("prompt", "max_tokens", "temperature"))
NO_ARRIVALS = "the format has no arrivals: every request arrives at 0"


class OpenAiBatch(Trace):
    """A lone user message becomes `prompt`; `model` is kept under its name."""

    name: ClassVar[str] = "openai-batch"

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._rows = 0

    def parse(self, line: bytes) -> list[Record]:
        if line.isspace():
            return []
        self._rows += 1
        row = parse_json(line)
        body = row.get("body")
        if type(body) is not dict:
            raise FieldError("body", f"expected an object, got {nature(body)}")
        record: Record = {
            "kind": "request",
            "schema": SCHEMA,
            "id": row.get("custom_id") if row.get("custom_id") is not None else f"batch-{self._rows:06d}",
            "arrival_s": 0.0,
            **_asked(body),
        }
        for name in _CAPS:
            if body.get(name) is not None:
                record["max_tokens"] = body[name]
        for name in ("temperature", "model"):
            if body.get(name) is not None:
                record[name] = body[name]
        _check(record)
        others = set(body) - {"messages", "prompt", "input", *_CAPS, "temperature", "model"}
        for name in sorted(others):
            self.remarks[f"body.{name} is left out"] = None
        self.remarks[NO_ARRIVALS] = None
        return [record]


def _asked(body: Record) -> Record:
    """The input of a chat completion, a completion or a response."""
    for name in ("messages", "prompt", "input"):
        value = body.get(name)
        if value is None:
            continue
        if type(value) is str and name != "messages":
            return {"prompt": value}
        if name == "prompt":
            if type(value) is list and value and all(type(token) is int for token in value):
                return {"prompt_tokens": len(value)}
            raise FieldError("body.prompt", f"expected a string or an array of tokens, got {nature(value)}")
        return asked(check_messages(f"body.{name}", value))
    raise FieldError("body", "expected messages, prompt or input, got none of them")
