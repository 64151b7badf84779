"""A server that streams tokens it does not have to compute, as vLLM streams them, to measure clients against.

    python tools/streaming_server.py --port 0 --ttft 0.05 --tokens 20 --gap 0.2

prints `http://127.0.0.1:PORT` once it listens, and serves until it is ended. POST /v1/completions and
/v1/chat/completions, GET /v1/models and GET /metrics have vLLM's form; GET /served says in JSON what was
served and how late the first tokens left, so that a client's error is not taken for the server's. An answer
has max_tokens tokens where the request says ignore_eos, else at most --tokens. A prompt has one token per
word. Times that are due together go out in one write: without --ttft and --gap, an answer is one write.

Kept lean, because it must stay ahead of every client: an asyncio.Protocol per connection, httptools to parse.
A client that sends its next request before the answer is complete is cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import resource
from functools import lru_cache
from typing import Any

import httptools
import orjson

STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
KV_TOKENS = 1 << 20  # what kv_cache_usage_perc is a share of


class Model:
    """What is served, how fast, and what has been served so far."""

    def __init__(
        self, name: str, max_model_len: int, ttft_s: float, gap_s: float, tokens: int, hold: int
    ) -> None:
        self.name = name
        self.max_model_len = max_model_len
        self.ttft_s = ttft_s
        self.gap_s = gap_s
        self.tokens = tokens
        self.hold = hold
        self.open: set[Connection] = set()
        self.most_open = 0
        self.served = 0
        self.cut_off = 0
        self.first_token_late_s: list[float] = []


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(fields: dict[str, Any]) -> bytes:
    return chunk(b"data: " + orjson.dumps(fields) + b"\n\n")


def head(chat: bool, model: str) -> dict[str, Any]:
    kind, name = ("chatcmpl-0", "chat.completion.chunk") if chat else ("cmpl-0", "text_completion")
    return {"id": kind, "object": name, "created": 0, "model": model}


@lru_cache(maxsize=64)
def token_events(chat: bool, model: str, tokens: int) -> tuple[bytes, ...]:
    """The events of an answer, one per token; the last gives the reason, and chat opens with the role."""
    events = []
    for index in range(tokens):
        reason = "length" if index == tokens - 1 else None
        said = {"delta": {"content": " token"}} if chat else {"text": " token"}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        events.append(event({**head(chat, model), "choices": [choice]}))
    if chat:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        events[0] = event({**head(chat, model), "choices": [choice]}) + events[0]
    return tuple(events)


@lru_cache(maxsize=1024)
def ending(chat: bool, model: str, prompt_tokens: int, tokens: int, include_usage: bool) -> bytes:
    if not include_usage:
        return DONE
    usage = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + tokens,
        "completion_tokens": tokens,
    }
    return event({**head(chat, model), "choices": [], "usage": usage}) + DONE


@lru_cache(maxsize=1024)
def at_once(chat: bool, model: str, prompt_tokens: int, tokens: int, include_usage: bool) -> bytes:
    events = b"".join(token_events(chat, model, tokens))
    return STREAM + events + ending(chat, model, prompt_tokens, tokens, include_usage)


def whole(chat: bool, model: str, prompt_tokens: int, tokens: int) -> bytes:
    """The answer to a request that does not ask for a stream."""
    text = " token" * tokens
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + tokens,
        "completion_tokens": tokens,
    }
    choice = {"index": 0, **said, "finish_reason": "length"}
    fields = {**head(chat, model), "choices": [choice], "usage": usage}
    if chat:
        fields["object"] = "chat.completion"
    return answer("200 OK", orjson.dumps(fields))


def answer(status: str, payload: bytes, content_type: str = "application/json") -> bytes:
    lines = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(payload)}\r\n\r\n"
    return lines.encode() + payload


def refusal(status: str, message: str) -> bytes:
    error = {"message": message, "type": status[4:].replace(" ", ""), "param": None, "code": int(status[:3])}
    return answer(status, orjson.dumps({"error": error}))


def count_tokens(prompt: Any) -> int:
    """Words, token ids, or the words of all messages."""
    if isinstance(prompt, str):
        return len(prompt.split())
    if prompt and isinstance(prompt[0], dict):
        return sum(count_tokens(message.get("content") or "") for message in prompt)
    return len(prompt)


class Connection(asyncio.Protocol):
    def __init__(self, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self.model = model
        self.loop = loop
        self.parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self.timer: asyncio.TimerHandle | None = None
        self.url = b""
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.parser = None  # which refers to this connection
        if self.timer is not None:
            self.timer.cancel()
        if self in self.model.open:
            self.model.open.discard(self)
            self.model.cut_off += 1

    def data_received(self, data: bytes) -> None:
        if self.parser is None:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.transport.write(refusal("400 Bad Request", str(error)))
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        if self in self.model.open:
            self.transport.abort()
            return
        body = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        self.body.clear()
        if self.url == b"/v1/completions":
            self.generate(False, body)
        elif self.url == b"/v1/chat/completions":
            self.generate(True, body)
        else:
            self.transport.write(page(self.model, self.url))
        if self.parser is not None and not self.parser.should_keep_alive() and self not in self.model.open:
            self.transport.close()

    def generate(self, chat: bool, body: bytes) -> None:
        model = self.model
        try:
            request = orjson.loads(body)
            prompt_tokens = count_tokens(request["messages" if chat else "prompt"])
            tokens = request.get("max_completion_tokens") or request.get("max_tokens") or model.tokens
            if not request.get("ignore_eos"):
                tokens = min(tokens, model.tokens)
            include_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            self.transport.write(refusal("400 Bad Request", f"not a request: {error!r}"))
            return
        if prompt_tokens + tokens > model.max_model_len:
            text = f"{prompt_tokens} + {tokens} tokens are over the maximum of {model.max_model_len}"
            self.transport.write(refusal("400 Bad Request", text))
        elif not request.get("stream"):
            model.served += 1
            self.transport.write(whole(chat, model.name, prompt_tokens, tokens))
        elif model.ttft_s == 0 == model.gap_s:
            model.served += 1
            self.transport.write(at_once(chat, model.name, prompt_tokens, tokens, include_usage))
        else:
            self.events = token_events(chat, model.name, tokens)
            self.ending = ending(chat, model.name, prompt_tokens, tokens, include_usage)
            self.held_tokens = prompt_tokens
            self.sent = 0
            self.first_due = self.loop.time() + model.ttft_s
            model.open.add(self)
            model.most_open = max(model.most_open, len(model.open))
            self.transport.write(STREAM)
            if model.most_open >= model.hold:
                for connection in [*model.open] if len(model.open) == model.hold else [self]:
                    connection.send_due()

    def send_due(self) -> None:
        """All tokens whose time has come, in one write; the next, or the end, at its own time."""
        model, now = self.model, self.loop.time()
        if now >= self.first_due:
            due = len(self.events)
            if model.gap_s > 0:
                due = min(due, 1 + int((now - self.first_due) / model.gap_s))
            if self.sent == 0:
                model.first_token_late_s.append(now - self.first_due)
            payload = b"".join(self.events[self.sent : due])
            self.sent = due
            if due == len(self.events):
                model.open.discard(self)
                model.served += 1
                self.timer = None
                self.transport.write(payload + self.ending)
                if self.parser is not None and not self.parser.should_keep_alive():
                    self.transport.close()
                return
            self.transport.write(payload)
        self.timer = self.loop.call_at(self.first_due + self.sent * model.gap_s, self.send_due)


def page(model: Model, url: bytes) -> bytes:
    """What a GET is answered."""
    if url == b"/v1/models":
        card = {"id": model.name, "object": "model", "created": 0, "owned_by": "driftkit"}
        card["max_model_len"] = model.max_model_len
        return answer("200 OK", orjson.dumps({"object": "list", "data": [card]}))
    if url == b"/metrics":
        return answer("200 OK", metrics(model).encode(), "text/plain; version=0.0.4; charset=utf-8")
    if url == b"/health":
        return answer("200 OK", b"")
    if url == b"/served":
        late = sorted(model.first_token_late_s)
        fields = {"served": model.served, "cut_off": model.cut_off, "most_open": model.most_open}
        if late:
            fields["first_token_late_s"] = {
                "mean": sum(late) / len(late),
                "p50": late[len(late) // 2],
                "p99": late[len(late) * 99 // 100],
            }
        return answer("200 OK", orjson.dumps(fields))
    return refusal("404 Not Found", "The server has no such page")


def metrics(model: Model) -> str:
    """vLLM's gauges; a request runs from its first token on, and none is ever preempted."""
    running = sum(connection.sent > 0 for connection in model.open)
    held = sum(connection.held_tokens + connection.sent for connection in model.open)
    values = [
        ("vllm:num_requests_running", "gauge", running),
        ("vllm:num_requests_waiting", "gauge", len(model.open) - running),
        ("vllm:kv_cache_usage_perc", "gauge", held / KV_TOKENS),
        ("vllm:num_preemptions_total", "counter", 0),
    ]
    labels = f'{{engine="0",model_name="{model.name}"}}'
    return "".join(f"# TYPE {name} {kind}\n{name}{labels} {float(n)}\n" for name, kind, n in values)


async def serve(model: Model, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(model, loop), host, port, backlog=4096)
    gc.freeze()
    print(f"http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0, the default: a free one")
    parser.add_argument(
        "--ttft", type=float, default=0.0, help="seconds from a request's last byte to its token"
    )
    parser.add_argument("--gap", type=float, default=0.0, help="seconds from token to token")
    parser.add_argument("--tokens", type=int, default=4, help="of an answer, without ignore_eos")
    parser.add_argument("--hold", type=int, default=0, help="answer nobody before so many wait")
    parser.add_argument("--model", default="driftkit-test")
    parser.add_argument("--max-model-len", type=int, default=131072)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(KeyboardInterrupt):
        model = Model(args.model, args.max_model_len, args.ttft, args.gap, args.tokens, args.hold)
        asyncio.run(serve(model, args.host, args.port))


if __name__ == "__main__":
    main()
