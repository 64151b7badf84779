"""Servers that speak OpenAI's API, as an engine: requests go out when they are due, answers stream in.

Several servers are replicas of one another; a router says which gets a request. Nothing is sent twice unless
retries were asked for, and then it is counted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from driftkit import rng
from driftkit.engines.http.answer import Answer, refusal_of, told
from driftkit.engines.http.body import PATHS, Endpoint, body_of, endpoint_of
from driftkit.engines.http.connection import Connection, Origin, Pool, head_of
from driftkit.engines.http.events import EventStream
from driftkit.engines.http.routing import ROUTERS
from driftkit.engines.real_time import RealTime
from driftkit.records.job import Job

REFUSED = (400, 404, 413, 422, 429, 503)  # the server did not take the request in
BUSY = (429, 503)
MOST_REFUSAL = 1 << 16  # bytes of a body that is no success
MOST_ANSWER = 1 << 26  # bytes of an answer; one of 128k tokens has half as many
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0  # before a retry; a server that says longer is not asked again
OUT_OF_SERVICE_S = 1.0  # after a failed connection, where there are other replicas


@dataclass(frozen=True)
class Service:
    """What is asked of the servers, and how.

    `max_model_len` is None where they do not tell. `timeout_s`: a server that sends no byte for so long has
    hung. `replay`: answers are to have the job's `output_tokens`. `keep_text`: the text stays with the job.
    """

    origins: Sequence[Origin]
    model: str
    max_model_len: int | None = None
    endpoint: Endpoint | None = None
    api_key: str | None = field(default=None, repr=False)
    verify: bool = True
    by_priority: bool = False
    replay: bool = False
    keep_text: bool = False
    timeout_s: float = 600.0
    retries: int = 0
    route: str = "round-robin"
    seed: int = 0


class Http(RealTime):
    name = "http"

    def __init__(self, service: Service, max_rps: float | None = None) -> None:
        super().__init__(max_rps)
        self.service = service
        self._replicas = [Replica(self.loop, origin, service) for origin in service.origins]
        self._router = ROUTERS[service.route](len(self._replicas), service.seed)
        self._calls: dict[Job, Call] = {}
        self._waits = rng.stream(service.seed, "retries")
        self._look_every_s = min(1.0, service.timeout_s / 4)
        self._looking = self.loop.call_later(self._look_every_s, self._look)

    def close(self) -> None:
        self._looking.cancel()
        for replica in self._replicas:
            replica.pool.close()
        super().close()

    def _send(self, job: Job) -> None:
        loads = [replica.load for replica in self._replicas] if len(self._replicas) > 1 else (0.0,)
        call = Call(self, job, self._replicas[self._router.choose(job.record, loads)])
        self._calls[job] = call
        call.send()

    def _abort(self, job: Job) -> None:
        if (call := self._calls.pop(job, None)) is not None:
            call.leave()

    def ended(self, call: Call, status: str, error: str | None) -> None:
        """The call has come to its end, for good."""
        del self._calls[call.job]
        self.end(call.job, status, error)

    def again(self, call: Call, after_s: float | None) -> bool:
        """Whether it is tried again: later, neither more often than was asked for, nor sooner than the server
        asked for."""
        job = call.job
        if job.retries >= self.service.retries or (after_s or 0.0) > LONGEST_WAIT_S:
            return False
        if after_s is None:
            after_s = FIRST_WAIT_S * 2**job.retries * (0.5 + float(self._waits.random()))
        job.retries += 1
        call.waiting = self.loop.call_later(min(after_s, LONGEST_WAIT_S), self._send_again, call)
        return True

    def _send_again(self, call: Call) -> None:
        send_at = self._turn()
        if send_at is None:
            self._send(call.job)
        else:
            call.waiting = self.loop.call_at(self._zero + send_at, self._send, call.job)

    def _look(self) -> None:
        """End what has heard nothing for too long; while this process was held up does not count."""
        now = self.loop.time()
        silent_since = now - self.service.timeout_s - max(0.0, now - self._looking.when())
        for call in [
            call for call in self._calls.values() if call.heard <= silent_since and not call.waiting
        ]:
            call.give_up("timeout", f"no byte for {self.service.timeout_s:g} s")
        self._looking = self.loop.call_later(self._look_every_s, self._look)


class Replica:
    """One server: its connections, and how many requests it has in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, service: Service) -> None:
        self.pool = Pool(loop, origin, verify=service.verify)
        self.in_flight = 0
        self._out_until = -math.inf
        self._heads = {endpoint: head_of(origin, path, service.api_key) for endpoint, path in PATHS.items()}

    @property
    def load(self) -> float:
        return math.inf if self.pool.loop.time() < self._out_until else self.in_flight

    def failed(self) -> None:
        """It could not be connected to."""
        self._out_until = self.pool.loop.time() + OUT_OF_SERVICE_S

    def request(self, endpoint: Endpoint, body: bytes) -> bytes:
        return b"%s%d\r\n\r\n%s" % (self._heads[endpoint], len(body), body)


class Call:
    """One try of a job: an Exchange that fills in the job."""

    __slots__ = (
        *("job", "heard", "waiting", "_engine", "_replica", "_connection", "_answer", "_events", "_status"),
        *("_headers", "_body", "_bytes"),
    )

    def __init__(self, engine: Http, job: Job, replica: Replica) -> None:
        self.job = job
        self.heard = engine.loop.time()
        #: the timer of the next try
        self.waiting: asyncio.TimerHandle | None = None
        self._engine = engine
        self._replica = replica
        self._connection: Connection | None = None
        self._answer = Answer()
        self._events: EventStream | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._bytes = 0

    def send(self) -> None:
        service, replica, job = self._engine.service, self._replica, self.job
        endpoint = endpoint_of(job.record, service.endpoint)
        body = body_of(job, endpoint, service.model, by_priority=service.by_priority, replay=service.replay)
        job.replica = replica.pool.origin.url
        replica.in_flight += 1
        self._connection = replica.pool.send(self, replica.request(endpoint, orjson.dumps(body)))

    def leave(self) -> None:
        """Give up: the server sees its client go."""
        self.job.received_tokens = self._answer.received
        if self.waiting is not None:
            self.waiting.cancel()
        elif self._connection is not None:
            self._replica.in_flight -= 1
            self._connection.abort()

    def give_up(self, status: str, error: str) -> None:
        """End in mid-answer, and the connection with it."""
        self.leave()
        self._over(status, error)

    # --- what the connection calls

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.heard = self._engine.loop.time()
        self._status = status
        self._headers = headers
        if status == 200 and headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            self._events = EventStream()

    def on_body(self, data: bytes) -> None:
        self.heard = self._engine.loop.time()
        self._bytes += len(data)
        if self._bytes > (MOST_ANSWER if self._status == 200 else MOST_REFUSAL):
            self.give_up("error", f"HTTP {self._status} with an endless body")
            return
        if self._events is None:
            self._body.append(data)
            return
        answer, job = self._answer, self.job
        try:
            for event in self._events.feed(data):
                answer.take(event)
        except ValueError as error:
            self.give_up("error", str(error))
            return
        if answer.started and job.first_token_s is None:
            job.first_token_s = self._engine.now()

    def on_end(self) -> None:
        self._replica.in_flight -= 1
        self._connection = None
        answer = self._answer
        if self._status != 200:
            self._refused(self._status, refusal_of(b"".join(self._body)))
            return
        if self._events is None:
            try:
                answer.take_whole(b"".join(self._body))
            except ValueError as error:
                self._over("error", str(error))
                return
        if answer.error is not None and answer.error_status in REFUSED and not answer.started:
            self._refused(answer.error_status, answer.error)  # vLLM says 200 before it looks at its queue
        elif answer.error is not None:
            self._over("error", answer.error)
        elif not answer.done and answer.finish_reason is None:
            self._over("error", "the answer broke off: neither [DONE] nor finish_reason")
        else:
            self._over("ok", None)

    def on_lost(self, why: str, answered: bool) -> None:
        self._replica.in_flight -= 1
        self._connection = None
        if why.startswith("cannot connect"):
            self._replica.failed()
        if self._answer.done and self._answer.error is None:
            self._over("ok", None)  # all was said: content-length or the last chunk would add nothing
        elif answered or not self._engine.again(self, None):
            self._over("error", f"{why} in mid-answer" if self._status else why)

    # ---

    def _refused(self, status: int, said: str) -> None:
        if status in BUSY and self._engine.again(self, _seconds(self._headers.get(b"retry-after"))):
            return
        if 300 <= status < 400:
            target = self._headers.get(b"location", b"?").decode(errors="replace")
            said = f"redirected to {target}, which is not followed"
        self._over("rejected" if status in REFUSED else "error", f"HTTP {status}: {said or 'without a word'}")

    def _over(self, status: str, error: str | None) -> None:
        job, answer, secret = self.job, self._answer, self._engine.service.api_key
        if answer.finish_reason is not None:
            job.finish_reason = told(answer.finish_reason, secret)
        job.counted = answer.output_tokens is not None
        job.output_tokens = answer.output_tokens or 0
        job.received_tokens = answer.received
        job.cached_tokens = answer.cached_tokens
        text = "".join(answer.pieces)
        job.output_words = len(text.split())
        if self._engine.service.keep_text:
            job.output_text = text
        self._engine.ended(self, status, None if error is None else told(error, secret))


def _seconds(header: bytes | None) -> float | None:
    """What Retry-After says, in seconds; None where it says nothing, or a date."""
    try:
        seconds = float(header or b"")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
