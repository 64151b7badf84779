"""What a policy is, and how its name with its knobs (`aging:rate=0.01`) becomes an object and back.

A policy's knobs are the keyword arguments of its constructor, each with a default; their types are those
of the defaults. `__init__` only stores them, as scikit-learn's estimators do.
"""

from __future__ import annotations

import heapq
import inspect
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

from driftkit import registry
from driftkit.errors import FieldError, UsageError
from driftkit.records.job import Job
from driftkit.records.schema import Record

Knob = int | float | str

EXACT = 2**53  # integers below it survive jq and spreadsheets, which hold numbers as doubles


class Queue(Protocol):
    """The jobs that wait in driftkit, under one policy."""

    def push(self, job: Job, now: float) -> None: ...

    def pop(self, now: float) -> Job: ...

    def __len__(self) -> int: ...


class Policy(Protocol):
    """`static` policies give every record an integer key, lower first, that does not change while it waits.

    Keys are tokens, or microseconds where they stand for time, so that they fit vLLM's `priority`.
    """

    name: ClassVar[str]
    static: ClassVar[bool]
    #: fields that must be there; they are checked when records are read
    reads: ClassVar[tuple[str, ...]]

    def queue(self) -> Queue:
        """An empty queue that this policy orders."""
        ...


class StaticPolicy:
    """A policy that is a key: subclasses say `name`, `reads` and `key`."""

    name: ClassVar[str]
    static: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ()

    def key(self, record: Record) -> int:
        raise NotImplementedError

    def queue(self) -> Queue:
        return KeyQueue()


def checked_key(policy: StaticPolicy, record: Record) -> int:
    """The policy's key; FieldError when jq and spreadsheets would not hold it exactly."""
    key = policy.key(record)
    if abs(key) >= EXACT:
        hint = "arrivals, levels or knobs are too large for it"
        raise FieldError("priority", f"{describe(policy)} gives {key}, beyond 2**53", hint=hint)
    return key


class KeyQueue:
    """Jobs by `(priority, offered, order)`, as vLLM's priority queue orders them."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, int, Job]] = []

    def push(self, job: Job, now: float) -> None:
        heapq.heappush(self._heap, (job.priority, job.offered_s, job.order, job))

    def pop(self, now: float) -> Job:
        return heapq.heappop(self._heap)[-1]

    def __len__(self) -> int:
        return len(self._heap)


def build(name: str, knobs: Mapping[str, str]) -> Policy:
    """The policy `name` with its knobs given as text; UsageError for a knob it has not or a bad value."""
    cls = registry.load("policies", name)
    known = _knobs(cls)
    values: dict[str, Knob] = {}
    for knob, text in knobs.items():
        if knob not in known:
            has = "its knobs are " + ", ".join(known) if known else "it has none"
            raise UsageError(f"policy {name}: no knob {knob!r}", hint=has)
        try:
            values[knob] = type(known[knob])(text)
        except ValueError:
            expected = "an integer" if type(known[knob]) is int else "a number"
            raise UsageError(f"policy {name}: {knob}: expected {expected}, got {text!r}") from None
    try:
        policy: Policy = cls(**values)
    except ValueError as error:
        raise UsageError(f"policy {name}: {error}") from None
    return policy


def parse(spec: str) -> Policy:
    """The policy that `spec`, as `describe` wrote it, names."""
    name, _, rest = spec.partition(":")
    return build(name, split_knobs(rest.split(",") if rest else []))


def of_run(found: dict[str, Policy], record: Record) -> Policy:
    """The policy that `record` names, fifo if none; it is kept in `found`. FieldError for a second one."""
    name = record.get("policy") or "fifo"
    if name not in found:
        if found:
            problem = f"the input mixes {next(iter(found))} and {name}: one run has one policy"
            raise FieldError("policy", problem)
        try:
            found[name] = parse(name)
        except UsageError as error:
            raise FieldError("policy", error.message, hint=error.hint) from None
    return found[name]


def describe(policy: Policy) -> str:
    """`name`, or `name:knob=value,...` when it has knobs: what records carry in `policy`."""
    knobs = ",".join(f"{knob}={getattr(policy, knob)}" for knob in _knobs(type(policy)))
    return f"{policy.name}:{knobs}" if knobs else policy.name


def split_knobs(pairs: Iterable[str]) -> dict[str, str]:
    """`["k=v", ...]` as a dictionary; UsageError for a pair without `=`."""
    knobs = {}
    for pair in pairs:
        knob, equals, value = pair.partition("=")
        if not equals or not knob:
            raise UsageError(f"--param: expected KNOB=VALUE, got {pair!r}")
        knobs[knob] = value
    return knobs


def _knobs(cls: type) -> dict[str, Knob]:
    """Name and default of each knob of a policy class."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
