"""The paper's workload: a learning phase, a barrier, a stress phase (DriftSched, arXiv 2606.02982)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from driftkit import rng
from driftkit.records.schema import SCHEMA, Record
from driftkit.workload.lengths import LengthModel
from driftkit.workload.prompts import prompt
from driftkit.workload.tenants import DRIFTSCHED

REQUESTS = 3000
LEARNING_SHARE = 1 / 3
CAPS = {"short_qa": 64, "summary": 256, "technical": 384, "report": 512}
TEMPERATURE = 0.7
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Phase:
    """Gaps are uniform in seconds; `mix` is the share of each category, in the order of CAPS."""

    name: str
    shortest_gap_s: float
    longest_gap_s: float
    mix: tuple[float, float, float, float]


PHASES = (
    Phase("learning", 0.05, 0.15, (0.40, 0.25, 0.25, 0.10)),
    Phase("stress", 0.005, 0.03, (0.10, 0.20, 0.40, 0.30)),
)


def requests(total: int, lengths: LengthModel, seed: int) -> Iterator[Record]:
    """`total` requests, a third of them learning; the first of the stress phase is a barrier.

    Each quantity has a random stream of its own per phase, so that a longer phase repeats the shorter one.
    """
    learning = round(total * LEARNING_SHARE)
    number = 0
    arrival_s = 0.0
    for phase, count in zip(PHASES, (learning, total - learning), strict=True):
        for draws in _uniforms(seed, phase.name, count):
            gap_u, tenant_u, category_u, length_u, words_u, topic_u, template_u, angle_u = draws
            number += 1
            arrival_s += phase.shortest_gap_s + gap_u * (phase.longest_gap_s - phase.shortest_gap_s)
            tenant = DRIFTSCHED[int(tenant_u * len(DRIFTSCHED))]
            category = _pick(phase.mix, category_u)
            cap = CAPS[category]
            tokens, words = lengths.draw(cap, length_u, words_u)
            record: Record = {
                "kind": "request",
                "schema": SCHEMA,
                "id": f"driftsched-{seed}-{number:06d}",
                **tenant.fields(),
                "category": category,
                "phase": phase.name,
                "arrival_s": round(arrival_s, 6),
            }
            if phase.name == "stress" and number == learning + 1:
                record["barrier"] = True
            record["prompt"] = prompt(number, tenant.name, category, topic_u, template_u, angle_u)
            record["max_tokens"] = cap
            record["temperature"] = TEMPERATURE
            record["trace_output_tokens"] = tokens
            record["trace_output_words"] = words
            yield record


def _uniforms(seed: int, phase: str, count: int) -> Iterator[list[float]]:
    """Per request one uniform of each of the eight streams, drawn in chunks so that memory stays flat."""
    quantities = ("gap", "tenant", "category", "length", "words", "topic", "template", "angle")
    streams = [rng.stream(seed, f"driftsched/{phase}/{quantity}") for quantity in quantities]
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        yield from map(list, zip(*(stream.random(size).tolist() for stream in streams), strict=True))


def _pick(mix: tuple[float, float, float, float], u: float) -> str:
    """The category whose share of [0, 1) holds `u`."""
    total = 0.0
    for category, share in zip(CAPS, mix, strict=True):
        total += share
        if u < total:
            return category
    return "report"
