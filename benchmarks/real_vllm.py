"""What the simulator says beside what real vLLM does, on this machine's CPU with a tiny model.

    make .venv-vllm/.vllm-installed
    .venv-vllm/bin/python benchmarks/real_vllm.py [--repeats 5] [--requests 300]

Two questions. Does the simulator put policies in the order in which real vLLM puts them? 300 requests under
four policies, repeated in turns; of each pair whose 95 % intervals of the mean (Student's t over repeats) do
not meet, the simulator must say which is better. And after `calibrate --fit engine` on one workload, how far
off is it on another that is run right after? The median error over such pairs is compared with what was asked
for, beside how far the pairs lie apart.

Everything runs in one process's AsyncLLM with vLLM's priority queue, whose KV cache is small enough that
requests are preempted; lengths are replayed. Under fifo all priorities are equal. The simulator starts from
examples/cpu.toml's constants; the machine should do nothing else.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}

import numpy as np
from scipy import stats

from driftkit import rng
from driftkit.engines.dispatcher import Arrivals, Dispatching, dispatched
from driftkit.engines.sim import fit, hf_config, profile
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.engines.vllm import Vllm
from driftkit.policies.base import StaticPolicy, describe, parse
from driftkit.records.completion import completion, in_order_of_arrival, job_of
from driftkit.records.job import Job
from driftkit.records.schema import Record

ROOT = Path(__file__).resolve().parent.parent

#: the server, for vLLM and for the simulator alike
LIMITS = {
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "block_size": 32,
    "max_model_len": 1024,
}
BLOCKS = 64  # where 16 requests would like some 90
POLICIES = ("fifo", "priority", "sjf", "aging:rate=0.5")
TIERS = ("premium", "standard", "batch")
PERCENTILES = (50, 90, 95, 99)
REPEATS, REQUESTS = 5, 300
PAIRED = 180  # requests in each run of a pair: runs that follow closely see the same machine
ONE_BY_ONE, ONE_BY_ONE_RPS, AT_ONCE, BREATH_S = 20, 10.0, 40, 1.5


class Workload(NamedTuple):
    """`rate` requests a second, all at once where it is 0; lengths in tokens, uniform."""

    name: str
    rate: float
    prompt: tuple[int, int]
    output: tuple[int, int]


def requests(of: Workload, count: int, seed: int, named: str) -> list[Record]:
    """The same requests for the same seed; `named` makes their ids, and so their prompts' tokens, others."""
    stream = rng.stream(seed, f"real-vllm/{of.name}")
    found, now = [], 0.0
    for number in range(count):
        gap, prompt, output, tier, error = stream.random(5).tolist()
        now += -np.log1p(-gap) / of.rate if of.rate else 0.0
        length = of.output[0] + int(output * (of.output[1] - of.output[0] + 1))
        # an estimate that is off by a factor of 0.5 to 2
        estimate = max(1, round(length * 2 ** (2 * error - 1)))
        tokens = of.prompt[0] + int(prompt * (of.prompt[1] - of.prompt[0] + 1))
        level = int(tier * len(TIERS))
        found.append(
            {
                "id": f"{named}-{number}",
                "arrival_s": round(float(now), 6),
                "tier": TIERS[level],
                "tier_level": level + 1,
                "prompt_tokens": tokens,
                "trace_output_tokens": length,
                "est_output_tokens": estimate,
                "est_total_tokens": tokens + estimate,
            }
        )
    return found


def jobs_of(records: Sequence[Record], policy: StaticPolicy) -> list[Job]:
    jobs = []
    for record in records:
        priority = policy.key(record)
        described = {**record, "policy": describe(policy), "priority": priority}
        jobs.append(job_of(described, record["trace_output_tokens"]))
    return in_order_of_arrival(jobs)


def policy_of(name: str) -> StaticPolicy:
    policy = parse(name)
    assert isinstance(policy, StaticPolicy)
    return policy


def observed(engine: Vllm, records: Sequence[Record], policy: StaticPolicy) -> list[Record]:
    """What real vLLM does with them; an error when one does not end well."""
    jobs = jobs_of(records, policy)
    gc.collect()
    gc.freeze()
    gc.disable()
    engine.start()
    done = [job for some in dispatched(Arrivals(jobs, None), engine, policy, Dispatching()) for job in some]
    gc.enable()
    gc.unfreeze()
    for job in done:
        assert job.status == "ok", f"{job.record['id']}: {job.status}: {job.error}"
        assert job.output_tokens == job.record["trace_output_tokens"]
    return [completion(job, {"run_id": f"real-{records[0]['id']}", "label": "real"}) for job in done]


def predicted(setup: Setup, records: Sequence[Record], policy: StaticPolicy) -> list[Record]:
    """What the simulator does with them, on the same priority queue."""
    ended = simulate(jobs_of(records, policy), setup, policy, prioritised=True)
    return [completion(job, {"run_id": "sim", "label": "sim"}) for some in ended for job in some]


def column(records: Sequence[Record], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([record[name] for record in records])


def summary(records: Sequence[Record], name: str) -> dict[str, float]:
    values = column(records, name)
    return {"mean": float(values.mean()), **{f"P{p}": float(np.percentile(values, p)) for p in PERCENTILES}}


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of the mean, Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def fitted(records: Sequence[Record], start: Setup) -> Setup:
    """As `calibrate --fit engine` does it."""
    fcfs = policy_of("fifo")
    return fit.fit(fit.run_of([fit.observed(record) for record in records], fcfs), start).setup  # type: ignore[misc]


def mean(records: Sequence[Record]) -> float:
    return float(column(records, "e2e_s").mean())


def p50(records: Sequence[Record]) -> float:
    return float(np.median(column(records, "e2e_s")))


def p95(records: Sequence[Record]) -> float:
    return float(np.percentile(column(records, "e2e_s"), 95))


def policies(engine: Vllm, start: Setup, count: int, repeats: int) -> list[Record]:
    """Four policies in turns, beside what a simulator says that was fitted to the first run of fifo."""
    load = Workload("policies", 40.0, (20, 200), (20, 140))
    real: dict[str, list[list[Record]]] = {name: [] for name in POLICIES}
    for repeat in range(repeats):
        for name in POLICIES:
            sent = requests(load, count, 1, f"p{repeat}{name[:2]}")
            real[name].append(observed(engine, sent, policy_of(name)))
    setup = fitted(real["fifo"][0], start)
    sim = {name: predicted(setup, requests(load, count, 1, "p"), policy_of(name)) for name in POLICIES}
    print(f"Policies: {count} requests at {load.rate:g}/s, {repeats} repeats; seconds, end to end\n")
    print(f"  {'policy':<16}{'statistic':<10}{'real':>8}{'95 %':>9}{'simulated':>11}{'error %':>9}")
    told = 0
    wrong: list[str] = []
    for title, of in {"mean": mean, "P50": p50, "P95": p95}.items():
        values = {name: [of(run) for run in runs] for name, runs in real.items()}
        middle = {name: fmean(each) for name, each in values.items()}
        half = {name: half_width(each) for name, each in values.items()}
        said = {name: of(run) for name, run in sim.items()}
        for name in POLICIES:
            error = 100 * (said[name] / middle[name] - 1)
            interval = f"± {half[name]:.3f}"
            row = f"  {name:<16}{title:<10}{middle[name]:>8.3f}{interval:>9}"
            print(f"{row}{said[name]:>11.3f}{error:>+9.1f}")
        for one, other in combinations(POLICIES, 2):
            if abs(middle[one] - middle[other]) <= half[one] + half[other]:
                continue
            told += 1
            if (middle[one] < middle[other]) != (said[one] < said[other]):
                wrong.append(f"{one} and {other}, {title}")
    print(f"\n  pairs whose intervals do not meet: {told}; simulated in the right order: {told - len(wrong)}")
    for pair in wrong:
        print(f"    not: {pair}")
    runs = [run for each in real.values() for run in each]
    lost = sum(record["preemptions"] for run in runs for record in run) / len(runs)
    simulated = sum(record["preemptions"] for run in sim.values() for record in run) / len(sim)
    print(f"  preemptions a run: real {lost:.1f}, simulated {simulated:.1f}\n")
    return [record for run in runs for record in run]


def mixed(count: int, named: str) -> list[Record]:
    """What is fitted: twenty requests one by one, then forty at once, and again, so that steps of all sizes
    are seen; from one load alone only their sum could be told.
    """
    sent = requests(Workload("mixed", 0.0, (10, 320), (10, 140)), count, 2, named)
    gaps = rng.stream(2, "real-vllm/mixed/gaps")
    now = 0.0
    for number, request in enumerate(sent):
        place = number % (ONE_BY_ONE + AT_ONCE)
        if place < ONE_BY_ONE:
            now += -float(np.log1p(-gaps.random())) / ONE_BY_ONE_RPS + (BREATH_S if not place else 0.0)
        elif place == ONE_BY_ONE:
            now += 0.5
        request["arrival_s"] = round(now, 6)
    return sent


def prediction(engine: Vllm, start: Setup, count: int, repeats: int) -> list[Record]:
    """Fit on one workload, predict another that is run right after it; the machine's speed moves by more in
    minutes than the simulator is off, so errors are of such pairs, and their median counts.
    """
    targets = (
        Workload("burst", 0.0, (10, 320), (10, 90)),
        Workload("light", 8.0, (10, 320), (10, 90)),
        Workload("near saturation", 50.0, (10, 320), (10, 90)),
    )
    fcfs = policy_of("fifo")
    pairs: dict[str, list[tuple[Setup, list[Record]]]] = {target.name: [] for target in targets}
    for repeat in range(repeats):
        for target in targets:
            name = f"{repeat}{target.name[0]}"
            log = observed(engine, mixed(count, f"f{name}"), fcfs)
            real = observed(engine, requests(target, count, 3, f"t{name}"), fcfs)
            pairs[target.name].append((fitted(log, start), real))
    print(f"Fitted to one workload, another predicted: {count} requests each, {repeats} pairs of runs\n")
    print(
        f"  {'workload':<17}{'seconds':<8}{'':<6}{'real':>9}{'spread %':>10}{'simulated':>11}{'error %':>9}"
        f"{'from':>8}{'to':>7}  bound"
    )
    for target in targets:
        sims = [predicted(setup, requests(target, count, 3, "t"), fcfs) for setup, _ in pairs[target.name]]
        for metric in ("e2e_s", "ttft_s"):
            measured = [summary(real, metric) for _, real in pairs[target.name]]
            simulated = [summary(sim, metric) for sim in sims]
            for statistic in measured[0]:
                values, said = ([one[statistic] for one in side] for side in (measured, simulated))
                errors = [100 * (ours / theirs - 1) for ours, theirs in zip(said, values, strict=True)]
                spread = 100 * (max(values) - min(values)) / median(values)
                bound = _bound(target.name, metric, statistic, spread)
                met = bound is not None and abs(median(errors)) <= bound
                verdict = "" if bound is None else f"  {bound:.1f} {'met' if met else 'MISSED'}"
                row = f"  {target.name:<17}{metric:<8}{statistic:<6}{median(values):>9.4f}{spread:>10.1f}"
                row += f"{median(said):>11.4f}{median(errors):>+9.1f}{min(errors):>+8.1f}{max(errors):>+7.1f}"
                print(row + verdict)
    print("\n  constants, the least and the most that was fitted:")
    for name in fit.FITTED:
        found = [getattr(setup.gpu, name) for each in pairs.values() for setup, _ in each]
        print(f"    {name:<21} {min(found):.3g} to {max(found):.3g}")
    print()
    return [record for each in pairs.values() for _, real in each for record in real]


def _bound(workload: str, metric: str, statistic: str, spread: float) -> float | None:
    """What is asked of the prediction, in percent; near saturation nothing is."""
    if metric == "e2e_s" and workload == "burst":
        return 5.0
    if metric == "e2e_s" and workload == "light":
        return max(5.0, 1.5 * spread)
    if metric == "ttft_s" and workload == "light" and statistic in ("mean", "P50"):
        return 20.0
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--only", choices=["policies", "prediction"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, ROOT / "tools" / "tiny_model.py", folder], check=True)
        cpu = profile.read((ROOT / "examples" / "cpu.toml").read_bytes())[0]
        model = hf_config.read((Path(folder) / "config.json").read_bytes(), "tiny")
        start = Setup(gpu=cpu, served_model=model, num_gpu_blocks=BLOCKS, **LIMITS)
        arguments = [
            *(f"{name}={value}" for name, value in LIMITS.items()),
            f"num_gpu_blocks_override={BLOCKS}",
        ]
        arguments += ["load_format=dummy", "enforce_eager=true"]
        engine = Vllm(folder, arguments, by_priority=True, replay=True)
        seen: list[Record] = []
        try:
            warm = Workload("warm", 0.0, (20, 200), (20, 100))
            for number in range(3):
                observed(engine, requests(warm, 60, 0, f"w{number}"), policy_of("fifo"))
            if options.only != "prediction":
                seen += policies(engine, start, options.requests, options.repeats)
            if options.only != "policies":
                seen += prediction(engine, start, min(PAIRED, options.requests), options.repeats)
        finally:
            engine.close()
        lags = column(seen, "client_lag_s") * 1e3
        print(
            f"Client lag over all {len(seen)} requests: P50 {np.median(lags):.2f} ms, "
            f"P99 {np.percentile(lags, 99):.2f} ms, most {lags.max():.2f} ms"
        )


if __name__ == "__main__":
    main()
