"""The simulator as an engine: the scheduler's steps, one after the other, on a virtual clock."""

from __future__ import annotations

from collections import deque

from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.scheduler import Limits, Scheduler, Sequence
from driftkit.records.job import Job


class Simulator:
    """Executes jobs whose `output_tokens` is known. `now` is the end of the last step, in seconds.

    `by_priority` is vLLM's `--scheduling-policy priority`; else its queue is fcfs. `frontend_s` is what a
    request needs from being submitted to the scheduler's queue, whatever else is going on.
    """

    name = "sim"

    def __init__(
        self, limits: Limits, step_time: StepTime, *, by_priority: bool, frontend_s: float = 0.0
    ) -> None:
        self.max_num_seqs = limits.max_num_seqs
        self.now = 0.0
        self._limits = limits
        self._step_time = step_time
        self._frontend_s = frontend_s
        self._scheduler = Scheduler(limits, by_priority=by_priority)
        self._inbox: deque[Sequence] = deque()  # still in the front end, by `arrival`

    def submit(self, job: Job) -> bool:
        assert job.dispatched_s is not None
        room = self._limits.max_model_len - job.prompt_tokens
        if room < 1:
            job.status = "rejected"
            job.error = f"prompt of {job.prompt_tokens} tokens, max_model_len {self._limits.max_model_len}"
            job.output_tokens = 0
            job.finished_s = job.dispatched_s
            return False
        cap = job.record.get("max_tokens")
        longest = room if cap is None else min(room, cap)
        job.finish_reason = "stop" if job.output_tokens < longest else "length"
        job.output_tokens = min(job.output_tokens, longest)
        self._inbox.append(Sequence(job, job.dispatched_s + self._frontend_s))
        return True

    def advance(self, until: float) -> list[Job]:
        scheduler, inbox = self._scheduler, self._inbox
        seconds = self._step_time.seconds
        now = self.now
        while scheduler.busy or inbox:
            if not scheduler.busy and inbox[0].arrival > now:
                now = min(inbox[0].arrival, until)
            if now >= until:
                break
            while inbox and inbox[0].arrival <= now:
                scheduler.add(inbox.popleft())
            now += seconds(scheduler.schedule(now))
            finished = scheduler.update(now)
            if finished:
                self.now = now
                for sequence in finished:
                    sequence.job.finished_s = now
                return [sequence.job for sequence in finished]
            if scheduler.steady:
                now = scheduler.coast(now, min(until, inbox[0].arrival) if inbox else until, self._step_time)
        self.now = now
        return []
