"""The simulator's scheduler under the replay of recordings, beside `recordings.PlainReference`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from driftkit.engines.sim.scheduler import Scheduler, Sequence
from driftkit.records.job import Job
from recordings import Arrival, Recording


def sequence(arrival: Arrival, block_size: int) -> Sequence:
    """The arrival with what its prompt shares as `prefix_hashes`, one a block."""
    record: dict[str, Any] = {"id": arrival.name}
    hashes = []
    for block in range(arrival.prompt // block_size):
        if (name := arrival.content(block, block_size)) is None:
            break
        hashes.append(repr(name))
    if hashes:
        record |= {"prefix_hashes": hashes, "prefix_block_tokens": block_size}
    job = Job(record, arrival.order, arrival.arrival, arrival.prompt, arrival.output, arrival.priority)
    job.finish_reason = arrival.stops_by
    return Sequence(job, arrival.arrival)


class Grouped:
    def __init__(self, recording: Recording) -> None:
        self.scheduler = Scheduler(recording.limits, by_priority=recording.by_priority)
        self.limits = recording.limits
        self.everyone: dict[str, Sequence] = {}
        self.in_flight: list[int] = []  # tokens of each step

    def add(self, arrival: Arrival) -> None:
        # as `Simulator.submit` does
        room = self.limits.max_model_len - arrival.prompt
        if arrival.output >= room:
            arrival = replace(arrival, output=room, stops_by="length")
        self.everyone[arrival.name] = sequence(arrival, self.limits.block_size)
        self.scheduler.submit(self.everyone[arrival.name])

    def plan(self) -> dict[str, Any]:
        scheduler, everyone = self.scheduler, self.everyone
        ran = {s.job.record["id"]: s for s in scheduler.running.values()}
        before = {name: scheduler.computed(s) for name, s in ran.items()}
        load = scheduler.schedule(0.0)
        self.in_flight.append(load.tokens)
        runs = [s.job.record["id"] for s in scheduler.running.values()]
        preempted = [name for name in reversed(ran) if name not in runs]
        if scheduler.by_priority:
            preempted.sort(key=lambda name: (ran[name].job.priority, ran[name].arrival), reverse=True)
        new = [name for name in runs if name not in ran]
        granted = {name: scheduler._grants[everyone[name].admitted] for name in new}
        computed = {name: scheduler.computed(everyone[name]) for name in runs}
        scheduled = [name for name in runs if name in new or computed[name] > before[name]]
        assert load.sequences == len(scheduled)
        assert load.decode_kv + load.prefill_kv == sum(computed[name] for name in scheduled)
        got = {name: granted[name] if name in new else computed[name] - before[name] for name in scheduled}
        assert load.tokens == sum(got.values())
        return {
            "sch": got,
            "kv": [computed[name] for name in scheduled],
            "pre": preempted,
            "new": new,
            "wait": len(scheduler.queue),
            "free": scheduler.cache.free,
            "run": runs,
        }

    def update(self) -> list[str]:
        if not self.in_flight.pop(0):
            return []  # vLLM counts a plan for nobody as a step
        return [s.job.record["id"] for s in self.scheduler.update()]
