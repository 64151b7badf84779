"""The simulator's engine, step by step: every step planned by the plain reference, no two of them at once."""

from __future__ import annotations

import math

from driftkit.engines.sim.latency import Load, StepTime
from driftkit.engines.sim.power import StepPower
from driftkit.engines.sim.scheduler import Limits
from driftkit.engines.sim.steps import StepTaken
from driftkit.records.job import Job
from reference_scheduler import Reference, Request, Step


class StepByStep:
    """As `Simulator`, for jobs whose output fits and whose prompts share nothing."""

    name = "step by step"

    def __init__(
        self,
        limits: Limits,
        step_time: StepTime,
        *,
        by_priority: bool,
        frontend_s: float = 0.0,
        power: StepPower | None = None,
    ) -> None:
        self.limits = limits
        self.max_num_seqs = limits.max_num_seqs
        self.reference = Reference(limits, by_priority)
        self.step_time = step_time
        self.frontend_s = frontend_s
        self.power = power
        self.steps: list[StepTaken] = []
        self.decoding: set[Request] = set()  # who has been given a token since its admission
        self.preemptions = 0  # since the last step
        self.jobs: dict[str, Job] = {}
        self.arriving: list[tuple[float, Request]] = []
        self.received = 0
        self.in_flight: list[tuple[float, Step]] = []
        self.depth = 2 if limits.async_scheduling else 1
        self.now = 0.0

    def submit(self, job: Job) -> bool:
        assert job.dispatched_s is not None
        job.preemptions = 0
        cap = job.record.get("max_tokens", math.inf)
        stops_by = "stop" if job.output_tokens < cap else "length"
        name = job.record["id"]
        # a server receives one after the other, even those of one instant
        self.received += 1
        request = Request(
            *(name, job.prompt_tokens, job.output_tokens, job.priority),
            *(float(self.received), job.order, stops_by),
        )
        self.jobs[name] = job
        self.arriving.append((job.dispatched_s + self.frontend_s, request))
        return True

    def advance(self, until: float) -> list[Job]:
        reference = self.reference
        while True:
            busy = bool(reference.running or reference.waiting)
            if not busy and not self.in_flight:
                if not self.arriving:
                    return []
                self.now = max(self.now, min(self.arriving[0][0], until))
            if self.now >= until:
                return []
            while self.arriving and self.arriving[0][0] <= self.now:
                reference.add(self.arriving.pop(0)[1])
            if reference.running or reference.waiting:
                step = self.reference.plan()
                for request in step.preempted:
                    self.jobs[request.name].preemptions += 1
                    self.preemptions += 1
                    self.decoding.discard(request)
                if step.scheduled:
                    start = self.in_flight[-1][0] if self.in_flight else self.now
                    end = start + self.step_time.seconds(load_of(step))
                    self.in_flight.append((end, step))
                    self.note(step, start, end)
                    if len(self.in_flight) < self.depth:
                        continue
                elif not self.in_flight:
                    continue
            self.now, step = self.in_flight.pop(0)
            if ended := [self.jobs.pop(request.name) for request in reference.update(step)]:
                for job in ended:
                    job.finished_s = self.now
                return ended

    def note(self, step: Step, start: float, end: float) -> None:
        joules = self.power.joules(load_of(step), end - start) if self.power else 0.0
        tokens = sum(step.scheduled.values())
        prompt_tokens = sum(n for request, n in step.scheduled.items() if request not in self.decoding)
        blocks = self.limits.num_gpu_blocks - 1
        self.steps.append(
            StepTaken(
                *(start, end, len(step.running), step.waiting, prompt_tokens, tokens - prompt_tokens),
                *(blocks - step.free, (blocks - step.free) / blocks, self.preemptions),
                joules / (end - start) if self.power else None,
            )
        )
        self.preemptions = 0
        self.decoding |= step.samples
        if self.power:
            for request, n in step.scheduled.items():
                job = self.jobs[request.name]
                job.energy_j = (job.energy_j or 0.0) + joules * n / tokens
        for request in step.admitted:
            job = self.jobs[request.name]
            job.started_s = self.now if job.started_s is None else job.started_s
        for request in step.samples:
            job = self.jobs[request.name]
            job.first_token_s = end if job.first_token_s is None else job.first_token_s


def load_of(step: Step) -> Load:
    scheduled = list(zip(step.scheduled.values(), step.computed, strict=True))
    prompts = [(n, computed) for n, computed in scheduled if n > 1]
    return Load(
        tokens=sum(step.scheduled.values()),
        sequences=len(scheduled),
        decode_kv=sum(computed for n, computed in scheduled if n == 1),
        prefill_kv=sum(computed for _, computed in prompts),
        prefill_pairs=sum(sum(range(computed - n + 1, computed + 1)) for n, computed in prompts),
    )
