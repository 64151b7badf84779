"""`vllm serve` on this machine's CPU, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 240.0  # three processes import torch one after another, on a busy machine
STOP_S = 20.0
SERVED_MODEL = "tiny"
# no network, one thread a process: workers and the client share few cores
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
# a cache of 47 blocks of 32 tokens: a few requests side by side, and somebody is preempted
SMALL = {
    "num_gpu_blocks_override": 48,
    "block_size": 32,
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 16,
}
# as random weights and short runs want it; several of them fit beside each other
QUICK = {"load_format": "dummy", "dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.2}


@dataclass(frozen=True)
class VllmServer:
    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serve(model: Path, log: Path, *options: str, port: int | None = None) -> Iterator[VllmServer]:
    """A server of `model` that answers, with SMALL, QUICK and what `options` say besides."""
    port = port or free_port()
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED_MODEL]
    for name, value in (SMALL | QUICK).items():
        command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
    server = VllmServer(f"http://127.0.0.1:{port}", SERVED_MODEL, process, log)
    try:
        _wait_until_up(server)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_up(server: VllmServer) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, f"vllm serve ended\n{server.last_lines()}"
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"vllm serve did not answer within {START_S:g} s\n{server.last_lines()}")
