"""What a better length estimate is worth: the same chats under shortest-job-first by five estimates.

    python benchmarks/price_of_error.py FOLDER [--model NAME] [--seeds 10]

FOLDER holds one JSON (or .json.gz) per served model, lists of objects with `instruction` and `output`, as
AlpacaEval writes them. Half of the prompts teach a regressor (the other half's answers stay unseen) and a
table of means; requests to the unseen half arrive at random (Poisson) on the simulated GPU, at 0.9 and 1.2 of
what it can do, and are served continuously under SJF by the oracle, the regressor, the regressor calibrated
while the run goes on, the prompt's length, and the paper's table, and first come first served. Gain is how
much of the way from SJF by prompt length to SJF by true length an estimate goes, with a 95 % interval over
seeds (Student's t), which split the prompts and draw the arrivals anew. Tau is Kendall's, of estimate and
length.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from driftkit import rng
from driftkit.calibration.feedback import OnlineCalibration
from driftkit.calibration.learned import Learned
from driftkit.engines.sim.profile import load_gpu, load_model
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.estimation.base import NoCorrection, annotate
from driftkit.estimation.oracle import Oracle
from driftkit.estimation.prompt_length import PromptLength
from driftkit.estimation.regression import Regression
from driftkit.estimation.regressor import fit
from driftkit.estimation.table import Table
from driftkit.estimation.tokenizers import load as load_tokenizer
from driftkit.policies.fifo import Fifo
from driftkit.policies.sjf import Sjf
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.schema import Record

LOADS = (0.9, 1.2)
REQUESTS = 3000
SLOTS = 32
ESTIMATES = ("fifo", "table", "prompt-length", "regressor", "calibrated", "oracle")


def silent(text: str) -> None:
    """Warnings of estimators are not of interest here."""


def chats(folder: Path, model: str) -> list[Record]:
    """Prompts and answers with their lengths in tokens of the builtin tokenizer."""
    (path,) = list(folder.glob(f"{model}.json*"))
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    count = load_tokenizer("builtin").count
    found = []
    for number, row in enumerate(json.loads(data)):
        length = max(1, count(row["output"]))
        found.append(
            {
                "id": str(number),
                "tenant": str(row.get("dataset", "all")),
                "prompt": row["instruction"],
                "prompt_tokens": max(1, count(row["instruction"])),
                "served_model": model,
                "actual_output_tokens": length,
                "trace_output_tokens": length,
                "finished_s": float(number),
            }
        )
    return found


def capacity(setup: Setup, records: Sequence[Record]) -> float:
    """Requests per second when all are there at once."""
    jobs = in_order_of_arrival(
        [job_of({**record, "arrival_s": 0.0}, record["trace_output_tokens"]) for record in records]
    )
    return len(jobs) / max(job.finished_s for some in simulate(jobs, setup, Fifo()) for job in some)


def latencies(setup: Setup, records: Sequence[Record], by: str, model: str) -> tuple[float, float]:
    """Mean and median end-to-end seconds."""
    policy = Fifo() if by == "fifo" else Sjf()
    jobs = []
    for record in records:
        job = job_of(record, record["trace_output_tokens"])
        job.priority = policy.key(record)
        jobs.append(job)
    online = None
    if by == "calibrated":
        online = OnlineCalibration(Learned(None, "quantile").start, model, policy)
    ended = simulate(in_order_of_arrival(jobs), setup, policy, online, prioritised=True)
    e2e = [job.finished_s - job.offered_s for some in ended for job in some]
    return fmean(e2e), float(np.median(e2e))


def interval(values: Sequence[float]) -> str:
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):7.1f} [{fmean(values) - half:6.1f}, {fmean(values) + half:6.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="Meta-Llama-3-8B-Instruct")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    known = chats(options.folder, options.model)
    setup = Setup(gpu=load_gpu("l4"), served_model=load_model("qwen1.5-1.8b"), max_num_seqs=SLOTS)
    seen: dict[tuple[float, str], list[tuple[float, float]]] = {}
    taus: dict[str, list[float]] = {by: [] for by in ESTIMATES[1:]}
    for seed in range(options.seeds):
        order = np.argsort(rng.stream(seed, "price/split").random(len(known)))
        taught = [known[place] for place in order[: len(known) // 2]]
        unseen = [known[place] for place in order[len(known) // 2 :]]
        estimators: dict[str, Any] = {
            "table": Table(silent),
            "prompt-length": PromptLength(silent),
            "regressor": Regression(fit(taught).regressor, options.model),
            "oracle": Oracle(silent),
        }
        picks = (rng.stream(seed, "price/picks").random(REQUESTS) * len(unseen)).astype(int)
        gaps = -np.log1p(-rng.stream(seed, "price/gaps").random(REQUESTS))
        drawn: list[Record] = [{**unseen[pick], "id": str(n)} for n, pick in enumerate(picks)]
        rate = capacity(setup, drawn)
        budgets: dict[str, list[Record]] = {"fifo": drawn}
        for name, estimator in estimators.items():
            budgets[name] = [
                {key: value for key, value in record.items() if key != "actual_output_tokens"}
                for record in drawn
            ]
            for record in budgets[name]:
                record["est_tokenizer"] = "builtin"
                annotate(record, estimator, NoCorrection())
            truth = [record["trace_output_tokens"] for record in drawn]
            taus[name].append(
                float(stats.kendalltau([r["est_output_tokens"] for r in budgets[name]], truth)[0])
            )
        budgets["calibrated"] = budgets["regressor"]
        taus["calibrated"].append(taus["regressor"][-1])
        for load in LOADS:
            arrivals = np.cumsum(gaps) / (load * rate)
            for by in ESTIMATES:
                rows = [
                    {**row, "arrival_s": float(at)} for row, at in zip(budgets[by], arrivals, strict=True)
                ]
                seen.setdefault((load, by), []).append(latencies(setup, rows, by, options.model))
    print(f"{options.model}: {REQUESTS} requests a run, {SLOTS} slots, {options.seeds} seeds")
    for load in LOADS:
        print(f"\n  load {load:g}        tau   mean s    P50 s   gain in mean %            gain in P50 %")
        worst, best = seen[load, "prompt-length"], seen[load, "oracle"]
        for by in ESTIMATES:
            runs = seen[load, by]
            tau = f"{fmean(taus[by]):6.3f}" if by in taus else "     -"
            line = f"  {by:<14} {tau} {fmean(r[0] for r in runs):8.2f} {fmean(r[1] for r in runs):8.2f}"
            for statistic in (0, 1):
                gains = [
                    100 * (low[statistic] - run[statistic]) / (low[statistic] - high[statistic])
                    for run, low, high in zip(runs, worst, best, strict=True)
                ]
                line += "   " + interval(gains)
            print(line)


if __name__ == "__main__":
    main()
