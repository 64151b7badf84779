"""Each stage of the pipe against a loop of orjson.loads and orjson.dumps over the same file, and against jq.

    python benchmarks/pipeline_speed.py [RECORDS]        300,000 by default, about three minutes

Whole processes, start-up included, the better of two; the loop is timed right before each stage, because a
machine's pace drifts. "of loop" is the stage's time over the loop's, on what the stage reads (gen: on what it
writes). jq -c . reads the same file. Every return code is checked. The last column is the largest resident
memory of the stage, and what it was for a tenth of the records.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import orjson

DRIFTKIT = str(Path(sys.executable).parent / "driftkit")


class Stage(NamedTuple):
    name: str
    args: list[str]
    reads: str | None
    writes: str
    at_most: float
    beats_jq: bool


def stages(records: int) -> list[Stage]:
    gen = ["gen", "--preset", "driftsched", "--requests", str(records)]
    whitespace = ["estimate", "--model", "table", "--tokenizer", "whitespace"]
    return [
        Stage("gen --preset", gen, None, "requests", 6, True),
        Stage("estimate --tokenizer whitespace", whitespace, "requests", "estimated", 8, True),
        Stage(
            "schedule --no-plan",
            ["schedule", "--policy", "sjf", "--no-plan"],
            "estimated",
            "scheduled",
            6,
            True,
        ),
        Stage("run", ["run"], "scheduled", "completions", 0, False),
        Stage("calibrate", ["calibrate"], "completions", "calibrated", 8, True),
        Stage("report", ["report"], "calibrated", "report", 3, True),
        Stage("schedule", ["schedule", "--policy", "sjf"], "estimated", "planned", 20, False),
    ]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def loop(path: Path, sink: Path) -> None:
    with open(path, "rb") as source, open(sink, "wb") as target:
        for line in source:
            target.write(orjson.dumps(orjson.loads(line)) + b"\n")


def process(args: list[str], source: Path | None, sink: Path) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MB."""
    with open(source or os.devnull, "rb") as stdin, open(sink, "wb") as stdout:
        start = time.perf_counter()
        child = subprocess.Popen(args, stdin=stdin, stdout=stdout)
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(args)}: exit status {os.waitstatus_to_exitcode(status)}")
    return took, usage.ru_maxrss / 1024


def memory(records: int, folder: Path) -> dict[str, float]:
    """The largest resident memory of each stage, in MB."""
    found = {}
    for stage in stages(records):
        source = folder / stage.reads if stage.reads else None
        found[stage.name] = process([DRIFTKIT, *stage.args], source, folder / stage.writes)[1]
    return found


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    jq = shutil.which("jq")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = memory(records // 10, folder)
        print(f"{records} records\n")
        heads = f"{'stage':<33} {'loop s':>6} {'stage s':>8} {'of loop':>8} {'at most':>8} {'jq s':>8}"
        print(f"{heads}   memory MB (a tenth)")
        for stage in stages(records):
            source = folder / stage.reads if stage.reads else None
            sink = folder / stage.writes
            took, most = min(process([DRIFTKIT, *stage.args], source, sink) for _ in range(2))
            over = source or sink
            yardstick = min(seconds(lambda over=over: loop(over, folder / "copy")) for _ in range(2))
            theirs = process([jq, "-c", "."], over, folder / "copy")[0] if jq and stage.beats_jq else None
            ratio = took / yardstick
            limit = f"{stage.at_most:g}x" if stage.at_most else "-"
            missed = [] if not stage.at_most or ratio <= stage.at_most else ["over its limit"]
            missed += ["slower than jq"] if theirs is not None and took > theirs else []
            print(
                f"{stage.name:<33} {yardstick:>6.2f} {took:>8.2f} {ratio:>7.1f}x {limit:>8} "
                f"{'-' if theirs is None else f'{theirs:.2f}':>8}   {most:,.0f} ({before[stage.name]:,.0f})"
                + (f"   MISSED: {', '.join(missed)}" if missed else "")
            )


if __name__ == "__main__":
    main()
