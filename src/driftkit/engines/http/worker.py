"""The program of a worker process: the same HTTP engine, on the orders of the driftkit that started it.

Its standard input is one end of a socket pair. First comes what is asked of the servers, and it answers null
once it is ready, or why it cannot be. Then each line is a request to send, `[number, record, output_tokens,
priority, due]`, or one that nobody waits for any more, `[number]`; it answers with lists of what has ended,
each as `ending` has it. Instants are this machine's monotonic clock, which all its processes share. It ends
when the other side closes, however that happened.
"""

from __future__ import annotations

import gc
import math
import os
import socket
from contextlib import suppress
from typing import Any

import orjson

from driftkit.engines.http.channel import Channel, line
from driftkit.engines.http.connection import Origin
from driftkit.engines.http.engine import Http, Service
from driftkit.errors import DriftkitError
from driftkit.records.job import Job

#: of a job, what the engine has found out: what is on the clock, and the rest
INSTANTS = ("dispatched_s", "first_token_s", "finished_s")
FACTS = (
    *("client_lag_s", "output_tokens", "counted", "output_words", "output_text", "finish_reason"),
    *("received_tokens", "cached_tokens", "retries", "replica"),
)

Ending = tuple[int, str, str | None, list[float | None], list[Any]]


def settings_of(service: Service, number: int) -> dict[str, Any]:
    """A Service as JSON, for one of several workers: they draw alike only where they must choose alike."""
    seed = service.seed if service.route == "prefix-affinity" else service.seed + number
    return {**vars(service), "origins": [list(origin) for origin in service.origins], "seed": seed}


def service_of(settings: dict[str, Any]) -> Service:
    return Service(**{**settings, "origins": [Origin(*fields) for fields in settings["origins"]]})


def ending(job: Job) -> Ending:
    """What has become of a job."""
    instants = [getattr(job, name) for name in INSTANTS]
    return job.order, job.status, job.error, instants, [getattr(job, name) for name in FACTS]


class Worker(Http):
    """The engine on the machine's clock."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._zero = 0.0
        self._jobs: dict[int, Job] = {}

    def told(self, message: list[Any]) -> None:
        number, *request = message
        if request:
            record, output_tokens, priority, due = request
            job = Job(record, number, 0.0, 0, output_tokens, priority=priority, dispatched_s=due)
            self._jobs[number] = job
            self.submit(job)
        elif number in self._jobs:
            self._abort(self._jobs[number])
            self.end(self._jobs[number], "cancelled")

    def endings(self) -> list[Ending]:
        """Those that have ended since the last call; waits until there is one."""
        ended = self.advance(math.inf) or []
        for job in ended:
            del self._jobs[job.order]
        return [ending(job) for job in ended]


def main() -> None:
    with socket.socket(fileno=0) as end, suppress(ConnectionError):  # who began it has left already
        first = end.makefile("rb").readline()
        if not first:
            return
        try:
            worker = Worker(service_of(orjson.loads(first)))
        except DriftkitError as error:
            end.sendall(line(str(error)))
            return
        end.sendall(line(None))
        # nobody is there to be told anything, and connections end with the process
        channel = Channel(worker.told, lambda: os._exit(0))
        channel.open(worker.loop, end)
        gc.freeze()  # a collection looks at the requests in flight, and at nothing else
        while True:
            channel.tell(worker.endings())


if __name__ == "__main__":
    main()
