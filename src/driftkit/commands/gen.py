"""`driftkit gen`: a workload out of nothing, or out of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import click

from driftkit.commands.stdio import Outcome, error_options, output_options, seed_option, stdout
from driftkit.registry import names

if TYPE_CHECKING:
    from driftkit.records.schema import Record


@click.command(
    epilog="The driftsched preset is the paper's workload: a third of the requests in a learning phase, then "
    "a barrier, then the stress phase. Length models: near-cap (outputs end near max_tokens, the paper's "
    "regime) and chat (fitted to Qwen1.5-1.8B-Chat). A trace without tenants gets the preset's three, drawn "
    "uniformly under --seed."
)
@click.option("--preset", type=click.Choice(["driftsched"]), help="Make this workload.")
@click.option("--requests", type=click.IntRange(1), help="Requests of the preset in all.  [default: 3000]")
@click.option(
    "--lengths",
    type=click.Choice(["near-cap", "chat"]),
    help="Length model of the preset.  [default: near-cap]",
)
@click.option(
    "--length-scale",
    type=click.FloatRange(0, min_open=True),
    help="Multiply the length model's median, to see what hangs on it.  [default: 1]",
)
@click.option("--trace", metavar="FILE", help="Read this trace (gzipped or not; - is standard input).")
@click.option(
    "--trace-format",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Format of the trace: " + ", ".join(names("traces")) + "; auto looks at its first line.",
)
@seed_option
@error_options
@output_options
def command(
    preset: str | None,
    requests: int | None,
    lengths: str | None,
    length_scale: float | None,
    trace: str | None,
    trace_format: str,
    seed: int,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
) -> int:
    """Make a tenant workload, or read a trace.

    Writes one request a line: who sends what when, how long the answer may be, and, because it is made up
    or recorded, how long it will truly be (trace_output_tokens).
    """
    from driftkit.records.io import Writer

    if (preset is None) == (trace is None):
        raise click.UsageError("give either --preset NAME or --trace FILE", click.get_current_context())
    writer = Writer(stdout(), unbuffered=unbuffered)
    if trace is None:
        from driftkit.workload import driftsched
        from driftkit.workload.lengths import named

        model = named(lengths or "near-cap").scaled(length_scale or 1.0)
        for record in driftsched.requests(requests or driftsched.REQUESTS, model, seed):
            writer.write(record)
        return 0
    for option, value in (("--requests", requests), ("--lengths", lengths), ("--length-scale", length_scale)):
        if value is not None:
            raise click.UsageError(
                f"{option} goes with --preset, not with --trace", click.get_current_context()
            )
    outcome = Outcome("gen")
    for record in _trace(outcome, trace, trace_format, seed, on_error, rejects):
        writer.write(record)
    return outcome.status


def _trace(
    outcome: Outcome, path: str, trace_format: str, seed: int, on_error: str, rejects: str | None
) -> Iterator[Record]:
    from driftkit.commands.stdio import reading
    from driftkit.errors import DriftkitError
    from driftkit.records.io import readable
    from driftkit.registry import load
    from driftkit.workload.traces import Trace, sniff, tenant_assigner

    assign = tenant_assigner(seed)
    with reading(outcome, [path], on_error, rejects) as reader:
        name, stream = reader.sources[0]
        if trace_format == "auto":
            lines = readable(name, stream)
            head = [next(lines, b"")]
            while head[-1].isspace():
                head.append(next(lines, b""))
            if not head[-1]:
                return
            try:
                trace_format = sniff(head[-1])
            except DriftkitError as error:
                raise DriftkitError(f"{name}:{len(head)}: {error.message}", hint=error.hint) from None
            reader.sources = [(name, chain(head, lines))]
        trace: Trace = load("traces", trace_format)()
        parse: Callable[[bytes], Record | None] = trace.parse
        for record in reader.lines(parse):
            if record is not None:
                assign(record)
                yield record
