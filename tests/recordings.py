"""Recorded steps of vLLM, read and replayed: what a scheduler decides, beside what vLLM decided.

A recording is JSON Lines, gzipped: the configuration, then one step a line, as tests/fixtures/README.md
says. `replay` gives a scheduler the arrivals that vLLM had before each plan and the outputs in vLLM's order.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from driftkit.engines.sim.scheduler import Limits
from reference_scheduler import Reference, Request, Step

#: what vLLM decided in a plan, and what is compared
DECISIONS = ("sch", "kv", "pre", "new", "wait", "free", "run")


@dataclass(frozen=True)
class Arrival:
    """A request as it came in. `output`: tokens it will generate, if `max_model_len` leaves them room."""

    name: str
    prompt: int
    output: int
    order: int
    arrival: float
    priority: int
    stops_by: str
    group: Hashable | None  # who shares its first `shared` tokens; past its prompt: generates them alike
    shared: int

    def content(self, block: int, block_size: int) -> Hashable | None:
        """What block `block` of it contains, if others may have the same, else None."""
        whole = (block + 1) * block_size <= self.shared
        return (self.group, block) if self.group is not None and whole else None


@dataclass(frozen=True)
class Recording:
    limits: Limits
    by_priority: bool
    steps: list[dict[str, Any]]


class Replayed(Protocol):
    """A scheduler under test."""

    def add(self, arrival: Arrival) -> None: ...

    def plan(self) -> dict[str, Any]:
        """Plan a step. Returns what it decided, of `DECISIONS` those it can tell."""

    def update(self) -> list[str]:
        """Process the oldest step in flight. Returns the names of those who finished, in order."""


def read(path: Path) -> Recording:
    with gzip.open(path, "rt") as lines:
        first, *steps = [json.loads(line) for line in lines]
    cfg = first["cfg"]
    usable = cfg["bs"] * (cfg["nb"] - 1)
    return Recording(
        limits=Limits(
            *(cfg["mnbt"], cfg["mns"], cfg["nb"], cfg["bs"], cfg.get("mml", usable), cfg["lpt"]),
            enable_prefix_caching=cfg["caching"],
            scheduler_reserve_full_isl=cfg["full"],
            watermark=cfg["wm"],
            async_scheduling=cfg["async_"],
        ),
        by_priority=cfg.get("policy") == "priority",
        steps=steps,
    )


def arrivals(step: dict[str, Any], order: int) -> list[Arrival]:
    """Those of `step`, the first of which is the `order`th of the recording."""
    found = []
    for number, (name, prompt, max_tokens, *more) in enumerate(step["adds"], start=order):
        about = more[0] if more else {}
        group, shared = about.get("shared", (None, 0))
        found.append(
            Arrival(
                name,
                prompt,
                about.get("eos", max_tokens),
                number,
                about.get("arrival", float(number)),
                about.get("priority", 0),
                "stop" if "eos" in about else "length",
                group,
                shared,
            )
        )
    return found


def replay(recording: Recording, scheduler: Replayed) -> Iterator[str]:
    """What the scheduler decided otherwise than vLLM: nothing, if it is right."""
    order = 0
    for number, step in enumerate(recording.steps):
        for arrival in arrivals(step, order):
            scheduler.add(arrival)
            order += 1
        if "sch" in step:
            for name, value in scheduler.plan().items():
                theirs = step[name]
                # dicts are equal in any order, but who is scheduled first matters
                if value != theirs or (name == "sch" and list(value) != list(theirs)):
                    yield f"step {number}: {name} {value}, vLLM {theirs}"
        if step.get("upd", number) is not None:
            finished = scheduler.update()
            if finished != step["fin"]:
                yield f"step {number}: fin {finished}, vLLM {step['fin']}"


class PlainReference:
    """The reference, to be replayed."""

    def __init__(self, recording: Recording) -> None:
        self.reference = Reference(recording.limits, by_priority=recording.by_priority)
        self.block_size = recording.limits.block_size
        self.in_flight: list[Step] = []

    def add(self, arrival: Arrival) -> None:
        self.reference.add(
            Request(
                arrival.name,
                arrival.prompt,
                arrival.output,
                arrival.priority,
                arrival.arrival,
                arrival.order,
                arrival.stops_by,
                lambda block: arrival.content(block, self.block_size),
            )
        )

    def plan(self) -> dict[str, Any]:
        step = self.reference.plan()
        self.in_flight.append(step)
        return {
            "sch": {request.name: n for request, n in step.scheduled.items()},
            "kv": step.computed,
            "pre": [request.name for request in step.preempted],
            "new": [request.name for request in step.admitted],
            "wait": step.waiting,
            "free": step.free,
            "run": [request.name for request in step.running],
        }

    def update(self) -> list[str]:
        return [request.name for request in self.reference.update(self.in_flight.pop(0))]
