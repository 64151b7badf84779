"""What a call from `warm` gives is what the executable gives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import DRIFTKIT, PATIENCE_S, Stages, changed, jsonl, warm_server


def alike(args: list[str | Path], data: bytes = b"") -> tuple[int, bytes, bytes]:
    warm = warm_server().call([DRIFTKIT, *args], data, PATIENCE_S)
    cold = subprocess.run([DRIFTKIT, *args], input=data, capture_output=True, timeout=PATIENCE_S)
    found = warm.returncode, warm.stdout, warm.stderr
    assert found == (cold.returncode, cold.stdout, cold.stderr)
    return found


def test_it_gives_what_the_executable_gives(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = stages.requests.read_bytes()
    status, out, err = alike(["estimate", "--tokenizer", "whitespace", "-"], requests)
    assert (status, len(out.splitlines()), err) == (0, 48, b"")
    assert alike(["report", stages.calibrated])[0] == 0
    assert alike(["schedule", "--help"])[0] == 0
    assert alike([])[0] == 2
    assert alike(["run", "--engine", "nowhere"], requests)[0] == 2
    assert alike(["estimate", "--debug"], requests + b"[]\n")[0] == 1
    dear = [changed(row, prompt_tokens=10**6) for row in stages.read("scheduled")[:2]]
    assert alike(["run", "--run-id", "x"], jsonl(dear))[0] == 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTKIT_GEN_REQUESTS", "3")
    status, out, _ = alike(["gen", "--preset", "driftsched", "--manifest", "here"])
    assert (status, len(out.splitlines())) == (0, 3)
    assert (tmp_path / "here").exists()


def test_input_that_nobody_takes_and_more_output_than_a_pipe_holds(long_stages: Stages) -> None:
    much = long_stages.calibrated.read_bytes()
    assert alike(["report", "--no-such"], much)[0] == 2
    status, out, _ = alike(["gen", "--trace", "-", "--trace-format", "jsonl"], much)
    assert (status, len(out) > 1 << 16) == (0, True)


def test_one_that_takes_too_long_is_killed_and_the_next_is_served(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "nobody writes this")
    with pytest.raises(subprocess.TimeoutExpired):
        warm_server().call([DRIFTKIT, "report", tmp_path / "nobody writes this"], b"", 0.2)
    assert alike(["--version"])[0] == 0


def test_it_ends_with_the_process_that_started_it() -> None:
    script = "import os, warm; server = warm.Server(); print(server.process.pid, flush=True); os._exit(0)"
    started = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=Path(__file__).parent
    )
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{int(started.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
