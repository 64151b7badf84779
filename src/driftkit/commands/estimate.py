"""`driftkit estimate`: a token budget for every request."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from driftkit.commands.stdio import Outcome, filter_options, output_options, reading, stdout
from driftkit.registry import names

if TYPE_CHECKING:
    from driftkit.records.schema import Record

BATCH = 256  # records that are estimated at once, at most


class Asked(NamedTuple):
    """A record, and whether it still waits for its estimate."""

    record: Record
    waits: bool


@click.command(
    epilog="Models: table is the paper's constants by category, stretched by tier and input length; "
    "prompt-length takes the prompt's length for the output's; history goes by how long outputs of the "
    "tenant and category have been, which calibrate --fit history keeps in the --state; regressor predicts "
    "them, as calibrate --fit regressor has learned it; knn corrects the estimates of another of these, its "
    "--base, by the errors that it made of the requests most like this one, which calibrate --fit knn "
    "remembers; oracle reads trace_output_tokens.\n\n"
    "Tokenizers: one of whitespace, builtin (a byte-level BPE, no network needed), a tiktoken encoding, or a "
    "tekken, .tiktoken or tokenizer.json file.\n\nA record that has prompt_tokens keeps them.\n\n"
    "A record that comes under --follow after another process has replaced a correction in the state gets "
    "the new one. If that is damaged or gone, a line says so, and what was known before goes on. What "
    "history, regressor and knn go by is read once, at the start, and a correction that was learned beside a "
    "newer fit does not go with an older one: after a fit, restart what follows."
)
@click.option(
    "--model",
    default="table",
    show_default=True,
    metavar="NAME",
    help="How the output length is estimated: " + ", ".join(names("estimators")) + ".",
)
@click.option(
    "--base",
    metavar="NAME",
    help="With --model knn: the model whose errors are corrected.  [default: the one that the --state has a "
    "memory of]",
)
@click.option(
    "--tokenizer",
    default="builtin",
    show_default=True,
    metavar="NAME|FILE",
    help="What counts the prompts.",
)
@click.option(
    "--state", metavar="DIR", type=click.Path(file_okay=False), help="Apply what calibrate has learned there."
)
@click.option(
    "--follow",
    is_flag=True,
    help="Take requests as they come, each with what the --state has learned by then.",
)
@click.option(
    "--served-model",
    default="qwen1.5-1.8b",
    show_default=True,
    metavar="NAME",
    help="With --state: the model that the requests are for.",
)
@output_options
@filter_options
def command(
    files: tuple[str, ...],
    model: str,
    base: str | None,
    tokenizer: str,
    state: str | None,
    follow: bool,
    served_model: str,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
) -> int:
    """Add a token budget to every request.

    Counts the prompt where the record does not say, estimates the output, and adds both up to
    est_total_tokens. Every factor of the estimate is a field of its own.
    """
    from driftkit.calibration.corrections import Corrections
    from driftkit.calibration.state import StateFolder
    from driftkit.calibration.stream import key_of
    from driftkit.estimation.base import (
        Correction,
        NoCorrection,
        annotate,
        build,
        count_prompt,
        estimate_many,
    )
    from driftkit.estimation.tokenizers import load as load_tokenizer
    from driftkit.records.attentive import attentive
    from driftkit.records.io import Writer
    from driftkit.records.schema import check_prompt, checker
    from driftkit.registry import load

    outcome = Outcome("estimate")
    counter = load_tokenizer(tokenizer)
    folder = StateFolder(state) if state is not None else None
    at = folder.path if folder is not None else None
    estimator = build(load("estimators", model), at, served_model, outcome.warn_once, base)
    at_once = hasattr(estimator, "estimate_many")
    writer = Writer(stdout(), unbuffered=unbuffered or follow, redact=redact_prompt)
    learned = None
    if counter.name == "whitespace" and estimator.name in ("history", "regressor"):
        outcome.warn(
            f"--tokenizer whitespace counts words, and --model {model} tells tokens: what is learned "
            "of its errors will be wrong"
        )
    if folder is not None:
        fitted = hasattr(estimator, "from_state")
        learned = Corrections(folder, outcome.warn, follow=follow, optional=fitted)
    uncorrected = NoCorrection()
    check = checker(
        ("id", "arrival_s", *estimator.reads),
        (
            "tenant",
            "tier",
            "category",
            "prompt",
            "messages",
            "prompt_tokens",
            "max_tokens",
            "turn",
            "est_tokenizer",
        ),
    )

    def correction(record: Record) -> Correction:
        if learned is None:
            return uncorrected
        return learned.of(key_of({**record, "est_model": estimator.name}, served_model))

    def prepared(record: Record) -> Record:
        check(record)
        check_prompt(record)
        record.setdefault("kind", "request")
        record.setdefault("schema", 1)
        count_prompt(record, counter.count, counter.name)
        return record

    def one(record: Record) -> Asked:
        """A record that the estimator takes by itself, done; one that waits for others, asked for."""
        prepared(record)
        if not at_once:
            annotate(record, estimator, correction(record))
        return Asked(record, at_once)

    def other(record: Record) -> Asked:
        """A recorded completion without an estimate gets the one that it would have had."""
        recorded = record.get("kind") == "completion" and record.get("est_output_tokens") is None
        if not recorded:
            return Asked(record, False)
        reader.taken += 1
        return one(record)

    if not at_once:
        with reading(outcome, files, on_error, rejects) as reader:
            for asked in reader.records("request", one, other):
                writer.write(asked.record)
        return outcome.status
    gathered: list[Asked] = []

    def done() -> None:
        """Estimate what was gathered, and write it."""
        batch = gathered[:]
        gathered.clear()
        estimates = iter(estimate_many(estimator, [record for record, waits in batch if waits]))
        for record, waits in batch:
            if waits:
                annotate(record, estimator, correction(record), next(estimates))
            writer.write(record)

    def before_waiting() -> None:
        done()
        writer.flush()

    # what comes one by one is estimated at once, and a flood many at a time
    wrapped = partial(attentive, before_waiting=before_waiting)
    with reading(outcome, files, on_error, rejects, wrapped=wrapped) as reader:
        try:
            for asked in reader.records("request", one, other):
                gathered.append(asked)
                if len(gathered) == BATCH:
                    done()
        finally:
            done()
    return outcome.status
