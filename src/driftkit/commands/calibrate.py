"""`driftkit calibrate`: learn from completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import click

from driftkit.commands.configuration import Lines, given
from driftkit.commands.fit_engine import fit_engine, given_beside
from driftkit.commands.fit_lengths import fit_history, fit_knn, fit_regressor
from driftkit.commands.keeping import Keeper
from driftkit.commands.simulator import setup_of, simulator_options
from driftkit.commands.stdio import Outcome, filter_options, output_options, reading, stdout
from driftkit.registry import load, names

if TYPE_CHECKING:
    from driftkit.calibration.stream import Stream
    from driftkit.records.schema import Record

DRIFT_FOUND = 5
DRIFT = ("drift", "detectors", "alarms", "on_drift", "fail_on_drift")
LEARNING = ("method", "state", "sort_input", "live", "unbuffered", "redact_prompt")


@click.command(
    epilog="Methods: quantile, the default, tracks median, P10 and P90 of actual/estimate per tenant and "
    "category, adds cal_output_tokens_p10 and _p90, and follows drift soonest; ratio learns the mean of its "
    "logarithm, shrunk towards the category's; isotonic learns it as a rising function of the estimate, over "
    "the last 300 completions of each; all three treat outputs cut at max_tokens as censored. ema is the "
    "paper's moving average per category.\n\n"
    "Learning is prequential: a record's cal_output_tokens uses only what had finished before it arrived. "
    "Runs are learned one after the other, the next with what the last has taught; to compare runs of the "
    "same requests, calibrate each in a call of its own. With --state no completion is learned twice, and "
    "the rest of a run whose log was rotated still is, in a call of its own: the latest 1,000 are known by "
    "their run_id and id, and what ended before those counts as learned.\n\n"
    "Estimates made with --tokenizer whitespace are compared with actual_output_words.\n\n"
    "With --fit history the lengths of the outputs are counted, by tenant and category, and replace what the "
    "--state had of each served model: give all completions that are to count. Nothing is written to "
    "standard output.\n\n"
    "With --fit regressor a scikit-learn model learns the lengths of outputs from prompts and what else is "
    "known of a request, and replaces the one in --state. Its scores, out of fold and with estimates cut at "
    "max_tokens as outputs were, go to standard error: Kendall's tau, the mean absolute error beside that of "
    "a constant, and how many outputs lie between P10 and P90. Outputs that were cut enter with what they "
    "would have been expected to be, and so do those that were in flight when a run was ended "
    "(cancelled).\n\n"
    "With --fit knn the errors of the estimates are remembered, of the latest 10,000 completions of each "
    "estimator, with what the requests were like but without their text. Completions are added, each once; "
    "the clock of a run goes on from the end of the one before it. Outputs that were cut or in flight enter "
    "as with the regressor. Completions estimated by --model knn teach it too: what counts is the error of "
    "its base.\n\n"
    "With --drift each tenant is watched: what came against what was estimated (the residual), by its "
    "level or its distribution, and inputs, which are the mix of categories, prompt_tokens, and the "
    "estimate without its correction. An alarm is a record of kind alarm after the completion that raised "
    "it, whose cal_drift names the detector. Its action is warn where inputs alone have drifted, which "
    "leaves what was learned right; refit where residuals have, with inputs; and refit-recent where "
    "residuals have without: then what came before since_s is no longer true. Without drift the default "
    "detectors raise less than one alarm in 70,000 completions on average. Completions are held against "
    "each other in the order in which they started, inputs in that in which they arrived, so that an "
    "alarm waits for those before. With --state the watch goes on where it ended; detectors that are not "
    "called this time are forgotten.\n\n"
    "A fit takes away what was learned of the errors of the one before it. Calibrate what that one has "
    "estimated first, then fit.\n\n"
    "With --fit engine nothing is learned of estimates: the simulator's constants are fitted to completions "
    "of a real run, and the profile is written that --profile of run and schedule reads. The requests are "
    "replayed as they were offered, with their lengths, on the simulator that the options describe; its "
    "memory_efficiency, compute_efficiency, step_overhead_s, sequence_overhead_s and frontend_s are moved "
    "until each request's end-to-end latency, TTFT and TPOT come closest. Of the first half by arrival at "
    "most 1,000 completions are fitted; the second is held out, and the errors of both are shown. "
    "Completions without first_token_s are fitted by their end-to-end latency alone. Of a server that was "
    "busy all the time only how long a step takes can be told, less what each constant has in it: ask a "
    "fitted profile about other loads and policies, not about other cards. Limits of the server that are "
    "given by options are written into the profile where it has them; the others, --num-gpu-blocks above "
    "all, are to be given again, and its comments name them."
)
@click.option(
    "--method",
    metavar="NAME",
    help="How to learn: " + ", ".join(names("calibrators")) + ".  [default: the state's, or quantile]",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Start from what was learned there, and keep there what is learned now: at the end, and with --live "
    "every second.",
)
@click.option("--sort", "sort_input", is_flag=True, help="Read all, then take the completions in order.")
@click.option("--live", is_flag=True, help="Take records as they come, whatever their instants say.")
@click.option(
    "--fit",
    "fitting",
    type=click.Choice(["engine", "history", "regressor", "knn"]),
    help="Fit to completions what is named: engine, the simulator's constants, written as a profile; "
    "history, the lengths that estimate --model history goes by, regressor, what --model regressor "
    "predicts lengths with, and knn, the errors that --model knn corrects by; the last three are kept in the "
    "--state.",
)
@click.option("--embed", is_flag=True, help="With --fit regressor: embed prompts too (driftkit[embed]).")
@click.option(
    "--max-age",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="With --fit knn: forget errors older than so many seconds of runs; what lies between runs does not "
    "count.  [default: the state's, or never]",
)
@click.option("--drift", is_flag=True, help="Look out for drift; every option below of it includes this.")
@click.option(
    "--detector",
    "detectors",
    metavar="NAME",
    type=Lines(),
    multiple=True,
    help="By this detector: " + ", ".join(names("detectors")) + ". Repeatable.  [default: the first four]",
)
@click.option(
    "--alarms",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write alarms there, not among records.",
)
@click.option(
    "--on-drift",
    type=click.Choice(["keep", "reset"]),
    default="keep",
    show_default=True,
    help="After real drift (refit-recent), keep what was learned of the tenant, or let it count little.",
)
@click.option(
    "--fail-on-drift",
    is_flag=True,
    help="Exit status 5 when residuals have drifted, 3 when a run was not looked at, since --state knows it.",
)
@simulator_options
@output_options
@filter_options
def command(
    files: tuple[str, ...],
    method: str | None,
    state: str | None,
    sort_input: bool,
    live: bool,
    drift: bool,
    detectors: tuple[str, ...],
    alarms: str | None,
    on_drift: str,
    fail_on_drift: bool,
    fitting: str | None,
    embed: bool,
    max_age: float | None,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
    **simulator: Any,
) -> int:
    """Learn from completions how wrong the estimates are, or fit what --fit names.

    Adds cal_output_tokens and cal_bias_ratio to every completion: the estimate as it would have been with
    what was known at its arrival. With --state the result is kept for estimate; what was learned once is not
    learned again. With --drift it tells when a tenant's answers or requests are no longer what they were.
    """
    from driftkit.calibration.learned import Learned
    from driftkit.calibration.state import StateFolder
    from driftkit.calibration.stream import Stream, check_completion, in_order
    from driftkit.records.io import Writer, records_beside

    outcome = Outcome("calibrate")
    if max_age is not None and fitting != "knn":
        raise click.UsageError("--max-age goes with --fit knn", click.get_current_context())
    if fitting == "history":
        _refuse({*LEARNING, *DRIFT, *simulator, "embed"} - {"state"}, "--fit history")
        return fit_history(outcome, state, files, on_error, rejects)
    if fitting == "regressor":
        _refuse({*LEARNING, *DRIFT, *simulator} - {"state"}, "--fit regressor")
        return fit_regressor(outcome, state, embed, files, on_error, rejects)
    if fitting == "knn":
        _refuse({*LEARNING, *DRIFT, *simulator, "embed"} - {"state"}, "--fit knn")
        return fit_knn(outcome, state, max_age, files, on_error, rejects)
    if embed:
        raise click.UsageError("--embed goes with --fit regressor", click.get_current_context())
    if fitting == "engine":
        _refuse((*LEARNING, *DRIFT, "power_cap"), "--fit engine")
        beside = given_beside(simulator)  # setup_of takes what it reads
        return fit_engine(outcome, setup_of(simulator), beside, files, on_error, rejects)
    for option in simulator:
        if given(option):
            raise click.UsageError(f"{_option(option)} goes with --fit engine", click.get_current_context())
    watched = drift or any(given(option) for option in DRIFT)
    watchers = _watchers(detectors, fail_on_drift) if watched else ()
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
        learned = Learned(folder, method, watchers)
        stream = Stream(learned.start, live=live, reset=on_drift == "reset")
        alarm_to: Callable[[Record], None] = writer.write
        if alarms is not None:
            alarm_to = stack.enter_context(records_beside("--alarms", alarms, files, unbuffered or live))
        drifted = False

        def raise_alarms(raised: list[Record]) -> None:
            nonlocal drifted
            for alarm in raised:
                alarm_to(alarm)
                outcome.warn(_said(alarm))
                drifted |= alarm["drift_of"] == "residual"

        keeper = None
        if folder is not None and live:
            keeper = stack.enter_context(Keeper(folder, stream, outcome.warn_once))
        lock = keeper.lock if keeper is not None else nullcontext()

        def take(record: Record) -> None:
            with lock:
                stream.calibrate(record)
                raised = stream.watch(record)
                writer.write(record)
                raise_alarms(raised)
                stream.learn(record)

        reader = stack.enter_context(reading(outcome, files, on_error, rejects))
        if sort_input:
            completions = [r for r in reader.records("completion", checked, untouched) if r is not None]
            for record in in_order(completions):
                take(record)
        else:
            for _ in reader.records("completion", take, untouched):
                pass
        with lock:
            raise_alarms(stream.end_watch())
        stdout().flush()  # what is learned is kept only once what was read is out
        if keeper is None:
            learned.save(stream)
        if folder is not None and any("" in learning.new_runs for learning in stream.learning.values()):
            outcome.warn("completions without run_id were learned: they will be again if they come again")
        for run in sorted(stream.repeated):
            outcome.warn(_said_again(stream, run, watched))
        if fail_on_drift and any(not stream.learned(run) for run in stream.repeated):
            outcome.failed += 1  # a gate that has not looked does not pass
    return DRIFT_FOUND if drifted and fail_on_drift else outcome.status


def _watchers(detectors: tuple[str, ...], fail_on_drift: bool) -> tuple[str, ...]:
    """The detectors to call; UsageError for a name that is none."""
    detectors = tuple(dict.fromkeys(detectors)) or tuple(names("detectors")[:4])
    residual = [{"residual", "rank"} & {*load("detectors", name).watches} for name in detectors]
    if fail_on_drift and not any(residual):
        text = "--fail-on-drift needs a detector of residuals: " + ", ".join(detectors) + " watch inputs"
        raise click.UsageError(text, click.get_current_context())
    return detectors


def _said(alarm: Record) -> str:
    """An alarm in one line."""
    found = f"{alarm['statistic']:.4g} > {alarm['threshold']:.4g}"
    advice = {
        "warn": "what was learned still holds",
        "refit": "the estimator needs a new fit",
        "refit-recent": "the estimator needs a new fit on what came since",
    }
    return (
        f"drift: tenant {alarm.get('tenant', 'without a name')}: {alarm['detector']} of {alarm['drift_of']} "
        f"{found} at {alarm['at_s']:.6g} s, since {alarm['since_s']:.6g} s: {advice[alarm['action']]}"
    )


def _said_again(stream: Stream, run: str, watched: bool) -> str:
    """What was not learned of a run, since it had been before."""
    count, past = stream.repeated[run], stream.past[run]
    if stream.learned(run):
        which = f"{count} completions of run {run} were learned before: they are not again, and their"
    else:
        which = f"run {run} was learned before: the state does not change, and its"
    unseen = ", and drift is not looked for" if watched else ""
    guessed = f"; of {past} of them only finished_s says so" if past else ""
    return f"{which} calibrated estimates come from one who knew the answers{unseen}{guessed}"


def _option(parameter: str) -> str:
    """The option of a parameter's name, as it is written."""
    params = {param.name: param for param in click.get_current_context().command.params}
    return params[parameter].opts[-1]


def _refuse(parameters: Iterable[str], fitting: str) -> None:
    """UsageError for options that say nothing to a fit."""
    for parameter in parameters:
        if given(parameter):
            text = f"{_option(parameter)}: nothing to do with {fitting}"
            raise click.UsageError(text, click.get_current_context())
