"""A request's JSON body, as OpenAI's API has it and vLLM, SGLang and llama.cpp understand it."""

from __future__ import annotations

from typing import Any, Literal

from driftkit.errors import FieldError
from driftkit.records.job import Job
from driftkit.records.schema import Record

Endpoint = Literal["completions", "chat"]
PATHS: dict[Endpoint, str] = {"completions": "/completions", "chat": "/chat/completions"}

#: fields of the record that are sent as they are
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "logit_bias"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
CHAT = ("tools", "tool_choice", "response_format", "reasoning_effort", "chat_template_kwargs")


def endpoint_of(record: Record, asked: Endpoint | None) -> Endpoint:
    """Where a request goes: chat if it has messages, unless somebody asked otherwise.

    FieldError when it cannot go there.
    """
    endpoint: Endpoint = asked or ("chat" if record.get("messages") else "completions")
    if endpoint == "completions" and record.get("prompt") is None and record.get("prompt_tokens") is None:
        raise FieldError("prompt", "expected a string, got nothing: --endpoint completions sends no messages")
    if endpoint == "chat" and not record.get("messages") and record.get("prompt") is None:
        hint = "--endpoint completions sends as many tokens as prompt_tokens says"
        raise FieldError("messages", "expected messages or a prompt, got neither", hint=hint)
    return endpoint


def body_of(job: Job, endpoint: Endpoint, model: str, *, by_priority: bool, replay: bool) -> dict[str, Any]:
    """The body of a job's request. A prompt of which only the length is known is made of token ids.

    `replay`: the answer is to have `output_tokens` tokens, whatever the model would say.
    """
    record = job.record
    body: dict[str, Any] = {"model": model}
    if endpoint == "chat":
        body["messages"] = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
        body |= {name: record[name] for name in CHAT if record.get(name) is not None}
    elif (prompt := record.get("prompt")) is not None:
        body["prompt"] = prompt
    else:
        from driftkit.engines.prompt_ids import token_ids

        body["prompt"] = token_ids(record)
    body |= {name: record[name] for name in SAMPLING if record.get(name) is not None}
    if replay:
        body |= {"max_tokens": job.output_tokens, "min_tokens": job.output_tokens, "ignore_eos": True}
    elif (most := record.get("max_tokens")) is not None:
        body["max_tokens"] = most
    if by_priority:
        body["priority"] = job.priority
    return body | {"stream": True, "stream_options": {"include_usage": True}}
