"""A workload as a TOML file describes it: who sends what when, how long inputs and outputs are.

Everything is checked when the file is read; FieldError names the key, as jq would write it, and what was
expected there. What the file leaves open is open in the Spec: names are the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from driftkit.errors import FieldError, UsageError, near_or_known
from driftkit.records.schema import FIELDS, LATEST_S, MOST
from driftkit.records.toml_table import Table, parse
from driftkit.workload import arrivals, drift, lengths, prefixes, sessions
from driftkit.workload.arrivals import Arrivals
from driftkit.workload.drift import Drift
from driftkit.workload.lengths import Dependence, LengthModel, Models
from driftkit.workload.prefixes import Prefix
from driftkit.workload.prompts import TEMPLATES
from driftkit.workload.sessions import Sessions

MOST_TENANTS = 10_000_000
_COPY = re.compile("[1-9][0-9]{0,7}")
Mix = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be said for a tenant, for a category or for the whole file; the first of them that says it."""

    input: LengthModel | None = None
    output: LengthModel | None = None
    dependence: Dependence | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    slo_ttft_s: float | None = None
    slo_e2e_s: float | None = None

    def over(self, other: Settings) -> Settings:
        """These, and `other`'s where they are silent."""
        return Settings(
            *(
                getattr(other, name) if getattr(self, name) is None else getattr(self, name)
                for name in self.__slots__
            )
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """`count` tenants alike, named `name-1`... where it is not None; with arrivals of their own, or a share
    of those that the phase makes for all."""

    name: str
    count: int | None
    fields: Mapping[str, Any]
    share: float
    arrivals: Arrivals | None
    sessions: Sessions | None
    prefix: Prefix | None
    mix: Mix | None
    settings: Settings

    def named(self, place: int) -> str:
        return self.name if self.count is None else f"{self.name}-{place + 1}"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the workload, bounded by a share of all requests, a number of them, or seconds."""

    name: str
    share: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    barrier: bool = False
    rate_ratio: float = 1.0
    arrivals: Arrivals | None = None
    mix: Mix | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    name: str
    requests: int | None
    text: bool
    block_tokens: int
    tenants: tuple[Tenant, ...]
    phases: tuple[Phase, ...]
    mix: Mix | None
    categories: Mapping[str, Settings]
    settings: Settings
    drifts: tuple[Drift, ...] = ()

    def drifting(self, text: str) -> Spec:
        """With the drift that an option's text describes too; LineError when it does not fit."""
        tenants = [tenant.name for tenant in self.tenants]
        return replace(
            self, drifts=(*self.drifts, drift.read(drift.parse(text), tenants, self.categories, unit=""))
        )

    def drifts_of(self, what: str, tenant: str, category: str | None = None) -> tuple[Drift, ...]:
        """Those that move `what` of a tenant's requests of a category."""
        return tuple(
            each
            for each in self.drifts
            if each.what == what and each.tenant in (None, tenant) and each.category in (None, category)
        )

    def mix_of(self, tenant: Tenant, phase: Phase) -> Mix | None:
        """The shares of the categories: the tenant's own, else the phase's, else the file's."""
        return tenant.mix or phase.mix or self.mix

    def settings_of(self, tenant: Tenant, category: str | None) -> Settings:
        settings = tenant.settings
        if category is not None:
            settings = settings.over(self.categories[category])
        return settings.over(self.settings)

    def limits(self, total: int | None) -> list[int | None]:
        """How many requests each phase has at most; `total`, if given, takes the place of the file's."""
        total = self.requests if total is None else total
        shares = [phase.share for phase in self.phases]
        if total is not None and None not in shares:
            sums = list(accumulate(share or 0 for share in shares))
            ends = [0, *(round(total * (part / sums[-1])) for part in sums)]
            return [end - start for start, end in pairwise(ends)]
        return [phase.requests for phase in self.phases]


def read(data: bytes, lengths_name: str | None = None, length_scale: float = 1.0) -> Spec:
    """The workload that a file describes, its outputs by the model `lengths_name` instead of its own, if
    given, and scaled; LineError for what is wrong in the file."""
    return read_table(parse(data), lengths_name, length_scale)


def read_table(table: Table, lengths_name: str | None = None, length_scale: float = 1.0) -> Spec:
    """The same, from the file's outermost table."""
    return _Reader(table, lengths_name, length_scale).spec()


class _Reader:
    """The file's outermost table, and the names that it declares."""

    def __init__(self, table: Table, lengths_name: str | None, length_scale: float) -> None:
        self.table = table
        entries = table.table("lengths")
        self.models: Models = {name: lengths.read_model(entries.table(name)) for name in entries.names()}
        if lengths_name is not None and lengths_name not in self.models:
            raise UsageError(
                f"--lengths: no model named {lengths_name!r}", hint=near_or_known(lengths_name, self.models)
            )
        self.output = self.models[lengths_name] if lengths_name is not None else None
        self.scale = length_scale
        entries = table.table("prefixes")
        self.prefixes = {name: prefixes.read(entries.table(name), name) for name in entries.names()}
        entries = table.table("categories")
        self.categories: dict[str, Settings] = {}
        for name in entries.names():
            entry = entries.table(name)
            self.categories[name] = self._settings(entry)
            entry.done()

    def spec(self) -> Spec:
        table = self.table
        spec = Spec(
            name=table.name("name", "spec"),
            requests=table.integer("requests", 1, MOST) if "requests" in table else None,
            text="text" in table and bool(table.one_of("text", ("templates",))),
            block_tokens=table.integer("prefix_block_tokens", 1, MOST, prefixes.BLOCK_TOKENS),
            tenants=tuple(map(self._tenant, table.tables("tenants"))),
            phases=tuple(map(self._phase, table.tables("phases"))),
            mix=table.shares("mix", self.categories),
            categories=self.categories,
            settings=self._settings(table),
        )
        shared = arrivals.read(table.table("arrivals")) if "arrivals" in table else None
        duration_s = self._duration(table)
        names = [tenant.name for tenant in spec.tenants]
        drifts = tuple(drift.read(each, names, self.categories) for each in table.tables("drift"))
        table.done()
        if not spec.tenants:
            raise table.wrong("tenants", "expected at least one [[tenants]], got none")
        spec = replace(spec, drifts=drifts)
        spec = self._phased(spec, shared, duration_s)
        self._check_names(spec)
        self._check_arrivals(spec)
        self._check_settings(spec)
        return spec

    # --- parts of it ---

    def _settings(self, table: Table) -> Settings:
        output = lengths.read(table, "output", self.models) if "output" in table else None
        if output is not None:
            output = (self.output or output).scaled(self.scale)

        def seconds(name: str) -> float | None:
            return table.number(name, 1e-6, LATEST_S) if name in table else None

        return Settings(
            input=lengths.read(table, "input", self.models) if "input" in table else None,
            output=output,
            dependence=lengths.read_dependence(table, "dependence") if "dependence" in table else None,
            max_tokens=table.integer("max_tokens", 1, MOST) if "max_tokens" in table else None,
            temperature=table.number("temperature", 0, MOST) if "temperature" in table else None,
            slo_ttft_s=seconds("slo_ttft_s"),
            slo_e2e_s=seconds("slo_e2e_s"),
        )

    def _duration(self, table: Table) -> float | None:
        return table.number("duration_s", 1e-6, LATEST_S) if "duration_s" in table else None

    def _tenant(self, table: Table) -> Tenant:
        own = arrivals.read(table.table("arrivals")) if "arrivals" in table else None
        if (own is None) == ("share" not in table):
            got = "neither" if own is None else "both"
            raise FieldError(table.path, f"expected share or arrivals, got {got}")
        fields: dict[str, Any] = {}
        if "tier" in table:
            fields["tier"] = table.name("tier")
        if "tier_level" in table:
            fields["tier_level"] = table.integer("tier_level", -MOST, MOST)
        if "weight" in table:
            weight = FIELDS["weight"]
            if not weight.accepts(table.raw("weight")):
                raise table.wrong("weight", weight.refusal(table.raw("weight")))
            fields["weight"] = table.raw("weight")
        if "sessions" in table and own is None:
            raise table.wrong("sessions", "goes with arrivals of the tenant's own, not with a share")
        tenant = Tenant(
            name=table.name("name"),
            count=table.integer("count", 1, MOST_TENANTS) if "count" in table else None,
            fields=fields,
            share=table.number("share", 1e-9, 1e9) if own is None else 0.0,
            arrivals=own,
            sessions=sessions.read(table.table("sessions")) if "sessions" in table else None,
            prefix=self.prefixes[table.one_of("prefix", self.prefixes)] if "prefix" in table else None,
            mix=table.shares("mix", self.categories),
            settings=self._settings(table),
        )
        table.done()
        return tenant

    def _phase(self, table: Table) -> Phase:
        phase = Phase(
            name=table.name("name"),
            share=table.number("share", 1e-9, 1e9) if "share" in table else None,
            requests=table.integer("requests", 1, MOST) if "requests" in table else None,
            duration_s=self._duration(table),
            barrier=table.boolean("barrier"),
            rate_ratio=table.number("rate_ratio", 1e-6, 1e6, 1.0),
            arrivals=arrivals.read(table.table("arrivals")) if "arrivals" in table else None,
            mix=table.shares("mix", self.categories),
        )
        table.done()
        if phase.share is not None and (phase.requests is not None or phase.duration_s is not None):
            raise table.wrong("share", "expected share, or requests and duration_s, got both")
        return phase

    # --- what must fit together ---

    def _phased(self, spec: Spec, shared: Arrivals | None, duration_s: float | None) -> Spec:
        """With the file's arrivals where a phase has none; a file without phases is one phase, nameless."""
        table = self.table
        if not spec.phases:
            if spec.requests is None and duration_s is None:
                raise table.wrong("requests", "expected requests or duration_s, got neither")
            phase = Phase("", duration_s=duration_s, arrivals=shared)
            return replace(spec, phases=(phase,))
        if duration_s is not None:
            raise table.wrong("duration_s", "goes into each of the [[phases]]")
        by_share = [phase.share is not None for phase in spec.phases]
        for place, phase in enumerate(spec.phases):
            if phase.name in (earlier.name for earlier in spec.phases[:place]):
                raise table.wrong(f"phases[{place}].name", f"{phase.name!r} is another phase's name too")
            if by_share[place] != by_share[0]:
                raise table.wrong(f"phases[{place}].share", "expected in every phase or in none")
            if not by_share[place] and phase.requests is None and phase.duration_s is None:
                raise table.wrong(f"phases[{place}]", "expected share, requests or duration_s, got none")
        if by_share[0] and spec.requests is None:
            raise table.wrong("requests", "expected an integer that the phases have their shares of")
        return replace(spec, phases=tuple(replace(p, arrivals=p.arrivals or shared) for p in spec.phases))

    def _check_names(self, spec: Spec) -> None:
        many = {tenant.name: tenant.count for tenant in spec.tenants if tenant.count is not None}
        seen: set[tuple[str, bool]] = set()
        for place, tenant in enumerate(spec.tenants):
            key = (tenant.name, tenant.count is None)
            base, _, number = tenant.name.rpartition("-")
            copies = many.get(base, 0) if tenant.count is None else 0
            clash = _COPY.fullmatch(number) is not None and int(number) <= copies
            if key in seen or clash:
                raise self.table.wrong(f"tenants[{place}].name", f"{tenant.name!r} is another's name too")
            seen.add(key)

    def _check_arrivals(self, spec: Spec) -> None:
        if not any(tenant.share for tenant in spec.tenants):
            for place, phase in enumerate(spec.phases):
                if phase.arrivals is not None:
                    where = f"phases[{place}].arrivals" if phase.name else "arrivals"
                    raise self.table.wrong(where, "no tenant has a share of these")
            return
        for place, phase in enumerate(spec.phases):
            if phase.arrivals is None:
                where = f"phases[{place}].arrivals" if phase.name else "arrivals"
                raise self.table.wrong(where, "expected a table: tenants have shares of these, got nothing")

    def _check_settings(self, spec: Spec) -> None:
        for place, tenant in enumerate(spec.tenants):
            where = f"tenants[{place}]"
            for phase in spec.phases:
                mix = spec.mix_of(tenant, phase)
                for category in mix or [None]:
                    if spec.text and category not in TEMPLATES:
                        raise self.table.wrong(
                            "text", "templates need categories", "known: " + ", ".join(TEMPLATES)
                        )
                    self._check_kind(spec, where, spec.settings_of(tenant, category), tenant)

    def _check_kind(self, spec: Spec, where: str, settings: Settings, tenant: Tenant) -> None:
        wrong, hint = self.table.wrong, "say it for the tenant, for its categories or for the whole file"
        if settings.output is None:
            raise wrong(f"{where}.output", "expected a length, got nothing", hint)
        if settings.output.needs_cap and settings.max_tokens is None:
            raise wrong(f"{where}.max_tokens", "expected an integer, for an output of_cap", hint)
        if spec.text:
            if settings.input or settings.dependence or tenant.prefix or tenant.sessions:
                raise wrong(where, 'text = "templates" goes without input, dependence, prefix and sessions')
        elif settings.input is None:
            raise wrong(f"{where}.input", "expected a length, got nothing", hint)
        elif settings.input.needs_cap:
            raise wrong(f"{where}.input", "of_cap is for outputs")
