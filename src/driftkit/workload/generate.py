"""The requests that a spec describes, in the order of their arrival.

Tenants with arrivals of their own draw from streams that are named after them: nobody else's requests
change when a tenant is added. Those with a share draw from the streams of the arrivals that they share.
All that a tenant holds is one event in a heap, its next arrival, so that a million of them fit; what it
draws for its n-th arrival is found by place (`rng.uniforms`), not by a generator that it would have to keep.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush, heapreplace, merge
from itertools import accumulate, islice
from operator import itemgetter

from driftkit import rng
from driftkit.errors import DriftkitError
from driftkit.records.schema import LATEST_S, MOST, SCHEMA, Record
from driftkit.workload import drift, prefixes
from driftkit.workload.arrivals import Arrivals
from driftkit.workload.prompts import prompt
from driftkit.workload.spec import Phase, Spec, Tenant

Timed = tuple[float, Record]  # arrival before rounding

_CHUNK = 4096
_QUANTITIES = (
    *("gap", "gap-kind", "tenant", "category", "prefix"),
    *("input", "length", "words", "topic", "template", "angle"),
)


def requests(spec: Spec, seed: int, total: int | None = None) -> Iterator[Record]:
    """The workload; `total`, if given, is how many requests there are instead of what the file says.

    A phase with `duration_s` lasts so long, or until its last session is over; one that ends with its last
    request is followed at once. DriftkitError when arrivals or prompts leave what a record can hold.
    """
    start = 0.0
    number = 0
    cap = spec.requests if total is None else total
    for place, (phase, limit) in enumerate(zip(spec.phases, spec.limits(total), strict=True)):
        if cap is not None:
            limit = cap - number if limit is None else min(limit, cap - number)
        end = math.inf if phase.duration_s is None else start + phase.duration_s
        before, last = number, start
        for last, record in islice(_phase(spec, place, number, seed, start, end), limit):
            if last > LATEST_S:
                raise DriftkitError(f"arrivals go on past {LATEST_S:g} s", hint="ask for fewer requests")
            if phase.barrier and number == before:
                record = _barred(record)
            number += 1
            yield record
        start = last if number - before == limit or end == math.inf else max(end, last)


def _barred(record: Record) -> Record:
    """The same as the first of a phase that is held until everything before it has finished."""
    fields = list(record.items())
    place = list(record).index("arrival_s") + 1
    return dict([*fields[:place], ("barrier", True), *fields[place:]])


def _phase(spec: Spec, place: int, number: int, seed: int, start: float, end: float) -> Iterator[Timed]:
    senders = [_Sender(spec, place, tenant, seed) for tenant in spec.tenants]
    sharing = [sender for sender in senders if sender.tenant.arrivals is None]
    own = [sender for sender in senders if sender.tenant.arrivals is not None]
    parts = []
    if sharing:
        parts.append(_shared(spec, spec.phases[place], sharing, number, seed, start, end))
    if own:
        parts.append(_own(own, seed, start, end))
    return parts[0] if len(parts) == 1 else merge(*parts, key=itemgetter(0))


# --- one request ----------------------------------------------------------------------------------


class _Kind:
    """What a tenant's requests of one category have in common."""

    def __init__(self, spec: Spec, phase: Phase, tenant: Tenant, category: str | None) -> None:
        settings = spec.settings_of(tenant, category)
        assert settings.output is not None
        self.output = settings.output
        self.input = settings.input
        self.dependence = settings.dependence
        self.cap = MOST if settings.max_tokens is None else settings.max_tokens
        self.category = category or ""
        self.drifts = spec.drifts_of("lengths", tenant.name, category)
        self.head: Record = dict(tenant.fields)
        if category is not None:
            self.head["category"] = category
        if phase.name:
            self.head["phase"] = phase.name
        tail = ("max_tokens", "temperature", "slo_ttft_s", "slo_e2e_s")
        self.tail = {name: getattr(settings, name) for name in tail if getattr(settings, name) is not None}

    def request(
        self,
        id_: str,
        tenant: str,
        arrival_s: float,
        number: int,
        draws: Sequence[float],
        context: int = 0,
        session: Record | None = None,
    ) -> Record:
        """A record; its prompt is `context` tokens and what is new, or text that names its `number`."""
        input_u, length_u, words_u, topic_u, template_u, angle_u = draws
        record: Record = {
            "kind": "request",
            "schema": SCHEMA,
            "id": id_,
            "tenant": tenant,
            **self.head,
            "arrival_s": round(arrival_s, 6),
        }
        if session is not None:
            record.update(session)
        factor = drift.ratio(self.drifts, arrival_s)
        if self.input is None:
            record["prompt"] = prompt(number, tenant, self.category, topic_u, template_u, angle_u)
            tokens = self.output.tokens(length_u, self.cap, factor)
        elif self.dependence is None:
            record["prompt_tokens"] = context + self.input.tokens(input_u)
            tokens = self.output.tokens(length_u, self.cap, factor)
        else:
            record["prompt_tokens"] = context + self.input.tokens_at(input_u)
            tokens = self.output.tokens_at(self.dependence.output(input_u, length_u), self.cap, factor)
        record.update(self.tail)
        record["trace_output_tokens"] = tokens
        if self.output.words is not None:
            record["trace_output_words"] = self.output.words.of(tokens, words_u)
        return record


class _Sender:
    """A tenant, or `count` tenants alike, in one phase."""

    def __init__(self, spec: Spec, place: int, tenant: Tenant, seed: int) -> None:
        phase = spec.phases[place]
        mix = spec.mix_of(tenant, phase)
        self.tenant = tenant
        self.seed = seed
        self.count = tenant.count or 1
        self.stream = f"{spec.name}\0{phase.name}\0"
        self.ids = f"{spec.name}-{seed}-" + (f"{place + 1}-" if phase.name else "")
        self.block_tokens = spec.block_tokens
        self.kinds = [_Kind(spec, phase, tenant, category) for category in mix or [None]]
        self.shares = list(mix.values()) if mix else [1.0]
        self.sums = list(accumulate(self.shares))
        self.mix_drifts = [spec.drifts_of("mix", tenant.name, category) for category in mix or ()]
        self.mix_drifts = self.mix_drifts if any(self.mix_drifts) else []
        self.rate_drifts = spec.drifts_of("rate", tenant.name)
        turns = tenant.sessions.requests if tenant.sessions is not None else 1.0
        self.stretch = turns / phase.rate_ratio  # a session is as many requests, and the rate counts those

    def kind(self, u: float, time_s: float) -> _Kind:
        sums = self.sums
        if self.mix_drifts:
            ratios = [drift.ratio(drifts, time_s) for drifts in self.mix_drifts]
            sums = list(accumulate(share * ratio for share, ratio in zip(self.shares, ratios, strict=True)))
        return self.kinds[min(bisect_right(sums, u * sums[-1]), len(self.kinds) - 1)]

    def pace(self, time_s: float) -> float:
        """What the rate is multiplied with."""
        return drift.ratio(self.rate_drifts, time_s)

    def opening(self, u: float) -> tuple[int, list[int]]:
        """Tokens and block hashes of the prefix that a request or a session begins with."""
        prefix = self.tenant.prefix
        if prefix is None:
            return 0, []
        return prefix.tokens, _hashes(self.seed, prefix.variant(u), prefix.tokens // self.block_tokens)

    def session(self, copy: int, nth: int, arrival_s: float, draws: Sequence[float]) -> Iterator[Timed]:
        """The turns of the tenant's n-th session; one request where it has no sessions."""
        name = self.tenant.named(copy)
        id_ = f"{self.ids}{name}-{nth:06d}"
        stream = f"{self.stream}{name}\0{nth}"
        kind = self.kind(draws[2], arrival_s)
        context, opening = self.opening(draws[3])
        sessions = self.tenant.sessions
        if sessions is None:
            record = kind.request(id_, name, arrival_s, nth, rng.uniforms(self.seed, stream, 1)[:6], context)
            yield arrival_s, _with_hashes(record, opening, self.block_tokens)
            return
        hashes = list(opening)
        for turn in range(1, sessions.turns(draws[4]) + 1):
            of_turn = rng.uniforms(self.seed, stream, turn)
            fields = {"session": id_, "turn": turn}
            record = kind.request(f"{id_}.{turn}", name, arrival_s, nth, of_turn[:6], context, fields)
            tokens = record["prompt_tokens"]
            if tokens > MOST:
                raise DriftkitError(f"{name}: a prompt of over {MOST} tokens", hint="give input a longest")
            prefixes.extend(hashes, tokens // self.block_tokens, self.seed, id_)
            yield arrival_s, _with_hashes(record, list(hashes), self.block_tokens)
            context = tokens + record["trace_output_tokens"]
            arrival_s += sessions.think_s(of_turn[6])


@lru_cache(maxsize=1024)
def _hashes(seed: int, variant: str, blocks: int) -> list[int]:
    hashes: list[int] = []
    prefixes.extend(hashes, blocks, seed, variant)
    return hashes


def _with_hashes(record: Record, hashes: list[int], block_tokens: int) -> Record:
    if hashes:
        record["prefix_hashes"] = hashes
        record["prefix_block_tokens"] = block_tokens
    return record


# --- many -----------------------------------------------------------------------------------------


def _shared(
    spec: Spec, phase: Phase, senders: Sequence[_Sender], number: int, seed: int, start: float, end: float
) -> Iterator[Timed]:
    """Each arrival of the phase's process is some tenant's, by their shares."""
    process = phase.arrivals
    assert process is not None
    shares = [sender.tenant.share * sender.count for sender in senders]
    sums = steady = list(accumulate(shares))
    drifting = any(sender.rate_drifts for sender in senders)
    draw = process.first
    arrival_s = start
    at = 0.0 if process.clock else start
    stretch = 1 / phase.rate_ratio
    for gap_u, kind_u, tenant_u, category_u, prefix_u, *draws in _uniforms(seed, f"{spec.name}/{phase.name}"):
        gap = draw(gap_u, kind_u) * stretch
        at += gap * (steady[-1] / sums[-1]) if drifting else gap
        arrival_s = start + process.clock(at) if process.clock else at
        if arrival_s >= end:
            return
        draw = process.gap
        number += 1
        if drifting:  # of the next gap too: a rate is that at the arrival before
            paced = (share * each.pace(arrival_s) for share, each in zip(shares, senders, strict=True))
            sums = list(accumulate(paced))
        share = tenant_u * sums[-1]
        place = min(bisect_right(sums, share), len(sums) - 1)
        sender = senders[place]
        copy = 0
        if sender.count > 1:
            one = sender.tenant.share * (sender.pace(arrival_s) if drifting else 1.0)
            copy = min(int((sums[place] - share) / one), sender.count - 1)
        kind = sender.kind(category_u, arrival_s)
        context, hashes = sender.opening(prefix_u)
        name = sender.tenant.named(copy)
        record = kind.request(f"{spec.name}-{seed}-{number:06d}", name, arrival_s, number, draws, context)
        yield arrival_s, _with_hashes(record, hashes, spec.block_tokens)


def _uniforms(seed: int, name: str) -> Iterator[list[float]]:
    """Per request one uniform of each quantity's stream, drawn in chunks so that memory stays flat."""
    streams = [rng.stream(seed, f"{name}/{quantity}") for quantity in _QUANTITIES]
    while True:
        yield from map(list, zip(*(stream.random(_CHUNK).tolist() for stream in streams), strict=True))


# When, which tenant, its how-manieth session, which turn; then, for the session to come, the sender and the
# sum of its gaps, or, for a later turn, the record.
Event = tuple[float, int, int, int, _Sender | None, float, Record | None]


def _own(senders: Sequence[_Sender], seed: int, start: float, end: float) -> Iterator[Timed]:
    """The arrivals of all tenants that have their own, merged in time."""
    events: list[Event] = []
    tenant = 0
    begins: dict[_Sender, int] = {}
    for sender in senders:
        begins[sender] = tenant
        process = _process(sender)
        for copy in range(sender.count):
            draws = rng.uniforms(seed, sender.stream + sender.tenant.named(copy), 0)
            at = (0.0 if process.clock else start) + process.first(draws[0], draws[1]) * sender.stretch
            arrival_s = start + process.clock(at) if process.clock else at
            if arrival_s < end:
                events.append((arrival_s, tenant, 1, 0, sender, at, None))
            tenant += 1
    heapify(events)
    while events:
        arrival_s, tenant, nth, _, sender_, at, record = events[0]
        if sender_ is None:
            heappop(events)
            assert record is not None
            yield arrival_s, record
            continue
        copy = tenant - begins[sender_]
        draws = rng.uniforms(seed, sender_.stream + sender_.tenant.named(copy), nth)
        process = _process(sender_)
        at += process.gap(draws[0], draws[1]) * sender_.stretch / sender_.pace(arrival_s)
        following = start + process.clock(at) if process.clock else at
        turns = sender_.session(copy, nth, arrival_s, draws)
        if following < end:
            heapreplace(events, (max(following, arrival_s), tenant, nth + 1, 0, sender_, at, None))
        else:
            heappop(events)
        yield next(turns)
        for turn, (later_s, later) in enumerate(turns, start=1):
            heappush(events, (later_s, tenant, nth, turn, None, 0.0, later))


def _process(sender: _Sender) -> Arrivals:
    assert sender.tenant.arrivals is not None
    return sender.tenant.arrivals
