"""Servers in processes of their own, for tests: the faulty one and the one that streams on time.

with faulty(tmp_path) as server:
    run(["run", "--engine", "http", "--base-url", server.url, ...], jsonl([{..., "prompt": "fault:hang"}]))
    assert [request["try"] for request in server.requests()] == [1]

with faulty(tmp_path, "too-many,times=1") as server:      for prompts that name no fault
with streaming(ttft=0.05, tokens=20, gap=0.2) as server:
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli import PATIENCE_S, read_line

TESTS = Path(__file__).parent
STREAMING = TESTS.parent / "tools" / "streaming_server.py"


class Server:
    """A server that can be killed and started again on its port."""

    def __init__(self, command: list[str | Path], log: Path | None = None) -> None:
        self.command = command
        self.log = log
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, *self.command, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdout
        self.url = read_line(self.process.stdout.fileno()).decode().strip()
        self.port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        """As kill -9: open connections are reset or closed, new ones refused."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdout
        self.process.stdout.close()

    def freeze(self) -> None:
        """The kernel goes on taking connections; no byte comes from any."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def requests(self) -> list[dict[str, Any]]:
        """What was asked for with POST, in the order of arrival; see faulty_server.py for what each has."""
        return [entry for entry in self.entries() if entry.get("method") == "POST"]

    def taken(self) -> list[str]:
        """The prompts in the order in which their turns came."""
        return [entry["taken"] for entry in self._log() if "taken" in entry]

    def left(self) -> list[int]:
        """The connections on which the client left before its answer was complete."""
        return [entry["left"] for entry in self.entries() if "left" in entry]

    def entries(self) -> list[dict[str, Any]]:
        """Requests, and who left."""
        return [entry for entry in self._log() if "taken" not in entry]

    def _log(self) -> list[dict[str, Any]]:
        assert self.log, "only the faulty server keeps a log"
        whole, _, _being_written = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


@contextmanager
def faulty(folder: Path, fault: str = "none", *options: str, tls: Path | None = None) -> Iterator[Server]:
    """tests/faulty_server.py with its log in `folder`; with `tls`, over HTTPS, as certificate() made it."""
    log = folder / "server.jsonl"
    log.touch()
    secure: list[str | Path] = ["--tls", tls] if tls else []
    command = [TESTS / "faulty_server.py", "--log", log, "--fault", fault, *options, *secure]
    with running(Server(command, log)) as server:
        yield server


@contextmanager
def streaming(*, ttft: float = 0.0, tokens: int = 4, gap: float = 0.0, hold: int = 0) -> Iterator[Server]:
    """tools/streaming_server.py."""
    delays = ["--ttft", str(ttft), "--tokens", str(tokens), "--gap", str(gap), "--hold", str(hold)]
    with running(Server([STREAMING, *delays])) as server:
        yield server


def refusing_url() -> str:
    """A URL where nothing listens: its port was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def certificate(folder: Path) -> Path:
    """A folder with a certificate for 127.0.0.1 that nobody has signed but itself, and its key."""
    kind = ["-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(["openssl", "req", *kind, *name, *files], check=True, capture_output=True)
    return folder
