"""`driftkit gen`: a workload out of nothing, or out of a trace."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import click

from driftkit.commands.configuration import Lines, on_command_line
from driftkit.commands.ranges import Numbers
from driftkit.commands.stdio import Outcome, error_options, output_options, seed_option, stdout
from driftkit.registry import names
from driftkit.workload import presets

if TYPE_CHECKING:
    from driftkit.records.io import Reader
    from driftkit.records.schema import Record
    from driftkit.workload.drift import Drift
    from driftkit.workload.traces import Options


@click.command(
    epilog="A spec is a TOML file that describes tenants, arrivals and lengths; --print-spec shows a preset "
    "as one, to start from, and the manual page driftkit-spec(5) lists its keys. "
    "The driftsched preset is the paper's workload: a third of the requests in a learning phase, then "
    "a barrier, then the stress phase. Length models: near-cap (outputs end near max_tokens, the paper's "
    "regime) and chat (fitted to Qwen1.5-1.8B-Chat). A trace without tenants gets the preset's three, drawn "
    "uniformly under --seed, one per session."
    "\n\nA log of your own becomes a workload with --map, for instance --map arrival_s=ts_ms/1000 --map "
    "prompt_tokens=usage.prompt_tokens --map trace_output_tokens=usage.completion_tokens. Instants are "
    "numbers or ISO 8601 timestamps, and count from the first row. Where the log says when a request ended "
    "(finished_s, or e2e_s for how long it took), its rows become completions, for estimate, calibrate "
    "--sort and report: started_s or queue_wait_s, first_token_s or ttft_s, actual_output_tokens, status "
    "(a name or an HTTP status), error, tenant and the rest of driftkit's fields may be mapped too; what "
    "follows from them is computed. Values under driftkit's own names need no --map."
    "\n\nA row that arrives before the first one is an error unless --sort is given; otherwise the trace's "
    "order stays, and `run` orders by arrival. A part whose rate is over twice the whole trace's, or under "
    "half, is said: for that the trace is read to its end. sharegpt and vllm-bench are read whole; sharegpt "
    "and openai-batch have no arrivals, so that all arrive at 0. servegen (a folder, or a tar) draws from "
    "its clients' rates and histograms."
)
@click.option("--preset", type=click.Choice(presets.NAMES), help="Make this workload.")
@click.option("--spec", metavar="FILE", help="Make the workload that this TOML file describes (- is stdin).")
@click.option(
    "--print-spec", type=click.Choice(presets.NAMES), help="Print the preset as a file for --spec, and end."
)
@click.option(
    "--requests",
    type=click.IntRange(1, 10**9),
    help="How many requests in all, at most, instead of what the workload says (driftsched: 3000).",
)
@click.option(
    "--lengths",
    metavar="NAME",
    help="Take all output lengths from this model of the workload (driftsched: near-cap, chat).",
)
@click.option(
    "--length-scale",
    type=Numbers(0, min_open=True),
    help="Multiply the length model's median, to see what hangs on it.  [default: 1]",
)
@click.option(
    "--drift",
    "drifts",
    metavar="KEY=VALUE,...",
    type=Lines(),
    multiple=True,
    help="Move lengths, rates or mixes from an instant on: kind=step|ramp|season,at=SECONDS,factor=F, and "
    "where wanted what=lengths|rate|mix, tenant=NAME, category=NAME, until=SECONDS, period=SECONDS. "
    "Repeatable.",
)
@click.option("--trace", metavar="FILE", help="Read this trace (gzipped or not; - is standard input).")
@click.option(
    "--trace-format",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Format of the trace: " + ", ".join(names("traces")) + "; auto looks at its first bytes.",
)
@click.option(
    "--map",
    "maps",
    metavar="FIELD=THEIRS",
    type=Lines(),
    multiple=True,
    help="With csv and jsonl: which column, or JSON key with dots, is which of driftkit's fields; "
    "THEIRS/1000 divides, as milliseconds need. Repeatable.",
)
@click.option("--window", metavar="START:END", help="Only what arrives then, in seconds of the trace.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N requests of that.")
@click.option(
    "--rate-scale",
    type=Numbers(1e-6, 1e6),
    metavar="X",
    help="Divide the arrivals by X: 2 sends the same requests twice as fast.  [default: 1]",
)
@click.option("--sort", is_flag=True, help="Read the whole trace and order it by arrival.")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["recorded", "requests"]),
    help="A trace with timings gives completions; requests leaves the timings out, to run them again.  "
    "[default: recorded]",
)
@click.option("--label", metavar="NAME", help="Name of the recorded run.  [default: the file's]")
@click.option(
    "--tokenizer",
    default="builtin",
    show_default=True,
    metavar="NAME|FILE",
    help="What counts text whose length is needed: a sharegpt answer, a prompt under --to mooncake.",
)
@click.option(
    "--to",
    "export",
    metavar="NAME",
    help="Write what other load generators replay: " + ", ".join(names("exports")) + ".",
)
@seed_option
@error_options
@output_options
def command(
    preset: str | None,
    requests: int | None,
    lengths: str | None,
    length_scale: float | None,
    drifts: tuple[str, ...],
    spec: str | None,
    print_spec: str | None,
    trace: str | None,
    trace_format: str,
    maps: tuple[str, ...],
    window: str | None,
    limit: int | None,
    rate_scale: float | None,
    sort: bool,
    kind: str | None,
    label: str | None,
    tokenizer: str,
    export: str | None,
    seed: int,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
) -> int:
    """Make a tenant workload, or read a trace.

    Writes one request a line: who sends what when, how long the answer may be, and, because it is made up
    or recorded, how long it will truly be (trace_output_tokens).
    """
    from driftkit.records.io import Writer

    ways = {"preset": preset, "spec": spec, "print_spec": print_spec, "trace": trace}
    if any(ways[name] is not None and on_command_line(name) for name in ways):  # over what is configured
        ways = {name: way if on_command_line(name) else None for name, way in ways.items()}
        preset, spec, print_spec, trace = ways.values()
    if sum(way is not None for way in ways.values()) != 1:
        text = "give one of --preset NAME, --spec FILE, --print-spec NAME and --trace FILE"
        raise click.UsageError(text, click.get_current_context())
    if print_spec is not None:
        stdout().write(presets.text(print_spec))
        return 0
    if redact_prompt and export == "openai-batch":
        text = "--redact-prompt leaves nothing of an openai-batch"
        raise click.UsageError(text, click.get_current_context())
    outcome = Outcome("gen")
    writer = Writer(stdout(), unbuffered=unbuffered, redact=redact_prompt)
    if trace is None:
        _only_with("--trace", outcome, maps=maps, window=window, limit=limit, label=label)
        _only_with("--trace", outcome, rate_scale=rate_scale, sort=sort or None, **{"as": kind})
        records = _made(outcome, preset, spec or "-", seed, requests, lengths, length_scale, drifts)
    else:
        from driftkit.workload.traces import Options
        from driftkit.workload.traces.slicing import parse_window

        _only_with(
            "--preset and --spec",
            outcome,
            requests=requests,
            lengths=lengths,
            length_scale=length_scale,
            drifts=drifts,
        )
        options = Options(seed, parse_window(window) if window else None, maps, tokenizer, label)
        records = _trace(
            outcome, trace, trace_format, options, limit, rate_scale or 1.0, sort, kind, on_error, rejects
        )
    if redact_prompt and export is None:
        records = _counted(records, tokenizer)
    if export is not None:
        records = _exported(outcome, records, export, tokenizer)
    for record in records:
        writer.write(record)
    return outcome.status


def _only_with(option: str, outcome: Outcome, **given: object) -> None:
    """UsageError for the first option that was given though it belongs with `option`."""
    for name, value in given.items():
        if value not in (None, ()) and on_command_line({"as": "kind"}.get(name, name)):
            flag = "--" + {"maps": "map", "drifts": "drift"}.get(name, name.replace("_", "-"))
            other = "--preset and --spec" if option == "--trace" else "--trace"
            raise click.UsageError(
                f"{flag} goes with {option}, not with {other}", click.get_current_context()
            )


def _made(
    outcome: Outcome,
    preset: str | None,
    path: str,
    seed: int,
    requests: int | None,
    lengths: str | None,
    length_scale: float | None,
    drifts: tuple[str, ...],
) -> Iterator[Record]:
    """The workload of a preset, or of the spec at `path`."""
    from driftkit.commands.stdio import reading
    from driftkit.errors import DriftkitError, LineError, UsageError
    from driftkit.records.io import readable
    from driftkit.workload import generate
    from driftkit.workload.spec import read

    if preset is not None:
        name, data = preset, presets.text(preset)
    else:
        with reading(outcome, [path], "fail", None) as reader:
            ((name, lines),) = reader.sources
            data = b"".join(readable(name, lines))
    try:
        workload = read(data, lengths, length_scale or 1.0)
    except LineError as error:
        raise DriftkitError(f"{name}: {error.message}", hint=error.hint) from None
    for text in drifts:
        try:
            workload = workload.drifting(text)
        except LineError as error:
            raise UsageError(f"--drift: {error.message}", hint=error.hint) from None
    return _told_of_late_drifts(outcome, generate.requests(workload, seed, requests), workload.drifts)


def _told_of_late_drifts(
    outcome: Outcome, records: Iterator[Record], drifts: Sequence[Drift]
) -> Iterator[Record]:
    """The records; then warns of drifts that began after all of them."""
    last_s = 0.0
    for record in records:
        last_s = record["arrival_s"]
        yield record
    for drift in drifts:
        if drift.at_s > last_s:
            outcome.warn(
                f"drift at {drift.at_s:g} s changes nothing: the last request arrives at {last_s:g} s"
            )


def _trace(
    outcome: Outcome,
    path: str,
    trace_format: str,
    options: Options,
    limit: int | None,
    rate_scale: float,
    sort: bool,
    kind: str | None,
    on_error: str,
    rejects: str | None,
) -> Iterator[Record]:
    from driftkit.commands.stdio import reading
    from driftkit.errors import UsageError
    from driftkit.registry import load
    from driftkit.workload.traces import Trace, tenant_assigner
    from driftkit.workload.traces.recognition import is_servegen_folder
    from driftkit.workload.traces.slicing import Slice, in_order
    from driftkit.workload.traces.timings import as_request

    assign = tenant_assigner(options.seed)
    folder = is_servegen_folder(path)
    # a folder's files are opened one by one, by its format
    with reading(outcome, [os.devnull if folder else path], on_error, rejects) as reader:
        if folder:
            reader.sources = [(path, ())]
            trace_format = "servegen" if trace_format == "auto" else trace_format
        elif trace_format == "auto":
            found = _recognised(reader, mapped=bool(options.maps))
            if found is None:
                return
            trace_format = found
        if options.maps and trace_format not in ("csv", "jsonl"):
            raise UsageError(f"--map goes with csv and jsonl, not with {trace_format}")
        trace: Trace = load("traces", trace_format)(options)
        records = trace.records(reader, any_order=sort)
        if sort:
            records = iter(in_order(records))
        if kind == "requests":
            records = map(as_request, records)
        if options.window is not None or limit is not None or rate_scale != 1:
            part = Slice(options.window, limit, rate_scale, trace)
            records = part.of(records)
        else:
            part = None
        for record in records:
            if record.get("kind") == "request":  # what was recorded was somebody's, known or not
                assign(record)
            yield record
        for remark in trace.remarks:
            outcome.warn(f"{path}: {remark}")
        for reason, count in trace.left_out.items():
            outcome.warn(f"{path}: {count} {reason} left out")
        if part is not None and (warning := part.warning()):
            outcome.warn(f"{path}: {warning}")


def _recognised(reader: Reader, *, mapped: bool) -> str | None:
    """The format of the reader's one source, which is left at its start; None for an empty one."""
    from driftkit.errors import DriftkitError
    from driftkit.records.io import readable
    from driftkit.workload.traces.recognition import recognise

    ((name, stream),) = reader.sources
    lines = readable(name, stream)
    head = [next(lines, b"")]
    while head[-1].isspace():
        head.append(next(lines, b""))
    reader.sources = [(name, chain(head, lines))]
    if not head[-1]:
        return None
    try:
        return recognise(head[-1], mapped=mapped)
    except DriftkitError as error:
        raise DriftkitError(f"{name}:{len(head)}: {error.message}", hint=error.hint) from None


def _counted(records: Iterator[Record], tokenizer: str) -> Iterator[Record]:
    """With the lengths of the prompts, which nobody can tell once their text is left out."""
    from driftkit.estimation.base import count_prompt
    from driftkit.estimation.tokenizers import load as load_tokenizer

    counter = load_tokenizer(tokenizer)
    for record in records:
        if record.get("kind") in ("request", "completion"):
            count_prompt(record, counter.count, counter.name)
        yield record


def _exported(outcome: Outcome, records: Iterator[Record], name: str, tokenizer: str) -> Iterator[Record]:
    from driftkit.errors import DriftkitError, LineError
    from driftkit.registry import load
    from driftkit.workload.exports import Lost

    export = load("exports", name)(tokenizer)
    lost = Lost(export)
    for record in records:
        if record.get("kind") in ("request", "completion"):
            lost.note(record)
            try:
                yield export.row(record)
            except LineError as error:
                raise DriftkitError(f"{record['id']}: {error.message}", hint=error.hint) from None
    for remark in (*export.remarks, lost.said()):
        if remark is not None:
            outcome.warn(remark)
