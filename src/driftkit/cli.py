"""The `driftkit` command: lazy subcommands, and the one place where errors become exit codes.

Every command's `--help` is felt hundreds of times a day, so a subcommand is imported only when it is
named, and what it needs to work only when it runs.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from driftkit import __version__
from driftkit.commands import COMMANDS, MANIFEST
from driftkit.errors import DriftkitError, printable
from driftkit.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from driftkit.commands.manifest import Manifest

# 128 + SIGPIPE: what a shell reports for a program that a closed pipe ended
CLOSED_PIPE = 141
TERMINATED = 143  # 128 + SIGTERM

EXIT_STATUSES = {
    0: "done",
    1: "failure",
    2: "usage",
    3: "finished, but some records were skipped or failed",
    4: "a gate of report --fail-if was crossed",
    5: "drift was found by calibrate --fail-on-drift",
    INTERRUPTED: "interrupted",
    CLOSED_PIPE: "standard output closed",
    TERMINATED: "terminated",
}


class Terminated(BaseException):
    """SIGTERM, as an exception: what was written is flushed, and state is left as it was."""


class Commands(click.Group):
    """The subcommands, in the order of the pipe; imports one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"driftkit.commands.{cmd_name}")
        command: click.Command = module.command
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_eager:
                flag = option.opts[-1].removeprefix("--")
                option.envvar = f"DRIFTKIT_{cmd_name}_{flag}".upper().replace("-", "_")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            known = f"did you mean {near[0]}?" if near else "known: " + ", ".join(COMMANDS)
            raise click.UsageError(f"no command named {args[0]!r}; {known}", ctx)
        return super().resolve_command(ctx, args)


@click.command(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    epilog="Exit status: " + "; ".join(f"{code} {what}" for code, what in EXIT_STATUSES.items()) + ".",
)
@click.version_option(__version__, "-V", "--version", prog_name="driftkit", message="%(prog)s %(version)s")
def group() -> None:
    """Which scheduling policy, fed by which length estimate, gives whom what latency?

    Small tools that pipe JSON lines:

    \b
      driftkit gen --preset driftsched | driftkit estimate |
        driftkit schedule --policy sjf | driftkit run |
        driftkit calibrate | driftkit report
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that the contract gives the outcome."""
    argv = sys.argv[1:] if args is None else args
    # Records are trees, which reference counting frees; walking hundreds of thousands of them in search of
    # cycles takes a third of the time of a command that holds them all.
    gc.set_threshold(100_000)
    _occupy_closed_streams()
    signal.signal(signal.SIGTERM, _terminate)
    meta: dict[str, Any] = {}
    code = _run(argv, meta)
    if code == 0 and sys.stdout is None:
        code = CLOSED_PIPE
    if MANIFEST in meta:
        code = _write_manifest(meta[MANIFEST], argv, code)
    sys.stderr.flush()
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _occupy_closed_streams() -> None:
    """Let no file that is opened later become standard output or error because that was closed (`2>&-`)."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _write_manifest(manifest: Manifest, argv: list[str], code: int) -> int:
    """The exit status, which the manifest tells too; its own failure is one."""
    try:
        manifest.write(argv, code)
    except OSError as error:
        _say(f"driftkit {argv[0]}: --manifest: {error.filename}: {(error.strerror or str(error)).lower()}")
        return code or 1
    return code


def _run(argv: list[str], meta: dict[str, Any]) -> int:
    """The exit status. What commands leave in their contexts' `meta` is copied into `meta`."""
    name = "driftkit"
    try:
        with group.make_context("driftkit", list(argv)) as ctx:
            name = f"driftkit {argv[0]}" if argv and argv[0] in COMMANDS else name
            try:
                code = group.invoke(ctx)
            finally:
                meta.update(ctx.meta)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.UsageError as error:
        return _usage(name, error)
    except click.ClickException as error:
        _say(f"{name}: {error.format_message()}")
        return 1
    except DriftkitError as error:
        _say(f"{name}: {error.message}")
        if error.hint:
            _say(f"  {error.hint}")
        _debug(argv)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say(f"{name}: interrupted")
        return INTERRUPTED
    except Terminated:
        _say(f"{name}: terminated")
        return TERMINATED
    except OSError as error:
        _discard_output()
        if error.errno == errno.EPIPE:
            return CLOSED_PIPE
        where = f"{error.filename}: " if error.filename else "standard output: " if _is_write(error) else ""
        _say(f"{name}: {where}{(error.strerror or str(error)).lower()}")
        _debug(argv)
        return 1
    except Exception as error:
        _say(f"{name}: internal error: {type(error).__name__}: {error}")
        _say("  this is a defect of driftkit; please report it with the output of the same call with --debug")
        _debug(argv)
        _discard_output()
        return 1


def _usage(name: str, error: click.UsageError) -> int:
    """A bad call: what is wrong, then where the help is. No arguments at all prints the help itself."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    path = error.ctx.command_path if error.ctx else name
    _say(f"{path}: {error.format_message()}")
    usage = f"{error.ctx.command.get_usage(error.ctx)}; " if error.ctx is not None else ""
    _say(f"  {usage}see {path} --help")
    return 2


def _is_write(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


def _debug(argv: list[str]) -> None:
    if "--debug" in argv:
        import traceback

        traceback.print_exc()


def _discard_output() -> None:
    """What is still buffered has nowhere to go; without this the interpreter complains at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
