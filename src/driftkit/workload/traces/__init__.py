"""Real traces: one file per foreign format.

A format is a class that is made with Options and turns a Reader into records. Most read line by line and
only say what a line holds; those whose file is one JSON document are read whole and taken apart into
elements; servegen opens its many files itself.

What every format owes: arrivals in seconds that count from the trace's first row (where its clock is not
relative already), `trace_output_tokens` where the output length is known, a stable `id`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import ClassVar

from driftkit import rng
from driftkit.errors import FieldError
from driftkit.records.io import Reader, readable
from driftkit.records.schema import Record
from driftkit.workload import presets, spec

Window = tuple[float, float]  # seconds of the trace: from, up to and without


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say about a trace beside its format; each format uses what it has a use for."""

    seed: int = 0
    window: Window | None = None
    maps: tuple[str, ...] = ()
    tokenizer: str = "builtin"
    label: str | None = None


class Trace:
    """A trace that is read line by line; it may remember what it has read (a header, the first instant).

    `rate_rps` is the whole trace's rate where the format knows it without being read to its end.
    `left_out` counts, by reason, what the trace holds that is no request, to be said once.
    """

    name: ClassVar[str] = ""
    element: ClassVar[str] = ""  # what a part of the file is called where it is not a line

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.rate_rps: float | None = None
        self.left_out: Counter[str] = Counter()
        self.remarks: dict[str, None] = {}  # ordered, each once
        self.source = ""

    def parse(self, line: bytes) -> Sequence[Record]:
        """The records on a line: none, one or several; LineError for a bad one."""
        raise NotImplementedError

    def records(self, reader: Reader, *, any_order: bool = False) -> Iterator[Record]:
        """The records of the reader's one source, under its error policy.

        A row that arrives before the first one is bad unless `any_order`.
        """
        ((self.source, stream),) = reader.sources
        reader.sources = [(self.source, self.elements(readable(self.source, stream)))]
        reader.element = self.element
        parse = self.parse if any_order else self._parse_in_order
        for found in reader.lines(parse):
            yield from found

    def elements(self, lines: Iterable[bytes]) -> Iterable[bytes]:
        """What `parse` is fed: the lines, or the parts of a file that is one document."""
        return lines

    def _parse_in_order(self, line: bytes) -> Sequence[Record]:
        found = self.parse(line)
        for record in found:
            arrival = record.get("arrival_s")
            if type(arrival) is float and arrival < 0:
                problem = f"{-arrival:g} s before the trace's first row"
                raise FieldError("arrival_s", problem, hint="--sort reads the whole trace and orders it")
        return found

    @cached_property
    def label(self) -> str:
        """The name of a run that was recorded: as the user says, or the file's without its ending."""
        if self.options.label:
            return self.options.label
        path = PurePath(self.source.removesuffix(".gz"))
        return self.name if self.source == "<stdin>" else path.stem


def tenant_assigner(seed: int) -> Callable[[Record], None]:
    """A function that gives a record without tenant and tier one of the paper's three, with probability 1/3.

    The draw depends on the seed and the place in the trace only; records with a tenant draw as well. The
    turns of a session have one tenant, drawn by the session's name.
    """
    stream = rng.stream(seed, "trace/tenant")
    tenants = [
        {"tenant": tenant.name, **tenant.fields} for tenant in spec.read(presets.text("driftsched")).tenants
    ]

    def assign(record: Record) -> None:
        u = stream.random()
        if record.get("tenant") is None and record.get("tier") is None:
            if (session := record.get("session")) is not None:
                u = rng.keyed(seed, "trace/tenant", str(session)) / 2**52
            for field, value in tenants[int(u * len(tenants))].items():
                if record.get(field) is None:
                    record[field] = value

    return assign
