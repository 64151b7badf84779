"""What a better length estimate is worth: the same chats under shortest-job-first by several estimates.

    python benchmarks/price_of_error.py FOLDER [--model NAME] [--seeds 20] [--first-seed 0]

FOLDER holds one JSON (or .json.gz) per served model, lists of objects with `instruction` and `output`, as
AlpacaEval writes them. Half of the prompts teach (the other half's answers stay unseen, every model's);
requests to the unseen half arrive at random (Poisson) on the simulated GPU, at 0.9 and 1.2 of what it can do,
and are served continuously under SJF. Gain is how much of the way from SJF by prompt length to SJF by true
length an estimate goes, the mean over seeds with a 95 % interval (Student's t); pooled is the same of the
seconds of all seeds together, where those with long queues count for more. Seeds split the prompts and draw
the arrivals anew; within one everybody serves the same requests. Tau is Kendall's, of estimate and length.

    regressor          taught by the served model's answers
    calibrated         the same, corrected while the run goes on
    expected           the same, ordered by its mean, 0.3 P10 + 0.4 P50 + 0.3 P90 (Swanson), not its median
    half of the teachers
                       taught by half as many answers as the regressor
    all models         taught by the answers of all models in FOLDER to the same prompts
    + embeddings       with driftkit[embed]; left out where that is not installed
    long for short mended, short for long mended
                       no estimate: the regressor, but for the tenth of the prompts whose length it says
                       furthest too short, or too long: there it is right. Which errors cost what
    others' answers    no estimate: the mean of what the other models answered to that very prompt, in
                       deviations of log length. What no prompt says but an answer to it
    blurred            no estimate: the true length times log-normal noise, one draw a prompt, so large as
                       gives that tau
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from driftkit import rng
from driftkit.calibration.feedback import OnlineCalibration
from driftkit.calibration.learned import Learned
from driftkit.engines.sim.profile import load_gpu, load_model
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.errors import DriftkitError
from driftkit.estimation import embeddings
from driftkit.estimation.base import NoCorrection, annotate
from driftkit.estimation.fitting import fit
from driftkit.estimation.oracle import Oracle
from driftkit.estimation.prompt_length import PromptLength
from driftkit.estimation.regression import Regression
from driftkit.estimation.table import Table
from driftkit.estimation.tokenizers import load as load_tokenizer
from driftkit.policies.fifo import Fifo
from driftkit.policies.sjf import Sjf
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.schema import Record
from length_prediction import remembered

LOADS = (0.9, 1.2)
REQUESTS = 3000
SLOTS = 32
TAUS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95)
ASKED = 60.0  # percent of the way
SWANSON = (0.3, 0.4, 0.3)  # of P10, P50 and P90: the mean of most distributions
PAIRS = (  # of estimates, seed by seed
    ("calibrated", "regressor"),
    ("expected", "regressor"),
    ("half of the teachers", "regressor"),
    ("all models", "regressor"),
    ("regressor + embeddings", "regressor"),
    ("all models + embeddings", "regressor + embeddings"),
)

Floats = NDArray[np.float64]


def silent(text: str) -> None:
    """Warnings of estimators are not of interest here."""


def chats(folder: Path) -> dict[str, list[Record]]:
    """Of each served model the prompts, and its answers' lengths in tokens of the builtin tokenizer."""
    count = load_tokenizer("builtin").count
    found: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*.json*")):
        model = path.name.removesuffix(".gz").removesuffix(".json")
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for number, row in enumerate(json.loads(data)):
            length = max(1, count(row["output"]))
            found.setdefault(model, []).append(
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


def hidden(record: Record) -> Record:
    """A request as an estimator sees it: the answer is not there."""
    return {key: value for key, value in record.items() if key != "actual_output_tokens"}


def estimated(records: Sequence[Record], estimator: Any) -> list[Record]:
    rows = [{**hidden(record), "est_tokenizer": "builtin"} for record in records]
    for row in rows:
        annotate(row, estimator, NoCorrection())
    return rows


def given(records: Sequence[Record], tokens: Floats) -> list[Record]:
    """Requests with these estimates, whoever made them."""
    whole = np.maximum(1, np.rint(tokens)).astype(int).tolist()
    return [
        {**hidden(r), "est_output_tokens": n, "est_total_tokens": r["prompt_tokens"] + n}
        for r, n in zip(records, whole, strict=True)
    ]


def expected(rows: Sequence[Record]) -> list[Record]:
    quantiles = [
        [row["est_output_tokens_p10"], row["est_output_tokens"], row["est_output_tokens_p90"]] for row in rows
    ]
    return given(rows, np.array(quantiles) @ SWANSON)


def agreement(answers: dict[str, list[Record]], model: str) -> list[float]:
    """Tau of each other model's lengths with this one's, over the prompts that both have answered."""
    own = {row["prompt"]: row["trace_output_tokens"] for row in answers[model]}
    found = []
    for other in answers.keys() - {model}:
        pairs = [(own[r["prompt"]], r["trace_output_tokens"]) for r in answers[other] if r["prompt"] in own]
        found.append(float(stats.kendalltau(*zip(*pairs, strict=True))[0]))
    return sorted(found)


def mended(rows: Sequence[Record], lengths: Floats, side: int) -> Floats:
    """The estimates, but for the tenth that is furthest too low (-1) or too high (1): those are right."""
    told = np.array([float(row["est_output_tokens"]) for row in rows])
    off = side * np.log(told / lengths)
    return np.where(off > np.quantile(off, 0.9), lengths, told)


def others(answers: dict[str, list[Record]], model: str, records: Sequence[Record]) -> Floats:
    """The mean log length of the other models' answers, in deviations of each, as a length."""
    told = np.full((len(answers) - 1, len(records)), np.nan)
    for place, other in enumerate(name for name in answers if name != model):
        logs = {row["prompt"]: np.log(row["trace_output_tokens"]) for row in answers[other]}
        of = np.array([logs.get(record["prompt"], np.nan) for record in records])
        told[place] = (of - np.nanmean(of)) / np.nanstd(of)
    known = ~np.isnan(told)
    mean = np.where(known, told, 0).sum(axis=0) / np.maximum(1, known.sum(axis=0))
    own = np.log([row["trace_output_tokens"] for row in answers[model]])
    return np.exp(own.mean() + own.std() * mean)


def blurred(lengths: Floats, picks: NDArray[np.int64], noise: Floats, tau: float) -> Floats:
    """The lengths times log-normal noise, so large that tau of what `picks` asks for is this."""
    low, high = -6.0, 6.0  # logarithm of its size
    for _ in range(30):
        middle = (low + high) / 2
        told = lengths * np.exp(np.exp(middle) * noise)
        reached = stats.kendalltau(told[picks], lengths[picks])[0]
        low, high = (middle, high) if reached > tau else (low, middle)
    return told


class Workload:
    """What one seed draws: which prompts teach, who asks for what and when."""

    def __init__(self, seed: int, answers: dict[str, list[Record]], model: str, setup: Setup) -> None:
        self._answers, self._model = answers, model
        known = answers[model]
        order = np.argsort(rng.stream(seed, "price/split").random(len(known)))
        self.taught = [known[place] for place in order[: len(known) // 2]]
        self.unseen = [known[place] for place in order[len(known) // 2 :]]
        self.picks = (rng.stream(seed, "price/picks").random(REQUESTS) * len(self.unseen)).astype(int)
        self._gaps = -np.log1p(-rng.stream(seed, "price/gaps").random(REQUESTS))
        self._noise = stats.norm.ppf(rng.stream(seed, "price/noise").random(len(self.unseen)))
        self._rate = capacity(setup, self.drawn(self.unseen))

    def drawn(self, rows: Sequence[Record]) -> list[Record]:
        return [{**rows[pick], "id": str(number)} for number, pick in enumerate(self.picks)]

    def arriving(self, rows: Sequence[Record], load: float) -> list[Record]:
        arrivals = np.cumsum(self._gaps) / (load * self._rate)
        return [{**row, "arrival_s": float(at)} for row, at in zip(self.drawn(rows), arrivals, strict=True)]

    def _regression(self, taught: Sequence[Record], embed: Any) -> Regression:
        return Regression(fit(taught, embed=embed).regressor, self._model)

    def estimates(self, embed: Any) -> dict[str, list[Record]]:
        """The unseen prompts as each estimator sees them."""
        asked = {record["prompt"] for record in self.unseen}
        prompts = {record["prompt"] for record in self.taught} - asked
        everybody = [row for rows in self._answers.values() for row in rows if row["prompt"] in prompts]
        found = {
            "fifo": given(self.unseen, np.ones(len(self.unseen))),
            "table": estimated(self.unseen, Table(silent)),
            "prompt-length": estimated(self.unseen, PromptLength(silent)),
        }
        for text, by in [("", None), (" + embeddings", embed)]:
            if text and by is None:
                continue
            for name, taught in [("regressor", self.taught), ("all models", everybody)]:
                found[name + text] = estimated(self.unseen, self._regression(taught, by))
        few = self.taught[: len(self.taught) // 2]
        found["half of the teachers"] = estimated(self.unseen, self._regression(few, None))
        found["calibrated"] = found["regressor"]
        found["expected"] = expected(found["regressor"])
        lengths = np.array([float(record["trace_output_tokens"]) for record in self.unseen])
        for name, of in [("long for short mended", -1), ("short for long mended", 1)]:
            found[name] = given(self.unseen, mended(found["regressor"], lengths, of))
        if len(self._answers) > 1:
            found["others' answers"] = given(self.unseen, others(self._answers, self._model, self.unseen))
        for tau in TAUS:
            told = blurred(lengths, self.picks, self._noise, tau)
            found[f"blurred, {tau:g}"] = given(self.unseen, told)
        found["oracle"] = estimated(self.unseen, Oracle(silent))
        return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values), fmean(values) - half, fmean(values) + half


def shown(values: Sequence[float]) -> str:
    middle, low, high = interval(values)
    return f"{middle:7.1f} [{low:6.1f}, {high:6.1f}]"


def reaches(taus: Sequence[float], gains: Sequence[float]) -> float:
    """The tau at which a curve of gains comes to what was asked for."""
    points = zip(taus, gains, taus[1:], gains[1:], strict=False)
    for tau, gain, next_tau, next_gain in points:
        if gain < ASKED <= next_gain:
            return tau + (next_tau - tau) * (ASKED - gain) / (next_gain - gain)
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="Meta-Llama-3-8B-Instruct")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    answers = chats(options.folder)
    setup = Setup(gpu=load_gpu("l4"), served_model=load_model("qwen1.5-1.8b"), max_num_seqs=SLOTS)
    embed = None
    try:
        embed = remembered(embeddings.load())
    except DriftkitError as error:
        print(f"price_of_error: without embeddings: {error}", file=sys.stderr)
    seen: dict[tuple[float, str], list[tuple[float, float]]] = {}
    taus: dict[str, list[float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        workload = Workload(seed, answers, options.model, setup)
        for by, rows in workload.estimates(embed).items():
            drawn = workload.drawn(rows)
            told = [row["est_output_tokens"] for row in drawn]
            truth = [row["trace_output_tokens"] for row in drawn]
            taus.setdefault(by, []).append(float(stats.kendalltau(told, truth)[0]))
            for load in LOADS:
                ended = latencies(setup, workload.arriving(rows, load), by, options.model)
                seen.setdefault((load, by), []).append(ended)
        print(f"price_of_error: seed {seed}", file=sys.stderr)
    print(f"{options.model}: {REQUESTS} requests a run, {SLOTS} slots, {options.seeds} seeds")
    print(f"{len(answers[options.model])} prompts, {len(answers)} models")
    if len(answers) > 1:
        alike = agreement(answers, options.model)
        print(f"tau of another model's answers: {alike[0]:.3f} to {alike[-1]:.3f}, mean {fmean(alike):.3f}")
    for load in LOADS:
        tables(load, seen, taus)


def tables(load: float, seen: dict[tuple[float, str], list[tuple[float, float]]], taus: Any) -> None:
    title = f"load {load:g}"
    print(f"\n  {title:<32} tau   mean s    P50 s    gain in mean, %          gain in P50, %")
    gains: dict[tuple[str, int], list[float]] = {}
    worst, best = np.array(seen[load, "prompt-length"]), np.array(seen[load, "oracle"])
    for by in taus:
        runs = np.array(seen[load, by])
        tau = f"{fmean(taus[by]):6.3f}" if by != "fifo" else "     -"
        line = f"  {by:<27} {tau} {runs[:, 0].mean():8.2f} {runs[:, 1].mean():8.2f}"
        for of in (0, 1):
            won, all_there_is = (worst - runs)[:, of], (worst - best)[:, of]
            gains[by, of] = (100 * won / all_there_is).tolist()
            line += f"   {shown(gains[by, of])} {100 * won.sum() / all_there_is.sum():7.1f}"
        print(line)
    for of, name in enumerate(("mean", "P50")):
        points = [interval(gains[f"blurred, {tau:g}", of]) for tau in TAUS]
        middle, late, early = (reaches(TAUS, gain) for gain in zip(*points, strict=True))
        print(f"  {ASKED:g} % in {name} at tau {middle:.2f} [{early:.2f}, {late:.2f}]")
    for one, other in PAIRS:
        if one in taus:
            more = [
                shown([x - y for x, y in zip(gains[one, of], gains[other, of], strict=True)]) for of in (0, 1)
            ]
            print(f"  {one} - {other}: mean {more[0]}, P50 {more[1]}")


if __name__ == "__main__":
    main()
