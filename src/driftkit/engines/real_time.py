"""What engines on the wall's clock share: an event loop, instants, and how jobs are sent and end.

The dispatcher's loop stays as it is on the simulator: between two calls of `advance` it alone runs, and in
`advance` the event loop does, until some job has ended or the next is due. Everything is in one thread.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from driftkit.errors import printable
from driftkit.records.job import Job


class RealTime:
    """An Engine whose `now` is seconds since `start`. Subclasses say `_send`, `_abort` and `close`.

    `max_rps` is how many requests a second are sent at most: what is due sooner is held back.
    """

    name: str
    #: 0: not known
    max_num_seqs = 0

    def __init__(self, max_rps: float | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.in_flight: set[Job] = set()
        #: requests that `max_rps` has held back since the start
        self.held_back = 0
        self._gap = 1 / max_rps if max_rps else 0.0
        self._free_at = -math.inf  # when the next may be sent
        self._zero = self.loop.time()
        self._ended: list[Job] = []

    def start(self, at: float = 0.0) -> None:
        """The run's clock shows `at` seconds now."""
        self._zero = self.loop.time() - at
        self._free_at = -math.inf
        self.held_back = 0

    def now(self) -> float:
        return self.loop.time() - self._zero

    def on_clock(self, monotonic: float) -> float:
        """An instant of this machine's monotonic clock, on the run's."""
        return monotonic - self._zero

    def submit(self, job: Job) -> bool:
        self.in_flight.add(job)
        due = job.dispatched_s
        send_at = self._turn()
        if send_at is None:
            self._start(job, due)
        else:
            self.held_back += 1
            job.dispatched_s = None
            self.loop.call_at(self._zero + send_at, self._start, job, send_at)
        return True

    def advance(self, until: float) -> list[Job] | None:
        if not self._ended:
            timer = None if math.isinf(until) else self.loop.call_at(self._zero + until, self.loop.stop)
            self.loop.run_forever()
            if timer is not None:
                timer.cancel()
        ended, self._ended = self._ended, []
        return ended if ended or self.now() >= until else None

    def wake(self) -> None:
        """Let `advance` return; from any thread."""
        with suppress(RuntimeError):  # closed meanwhile
            self.loop.call_soon_threadsafe(self.loop.stop)

    def end(self, job: Job, status: str = "ok", error: str | None = None) -> None:
        """The job has ended now, unless it had before. `error` may be a server's own words."""
        if job not in self.in_flight:
            return
        self.in_flight.discard(job)
        job.status = status
        job.error = None if error is None else printable(error)
        job.finished_s = self.now()
        self._ended.append(job)
        if self.loop.is_running():
            self.loop.stop()

    def cancel(self, why: str) -> None:
        """End everything in flight as cancelled; `advance` returns it."""
        for job in sorted(self.in_flight, key=lambda job: job.order):
            self._abort(job)
            self.end(job, "cancelled", why)

    def close(self) -> None:
        """Let go of connections and processes."""
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def _turn(self) -> float | None:
        """When one more may be sent, which is then taken; None for now."""
        if not self._gap:
            return None
        send_at = max(self._free_at, self.now())
        self._free_at = send_at + self._gap
        return send_at if send_at > self.now() else None

    def _start(self, job: Job, due: float | None) -> None:
        if job not in self.in_flight:
            return  # cancelled while it was held back
        job.dispatched_s = self.now()
        if due is not None:
            job.client_lag_s = max(0.0, job.dispatched_s - due)
        self._send(job)

    def _send(self, job: Job) -> None:
        """Begin to execute, without waiting; `end(job)` is called once it has ended."""
        raise NotImplementedError

    def _abort(self, job: Job) -> None:
        """Tell whoever executes it that nobody waits any more."""
        raise NotImplementedError
