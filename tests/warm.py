"""`driftkit` from a process that has imported everything: a call costs what it does, not what starting costs.

A call is a real process with real pipes, files, signals and an exit status, only not a new interpreter. A
server imports what the commands import, computes nothing, and forks for each call; it ends with the process
that started it. The tests call `driftkit` thousands of times, and most of a short call
is importing.

What only a new interpreter does is not seen from here: what is imported when, what Python itself reads from
the environment, another hash seed each time. Whatever is about starting, signals, terminals, closed or full
outputs, limits of the shell or seeds of hashes calls the executable, as do the examples and whole pipes. With
COLD=1 in the environment, all tests do (`make test-long`).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path

LARGEST = 1 << 17  # bytes of a call's arguments and environment
ELSEWHERE = ("numpy.random", "rich.progress", "tiktoken", "tokenizers")  # imported where they are used only


class Server:
    """The process that forks, for one call at a time: `lock` is for who calls."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lock = threading.Lock()
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-P", __file__, str(fd)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[fd])

    def call(
        self, command: Sequence[str | Path], data: bytes, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """As `subprocess.run(command, input=data, capture_output=True, timeout=timeout)`."""
        message = json.dumps([[str(arg) for arg in command], str(Path.cwd()), dict(os.environ)])
        assert len(message) < LARGEST, "too much for one message: call the executable"
        (stdin, source), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        socket.send_fds(self._socket, [message.encode()], [stdin, stdout, stderr])
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        with ThreadPoolExecutor() as pool:
            pool.submit(_write, source, data)
            written, said = pool.submit(_read, out), pool.submit(_read, err)
            pid = int(self._socket.recv(LARGEST))
            late = not select.select([self._socket], [], [], timeout)[0]
            if late:
                os.kill(pid, signal.SIGKILL)
            status = int(self._socket.recv(LARGEST))
        if late:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, status, written.result(), said.result())


def _write(descriptor: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(descriptor, "wb") as pipe:
        pipe.write(data)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as pipe:
        return pipe.read()


def serve(calls: socket.socket) -> None:
    import driftkit

    modules = (module.name for module in pkgutil.walk_packages(driftkit.__path__, "driftkit."))
    for name in (*modules, *ELSEWHERE):
        if not name.endswith("__main__"):
            import_module(name)
    gc.freeze()  # a child's collections touch, hence copy, none of this
    while True:
        message, descriptors, *_ = socket.recv_fds(calls, LARGEST, 3)
        if not message:
            return
        pid = os.fork()
        if not pid:
            calls.close()
            become(descriptors, *json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        calls.send(b"%d" % pid)
        calls.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def become(descriptors: list[int], argv: list[str], cwd: str, environment: dict[str, str]) -> None:
    """The `driftkit` that a shell would have started, up to its end."""
    from driftkit.cli import main

    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, "r", -1, sys.stdin.encoding, sys.stdin.errors, closefd=False)
    sys.stdout = os.fdopen(1, "w", -1, sys.stdout.encoding, sys.stdout.errors, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    import_module("numpy").random.seed()  # as `random` does by itself
    sys.argv = argv
    try:
        main()
    except SystemExit as end:  # all that an interpreter does at its end but taking down a thousand modules
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as calls, suppress(KeyboardInterrupt):
        serve(calls)
