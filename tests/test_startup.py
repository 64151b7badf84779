"""`--help` is felt hundreds of times a day: how long it takes, and what it must not import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cli import DRIFTKIT
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
