"""HTTP/1.1 connections to one server, kept open and used again, without a task for each request.

An asyncio protocol over httptools (llhttp, which Node.js uses): a client with coroutines per request, such as
aiohttp, costs four times as much, and its own waiting would be measured as the server's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import httptools

from driftkit import __version__
from driftkit.errors import DriftkitError, UsageError

PORTS = {"http": 80, "https": 443}
MOST_HEADER_BYTES = 1 << 16
LONGEST_IDLE_S = 4.0  # uvicorn, vLLM's server, closes after 5 s, and would take the next request with it


class Exchange(Protocol):
    """Who sent a request, and is told of its response. One of `on_end` and `on_lost` comes last, once."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers, names in lower case."""
        ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self) -> None:
        """The response is whole."""
        ...

    def on_lost(self, why: str, answered: bool) -> None:
        """No response, or only a part of one; `answered`: the server had sent something."""
        ...


class Origin(NamedTuple):
    """The base of a server's API, `scheme://host:port/path`."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Origin:
        """UsageError for what is no http or https URL, or has a password in it."""
        if "@" in url:  # asked first: nothing that is said below shows a password
            hint = "the API key comes from DRIFTKIT_API_KEY or --api-key-file"
            raise UsageError(
                "--base-url: a URL with a user or password would be seen by everybody", hint=hint
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"--base-url: {error}: {url!r}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            hint = "for example http://localhost:8000"
            raise UsageError(f"--base-url: expected http://HOST[:PORT][/PATH], got {url!r}", hint=hint)
        if not url.isascii() or not url.isprintable() or " " in url:
            raise UsageError(f"--base-url: a character that no URL has in {url!r}")
        path = parts.path.rstrip("/")
        return cls(parts.scheme, parts.hostname, port or PORTS[parts.scheme], path or "/v1")

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """As it was given, but for `/v1`, which is added where there is no path."""
        return f"{self.scheme}://{self.netloc}{self.path}"


def head_of(origin: Origin, path: str, api_key: str | None) -> bytes:
    """The request's head up to the length of its body."""
    lines = [
        f"POST {origin.path}{path} HTTP/1.1",
        f"Host: {origin.netloc}",
        f"User-Agent: driftkit/{__version__}",
        "Content-Type: application/json",
        "Accept: text/event-stream, application/json",
        *([f"Authorization: Bearer {api_key}"] if api_key else []),
        "Content-Length: ",
    ]
    return "\r\n".join(lines).encode()


class Connection(asyncio.Protocol):
    """One exchange at a time; told apart from its pool's others by nothing."""

    def __init__(self, pool: Pool, exchange: Exchange, request: bytes) -> None:
        self._pool = pool
        self._exchange: Exchange | None = exchange
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._heard = self._to_the_end = self._over = False
        self._parser = httptools.HttpResponseParser(self)

    def connect(self) -> None:
        self._connecting = self._pool.loop.create_task(self._connect())

    async def _connect(self) -> None:
        pool, why = self._pool, "no address"
        host = pool.origin.host if pool.tls is not None else None
        for address in pool.addresses:
            try:
                await pool.loop.create_connection(
                    lambda: self, address, pool.origin.port, ssl=pool.tls, server_hostname=host
                )
            except OSError as error:  # of which ssl.SSLError is one
                why = reason(error)
                continue
            if address != pool.addresses[0]:
                pool.addresses.remove(address)
                pool.addresses.insert(0, address)
            return
        self._lose(f"cannot connect: {why}")

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Begin the next exchange on an idle connection."""
        self._exchange, self._heard = exchange, False
        assert self._transport is not None
        self._transport.write(request)

    def abort(self) -> None:
        """Leave the exchange, and the connection with it."""
        self._exchange = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connecting = None
        if self._exchange is None:
            transport.abort()
        else:
            transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self._close()  # nothing was asked for
            return
        self._heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(f"not an HTTP response: {reason(error.__context__ or error)}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self._to_the_end and exc is None and self._exchange is not None:
            self._finish()
        else:
            self._lose(f"connection lost: {reason(exc)}" if exc else "the server closed the connection")

    # --- what the parser calls

    def on_message_begin(self) -> None:
        self._headers = {}
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MOST_HEADER_BYTES:
            raise ValueError(f"more than {MOST_HEADER_BYTES} bytes of headers")
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._exchange is None:
            return
        lengths = (b"content-length", b"transfer-encoding")
        self._to_the_end = status not in (204, 304) and not any(name in self._headers for name in lengths)
        self._exchange.on_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.on_body(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200 and not self._to_the_end:
            self._finish()

    # ---

    def _finish(self) -> None:
        exchange, self._exchange = self._exchange, None
        if self._parser.should_keep_alive() and not self._to_the_end and not self.closing:
            self._pool.keep(self)
        else:
            self._close()
        if exchange is not None:
            exchange.on_end()

    def _lose(self, why: str) -> None:
        exchange, self._exchange = self._exchange, None
        self._close()
        if exchange is not None:
            exchange.on_lost(why, self._heard)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """The connections to one server: as many as there are exchanges, the last one used taken first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, *, verify: bool = True) -> None:
        self.loop = loop
        self.origin = origin
        self.tls = tls_of(origin, verify=verify)
        self.addresses = _addresses(origin)
        self._idle: dict[Connection, float] = {}  # since when, in order

    def send(self, exchange: Exchange, request: bytes) -> Connection:
        """Send `request`, whole with its head; the connection is there to be aborted."""
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.closing or since < self.loop.time() - LONGEST_IDLE_S:
                connection.abort()
                continue
            connection.send(exchange, request)
            return connection
        connection = Connection(self, exchange, request)
        connection.connect()
        return connection

    def keep(self, connection: Connection) -> None:
        self._idle[connection] = self.loop.time()

    def forget(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def close(self) -> None:
        while self._idle:
            self._idle.popitem()[0].abort()


def _addresses(origin: Origin) -> list[str]:
    """The host's addresses, looked up once: a name server's time is not the engine's."""
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DriftkitError(f"{origin.url}: {reason(error)}") from None
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def tls_of(origin: Origin, *, verify: bool) -> ssl.SSLContext | None:
    """None where the origin does without; unverified only where somebody asked for it."""
    if origin.scheme != "https":
        return None
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def reason(error: BaseException) -> str:
    """Why there is no connection, or no response."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError | socket.gaierror):
        return (error.strerror or str(error)).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # asyncio puts other words into strerror
    return str(error) or type(error).__name__
