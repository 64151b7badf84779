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

        False when it is refused at once: its status, error and `finished_s` are set then.
        """
        ...

    def advance(self, until: float) -> list[Job]:
        """Work until some job ends or the clock reaches `until`, whichever comes first.

        Returns the jobs that ended, all at one instant, `finished_s`, which may lie past `until` when a
        step was under way then; empty when nothing ended or nothing is left to do. A step never starts
        at or after `until`: what is due then is to be submitted first.
        """
        ...
