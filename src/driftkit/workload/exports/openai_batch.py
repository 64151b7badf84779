"""OpenAI's batch input, which `vllm run-batch` takes: chat completions, all at once.

https://platform.openai.com/docs/guides/batch. A prompt is sent as a lone user message. `model` is written
where the record has one (`model`, or `served_model`); OpenAI's service wants it, vLLM does not.
"""

from __future__ import annotations

from typing import ClassVar

from driftkit.errors import FieldError
from driftkit.records.schema import Record, checker

_check = checker(("id",), ("prompt", "messages", "max_tokens", "temperature"))


class OpenAiBatch:
    name: ClassVar[str] = "openai-batch"
    holds: ClassVar[frozenset[str]] = frozenset(
        ("id", "prompt", "messages", "max_tokens", "temperature", "model", "served_model")
    )

    def __init__(self, tokenizer: str) -> None:
        """Nothing is counted: the text itself is written."""
        self.remarks: dict[str, None] = {}

    def row(self, record: Record) -> Record:
        _check(record)
        messages = record.get("messages")
        if messages is None:
            if record.get("prompt") is None:
                raise FieldError("prompt", "expected text, got none: the format cannot hold a length alone")
            messages = [{"role": "user", "content": record["prompt"]}]
        body: Record = {}
        if (model := record.get("model") or record.get("served_model")) is not None:
            body["model"] = model
        body["messages"] = messages
        for name in ("max_tokens", "temperature"):
            if record.get(name) is not None:
                body[name] = record[name]
        return {"custom_id": record["id"], "method": "POST", "url": "/v1/chat/completions", "body": body}
