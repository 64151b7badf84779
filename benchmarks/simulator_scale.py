"""Simulated requests per second on a trace of lengths and arrivals: below, at and above capacity, under KV
pressure, and as the trace grows; and the memory that a request takes.

    python benchmarks/simulator_scale.py TRACE      as `driftkit gen --trace` reads it, Azure's for instance

Rates are requests per CPU second of the simulation alone: jobs in, jobs out, policy included, one core, the
median of five. Capacity is what the server does when all requests are there at once. Llama-3.1-8B on an H100.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import orjson

from driftkit.engines.sim import scheduler
from driftkit.engines.sim.profile import load_gpu, load_model
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.policies.base import Policy, parse
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.job import Job
from driftkit.records.schema import Record

DRIFTKIT = str(Path(sys.executable).parent / "driftkit")
SETUP = Setup(load_gpu("h100"), load_model("llama-3.1-8b"), max_model_len=16384)
#: of the KV blocks that fit, how many are left under pressure
PRESSURE = 0.25


def read(trace: str) -> list[Record]:
    made = subprocess.run([DRIFTKIT, "gen", "--trace", trace], check=True, stdout=subprocess.PIPE).stdout
    return [orjson.loads(line) for line in made.splitlines()]


def jobs_at(records: list[Record], span_s: float, policy: str) -> list[Job]:
    """The requests, spread over `span_s`; for sjf, shortest answer first."""
    first, last = records[0]["arrival_s"], records[-1]["arrival_s"]
    jobs = []
    for record in records:
        job = job_of(record, record["trace_output_tokens"])
        job.arrival_s = (record["arrival_s"] - first) * span_s / (last - first)
        job.priority = job.output_tokens if policy == "sjf" else 0
        jobs.append(job)
    return in_order_of_arrival(jobs)


def run(jobs: list[Job], setup: Setup, policy: Policy) -> tuple[float, float]:
    """(CPU seconds it took, second at which the last request ended)."""
    end, ended = 0.0, 0
    start = time.process_time()
    for together in simulate(jobs, setup, policy):
        ended += len(together)
        end = together[-1].finished_s
    took = time.process_time() - start
    assert ended == len(jobs)
    return took, end


def rate(records: list[Record], span_s: float, setup: Setup, policy: str) -> str:
    times = []
    for _ in range(5):
        jobs = jobs_at(records, span_s, policy)
        times.append(run(jobs, setup, parse(policy))[0])
    preemptions = sum(job.preemptions for job in jobs) / len(jobs)
    return f"{len(records) / median(times):>12,.0f} {preemptions:>24.3f}"


def loads(records: list[Record]) -> None:
    print("server          load  policy   requests/s  preemptions per request")
    blocks = SETUP.limits().num_gpu_blocks
    few = replace(SETUP, num_gpu_blocks=int(blocks * PRESSURE))
    for name, base in (("synchronous", SETUP), ("asynchronous", SETUP), ("KV pressure", few)):
        setup = replace(base, async_scheduling=name == "asynchronous")
        _, makespan = run(jobs_at(records, 1e-9, "fifo"), setup, parse("fifo"))
        for load in (0.5, 1.0, 1.5):
            for policy in ("fifo", "sjf"):
                row = rate(records, makespan / load, setup, policy)
                print(f"{name:<14} {load:>5.1f}  {policy:<6} {row}")
    print(f"KV pressure: {few.num_gpu_blocks} of {blocks} blocks\n")


def growth(records: list[Record]) -> None:
    """Time and memory as the trace, repeated end to end, grows; each in a process of its own."""
    print("requests     us per request   bytes per request")
    for count in (10_000, 100_000, 1_000_000):
        code = f"from simulator_scale import *; alone({str(Path(sys.argv[1]).resolve())!r}, {count})"
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"{count:>9,} {done.stdout}", end="")


def alone(trace: str, count: int) -> None:
    """One simulation of `count` requests at the trace's own rate; jobs count to the memory it takes."""
    import resource

    records = read(trace)
    span = records[-1]["arrival_s"] - records[0]["arrival_s"] + 1.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    jobs = []
    for order in range(count):
        again, place = divmod(order, len(records))
        record = records[place]
        job = job_of(record, record["trace_output_tokens"], order)
        job.arrival_s = (record["arrival_s"] - records[0]["arrival_s"]) + again * span
        jobs.append(job)
    took, _ = run(jobs, SETUP, parse("fifo"))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{took / count * 1e6:>16.2f} {added / count:>19.0f}")


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    records = read(sys.argv[1])
    print(f"compiled: {'no' if scheduler.__file__.endswith('.py') else 'yes'}")
    print(f"{len(records)} requests\n")
    loads(records)
    growth(records)


if __name__ == "__main__":
    main()
