"""`driftkit report`: tables of what happened."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, cast

import click

from driftkit.commands.configuration import Lines
from driftkit.commands.stdio import Outcome, filter_options, reading, seed_option, stdout

if TYPE_CHECKING:
    from driftkit.records.schema import Record
    from driftkit.reporting.tables import Color

GATE_CROSSED = 4
MOST_NAMES = 5  # of runs in one line


@click.command(
    epilog="Runs are told apart by label. Latency counts from offered_s. Requests that failed count in "
    "throughput and goodput only. With --baseline, labels are compared on the same ids; give each "
    "label several runs (seeds) for an interval over runs. The tables error_by_decile (what came of short "
    "and long estimates), error_over_time and queue_course are long: --table shows them, and --format jsonl"
    " has them always. The table telemetry says what GPUs, "
    "processes and servers did from a run's first arrival to its last end, by the trapezoid rule "
    "over the samples: a gap is left out, and said. A gate is TABLE.FIELD OPERATOR NUMBER "
    "[NAME=VALUE]..., with the names of --format jsonl; a latency's name stands for its rows: "
    "--fail-if 'e2e_s.p99>30 label=sjf'. Exit status 1 when there is no completion to report, 4 when"
    " a gate was crossed."
)
@click.option(
    "--by", type=Lines(), multiple=True, metavar="FIELD", help="Split rows by this field too; repeatable."
)
@click.option(
    "--where",
    type=Lines(),
    multiple=True,
    metavar="FIELD=VALUE",
    help="Only these completions; all must hold if repeated.",
)
@click.option("--baseline", metavar="LABEL", help="Compare every other label with this one.")
@click.option(
    "--table",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="Only this table, by its name in --format jsonl; repeatable.",
)
@click.option(
    "--telemetry",
    "telemetry_files",
    metavar="FILE",
    type=click.Path(),
    multiple=True,
    help="Join what run --telemetry wrote there by run and time: energy, load, queues; repeatable.",
)
@click.option("--trend", is_flag=True, help="Add a row per run: is it still true tonight?")
@click.option(
    "--fail-if",
    "gates",
    type=Lines(),
    multiple=True,
    metavar="GATE",
    help="Exit with 4 if this holds; repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="For people, or for a program: one summary record per row.",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour; auto asks the terminal, NO_COLOR and TERM.",
)
@seed_option
@filter_options
def command(
    files: tuple[str, ...],
    by: tuple[str, ...],
    where: tuple[str, ...],
    baseline: str | None,
    wanted: tuple[str, ...],
    telemetry_files: tuple[str, ...],
    trend: bool,
    gates: tuple[str, ...],
    form: str,
    color: str,
    seed: int,
    on_error: str,
    rejects: str | None,
) -> int:
    """Print latency, error and fairness tables.

    Reads the completions of one or more runs. Estimates are reported as they were made and, after calibrate,
    calibrated beside it.
    """
    from driftkit.errors import DriftkitError, UsageError, near, near_or_known
    from driftkit.records.io import Writer
    from driftkit.reporting import csv, markdown
    from driftkit.reporting import gates as gate
    from driftkit.reporting import tables as table
    from driftkit.reporting.completions import Collector, as_text
    from driftkit.reporting.report import LONG, NAMES, NEEDS, groups_of, report
    from driftkit.reporting.telemetry import Samples

    conditions = []
    for text in where:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise click.UsageError(
                f"--where: expected FIELD=VALUE, got {text!r}", click.get_current_context()
            )
        conditions.append((field, value))
    for name in wanted:
        if name not in NAMES:
            raise UsageError(f"--table: no table named {name!r}", hint=near_or_known(name, NAMES))
    limits = [gate.parse(text, NAMES) for text in gates]
    if baseline is None and "paired" in (*wanted, *(limit.table for limit in limits)):
        raise click.UsageError("the table paired goes with --baseline", click.get_current_context())
    by = tuple(name for name in dict.fromkeys(by) if name != "label")  # that is split by anyway
    # fields that nobody has met yet: what stays unmet at the end was misspelt
    unmet = {*by, *(field for field, _ in conditions)}
    met: set[str] = set()

    def selected(record: Record) -> bool:
        if unmet:
            unmet.difference_update(record)
            met.update(record)
        return all(as_text(record.get(field)) == value for field, value in conditions)

    outcome = Outcome("report")
    collector = Collector(by, selected if by or conditions else None)
    samples = Samples()

    def other(record: Record) -> None:
        if record.get("kind") == "telemetry":
            samples.add(record)

    with reading(outcome, files, on_error, rejects, afterwards=telemetry_files) as reader:
        for _ in reader.records("completion", collector.add, other):
            pass
        if not collector.seen:
            raise DriftkitError("no completions in the input", hint="`driftkit run` makes completions")
    if strangers := [run_id for run_id in samples.run_ids if run_id not in collector.run_ids]:
        count = sum(map(samples.count, strangers))
        known = ", ".join(strangers[:MOST_NAMES]) + (", ..." if len(strangers) > MOST_NAMES else "")
        outcome.warn(f"{count} samples are of runs without a completion here: {known}")
    if unmet:
        field = min(unmet)
        option = "--by" if field in by else "--where"
        raise UsageError(f"{option}: no completion has a field {field!r}", hint=near(field, sorted(met)))
    data = collector.columns()
    if not len(data):
        raise DriftkitError(f"--where leaves none of {collector.seen} completions")

    optional = {"trend": trend, **dict.fromkeys(LONG, form == "jsonl")}
    names = set(wanted) or {name for name in NAMES if optional.get(name, True)}
    made = report(data, samples, by, baseline, seed, names | {limit.table for limit in limits})
    lines = [
        line
        for limit in limits
        for line in gate.crossed(
            limit, made[limit.table], groups_of(limit.table, limit.field, data, by, baseline)
        )
    ]
    shown = [made[name] for name in made if name in names and (made[name].rows or made[name].notes)]
    if form == "jsonl":
        writer = Writer(stdout())
        for one in shown:
            for row in one.records():
                writer.write(row)
    else:
        if form == "csv":
            text = csv.rendered([one for one in shown if one.rows])
        elif form == "markdown":
            text = markdown.rendered(shown)
        else:
            if color == "auto" and os.environ.get("NO_COLOR"):
                color = "never"
            text = table.rendered(shown, sys.stdout, cast("Color", color))
        stdout().write(text.encode())
    for name in dict.fromkeys(wanted):
        if made[name] not in shown:
            outcome.warn(f"the table {name} is empty: it needs {NEEDS.get(name, 'what was served')}")
    for line in lines:
        outcome.warn(line)
    return GATE_CROSSED if lines else outcome.status
