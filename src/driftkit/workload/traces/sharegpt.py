"""ShareGPT: one JSON array of conversations, or a conversation a line; each answer is a turn.

A turn's input is everything that was said before its answer. The answer's length is counted by the given
tokenizer, since the format holds text alone. It has no arrivals either: every turn arrives at 0. The file is
read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import orjson

from driftkit.errors import DriftkitError, FieldError, LineError
from driftkit.records.io import parse_json
from driftkit.records.schema import SCHEMA, Record, nature, shown
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.chat import asked
from driftkit.workload.traces.openai_batch import NO_ARRIVALS

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "bing", "bard", "model"), "assistant"),
    "system": "system",
}


class ShareGpt(Trace):
    """`session` is the conversation's id, `turn` counts its answers from 1."""

    name: ClassVar[str] = "sharegpt"
    element: ClassVar[str] = "conversation "

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._conversations = 0
        self._count: Callable[[str], int] | None = None

    def elements(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        data = b"".join(lines).removeprefix(b"\xef\xbb\xbf").strip()
        if not data.startswith(b"["):
            yield from data.splitlines()
            return
        try:
            conversations = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            where = f"{self.source}:{error.lineno}"
            raise DriftkitError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
        yield from map(orjson.dumps, conversations)

    def parse(self, line: bytes) -> list[Record]:
        if line.isspace():
            return []
        self._conversations += 1
        if self._count is None:
            from driftkit.estimation.tokenizers import load

            self._count = load(self.options.tokenizer).count
        conversation = parse_json(line)
        said = conversation.get("conversations", conversation.get("items"))
        if type(said) is not list:
            raise FieldError("conversations", f"expected an array, got {nature(said)}")
        session = conversation.get("id")
        if session is not None and type(session) not in (str, int):
            raise FieldError("id", f"expected a string, got {shown(session)}")
        name = str(session) if session is not None else f"conversation-{self._conversations:06d}"
        turns = list(self._turns(said, name))
        self.remarks[NO_ARRIVALS] = None
        if not turns:
            self.left_out["conversations without an answer"] += 1
        return turns

    def _turns(self, said: list[Record], session: str) -> Iterator[Record]:
        history: list[Record] = []
        turn = 0
        for place, message in enumerate(said, start=1):
            role, text = _message(message, place)
            if role == "assistant" and history and history[-1]["role"] == "user":
                assert self._count is not None
                if tokens := self._count(text):
                    turn += 1
                    yield {
                        "kind": "request",
                        "schema": SCHEMA,
                        "id": f"sharegpt-{self._conversations:06d}-{turn}",
                        "session": session,
                        "turn": turn,
                        "arrival_s": 0.0,
                        **asked(list(history)),
                        "trace_output_tokens": tokens,
                        "trace_output_words": max(1, len(text.split())),
                    }
                else:
                    self.left_out["empty answers"] += 1
            history.append({"role": role, "content": text})


def _message(message: object, place: int) -> tuple[str, str]:
    name = f"conversations[{place}]"
    if type(message) is not dict:
        raise LineError(f"{name}: expected an object, got {nature(message)}")
    sender = message.get("from", message.get("role"))
    text = message.get("value", message.get("content"))
    if type(sender) is not str or sender not in _ROLES:
        raise FieldError(f"{name}.from", f"expected one of {', '.join(_ROLES)}, got {nature(sender)}")
    if type(text) is not str:
        raise FieldError(f"{name}.value", f"expected a string, got {nature(text)}")
    return _ROLES[sender], text
