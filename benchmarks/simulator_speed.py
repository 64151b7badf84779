"""Simulated requests per second on the paper's workload: the simulation alone, and `driftkit run`.

    python benchmarks/simulator_speed.py [REQUESTS]        30,000 by default

Each row is the median of five. "of loads+dumps" sets the command beside a loop of orjson.loads and
orjson.dumps over the same file in the same run, which says more than a rate does about another machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import orjson

from driftkit.engines.sim import scheduler
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.policies.base import parse
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.schema import Record

DRIFTKIT = str(Path(sys.executable).parent / "driftkit")
BATCHINGS: tuple[Literal["continuous", "static"], ...] = ("continuous", "static")


def median_s(function: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def command(*args: str, output: Path) -> None:
    with open(output, "wb") as file:
        subprocess.run([DRIFTKIT, *args], check=True, stdout=file)


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, estimated = folder / "made", folder / "estimated"
        command("gen", "--preset", "driftsched", "--requests", str(requests), output=made)
        command("estimate", str(made), output=estimated)

        def loop() -> None:
            with open(estimated, "rb") as source, open(folder / "copy", "wb") as sink:
                for line in source:
                    sink.write(orjson.dumps(orjson.loads(line)))

        yardstick = median_s(loop)
        print(f"compiled: {'no' if scheduler.__file__.endswith('.py') else 'yes'}")
        print(f"{requests} requests; orjson loads+dumps loop: {requests / yardstick:,.0f} records/s\n")
        print("policy    batching    simulation, requests/s   driftkit run, requests/s   of loads+dumps")
        for policy in ("fifo", "sjf", "weighted"):
            planned = folder / policy
            command("schedule", "--no-plan", "--policy", policy, str(estimated), output=planned)
            records = [orjson.loads(line) for line in planned.read_bytes().splitlines()]
            for batching in BATCHINGS:
                setup = Setup(batching=batching)

                def simulation(
                    setup: Setup = setup, policy: str = policy, records: list[Record] = records
                ) -> None:
                    jobs = [job_of(record, record["trace_output_tokens"]) for record in records]
                    ended = sum(len(t) for t in simulate(in_order_of_arrival(jobs), setup, parse(policy)))
                    assert ended == requests

                def run(batching: str = batching, planned: Path = planned) -> None:
                    command("run", "--batching", batching, str(planned), output=folder / "done")

                alone, whole = median_s(simulation), median_s(run)
                row = f"{requests / alone:>22,.0f}   {requests / whole:>24,.0f}   {whole / yardstick:>13.1f}x"
                print(f"{policy:<9} {batching:<11} {row}")


if __name__ == "__main__":
    main()
