"""The protocol between the dispatcher and whatever executes requests."""

from __future__ import annotations

from typing import Protocol

from driftkit.records.job import Job


class Engine(Protocol):
    """Executes jobs on a clock of its own: virtual for the simulator, the wall for a real server.

    The dispatcher alone calls it, in this order of time: `submit` what is due, then `advance`.
    """

    name: str
    #: most requests that it computes for at once
    max_num_seqs: int

    def submit(self, job: Job) -> bool:
        """Hand over a job; `job.dispatched_s` says when. It may wait in the engine's own queue.

        On a real clock the engine says when it was, and how much later than it should have been
        (`client_lag_s`). False when it is refused at once: its status, error and `finished_s` are set then.
        """
        ...

    def advance(self, until: float) -> list[Job] | None:
        """Work, or wait, until some job ends or the clock reaches `until`, whichever comes first.

        Returns the jobs that ended, in order of `finished_s`; the last may lie past `until` when a step was
        under way then. On a virtual clock they all ended at one instant, and nothing to do is done at once.
        A step never starts at or after `until`: what is due then is to be submitted first. A real clock's
        engine returns None when something woke it before `until`: another arrival, or a signal.
        """
        ...
