"""`--help` is felt hundreds of times a day: how long it takes, and what it must not import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli import DRIFTKIT, run, said, start
from driftkit.commands import COMMANDS

COMPILED = {"driftkit.engines.sim.scheduler", "driftkit.engines.sim.latency", "driftkit.records.job"}
HEAVY = {"numpy", "scipy", "tiktoken", "rich", "orjson", "sklearn", *COMPILED}
HELPS = [["--help"], *([name, "--help"] for name in COMMANDS)]
ROUNDS = 6


def seconds(command: list[str]) -> float:
    """Processor time: nearly all of a start's, and what the suite's other half does is not in it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def test_every_help_is_within_twice_the_time_of_importing_click() -> None:
    calls = [[sys.executable, "-c", "import click"], *([str(DRIFTKIT), *args] for args in HELPS)]
    took: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):  # interleaved, so that a busy moment hits all alike
        for times, call in zip(took, calls, strict=True):
            times.append(seconds(call))
    click, *helps = map(min, took)  # the least disturbed of each: the suite's other half runs beside this
    ratios = {" ".join(args): round(took / click, 2) for args, took in zip(HELPS, helps, strict=True)}
    assert {name: ratio for name, ratio in ratios.items() if ratio >= 2} == {}


def loaded_by(script: str) -> set[str]:
    """The heavy packages and the compiled modules that are loaded when a script is through."""
    script += f"\nimport sys; print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.__stderr__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


def test_a_heavy_import_is_noticed() -> None:
    assert loaded_by("import numpy") == {"numpy"}


@pytest.mark.parametrize("name", COMMANDS)
def test_importing_a_command_loads_nothing_heavy(name: str) -> None:
    assert loaded_by(f"import driftkit.cli, driftkit.commands.{name}") == set()


@pytest.mark.parametrize("args", HELPS, ids=" ".join)
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    script = f"""
from driftkit.cli import main
try:
    main({args!r})
except SystemExit as end:
    assert end.code == 0
"""
    assert loaded_by(script) == set()


INTERRUPTED_AT = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("name", ["click", "driftkit.cli", "driftkit.commands.calibrate", "orjson"])
def test_interrupted_while_it_imports_it_ends_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_AT)
    result = run(["calibrate"], env={"PYTHONPATH": str(tmp_path), "INTERRUPTED_AT": name})
    assert said(result, 130) == ["driftkit: interrupted"]


@pytest.mark.parametrize("delay_s", [0.3, 0.5])
def test_interrupted_at_any_moment_it_says_only_that(delay_s: float) -> None:
    with start(["calibrate"]) as process:
        assert process.stderr is not None
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() in (
            b"driftkit: interrupted\n",
            b"driftkit calibrate: interrupted\n",
        )
        assert process.wait() == 130


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    """As under nohup, or of a job that a script has put into the background."""
    process = subprocess.Popen(
        [DRIFTKIT, "calibrate"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    assert process.communicate(b"", timeout=30) == (b"", b"")
    assert process.returncode == 0
