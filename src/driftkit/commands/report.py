"""`driftkit report`: tables of what happened."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, cast

import click

from driftkit.commands.stdio import Outcome, filter_options, reading, seed_option, stdout

if TYPE_CHECKING:
    from driftkit.records.schema import Record
    from driftkit.reporting.tables import Color


@click.command(
    epilog="Runs are told apart by label. Latency counts from offered_s. Requests that failed count in "
    "throughput only. With --baseline, labels are compared on the same ids; give each label several runs "
    "(seeds) for an interval over runs. Exit status 1 when there is no completion to report."
)
@click.option("--by", multiple=True, metavar="FIELD", help="Split rows by this field too; repeatable.")
@click.option(
    "--where", multiple=True, metavar="FIELD=VALUE", help="Only these completions; all must hold if repeated."
)
@click.option("--baseline", metavar="LABEL", help="Compare every other label with this one.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl"]),
    default="table",
    show_default=True,
    help="For people, or one summary record per row.",
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
    form: str,
    color: str,
    seed: int,
    on_error: str,
    rejects: str | None,
) -> int:
    """Print latency, error and fairness tables.

    Reads the completions of one or more runs. Estimates are reported uncalibrated and, after calibrate,
    calibrated beside it.
    """
    import difflib

    from driftkit.errors import DriftkitError, UsageError
    from driftkit.records.io import Writer
    from driftkit.reporting.completions import Collector, as_text
    from driftkit.reporting.errors_table import class_stability, estimate_error
    from driftkit.reporting.fairness import fairness, tier_inversions
    from driftkit.reporting.latency import latency, throughput
    from driftkit.reporting.paired import paired
    from driftkit.reporting.tables import render

    wanted = []
    for text in where:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise click.UsageError(
                f"--where: expected FIELD=VALUE, got {text!r}", click.get_current_context()
            )
        wanted.append((field, value))
    # fields that nobody has met yet: what stays unmet at the end was misspelt
    by = tuple(name for name in dict.fromkeys(by) if name != "label")  # that is split by anyway
    unmet = {*by, *(field for field, _ in wanted)}
    met: set[str] = set()

    def selected(record: Record) -> bool:
        if unmet:
            unmet.difference_update(record)
            met.update(record)
        return all(as_text(record.get(field)) == value for field, value in wanted)

    outcome = Outcome("report")
    collector = Collector(by, selected if by or wanted else None)
    with reading(outcome, files, on_error, rejects) as reader:
        for _ in reader.records("completion", collector.add, lambda record: None):
            pass
        if not collector.seen:
            raise DriftkitError("no completions in the input", hint="`driftkit run` makes completions")
    data = collector.columns()
    if unmet:
        field = min(unmet)
        near = difflib.get_close_matches(field, met, n=1)
        hint = f"did you mean {near[0]}?" if near else None
        option = "--by" if field in by else "--where"
        raise UsageError(f"{option}: no completion has a field {field!r}", hint=hint)
    if not len(data):
        raise DriftkitError(f"--where leaves none of {collector.seen} completions")
    tables = [latency(data, by), throughput(data, by), estimate_error(data, by), class_stability(data, by)]
    tables += [fairness(data), tier_inversions(data)]
    if baseline is not None:
        tables.append(paired(data, baseline, by, seed))
    for table in tables:
        own = [key for key, _ in table.columns]
        if len(set(own)) < len(own):
            twice = next(key for key in own if own.count(key) > 1)
            raise UsageError(f"--by: {twice} is a column of the table {table.title!r}")
    tables = [table for table in tables if table.rows or table.notes]
    if form == "jsonl":
        writer = Writer(stdout())
        for table in tables:
            for row in table.records():
                writer.write(row)
    else:
        stdout().flush()
        if color == "auto" and os.environ.get("NO_COLOR"):
            color = "never"
        render(tables, sys.stdout, cast("Color", color))
    return outcome.status
