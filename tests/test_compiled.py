"""Compiled, driftkit writes the bytes that its sources write; and sources that were edited are what runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import driftkit
from cli import Stages, changed, jsonl, ok
from driftkit.engines.sim import scheduler


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """driftkit's sources, one of those that are compiled edited."""
    if scheduler.__file__.endswith(".py"):
        said = "driftkit is not compiled, or its sources were edited since: make says why"
        assert "CI" not in os.environ, said
        pytest.skip(said)
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(Path(driftkit.__file__).parent, folder / "driftkit")
    with open(folder / "driftkit/engines/sim/scheduler.py", "a") as file:
        file.write("# edited\n")
    return folder


def plain(edited: Path, command: list[str], data: bytes = b"") -> bytes:
    env = {**os.environ, "PYTHONPATH": str(edited)}
    done = subprocess.run([sys.executable, *command], input=data, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_edited_sources_are_what_runs(edited: Path) -> None:
    modules = "driftkit.engines.sim.scheduler", "driftkit.engines.dispatcher", "driftkit.records.job"
    script = f"from importlib import import_module as i; print(*(i(name).__file__ for name in {modules}))"
    files = plain(edited, ["-c", script]).decode().split()
    assert files == [str(edited / (name.replace(".", "/") + ".py")) for name in modules]


TIGHT = ["--num-gpu-blocks", "140", "--max-model-len", "2048", "--max-num-batched-tokens", "512"]


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("fifo", []),
        ("sjf", ["--batching", "static"]),
        ("sjf", TIGHT),
        ("fifo", [*TIGHT, "--async-scheduling", "--watermark", "0.1", "--no-scheduler-reserve-full-isl"]),
        ("weighted", ["--max-concurrency", "8", "--feedback"]),
        ("aging", [*TIGHT, "--no-async-scheduling", "--step-time-scale", "2", "--power-cap", "60"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_the_same_bytes(edited: Path, stages: Stages, policy: str, options: list[str]) -> None:
    rows = [
        # instants without a fraction, at once and in a burst; conversations; a barrier
        changed(row, arrival_s=number // 6, session=f"chat-{number % 9}", barrier=number == 30, priority=None)
        for number, row in enumerate(stages.read("estimated"))
    ]
    planned = ok(["schedule", "--no-plan", "--policy", policy], jsonl(rows))
    compiled = ok(["run", *options], planned)
    assert plain(edited, ["-m", "driftkit", "run", *options], planned) == compiled
    if options[:6] == TIGHT:
        assert b'"preemptions":1' in compiled, "blocks were meant to run out"
