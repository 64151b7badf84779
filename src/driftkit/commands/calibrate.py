"""`driftkit calibrate`: learn from completions."""

from __future__ import annotations

from contextlib import ExitStack

import click

from driftkit.commands.stdio import Outcome, filter_options, output_options, reading, stdout
from driftkit.registry import names


@click.command(
    epilog="Methods: ratio, the default, learns actual/estimate per tenant and category, shrunk towards the "
    "category, and treats outputs cut at max_tokens as censored; ema is the paper's moving average per "
    "category.\n\n"
    "Learning is prequential: a record's cal_output_tokens uses only what had finished before it arrived. "
    "Runs are learned one after the other, the next with what the last has taught; to compare runs of the "
    "same requests, calibrate each in a call of its own.\n\n"
    "Estimates made with --tokenizer whitespace are compared with actual_output_words."
)
@click.option(
    "--method",
    metavar="NAME",
    help="How to learn: " + ", ".join(names("calibrators")) + ".  [default: the state's, or ratio]",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Start from what was learned there, and keep there what is learned now.",
)
@click.option("--sort", "sort_input", is_flag=True, help="Read all, then take the completions in order.")
@click.option("--live", is_flag=True, help="Take records as they come, whatever their instants say.")
@output_options
@filter_options
def command(
    files: tuple[str, ...],
    method: str | None,
    state: str | None,
    sort_input: bool,
    live: bool,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
) -> int:
    """Learn from completions how wrong the estimates are.

    Adds cal_output_tokens and cal_bias_ratio to every completion: the estimate as it would have been with
    what was known at its arrival. With --state the result is kept for estimate; a run learned once is not
    learned again.
    """
    from driftkit.calibration.learned import Learned
    from driftkit.calibration.state import StateFolder
    from driftkit.calibration.stream import Stream, check_completion, in_order
    from driftkit.records.io import Writer
    from driftkit.records.schema import Record

    outcome = Outcome("calibrate")
    writer = Writer(stdout(), unbuffered=unbuffered or live, redact=redact_prompt)

    def checked(record: Record) -> Record:
        check_completion(record)
        return record

    def untouched(record: Record) -> None:
        writer.write(record)

    with ExitStack() as stack:
        folder = StateFolder(state) if state is not None else None
        if folder is not None:
            stack.enter_context(folder.writing())
        learned = Learned(folder, method)
        stream = Stream(learned.start, live=live)
        reader = stack.enter_context(reading(outcome, files, on_error, rejects))
        if sort_input:
            completions = [r for r in reader.records("completion", checked, untouched) if r is not None]
            for record in in_order(completions):
                writer.write(stream.take(record))
        else:
            for taken in reader.records("completion", stream.take, untouched):
                if taken is not None:
                    writer.write(taken)
        stdout().flush()  # what is learned is kept only once what was read is out
        learned.save(stream)
        if folder is not None and any("" in learning.new_runs for learning in stream.learning.values()):
            outcome.warn("completions without run_id were learned: they will be again if they come again")
        for run in sorted(stream.repeated):
            outcome.warn(
                f"run {run} was learned before: the state does not change, and its calibrated estimates "
                "come from one who knew the answers"
            )
    return outcome.status
