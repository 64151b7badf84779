"""`calibrate --fit engine`: the simulator's constants, fitted to a real run and written as a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from driftkit.commands.configuration import given
from driftkit.commands.stdio import Outcome, reading, stdout

if TYPE_CHECKING:
    from driftkit.engines.sim.fit import Error, Fit, Observed, Run
    from driftkit.engines.sim.simulation import Setup
    from driftkit.records.schema import Record

#: options of the simulator whose values are in a profile
HELD = {
    *("gpu", "served_model", "profile"),
    *("max_num_batched_tokens", "max_num_seqs", "max_model_len", "async_scheduling"),
}


def fit_engine(
    outcome: Outcome,
    start: Setup,
    beside: list[str],
    files: tuple[str, ...],
    on_error: str,
    rejects: str | None,
) -> int:
    from driftkit.engines.sim import fit as fitting
    from driftkit.errors import DriftkitError, UsageError
    from driftkit.policies.base import Policy, of_run
    from driftkit.records.schema import checker
    from driftkit.records.unique import UniqueIds

    if start.step_time_scale != 1:
        raise UsageError("--step-time-scale: --fit engine is to find that out")
    unique = UniqueIds()
    policies: dict[str, Policy] = {}
    failed = 0

    def read(record: Record) -> Observed | None:
        nonlocal failed
        one = fitting.observed(record)
        policy = of_run(policies, record)
        if not policy.static:
            checker(policy.reads)(record)
        unique.add(record["id"])
        failed += one is None
        return one

    with reading(outcome, files, on_error, rejects) as reader:
        found = [one for one in reader.records("completion", read, lambda record: None) if one is not None]
    if failed:
        outcome.warn(f"{failed} completions that did not end well are left out")
    if not found:
        hint = "a log of one's own becomes completions with gen --map" if not failed else None
        raise DriftkitError("no completions that ended well: nothing to fit", hint=hint)
    run = fitting.run_of(found, next(iter(policies.values())))
    before = run.replayed(start)
    fit = fitting.fit(run, start)
    after = run.replayed(fit.setup)
    halves = [
        (what, fitting.errors(*(side.part(these) for side in (run.latencies, before, after))))
        for what, these in (("fitted", slice(fit.fitted)), ("held out", slice(fit.judged, None)))
    ]
    lines = [*_provenance(run, start, fit), *beside, "", *_table(halves)]
    for line in lines:
        click.echo(line, err=True)
    for name in fit.at_bounds:
        value = getattr(fit.setup.gpu, name)
        outcome.warn(f"{name} went to its bound, {value:g}: the engine is not what the profile says it is")
    if not _closer(halves[1][1]):
        outcome.warn("held out, the fit is no better than what it started from")
    stdout().write(fitting.written(*fitting.profile_of(fit.setup), lines).encode())
    stdout().flush()
    return outcome.status


def _table(halves: list[tuple[str, list[Error]]]) -> list[str]:
    """The errors for people, on standard error and in the profile's comments."""
    lines = [f"{'':<9} {'seconds':<11} {'measured':>10} {'before':>10} {'after':>10} {'error %':>8}"]
    for what, errors in halves:
        for one in errors:
            cells = f"{one.measured_s:>10.4g} {one.before_s:>10.4g} {one.after_s:>10.4g} {one.percent:>+8.2f}"
            lines.append(f"{what:<9} {one.metric:<6} {one.statistic:<4} {cells}")
    return lines


def _closer(errors: list[Error]) -> bool:
    """Whether the replay's mean latencies are not further from the measured ones than before, by 1 % each."""
    means = [one for one in errors if one.statistic == "mean"]
    before = sum(abs(one.before_s / one.measured_s - 1) for one in means)
    return sum(abs(one.after_s / one.measured_s - 1) for one in means) <= before + 0.01 * len(means)


def given_beside(simulator: dict[str, Any]) -> list[str]:
    """A line with the options given that the profile will not hold."""
    options = []
    for param in click.get_current_context().command.params:
        name = param.name or ""
        if name in simulator and name not in HELD and given(name):
            value, on, off = simulator[name], param.opts, param.secondary_opts
            options.append((on if value else off)[0] if off else f"{on[0]} {value}")
    return [f"Beside --profile give again: {' '.join(options)}"] if options else []


def _provenance(run: Run, start: Setup, fit: Fit) -> list[str]:
    """What a profile was fitted from: the same run, the same text."""
    from driftkit import __version__
    from driftkit.engines.sim.fit import FITTED
    from driftkit.errors import printable

    first = run.completions[0].record
    of = printable(str(first.get("run_id") or "a run without run_id"))
    when = f", started {printable(str(first['run_started_at']))}" if first.get("run_started_at") else ""
    moved = ", ".join(f"{name} {getattr(start.gpu, name):g}" for name in FITTED)
    return [
        f"Fitted by driftkit {__version__} to {of}{when}:",
        f"the first {fit.fitted} of {len(run.completions)} completions; held out: from {fit.judged + 1} on.",
        f"Before, {start.gpu.name} with {start.served_model.name}: {moved}.",
        f"After: {', '.join(f'{name} {getattr(fit.setup.gpu, name):g}' for name in FITTED)}.",
    ]
