"""The least that a streaming client in Python can do, as a bound on what any can: httptools on asyncio.

    python benchmarks/raw_client.py URL --requests 40000 --concurrency 64
    python benchmarks/raw_client.py URL --requests 3000 --concurrency 1000 --rate 250

prints one JSON object: requests per second, and the times to the first token in the order they came. Every
event of every answer is parsed and its tokens are counted; nothing else is kept. Without --rate a connection
sends its next request when it has its answer; with --rate requests start evenly, each on a free connection.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections import deque
from urllib.parse import urlsplit

import httptools
import orjson

CONCURRENT_CONNECTS = 256


class Run:
    def __init__(self, host: str, request: bytes, requests: int, rate: float) -> None:
        self.host, self.request, self.rate = host, request, rate
        self.left = self.unfinished = requests
        self.free: deque[Connection] = deque()
        self.ttft_s: list[float] = []
        self.tokens = 0
        self.done = asyncio.get_running_loop().create_future()

    def take(self, connection: Connection) -> None:
        """A connection that is free again."""
        if self.unfinished == 0:
            if not self.done.done():
                self.done.set_result(None)
        elif self.rate:
            self.free.append(connection)
        elif self.left:
            self.left -= 1
            connection.send()


class Connection(asyncio.Protocol):
    def __init__(self, run: Run) -> None:
        self.run = run

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.data_received = self.parser.feed_data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.run.done.done():
            self.run.done.set_exception(exc or ConnectionError("the server closed a connection"))

    def send(self) -> None:
        self.pending = b""
        self.first = True
        self.sent_at = time.perf_counter()
        self.transport.write(self.run.request)

    def on_body(self, body: bytes) -> None:
        *events, self.pending = (self.pending + body).split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                continue
            fields = orjson.loads(event[6:])
            for choice in fields["choices"]:
                if choice["text"]:
                    self.run.tokens += 1
                    if self.first:
                        self.first = False
                        self.run.ttft_s.append(time.perf_counter() - self.sent_at)

    def on_message_complete(self) -> None:
        self.run.unfinished -= 1
        self.run.take(self)


async def measure(url: str, requests: int, concurrency: int, tokens: int, rate: float) -> dict[str, object]:
    host = urlsplit(url).netloc
    body = orjson.dumps(
        {
            "model": "driftkit-test",
            "prompt": "word " * 16,
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    run = Run(host, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, requests, rate)
    loop = asyncio.get_running_loop()
    address, port = host.split(":")
    connections: list[Connection] = []
    while len(connections) < concurrency:
        together = min(CONCURRENT_CONNECTS, concurrency - len(connections))
        made = [loop.create_connection(lambda: Connection(run), address, int(port)) for _ in range(together)]
        connections += [connection for _, connection in await asyncio.gather(*made)]
    gc.freeze()
    start = time.perf_counter()
    for connection in connections:
        run.take(connection)
    if rate:
        for index in range(requests):
            await asyncio.sleep(max(0.0, start + index / rate - time.perf_counter()))
            while not run.free:
                await asyncio.sleep(0.001)
            run.free.popleft().send()
    await run.done
    seconds = time.perf_counter() - start
    assert run.tokens == requests * tokens
    return {"requests_per_s": requests / seconds, "ttft_s": run.ttft_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=40000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s; 0: as fast as answers come")
    args = parser.parse_args()
    result = asyncio.run(measure(args.url, args.requests, args.concurrency, args.tokens, args.rate))
    print(orjson.dumps(result).decode())


if __name__ == "__main__":
    main()
