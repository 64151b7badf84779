"""An OpenAI-compatible server that does wrong what it is asked to do wrong.

    python tests/faulty_server.py --port 0 --log LOG [--fault FAULT] [--tls FOLDER] [--slots N]

prints its URL once it listens. A prompt that holds `fault:NAME` gets that fault, any other the one of
--fault, else a good answer of at most 4 tokens. `fault:NAME,key=value,...` sets what the fault reads, and
for all faults:

    times=N      only the first N tries of this very prompt; then a good answer
    delay=S      seconds before the first byte
    once=N       not before so many requests have come, to whatever fault
    tokens=N     of the answer
    gap=S        seconds between tokens

With --slots, so many are answered at a time; the others wait, first come first served, or with
--by-priority by their priorities.

LOG gets a JSON line for each request once it is read: `connection` (a number), `try` (1 for a prompt's
first), `method`, `path`, `headers` (lower-case names), `body`, `prompt`, `fault`; then {"taken": prompt} when
its turn has come, and {"left": connection} when the client leaves before its answer is complete. FAULTS names
all; tests/servers.py starts it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import itertools
import json
import re
import resource
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any, TextIO

MODEL = "driftkit-test"
MAX_MODEL_LEN = 4096
SPLIT_TEXT = "naïve 日本語 🙂 e\u0301"  # what split-utf8 says, whole
ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b1m \r\nsecond line \u202e"


class Call:
    """One request, and the means to answer it."""

    def __init__(
        self,
        request: dict[str, Any],
        options: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        body = request["body"] if isinstance(request["body"], dict) else {}
        self.request = request
        self.options = options
        self.reader = reader
        self.writer = writer
        self.chat = request["path"].startswith("/v1/chat")
        self.stream = bool(body.get("stream"))
        self.include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or 4
        self.tokens = int(self.option("tokens", asked if body.get("ignore_eos") else min(asked, 4)))
        self.prompt_tokens = len(request["prompt"].split())
        self.chunked = True

    def option(self, name: str, default: Any) -> str:
        return self.options.get(name, str(default))

    # bytes

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: str = "200 OK", kind: str = "text/event-stream", **headers: str) -> None:
        """The status and headers; without content-length the body comes in chunks."""
        self.chunked = "content_length" not in headers and "connection" not in headers
        if self.chunked:
            headers["transfer_encoding"] = "chunked"
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def piece(self, data: bytes) -> None:
        """A piece of the body, a chunk of its own."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n" if self.chunked else b"")

    async def whole(
        self, status: str, payload: bytes, kind: str = "application/json", **headers: str
    ) -> None:
        await self.head(status, kind, content_length=str(len(payload)), **headers)
        await self.raw(payload)

    async def refuse(
        self, status: str, message: str, kind: str = "", param: str | None = None, **headers: str
    ) -> None:
        """An error in vLLM's form."""
        code, _, phrase = status.partition(" ")
        error = {"message": message, "type": kind or phrase, "param": param, "code": int(code)}
        await self.whole(status, json.dumps({"error": error}).encode(), **headers)

    async def until_left(self) -> None:
        """Nothing more, until the client leaves."""
        while await self.reader.read(1 << 16):
            pass
        raise ConnectionResetError

    # events

    def fields(self, text: str | None, reason: str | None) -> dict[str, Any]:
        """An event with some text; with None, the one of the usage."""
        name, kind = ("chatcmpl", "chat.completion.chunk") if self.chat else ("cmpl", "text_completion")
        head = {"id": f"{name}-{self.request['connection']}", "object": kind, "created": 1, "model": MODEL}
        if text is None:
            usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens}
            usage["total_tokens"] = self.prompt_tokens + self.tokens
            return {**head, "choices": [], "usage": usage}
        said = {"delta": {"content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        return {**head, "choices": [choice]}

    def event(self, text: str | None, reason: str | None = None) -> bytes:
        return b"data: " + json.dumps(self.fields(text, reason)).encode() + b"\n\n"

    def events(self) -> list[bytes]:
        """All of a good answer."""
        last = self.tokens - 1
        events = [self.event(f" t{i}", "length" if i == last else None) for i in range(self.tokens)]
        if self.chat:
            role = self.fields("", None)
            role["choices"][0]["delta"]["role"] = "assistant"
            events.insert(0, b"data: " + json.dumps(role).encode() + b"\n\n")
        if self.include_usage:
            events.append(self.event(None))
        return [*events, b"data: [DONE]\n\n"]

    async def send(self, events: list[bytes]) -> None:
        gap = float(self.option("gap", 0))
        for event in events:
            await self.piece(event)
            await asyncio.sleep(gap)

    async def begin(self) -> None:
        """The headers and two tokens, of more to come."""
        await self.head()
        await self.send([self.event(" t0"), self.event(" t1")])


Fault = Callable[[Call], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__.replace("_", "-")] = function
    return function


@fault
async def none(call: Call) -> None:
    """A good answer."""
    if call.stream:
        await call.head()
        await call.send(call.events())
        await call.end()
    else:
        await json_answer(call)


# Connections


@fault
async def close(call: Call) -> None:
    """Closes without a byte."""
    call.writer.close()


@fault
async def reset(call: Call) -> None:
    """As a server that was killed: RST without a byte."""
    abort(call)


@fault
async def hang(call: Call) -> None:
    """Not a byte, ever."""
    await call.until_left()


@fault
async def hang_after_headers(call: Call) -> None:
    await call.head()
    await call.until_left()


@fault
async def hang_mid_stream(call: Call) -> None:
    await call.begin()
    await call.until_left()


@fault
async def close_mid_stream(call: Call) -> None:
    await call.begin()
    call.writer.close()


@fault
async def reset_mid_stream(call: Call) -> None:
    await call.begin()
    await asyncio.sleep(0.02)  # an RST takes with it what the client has not read yet
    abort(call)


@fault
async def close_after(call: Call) -> None:
    """A good answer, then the connection is closed without a word: the next request on it is lost."""
    await none(call)
    call.writer.close()


@fault
async def drip(call: Call) -> None:
    """Byte by byte, every=0.001 seconds."""
    writer, data = call.writer, b"".join(call.events())
    for byte in b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n":
        await call.raw(bytes([byte]))
    for byte in b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data):
        writer.write(bytes([byte]))
        await asyncio.sleep(float(call.option("every", 0.001)))
    await writer.drain()


# Statuses


@fault
async def status(call: Call) -> None:
    """status,code=418: any code."""
    await call.refuse(f"{call.option('code', 500)} As Asked", "as asked")


@fault
async def bad_request(call: Call) -> None:
    """400 for a prompt over the context, in vLLM's form."""
    tokens = MAX_MODEL_LEN - 3
    text = f"{tokens} tokens of prompt and 4 of output are over {MAX_MODEL_LEN} (parameter=input_tokens)"
    await call.refuse("400 Bad Request", text, "BadRequestError", "input_tokens")


@fault
async def unauthorized(call: Call) -> None:
    await call.whole("401 Unauthorized", b'{"error":"Unauthorized"}')


@fault
async def echo_key(call: Call) -> None:
    """401 that repeats the Authorization header, as some gateways do; after=N other characters."""
    said = f"wrong key: {call.request['headers'].get('authorization')}"
    await call.refuse("401 Unauthorized", "x" * int(call.option("after", 0)) + said)


@fault
async def too_many(call: Call) -> None:
    """429; retry-after=SECONDS, or =date for an HTTP date one second ahead."""
    await call.refuse("429 Too Many Requests", "slow down", **retry_after(call))


@fault
async def overloaded(call: Call) -> None:
    """503, with retry-after as above."""
    await call.refuse("503 Service Unavailable", "the queue is full", **retry_after(call))


@fault
async def server_error(call: Call) -> None:
    await call.refuse("500 Internal Server Error", "EngineCore encountered an issue", "InternalServerError")


@fault
async def gateway(call: Call) -> None:
    """502 with a page for people."""
    await call.whole("502 Bad Gateway", b"<html><h1>502</h1>\n<p>bad gateway</p></html>", "text/html")


@fault
async def redirect(call: Call) -> None:
    """307 to the same server under another name, so that the log tells who followed; to=URL elsewhere."""
    port = call.writer.get_extra_info("sockname")[1]
    scheme = "https" if call.writer.get_extra_info("ssl_object") else "http"
    to = call.option("to", f"{scheme}://localhost:{port}{call.request['path']}")
    await call.whole("307 Temporary Redirect", b"", location=to)


@fault
async def redirect_same(call: Call) -> None:
    """307 to where the request came from: for ever, without times=."""
    await call.whole("307 Temporary Redirect", b"", location=call.request["path"])


@fault
async def escapes(call: Call) -> None:
    """400 whose message tries what terminals understand."""
    await call.refuse("400 Bad Request", ESCAPES)


@fault
async def long_error(call: Call) -> None:
    """500 with a message of bytes=1000000."""
    await call.refuse("500 Internal Server Error", "x" * int(call.option("bytes", 1_000_000)))


# HTTP


@fault
async def not_http(call: Call) -> None:
    await call.raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    call.writer.close()


@fault
async def bad_chunk(call: Call) -> None:
    await call.begin()
    await call.raw(b"zz\r\nnot a length\r\n")
    call.writer.close()


@fault
async def huge_header(call: Call) -> None:
    """A header of bytes=1000000."""
    await call.head(x_huge="x" * int(call.option("bytes", 1_000_000)))
    await call.send(call.events())
    await call.end()


@fault
async def content_length(call: Call) -> None:
    """A stream whose length is told ahead."""
    await call.whole("200 OK", b"".join(call.events()), "text/event-stream")


@fault
async def until_close(call: Call) -> None:
    """A stream that ends when the connection does, as HTTP/1.0 had it; done=no: without [DONE]."""
    await call.head(connection="close")
    await call.send(call.events()[: -1 if call.option("done", "yes") == "no" else None])
    call.writer.close()


@fault
async def short_body(call: Call) -> None:
    """Closes before all the bytes that content-length promised."""
    data = b"".join(call.events())
    await call.head(content_length=str(len(data) + 100))
    await call.raw(data)
    call.writer.close()


@fault
async def empty(call: Call) -> None:
    """200 and no body."""
    await call.whole("200 OK", b"", "text/event-stream")


@fault
async def json_answer(call: Call) -> None:
    """One JSON object, although a stream was asked for."""
    text = "".join(f" t{index}" for index in range(call.tokens))
    fields = {**call.fields(text, "length"), "usage": call.fields(None, None)["usage"]}
    if call.chat:
        fields["object"] = "chat.completion"
        fields["choices"][0]["message"] = {"role": "assistant", **fields["choices"][0].pop("delta")}
    await call.whole("200 OK", json.dumps(fields).encode())


# Server-sent events


@fault
async def truncated(call: Call) -> None:
    """The body ends as it should, the stream does not: no finish_reason, no usage, no [DONE]."""
    await call.begin()
    await call.end()


@fault
async def no_done(call: Call) -> None:
    await call.head()
    await call.send(call.events()[:-1])
    await call.end()


@fault
async def no_usage(call: Call) -> None:
    call.include_usage = False
    await none(call)


@fault
async def zero_tokens(call: Call) -> None:
    call.tokens = 0
    usage = [call.event(None)] if call.include_usage else []
    await call.head()
    await call.send([call.event("", "stop"), *usage, b"data: [DONE]\n\n"])
    await call.end()


@fault
async def pairs(call: Call) -> None:
    """Two tokens an event: who counts events counts half."""
    halves = call.tokens // 2
    call.tokens = 2 * halves
    events = [call.event(" t t", "length" if i == halves - 1 else None) for i in range(halves)]
    usage = [call.event(None)] if call.include_usage else []
    await call.head()
    await call.send([*events, *usage, b"data: [DONE]\n\n"])
    await call.end()


@fault
async def bad_json(call: Call) -> None:
    await call.begin()
    await call.piece(b'data: {"id": "cmpl-1", "choices": [{"ind\n\n')
    await call.send([call.event(" t2", "length"), b"data: [DONE]\n\n"])
    await call.end()


@fault
async def wrong_shape(call: Call) -> None:
    """Events that are JSON, but not what the API has: value=[] or any other, `choices` for a wrong one."""
    value = call.option("value", "[]")
    await call.begin()
    wrong = '{"choices": {"text": 3}}' if value == "choices" else value
    await call.piece(f"data: {wrong}\n\n".encode())
    await call.end()


@fault
async def error_event(call: Call) -> None:
    """What vLLM sends when a request fails after its first tokens."""
    await call.begin()
    error = {"message": "EngineCore encountered an issue", "type": "InternalServerError", "param": None}
    await call.piece(b"data: " + json.dumps({"error": {**error, "code": 500}}).encode() + b"\n\n")
    await call.piece(b"data: [DONE]\n\n")
    await call.end()


@fault
async def endless(call: Call) -> None:
    """Tokens for ever."""
    await call.head()
    events = call.event(" t") * 1000
    with contextlib.suppress(ConnectionError):
        while True:
            await call.piece(events)
    raise ConnectionResetError


@fault
async def huge_event(call: Call) -> None:
    """One event of bytes=16777216, of which the end never comes before the client has had enough."""
    await call.begin()
    await call.piece(b'data: {"choices": [{"index": 0, "text": "')
    for _ in range(int(call.option("bytes", 1 << 24)) >> 16):
        await call.piece(b"x" * (1 << 16))
    await call.piece(b'", "finish_reason": "length"}]}\n\ndata: [DONE]\n\n')
    await call.end()


@fault
async def split_utf8(call: Call) -> None:
    """SPLIT_TEXT as UTF-8, not escaped, every byte a chunk and a write of its own."""
    call.tokens = 1
    text = json.dumps(call.fields(SPLIT_TEXT, "length"), ensure_ascii=False).encode()
    await call.head()
    for byte in b"data: " + text + b"\n\n":
        await call.piece(bytes([byte]))
        if byte >= 0x80:
            await asyncio.sleep(0.002)  # so that the bytes of a character come in reads of their own
    await call.send([*([call.event(None)] if call.include_usage else []), b"data: [DONE]\n\n"])
    await call.end()


@fault
async def odd_lines(call: Call) -> None:
    """All that the format allows: comments, other fields, data in lines, CRLF (or end=cr, end=lf)."""
    end = {"crlf": b"\r\n", "cr": b"\r", "lf": b"\n"}[call.option("end", "crlf")]
    await call.head()
    await call.piece(b"\xef\xbb\xbf: a comment" + end + b":" + end + b"retry: 10" + end * 2)
    for event in call.events():
        data = event.removeprefix(b"data: ").strip()
        lines = [data] if data == b"[DONE]" else json.dumps(json.loads(data), indent=1).encode().splitlines()
        block = [b"event: message", b"id: 7", *[b"data:" + line for line in lines], b": ping"]
        await call.piece(end.join(block) + end * 2)
    await call.end()


def abort(call: Call) -> None:
    """RST rather than FIN (SO_LINGER with no time: socket(7))."""
    connection = call.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    call.writer.transport.abort()


def retry_after(call: Call) -> dict[str, str]:
    value = call.option("retry-after", "")
    if value == "date":
        value = formatdate(time() + 1, usegmt=True)
    return {"retry_after": value} if value else {}


def prompt_of(body: Any) -> str:
    """The text of a prompt; of a conversation, what was said last."""
    if not isinstance(body, dict):
        return ""
    if messages := body.get("messages"):
        return str(messages[-1].get("content") or "")
    prompt = body.get("prompt") or ""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


class Slots:
    """Lets so many in at a time: the lowest priority first if that is asked for, else who came first."""

    def __init__(self, free: int, by_priority: bool) -> None:
        self.free = free
        self.by_priority = by_priority
        self.numbers = itertools.count()
        self.waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def one(self, priority: int) -> AsyncIterator[None]:
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self.waiting, (priority if self.by_priority else 0, next(self.numbers), turn))
        self.fill()
        await turn
        try:
            yield
        finally:
            self.free += 1
            self.fill()

    def fill(self) -> None:
        while self.free and self.waiting:
            self.free -= 1
            heapq.heappop(self.waiting)[2].set_result(None)


class Service:
    def __init__(self, log: TextIO, default_fault: str, slots: Slots) -> None:
        self.log = log
        self.default_fault = default_fault
        self.slots = slots
        self.connections = itertools.count(1)
        self.tries: Counter[str] = Counter()

    def note(self, fields: dict[str, Any]) -> None:
        self.log.write(json.dumps(fields) + "\n")
        self.log.flush()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = next(self.connections)
        answering = False
        try:
            while not writer.transport.is_closing():
                request = await read_request(reader)
                answering = True
                await self.answer({"connection": connection, **request}, reader, writer)
                answering = False
        except (ConnectionError, asyncio.IncompleteReadError):
            if answering:
                self.note({"left": connection})
        finally:
            writer.close()

    async def answer(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        prompt = prompt_of(request["body"])
        found = re.search(r"fault:(\S+)", prompt)
        name, *pairs = (found.group(1) if found else self.default_fault).split(",")
        options = dict(pair.split("=", 1) for pair in pairs)
        self.tries[prompt] += request["method"] == "POST"
        if self.tries[prompt] > int(options.get("times", "1000000000")):
            name = "none"
        self.note({"at": time(), "try": self.tries[prompt], "prompt": prompt, "fault": name, **request})
        call = Call({**request, "prompt": prompt}, options, reader, writer)
        if request["method"] == "GET":
            await page(call)
            return
        body = request["body"]
        async with self.slots.one(body.get("priority", 0) if isinstance(body, dict) else 0):
            self.note({"taken": prompt})
            while self.tries.total() < int(options.get("once", "0")):
                await asyncio.sleep(0.01)
            await asyncio.sleep(float(options.get("delay", "0")))
            if name in FAULTS:
                await FAULTS[name](call)
            else:
                await call.refuse("501 Not Implemented", f"no fault {name}")


async def read_request(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    data = await reader.readexactly(int(headers.get("content-length", "0")))
    try:
        body = json.loads(data) if data else None
    except ValueError:
        body = data.decode("latin-1")
    return {"method": method, "path": path, "headers": headers, "body": body}


async def page(call: Call) -> None:
    path = call.request["path"]
    if path == "/v1/models":
        card = {"id": MODEL, "object": "model", "created": 1, "owned_by": "x", "max_model_len": MAX_MODEL_LEN}
        await call.whole("200 OK", json.dumps({"object": "list", "data": [card]}).encode())
    elif path == "/health":
        await call.whole("200 OK", b"")
    else:
        await call.refuse("404 Not Found", "Not Found", "NotFoundError")


async def main(args: argparse.Namespace) -> None:
    context = None
    if args.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(args.tls / "certificate.pem", args.tls / "key.pem")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with args.log.open("a") as log:
        service = Service(log, args.fault, Slots(args.slots, args.by_priority))
        server = await asyncio.start_server(
            service.serve, "127.0.0.1", args.port, ssl=context, backlog=4096, limit=1 << 24
        )
        scheme = "https" if context else "http"
        print(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--fault", default="none")
    parser.add_argument("--slots", type=int, default=1_000_000, help="how many are answered at a time")
    parser.add_argument("--by-priority", action="store_true", help="the most urgent of those waiting first")
    parser.add_argument("--tls", type=Path, help="a folder with certificate.pem and key.pem")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args()))
