"""The simulator as an engine: the scheduler's steps, one after the other, on a virtual clock."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable

from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.power import StepPower
from driftkit.engines.sim.scheduler import Limits, Scheduler, Sequence
from driftkit.engines.sim.steps import StepTaken
from driftkit.records.job import Job


class Simulator:
    """Executes jobs whose `output_tokens` is known. `now` is when the next step can be planned, in seconds.

    `by_priority` is vLLM's `--scheduling-policy priority`; else its queue is fcfs. `frontend_s` is what a
    request needs from being submitted to the scheduler's queue, whatever else is going on. With `power` a job
    gets `energy_j`, its share of every step it was in, by tokens computed. `on_step` is told of every step.
    """

    name = "sim"

    def __init__(
        self,
        limits: Limits,
        step_time: StepTime,
        *,
        by_priority: bool,
        frontend_s: float = 0.0,
        power: StepPower | None = None,
        on_step: Callable[[StepTaken], None] | None = None,
    ) -> None:
        self.max_num_seqs = limits.max_num_seqs
        self.now = 0.0
        self._limits = limits
        self._step_time = step_time
        self._power = power
        self._on_step = on_step
        self._frontend_s = frontend_s
        self._scheduler = Scheduler(limits, by_priority=by_priority)
        self._inbox: deque[Sequence] = deque()  # still in the front end, by `arrival`
        self._in_flight: deque[float] = deque()  # when the steps planned will end
        self._depth = 2 if limits.async_scheduling else 1
        self._stretch: Stretch | None = None
        self._joules = Stretch(0.0, 0.0, 0.0)  # of a member of the group, over the same steps
        self._preemptions = 0  # told

    def submit(self, job: Job) -> bool:
        assert job.dispatched_s is not None
        room = self._limits.max_model_len - job.prompt_tokens
        if room < 1:
            job.status = "rejected"
            job.error = f"prompt of {job.prompt_tokens} tokens, max_model_len {self._limits.max_model_len}"
            job.output_tokens = 0
            job.finished_s = job.dispatched_s
            return False
        job.preemptions = 0
        cap = job.record.get("max_tokens")
        longest = room if cap is None else min(room, cap)
        job.finish_reason = "stop" if job.output_tokens < longest else "length"
        job.output_tokens = min(job.output_tokens, longest)
        self._inbox.append(Sequence(job, job.dispatched_s + self._frontend_s))
        return True

    def advance(self, until: float) -> list[Job]:
        scheduler, inbox, in_flight = self._scheduler, self._inbox, self._in_flight
        while True:
            if not in_flight and not scheduler.busy:
                if not inbox:
                    return []
                self.now = max(self.now, min(inbox[0].arrival, until))
            now = self.now
            if now >= until:
                return []
            while inbox and inbox[0].arrival <= now:
                scheduler.submit(inbox.popleft())
            if scheduler.steady and len(in_flight) == self._depth - 1:
                finished = self._decode(min(until, inbox[0].arrival) if inbox else until)
            else:
                finished = self._step()
            if finished:
                now = self.now
                for sequence in finished:
                    sequence.job.finished_s = now
                    if self._power is not None:
                        sequence.job.energy_j = sequence.joules
                return [sequence.job for sequence in finished]

    def _step(self) -> list[Sequence]:
        """Plan a step; when as many as can be are in flight, or there is nothing to plan, end the oldest."""
        scheduler, in_flight = self._scheduler, self._in_flight
        self._stretch = None
        if scheduler.busy:
            load = scheduler.schedule(self.now)
            if load.tokens:
                seconds, joules = self._step_time.seconds(load), 0.0
                if self._power is not None:
                    joules = self._power.joules(load, seconds)
                    scheduler.charge(joules / load.tokens)
                start = in_flight[-1] if in_flight else self.now
                end = start + seconds
                if self._on_step is not None:
                    prefills = scheduler.prefill_tokens
                    watts = joules / seconds if seconds else 0.0
                    self._tell(start, end, prefills, load.tokens - prefills, watts)
                for sequence in scheduler.prefilled:
                    if sequence.job.first_token_s is None:
                        sequence.job.first_token_s = end
                in_flight.append(end)
                if len(in_flight) < self._depth:
                    return []
            elif not in_flight:
                return []  # all were preempted: the next plan takes some of them in again
        self.now = in_flight.popleft()
        return scheduler.update()

    def _decode(self, until: float) -> list[Sequence]:
        """All steps alike that are planned before `until`, at once."""
        scheduler, in_flight = self._scheduler, self._in_flight
        most, requests, kv_tokens = scheduler.decode_steps()
        if not most:
            return self._step()
        stretch = self._stretch
        if stretch is None:
            start = in_flight[-1] if in_flight else self.now
            fixed, per_kv = self._step_time.decode(requests, requests)
            stretch = self._stretch = Stretch(start, fixed + per_kv * kv_tokens, per_kv * requests)
            if self._power is not None:
                fixed, per_kv = self._power.decode(requests, fixed, per_kv)
                first = (fixed + per_kv * kv_tokens) / requests
                self._joules = Stretch(scheduler.member_joules, first, per_kv)
        # asynchronous: each is planned when the one before the last ends
        planned = stretch.steps_until(until) + len(in_flight)
        steps = min(most, max(1, planned - stretch.steps)) if self._on_step is None else 1
        stretch.steps += steps
        if in_flight:
            in_flight[-1] = stretch.end(stretch.steps)
            self.now = stretch.end(stretch.steps - 1)
        else:
            self.now = stretch.end(stretch.steps)
        scheduler.decode(steps, self._joules.end(stretch.steps))
        if self._on_step is not None:
            last = stretch.steps
            seconds = stretch.each(last)
            watts = self._joules.each(last) * requests / seconds if seconds else 0.0
            self._tell(stretch.end(last - 1), stretch.end(last), 0, requests, watts)
        finished = scheduler.finish()
        if finished:
            self._stretch = None
        return finished

    def _tell(self, start: float, end: float, prefills: int, decodes: int, watts: float) -> None:
        """Of the step planned last, before anybody leaves."""
        assert self._on_step is not None
        scheduler, usable = self._scheduler, self._limits.num_gpu_blocks - 1
        used = usable - scheduler.cache.free
        preemptions, self._preemptions = scheduler.preemptions - self._preemptions, scheduler.preemptions
        self._on_step(
            StepTaken(
                start_s=start,
                end_s=end,
                running_requests=len(scheduler.running),
                waiting_requests=len(scheduler.queue),
                prefill_tokens=prefills,
                decode_tokens=decodes,
                kv_blocks=used,
                kv_ratio=used / usable,
                preemptions=preemptions,
                power_w=None if self._power is None else watts,
            )
        )


class Stretch:
    """Decode steps alike, one after the other: the first takes `first` s, each `slope` more than the last.

    Instants are reckoned from `start`, so that they are the same wherever the stretch is stopped in between.
    What a member of the group costs over these steps, in joules, is summed likewise.
    """

    __slots__ = ("first", "slope", "start", "steps")

    def __init__(self, start: float, first: float, slope: float) -> None:
        self.start = start
        self.first = first
        self.slope = slope
        self.steps = 0  # so far

    def end(self, steps: int) -> float:
        return self.start + steps * (self.first + self.slope * (steps - 1) / 2)

    def each(self, step: int) -> float:
        """What the `step`th takes, from 1."""
        return self.first + self.slope * (step - 1)

    def steps_until(self, until: float) -> int:
        """The fewest steps that end at `until` or later."""
        time = until - self.start
        if time <= self.first:
            return int(time > 0)
        if math.isinf(time):
            return sys.maxsize
        b = self.first - self.slope / 2
        steps = math.ceil(2 * time / (b + math.sqrt(b * b + 2 * self.slope * time)))
        if self.end(steps) >= until > self.end(steps - 1):
            return steps
        return self._search(until, steps)

    def _search(self, until: float, steps: int) -> int:
        """Where rounding leads `steps_until` astray: far, if steps are short beside the clock's digits."""
        stride = 1
        while steps > 0 and self.end(steps) >= until:
            steps -= stride
            stride *= 2
        low = max(0, steps)
        high = low + 1
        while self.end(high) < until:
            high += stride
            stride *= 2
        while high - low > 1:
            middle = (low + high) // 2
            if self.end(middle) < until:
                low = middle
            else:
                high = middle
        return high
