"""Chat messages to and from driftkit's fields."""

from __future__ import annotations

from typing import Any

from driftkit.errors import FieldError
from driftkit.records.schema import Record, nature


def asked(messages: list[Record]) -> Record:
    """`prompt` for a lone message of the user that is text alone, else `messages`."""
    if len(messages) == 1 and messages[0].get("role") == "user" and set(messages[0]) == {"role", "content"}:
        content = messages[0]["content"]
        if type(content) is str:
            return {"prompt": content}
    return {"messages": messages}


def check_messages(name: str, value: Any) -> list[Record]:
    """A list of objects with a role, and not none of them."""
    if type(value) is not list or not value:
        raise FieldError(name, f"expected an array of messages, got {nature(value)}")
    for message in value:
        if type(message) is not dict or type(message.get("role")) is not str:
            raise FieldError(name, f"expected objects with a role, got {nature(message)}")
    return value
