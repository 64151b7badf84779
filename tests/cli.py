"""Driving the installed `driftkit` as a shell does: real processes, pipes, terminals and signals."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from warm import Server

DRIFTKIT = Path(sys.executable).parent / "driftkit"
PATIENCE_S = 30.0  # how long a test waits for what should come at once

Record = dict[str, Any]
Result = subprocess.CompletedProcess[bytes]


class Stages(NamedTuple):
    """One workload on its way through the pipe: the file that each stage wrote."""

    requests: Path
    estimated: Path
    scheduled: Path
    completions: Path
    calibrated: Path

    def read(self, stage: str) -> list[Record]:
        return records(getattr(self, stage).read_bytes())


@cache
def warm_server() -> Server:
    """One for this process."""
    return Server()


def run(
    args: Sequence[str | Path],
    data: bytes = b"",
    *,
    env: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    umask: int = -1,
) -> Result:
    """`driftkit *args` with `data` on its standard input: from `warm`, unless anything else is asked for."""
    command = [DRIFTKIT, *args]
    plain = (env, stdout, umask) == (None, subprocess.PIPE, -1) and not os.environ.get("COLD")
    if plain and warm_server().lock.acquire(blocking=False):  # what another thread calls beside it is started
        try:
            return warm_server().call(command, data, timeout=2 * PATIENCE_S)
        finally:
            warm_server().lock.release()
    return subprocess.run(
        command,
        input=data,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        umask=umask,
        timeout=2 * PATIENCE_S,
    )


def start(args: Sequence[str | Path], stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """`driftkit *args`, running, with pipes to talk to it."""
    pipe = subprocess.PIPE
    return subprocess.Popen([DRIFTKIT, *args], stdin=pipe, stdout=stdout, stderr=pipe, bufsize=0)


def ok(args: Sequence[str | Path], data: bytes = b"") -> bytes:
    """What `driftkit *args` writes; it must end well and have nothing to say."""
    result = run(args, data)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


def said(result: Result, code: int) -> list[str]:
    """What a command that ends with `code` told the user; never a traceback nor an internal error."""
    text = result.stderr.decode()
    assert "Traceback" not in text
    assert "internal error" not in text
    assert "Exception ignored" not in text
    assert result.returncode == code, text
    return text.splitlines()


def bash(script: str, *args: str | Path, cwd: Path | None = None) -> Result:
    """A bash script that finds `driftkit` on its PATH, and `args` in "$@"."""
    env = {**os.environ, "PATH": f"{DRIFTKIT.parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", script, "bash", *args]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=env, cwd=cwd, timeout=2 * PATIENCE_S
    )


def records(data: bytes) -> list[Record]:
    return [json.loads(line) for line in data.splitlines()]


def jsonl(rows: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def changed(row: Record, **fields: Any) -> Record:
    """The record with other values."""
    return {**row, **fields}


def without(row: Record, *names: str) -> Record:
    return {name: value for name, value in row.items() if name not in names}


def read_line(fd: int) -> bytes:
    """The first line that comes from `fd`; an AssertionError when none does."""
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, f"no line within {PATIENCE_S:g} s, only {data!r}"
        chunk = os.read(fd, 1)
        assert chunk, f"ended after {data!r}"
        data += chunk
    return data


def on_terminal(
    args: Sequence[str | Path], env: Mapping[str, str] | None = None, stream: str = "stdout"
) -> bytes:
    """What `driftkit *args` writes on `stream` when that is a terminal; it must end with 0."""
    master, slave = pty.openpty()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, stream: slave}
    with subprocess.Popen([DRIFTKIT, *args], **streams, env={**os.environ, **(env or {})}) as process:
        os.close(slave)
        data = b""
        while chunk := _read_terminal(master):
            data += chunk
    os.close(master)
    assert process.returncode == 0
    return data


def _read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError as error:  # Linux says that the other side is closed by EIO
        if error.errno != errno.EIO:
            raise
        return b""
