"""HTTP past one core: requests are sent and answers read by several processes, on the orders of this one.

Here stay the clock, the queue, the policy and the output. A request goes to the worker with the fewest in
flight, and its instants are the worker's own: how long the way there takes is in `client_lag_s`, and how long
the way back takes is in nothing.
"""

from __future__ import annotations

import math
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from driftkit.engines.http import worker
from driftkit.engines.http.channel import Channel, line
from driftkit.engines.http.engine import Service
from driftkit.engines.http.worker import FACTS, INSTANTS, Ending, settings_of
from driftkit.engines.real_time import RealTime
from driftkit.errors import DriftkitError
from driftkit.records.job import Job

PATIENCE_S = 5.0  # for a worker to end
CANCELLING_S = 1.0  # for a worker to say what had come of what is cancelled
#: a terminal sends them to every process, and this one alone says what happens then
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Workers(RealTime):
    """`count` worker processes with an HTTP engine each, as one engine.

    `finished_s` is the instant at which the worker had the whole answer, unless word of it came when
    something later had been dealt with: then it is just after that. A job whose worker dies, or does not
    answer when it is cancelled, has the `dispatched_s` at which it was handed over, and no first token.
    """

    name = "http"

    def __init__(
        self, service: Service, count: int, environment: Mapping[str, str], max_rps: float | None = None
    ) -> None:
        super().__init__(max_rps)
        self.service = service
        self._dealt_with_s = -math.inf  # nothing ends at this instant or before, any more
        self._handed_over = 0
        self._why = ""  # what is in flight is cancelled
        self._with: dict[Job, tuple[Process, int]] = {}
        self._processes: list[Process] = []
        try:
            for _ in range(count):
                self._processes.append(Process(self, environment))
            for number, process in enumerate(self._processes):
                process.get_ready(settings_of(service, number))
        except BaseException:
            self.close()
            raise

    def start(self, at: float = 0.0) -> None:
        super().start(at)
        self._dealt_with_s = -math.inf

    def advance(self, until: float) -> list[Job] | None:
        ended = super().advance(until)
        if ended:
            earliest = math.nextafter(self._dealt_with_s, math.inf)
            for job in ended:
                job.finished_s = max(job.finished_s, earliest)
            ended.sort(key=lambda job: job.finished_s)
            self._dealt_with_s = ended[-1].finished_s
        elif ended is not None:
            self._dealt_with_s = max(self._dealt_with_s, until)
        return ended

    def cancel(self, why: str) -> None:
        """End everything in flight as cancelled, as soon as its worker has said how much of it had come."""
        for job in sorted(self.in_flight, key=lambda job: job.order):
            if job in self._with:
                self._abort(job)
            else:
                self.end(job, "cancelled", why)
        self._why = why
        self.loop.call_later(CANCELLING_S, self._cancel_unasked)

    def _cancel_unasked(self) -> None:
        for job, (process, number) in list(self._with.items()):
            del self._with[job], process.jobs[number]
            self.end(job, "cancelled", self._why)

    def close(self) -> None:
        for process in self._processes:
            process.close()
        for process in self._processes:
            process.wait()
        super().close()

    def ended(self, job: Job, ending: Ending) -> None:
        """A worker says what has become of a job."""
        _, status, error, instants, facts = ending
        del self._with[job]
        self.end(job, status, self._why if status == "cancelled" else error)
        for name, instant in zip(INSTANTS, instants, strict=True):
            setattr(job, name, None if instant is None else self.on_clock(instant))
        for name, fact in zip(FACTS, facts, strict=True):
            setattr(job, name, fact)

    def lost(self, job: Job) -> None:
        """Its worker has died."""
        del self._with[job]
        self.end(job, "error", "the worker process that had it died")

    def _send(self, job: Job) -> None:
        living = [process for process in self._processes if process.lives]
        if not living:
            self.end(job, "error", "no worker process is left")
            return
        due = None
        if job.dispatched_s is not None and job.client_lag_s is not None:
            due = job.dispatched_s - job.client_lag_s + self._zero
        process = min(living, key=lambda one: (len(one.jobs), one.sent))
        self._handed_over += 1
        self._with[job] = process, self._handed_over
        process.send(self._handed_over, job, due)

    def _abort(self, job: Job) -> None:
        process, number = self._with[job]
        process.abort(number)


class Process:
    """A worker process, and the jobs that it has, by the numbers under which it knows them."""

    def __init__(self, workers: Workers, environment: Mapping[str, str]) -> None:
        self.jobs: dict[int, Job] = {}
        self.sent = 0
        self.lives = False
        self._workers = workers
        self._channel = Channel(self._told, self._lost)
        self._end, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", worker.__name__]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a process inherits that
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def get_ready(self, settings: dict[str, Any]) -> None:
        """DriftkitError when it cannot be."""
        answer = b""
        with self._end.makefile("rb") as answers, suppress(ConnectionError):
            self._end.sendall(line(settings))  # the API key is in it: no command line may show that
            answer = answers.readline()
        if not answer:
            raise DriftkitError("--workers: a worker process ended as it began")
        if (why := orjson.loads(answer)) is not None:
            raise DriftkitError(why)
        self._channel.open(self._workers.loop, self._end)
        self.lives = True

    def send(self, number: int, job: Job, due: float | None) -> None:
        self.jobs[number] = job
        self.sent += 1
        self._channel.tell([number, job.record, job.output_tokens, job.priority, due])

    def abort(self, number: int) -> None:
        self._channel.tell([number])

    def close(self) -> None:
        """It sees that nobody is there any more."""
        self.jobs.clear()
        self._channel.close()
        self._end.close()

    def wait(self) -> None:
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _told(self, endings: list[Ending]) -> None:
        for ending in endings:
            if (job := self.jobs.pop(ending[0], None)) is not None:  # else it was cancelled
                self._workers.ended(job, ending)

    def _lost(self) -> None:
        self.lives = False
        lost, self.jobs = self.jobs, {}
        for job in lost.values():
            self._workers.lost(job)
