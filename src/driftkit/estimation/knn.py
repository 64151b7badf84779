"""Another estimator's estimate, corrected by the errors that it made of requests like this one.

An error memory, as ReLoop2 (Zhu et al., KDD 2023) has it for recommenders: the errors of the nearest of the
latest 10,000 completions are averaged on a log scale, what is far or old counting less, and multiply the
base's estimate as `est_memory_ratio`. Where nothing is near the estimate stays what it was.
`driftkit calibrate --fit knn` remembers completions that were estimated by the base, or by this. It does not
learn by itself: corrections are learned of what it says, and would be wrong if it moved under them. Instants
of requests count on, from the first of them, after the end of what was remembered; errors older than its
`--max-age` are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from driftkit import registry
from driftkit.errors import StateError, UsageError
from driftkit.estimation import memory
from driftkit.estimation.base import Estimate, Estimator, build, estimate_many, prompt_text
from driftkit.estimation.memory import Memory
from driftkit.records.schema import Record

_NO_TEXT = "no completion that is remembered had its prompt"


class Knn:
    """Warns of records whose prompts were counted by a tokenizer that nothing is remembered of, and of those
    that all that is remembered is too old for."""

    name: str = "knn"
    has_base: ClassVar[bool] = True

    def __init__(self, base: Estimator, memories: dict[str, Memory], warn: Callable[[str], None]) -> None:
        self.name = name_of(base.name)
        self.reads = ("arrival_s", *base.reads)
        self._base = base
        self._memories = memories
        self._warn = warn
        self._start_s: float | None = None  # when the first request came

    @classmethod
    def from_state(
        cls, folder: Path, served_model: str, warn: Callable[[str], None], base: str | None
    ) -> Knn:
        base_class = base_of(base) if base is not None else None
        there = memory.bases(folder, served_model)
        name = base if base is not None else _only(folder, served_model, there)
        found = memory.known(folder, name, served_model)
        if not found:
            others = ", ".join(there) or "nothing"
            problem = f"no memory of errors of {name} for {served_model}; there is of {others}"
            hint = f"`driftkit calibrate --fit knn` learns it from completions that {name} has estimated"
            raise StateError(f"{folder}: {problem}", hint=hint)
        base_class = base_class or base_of(name)
        below = build(base_class, folder, served_model, warn)
        now = identity(base_class, folder, served_model)
        kept = [one for one in found if one.base_is == now]
        for one in found:
            if one.base_is == now:
                continue
            path = memory.path_of(folder, one.of)
            problem = f"{path}: remembers the errors of another {name} than the one here"
            if not kept:
                hint = f"{name} was fitted since: estimate with --model {name}, then --fit knn what comes"
                raise StateError(problem, hint=hint)
            warn(f"{problem}: left out")
        return cls(below, {one.of.tokenizer: one for one in kept}, warn)

    def estimate(self, record: Record) -> Estimate:
        return self.estimate_many([record])[0]

    def estimate_many(self, records: Sequence[Record]) -> list[Estimate]:
        estimates = estimate_many(self._base, records)
        if self._start_s is None and records:
            self._start_s = records[0]["arrival_s"]
        start_s = self._start_s or 0.0
        places: dict[str, list[int]] = {}
        for place, record in enumerate(records):
            places.setdefault(record.get("est_tokenizer") or "given", []).append(place)
        for tokenizer, of in places.items():
            known = self._memories.get(tokenizer)
            if known is None:
                have = ", ".join(sorted(self._memories))
                self._warn(f"nothing remembered of prompts counted by {tokenizer}, only by {have}")
                ratios = [1.0] * len(of)
            else:
                if not known.knows_text and any(prompt_text(records[p]) is not None for p in of):
                    self._warn(f"{_NO_TEXT}: what was remembered is far from requests that have one")
                asked = [records[p] for p in of]
                age = known.max_age_s
                if age is not None and any(record["arrival_s"] - start_s > age for record in asked):
                    self._warn(
                        f"requests come more than {age:g} s after the first: by --max-age all errors that "
                        "are remembered are too old for them, and their estimates stay as they are"
                    )
                ratios = known.ratios(asked, [_tokens(estimates[p]) for p in of], start_s).tolist()
            for place, ratio in zip(of, ratios, strict=True):
                estimates[place] = estimates[place]._replace(memory_ratio=ratio)
        return estimates


def name_of(base: str) -> str:
    """What `est_model` says of an estimate by the errors of that base."""
    return f"{Knn.name}:{base}"


def base_of(name: str) -> Any:
    """The class of the base; UsageError where it can be none."""
    if name == Knn.name:
        raise UsageError(f"--base {name}: a memory of the errors of a memory")
    return registry.load("estimators", name)


def identity(base: Any, folder: Path, served_model: str) -> str | None:
    """What tells a fit of a base from another one; None for a base that is always the same."""
    told: str | None = base.identity(folder, served_model) if hasattr(base, "identity") else None
    return told


def _only(folder: Path, served_model: str, bases: Sequence[str]) -> str:
    """The one base that the folder has a memory of."""
    if not bases:
        hint = f"`driftkit calibrate --fit knn --state {folder}` learns it from completions"
        raise StateError(f"{folder}: no memory of errors for {served_model}", hint=hint)
    if len(bases) > 1:
        raise UsageError(f"{folder}: memories of {', '.join(bases)}", hint="name one of them with --base")
    return bases[0]


def _tokens(estimate: Estimate) -> float:
    return max(1.0, estimate.base_tokens * estimate.safety_ratio * estimate.input_ratio)
