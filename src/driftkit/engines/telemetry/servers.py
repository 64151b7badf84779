"""A server's /metrics: its queue, what runs, its KV cache, preemptions."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from driftkit.engines.telemetry import prometheus
from driftkit.engines.telemetry.source import UnavailableError
from driftkit.records.schema import Record

TIMEOUT_S = 1.0
MOST_BYTES = 4 << 20  # vLLM's are about 100 kB
ACCEPT = "text/plain; version=0.0.4"


class Server:
    """Asked over one connection that is kept. Redirects are not followed, to whatever host.

    `base_url` is the API's, with or without /v1; /metrics is beside that. `headers` may hold a key, and are
    never shown. `context` says which certificates are trusted; by default the system's.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        url = urlsplit(base_url)
        self._replica = base_url
        self._path = url.path.rstrip("/").removesuffix("/v1") + "/metrics"
        self.name = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{self._path}"
        self._headers = {"Accept": ACCEPT, **(headers or {})}
        self._timeout_s = timeout_s
        host = url.hostname or ""
        self._connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(host, url.port, timeout=timeout_s, context=context)
            if url.scheme == "https"
            else http.client.HTTPConnection(host, url.port, timeout=timeout_s)
        )

    def sample(self) -> list[Record]:
        try:
            text = self._fetch()
        except UnavailableError:
            self.close()  # what is left of the answer is not read
            raise
        except OSError as error:
            self.close()
            raise UnavailableError((error.strerror or str(error) or "not answered").lower()) from None
        except (http.client.HTTPException, ValueError):
            self.close()
            raise UnavailableError("its answer is not HTTP, or cut off") from None
        told = prometheus.told(text)
        if not told:
            raise UnavailableError("none of the metrics of vLLM, SGLang or llama.cpp is there")
        return [{"replica": self._replica, **told}]

    def _fetch(self) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        self._connection.request("GET", self._path, headers=self._headers)
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise UnavailableError(f"answered with status {answer.status}")
        text = bytearray()
        while chunk := answer.read1(1 << 16):
            text += chunk
            if len(text) > MOST_BYTES:
                raise UnavailableError(f"longer than {MOST_BYTES >> 20} MiB")
            if time.monotonic() > deadline:  # it may come byte by byte
                raise UnavailableError(f"not answered within {self._timeout_s:g} s")
        if answer.length:
            raise http.client.IncompleteRead(bytes(text), answer.length)
        answer.close()  # read1 leaves that out, and the connection would not take another request
        return bytes(text)

    def close(self) -> None:
        self._connection.close()
