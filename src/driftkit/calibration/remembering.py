"""Completions into memories of errors: which are learned, of whose estimates, in what order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from driftkit.calibration.base import observed_output
from driftkit.calibration.censored import was_cut
from driftkit.calibration.state import StateFolder
from driftkit.calibration.stream import Key, in_order, key_of
from driftkit.errors import DriftkitError, UsageError
from driftkit.estimation import memory
from driftkit.estimation.base import Estimator, build, estimate_many, prompt_text, unremembered_tokens
from driftkit.estimation.knn import Knn, base_of, identity
from driftkit.estimation.memory import CUT, Memory, Of, Seen
from driftkit.estimation.observed import CUT_SHORT, FIELDS, observed
from driftkit.records.document import digest
from driftkit.records.known_runs import KnownRuns
from driftkit.records.schema import Check, Record, checker

CHECKED = 100  # completions of a run whose estimates are made again
NAMED = 3  # runs of another fit, in a warning

_check = checker(
    ("id", "finished_s", "prompt_tokens", "est_output_tokens", "est_model"),
    (
        *(
            "run_id",
            "offered_s",
            "arrival_s",
            "tenant",
            "tier",
            "category",
            "prompt",
            "messages",
            "max_tokens",
            "turn",
        ),
        *(*FIELDS, "served_model", "actual_output_words"),
        *("est_base_tokens", "est_bias_ratio", "est_safety_ratio", "est_input_ratio", "est_memory_ratio"),
        "est_tokenizer",
    ),
)


def check_remembered(record: Record) -> None:
    """FieldError for a completion that cannot be used."""
    _check(record)
    _check_of(record["est_model"].removeprefix(f"{Knn.name}:"))(record)
    prompt_text(record)


@cache
def _check_of(base: str) -> Check:
    """Of what that base reads, for it is to estimate again; that there is none of the name is said later."""
    try:
        reads = getattr(base_of(base), "reads", ())
    except UsageError:
        reads = ()
    return checker((), reads if type(reads) is tuple else ())


def remember(
    completions: Sequence[Record],
    folder: StateFolder,
    max_age_s: float | None,
    warn: Callable[[str], None],
) -> list[Memory]:
    """Learn checked completions, and keep what is remembered; call it under the folder's lock.

    Each goes to the memory of the base that has estimated it, its tokenizer and served model. What a memory
    has learned already is not learned again, and a run that was estimated before the base was fitted anew is
    left out. So are those that did not begin to answer.
    DriftkitError where nothing is left, or nothing but what was cut; then nothing is kept.
    """
    runs: dict[Key, dict[str, list[Seen]]] = {}
    left_out = 0
    for record in in_order(list(completions)):
        seen = _seen(record)
        if seen is None:
            left_out += 1
        else:
            runs.setdefault(_below(record), {}).setdefault(record.get("run_id") or "", []).append(seen)
    if left_out:
        warn(f"{left_out} completions without an answer or an estimate are left out")
    if not runs:
        hint = "`driftkit run` writes completions of requests that `driftkit estimate` has estimated"
        raise DriftkitError("no completions to remember", hint=hint)
    learned = [_learned(key, of, folder, max_age_s, warn) for key, of in runs.items()]
    memories = [one for one in learned if one is not None]
    if not memories:
        hint = "remember what `driftkit estimate` estimates from now on"
        raise DriftkitError("nothing to remember: all was estimated before a fit", hint=hint)
    for one in memories:
        path = memory.path_of(folder.path, one.of)
        before = digest(path)
        memory.write(folder.path, one)
        if digest(path) == before:
            continue  # nothing was new: what corrects it still does
        for correction in folder.begin_anew(f"{Knn.name}:{one.of.base}", one.of.served_model):
            warn(f"{correction}: corrected what {path.name} was before: taken away")
    return memories


def _learned(
    key: Key,
    runs: dict[str, list[Seen]],
    folder: StateFolder,
    max_age_s: float | None,
    warn: Callable[[str], None],
) -> Memory | None:
    """None where all runs are of another fit of the base, and nothing was known."""
    of = Of(*key)
    base = base_of(of.base)
    base_is = identity(base, folder.path, of.served_model)
    made = build(base, folder.path, of.served_model, lambda text: None)
    path = memory.path_of(folder.path, of)
    before = memory.read(folder.path, of)
    known = before if before is not None and before.base_is == base_is else None
    fresh: dict[str, list[Seen]] = {}
    for run, seen in runs.items():
        new = _not_learned(known, run, seen)
        if new:
            fresh[run] = new
        if len(new) < len(seen):
            which = f"{len(seen) - len(new)} completions of run {run} were" if new else f"run {run} was"
            warn(f"{which} learned before: not again" if known else f"{which} there twice: learned once")
    outdated = _outdated(made, of, fresh, warn)
    if outdated:
        which = ", ".join(list(outdated.values())[:NAMED])
        more = f" and {len(outdated) - NAMED} runs more" if len(outdated) > NAMED else ""
        warn(
            f"{which}{more} were estimated by another {of.base} than the one in {folder.path}, from before "
            "it was fitted anew: left out"
        )
    if len(outdated) == len(fresh) and known is None:
        return None
    if before is not None and known is None:
        warn(f"{path}: {of.base} was fitted anew: what was remembered is forgotten")
    known = known or Memory(of, base_is)
    if max_age_s is not None:
        known.max_age_s = max_age_s
    for run, seen in fresh.items():
        if run in outdated:
            continue
        if not run:
            warn("completions without run_id were learned: they will be again if they come again")
        known.learn(run, seen)
    known.settle()
    if len(known.pairs) and known.pairs[:, CUT].all():
        raise DriftkitError(
            f"all {len(known.pairs)} outputs were cut: nothing says how long they were going to be",
            hint="record some with a larger max_tokens",
        )
    return known


def _not_learned(known: Memory | None, run: str, seen: list[Seen]) -> list[Seen]:
    """Those of a run that a memory has not learned, each once."""
    if not run:
        return seen
    runs = known.runs if known is not None else KnownRuns()
    first: dict[str, Seen] = {}
    for one in seen:
        first.setdefault(one.record["id"], one)
    return [
        one
        for name, one in first.items()
        if not (runs.remembers(run, name) or runs.is_past(run, one.record["finished_s"]))
    ]


def _outdated(
    base: Estimator, of: Of, runs: dict[str, list[Seen]], warn: Callable[[str], None]
) -> dict[str, str]:
    """The runs that were not estimated by this base, but by one of the name that was fitted otherwise; and
    what of each was not.

    The last CHECKED of each run are estimated again. Without its prompt one may differ for that alone.
    """
    found = {}
    for run, seen in runs.items():
        records = [one.record for one in seen[-CHECKED:] if _can_be_asked(base, one.record)]
        others = [
            record
            for record, estimate in zip(records, estimate_many(base, records), strict=True)
            if abs(estimate.base_tokens - record["est_base_tokens"]) > 1 + 0.01 * record["est_base_tokens"]
        ]
        with_prompt = sum(prompt_text(record) is not None for record in others)
        which = f"completions of run {run or 'without a name'}"
        if with_prompt:
            found[run] = f"{with_prompt} of {len(records)} {which}"
        elif others:
            warn(f"{len(others)} of {len(records)} {which} have no prompt: was it this {of.base}?")
    return found


def _can_be_asked(base: Estimator, record: Record) -> bool:
    fields = ("est_base_tokens", *base.reads)
    return all(record.get(field) is not None for field in fields)


def _below(record: Record) -> Key:
    """Whose error it is: an estimate by a memory is one of its base too."""
    key = key_of(record)
    return key._replace(estimator=key.estimator.removeprefix(f"{Knn.name}:"))


def _seen(record: Record) -> Seen | None:
    """None for what says nothing: no answer, or nothing estimated."""
    seen, estimate = observed(record), unremembered_tokens(record)
    if seen is None or estimate <= 0:
        return None
    if record.get("status") in CUT_SHORT:  # in tokens, whatever the estimate counts
        words = record.get("est_tokenizer") == "whitespace"
        return Seen(record, max(1.0, estimate), seen.tokens, cut=True) if not words else None
    length = observed_output(record)
    return Seen(record, max(1.0, estimate), length, was_cut(record)) if length else None
