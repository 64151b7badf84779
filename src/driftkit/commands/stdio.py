"""What every filter shares: its files, its output, its error policy, and how it says things to people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import click

from driftkit.commands import MANIFEST
from driftkit.commands.configuration import configure
from driftkit.errors import printable
from driftkit.interrupts import raise_them

if TYPE_CHECKING:  # imported when a command runs, not when its help is shown
    from driftkit.commands.manifest import Manifest
    from driftkit.records.io import OnError, Reader, Wrapped

F = TypeVar("F", bound=Callable[..., Any])

SOME_FAILED = 3
IN_A_FOLDER = (".jsonl", ".jsonl.gz")


class Outcome:
    """What has become of a command so far: how many records were lost, what was already warned of."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failed = 0
        #: makes room for a warning where a line is being written over
        self.before_warning: Callable[[], None] | None = None
        self._said: set[str] = set()

    def warn(self, text: str) -> None:
        if self.before_warning is not None:
            self.before_warning()
        click.echo(printable(f"driftkit {self.name}: {text}"), err=True)

    def warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.warn(text)

    @property
    def status(self) -> int:
        """The exit status: 0, or 3 when some records were skipped or failed."""
        return SOME_FAILED if self.failed else 0


def filter_options(function: F) -> F:
    """The arguments of every command that reads records: files, and what a bad line does."""
    files = click.argument(
        "files", nargs=-1, type=click.Path(), metavar="[FILE]...", callback=_with_folders_listed
    )
    return files(error_options(function))


def _with_folders_listed(
    ctx: click.Context, param: click.Parameter, paths: tuple[str, ...]
) -> tuple[str, ...]:
    """The paths, a folder being what it holds: nightly files, which are named by their days."""
    listed: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            listed.append(path)
            continue
        files = {file.name: str(file) for file in sorted(Path(path).iterdir())}
        inside = [file for name, file in files.items() if name.endswith(IN_A_FOLDER)]
        twice = [name for name in files if name.endswith(".jsonl") and f"{name}.gz" in files]
        if twice:
            raise click.UsageError(f"{path}: {twice[0]} is there packed and unpacked: keep one", ctx)
        if not inside:
            raise click.UsageError(f"{path}: a folder without *.jsonl or *.jsonl.gz", ctx)
        listed += inside
    return tuple(listed)


def error_options(function: F) -> F:
    """What a bad line, or any other error, does."""
    # --debug is read where errors become exit codes
    function = click.option(
        "--debug", is_flag=True, is_eager=True, expose_value=False, help="Show a traceback with an error."
    )(function)
    function = click.option(
        "--manifest",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_start_manifest,
        help="Write there what was called, on which input, with which versions.",
    )(function)
    function = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        envvar="DRIFTKIT_CONFIG",
        callback=configure,
        help="Take options that are not given from the [COMMAND] table of this TOML file.",
    )(function)
    function = click.option(
        "--rejects", type=click.Path(dir_okay=False), metavar="FILE", help="Copy skipped lines there."
    )(function)
    return click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="What a bad line does: end the run, or be left out (exit status 3).",
    )(function)


def _start_manifest(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if path is not None:
        from driftkit.commands.manifest import Manifest

        ctx.meta[MANIFEST] = Manifest(path, ctx.params)


def manifest_of(ctx: click.Context) -> Manifest | None:
    found: Manifest | None = ctx.meta.get(MANIFEST)
    return found


def output_options(function: F) -> F:
    """The arguments of every command that writes records."""
    function = click.option(
        "--redact-prompt", is_flag=True, help="Leave prompt, messages and output_text out of what is written."
    )(function)
    return click.option("--unbuffered", is_flag=True, help="Flush every record.")(function)


def seed_option(function: F) -> F:
    return click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random stream."
    )(function)


@contextmanager
def reading(
    outcome: Outcome,
    files: Sequence[str],
    on_error: str,
    rejects: str | None,
    *,
    afterwards: Sequence[str] = (),
    wrapped: Wrapped = nullcontext,
) -> Iterator[Reader]:
    """The Reader of a command's input, `files` and then `afterwards`, which are opened when it is their turn.

    `files` are read through what `wrapped` makes of them. At the end it says how many lines were skipped.
    """
    from driftkit.records.io import Reader, lines_later, open_beside, open_sources

    raise_them()
    if not files and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("no input: give a FILE, or pipe records in", click.get_current_context())
    if rejects and on_error != "skip":
        raise click.UsageError("--rejects goes with --on-error skip", click.get_current_context())
    if rejects and click.get_current_context().params.get("redact_prompt"):
        text = "--rejects copies lines as they came, prompts included: it does not go with --redact-prompt"
        raise click.UsageError(text, click.get_current_context())
    with ExitStack() as stack:
        sources = stack.enter_context(open_sources(files, wrapped))
        sources += [(path, lines_later(path)) for path in afterwards]
        if (manifest := manifest_of(click.get_current_context())) is not None:
            sources = manifest.reading(sources)
        sink = None
        read = [*(files or ["-"]), *afterwards]
        if rejects:  # unbuffered: a line left out is there at once
            sink = stack.enter_context(open_beside("--rejects", rejects, read, buffering=0))
        reader = Reader(sources, on_error=cast("OnError", on_error), rejects=sink, warn=outcome.warn)
        yield reader
        if reader.passed and not reader.taken:
            what = f"nothing to do: all {reader.passed} records are of another kind"
            replay = "; to send completions again: gen --trace FILE --as requests"
            outcome.warn(what + (replay if outcome.name in ("schedule", "run") else ""))
        if reader.skipped:
            outcome.failed += reader.skipped
            outcome.warn(
                f"{reader.skipped} bad lines left out" + (f", copied to {rejects}" if rejects else "")
            )


def stdout() -> IO[bytes]:
    """Standard output as bytes; a closed one ends the command as a closed pipe does."""
    raise_them()
    if sys.stdout is None:
        raise BrokenPipeError(32, "standard output is closed")
    manifest = manifest_of(click.get_current_context())
    return sys.stdout.buffer if manifest is None else manifest.writing(sys.stdout.buffer)
