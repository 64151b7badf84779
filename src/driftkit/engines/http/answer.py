"""What a server says of one request, event by event, or all at once."""

from __future__ import annotations

from typing import Any

import orjson

from driftkit.errors import printable

DONE = b"[DONE]"
#: of a chat's delta: where tokens show
DELTAS = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")
MOST_SAID = 200  # characters of a server's own text that are kept


class Answer:
    """The facts of a response so far. Nothing in it is trusted to have the type that it should have."""

    __slots__ = (
        "cached_tokens",
        "done",
        "error",
        "error_status",
        "finish_reason",
        "output_tokens",
        "pieces",
        "received",
    )

    def __init__(self) -> None:
        self.received = 0  # events with a token, or several
        self.done = False
        self.finish_reason: str | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.error: str | None = None
        self.error_status = 0  # HTTP's, of an error that comes when 200 was said already
        self.pieces: list[str] = []  # of text

    def take(self, event: bytes) -> None:
        """One event's data; ValueError when it is not what a server of this kind sends."""
        if event == DONE:
            self.done = True
            return
        try:
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            raise ValueError(f"an event that is not JSON: {event.decode(errors='replace')}") from None
        if type(chunk) is not dict:
            raise ValueError("an event that is not an object")
        if chunk.get("error") is not None:  # some gateways have a null in every event
            self.error = message_of(chunk)
            code = chunk["error"].get("code") if type(chunk["error"]) is dict else None
            self.error_status = _count(code) or 0
            return
        choices = chunk.get("choices")
        if choices and type(choices) is list and type(choices[0]) is dict:
            self._choice(choices[0])
        if type(usage := chunk.get("usage")) is dict:
            self._usage(usage)

    def take_whole(self, body: bytes) -> None:
        """A response that did not stream."""
        self.take(body)
        self.done = True
        self.received = 0  # who knows when

    @property
    def started(self) -> bool:
        """Whether a token was there."""
        return self.received > 0

    def _choice(self, choice: dict[str, Any]) -> None:
        text: Any = choice.get("text")
        if text is None:
            delta = choice.get("delta") or choice.get("message")
            if type(delta) is dict:
                self.received += any(delta.get(name) for name in DELTAS)
                text = delta.get("content")
        elif text or choice.get("finish_reason") is None:
            self.received += 1  # a token may be part of a character, and show nothing yet
        if type(text) is str:
            self.pieces.append(text)
        if type(reason := choice.get("finish_reason")) is str:
            self.finish_reason = reason

    def _usage(self, usage: dict[str, Any]) -> None:
        self.output_tokens = _count(usage.get("completion_tokens"))
        if type(details := usage.get("prompt_tokens_details")) is dict:
            self.cached_tokens = _count(details.get("cached_tokens"))


def told(text: str, secret: str | None) -> str:
    """A server's own words as people are told them: one line that drives no terminal, not too long, and
    without the API key, which a server may repeat."""
    if secret:
        text = text.replace(secret, "(the API key)")
    return printable(" ".join(text.split()))[:MOST_SAID]


def message_of(document: object) -> str:
    """What an error document says."""
    error = document.get("error", document) if type(document) is dict else document
    if type(error) is dict:
        error = error.get("message") or error.get("detail") or error
    return error if type(error) is str else orjson.dumps(error).decode()


def refusal_of(body: bytes) -> str:
    """What the body of a response says that is not a success."""
    try:
        return message_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 10**9 else None
