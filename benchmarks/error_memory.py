"""What remembering errors adds to an estimate: prompts served one after another, steadily and after drift.

    python benchmarks/error_memory.py FOLDER [--models a,b,...] [--seeds 5]
    python benchmarks/error_memory.py --speed

FOLDER holds one JSON (or .json.gz) per served model, lists of objects with `instruction`, `output` and
`dataset`, which stands for the tenant, as AlpacaEval writes them. For every served model and seed the prompts
are put in random order. The answers to the first 200 teach a regressor; all others are served, each once and
25 at a time: they are estimated with what was learned of those before them, and then learned. Under drift the
answers to one tenant, another one for each seed, are twice as long from the middle on.

Beside the table and the regressor alone stand both with a memory (`--model knn`), and both calibrated
(`calibrate`) by the shrunk ratio per tenant and category and by tracked quantiles, its default; these learn
of the same completions.

MAE is in tokens, and its change against the base alone in percent of that; tau is Kendall's, within a run.
All are means over served models and seeds. Intervals are 95 %, by a bootstrap over prompts; what is paired is
the difference of two ways within each draw.

--speed says how many requests a full memory corrects in a second of one core's time, the base's left out, and
what one takes that comes alone; beside it stands scikit-learn's search for as many neighbours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from driftkit.calibration.base import Calibrator
from driftkit.calibration.quantile import Quantile
from driftkit.calibration.ratio import Ratio
from driftkit.estimation import memory
from driftkit.estimation.base import Estimate, NoCorrection, annotate, estimate_many, unremembered_tokens
from driftkit.estimation.features import NUMBERS, table
from driftkit.estimation.fitting import fit
from driftkit.estimation.knn import Knn
from driftkit.estimation.memory import PAIRS, Memory, Of, Seen
from driftkit.estimation.regression import Regression
from driftkit.estimation.table import Table
from driftkit.records.schema import Record
from driftkit.rng import stream
from length_prediction import Answers

TAUGHT = 200
BATCH = 25
FACTOR = 2.0
DRAWS = 300
BASES = ("table", "regressor")
CALIBRATORS: dict[str, Callable[[], Calibrator]] = {" + ratio": Ratio, " + quantile": Quantile}
WAYS = ("", " + knn", *CALIBRATORS)
PAIRED = (" + knn", " + quantile")
ROUNDS = 5
WORDS = ("write", "a", "long", "story", "about", "rivers", "list", "ten", "ideas", "code", "explain", "why")

Floats = NDArray[np.float64]


def silent(text: str) -> None:
    """Warnings of estimators are not of interest here."""


class Run(NamedTuple):
    """Requests as they were served: their prompts, base estimates and answers, and the first that drifts."""

    prompts: NDArray[np.int64]
    records: list[Record]
    estimates: dict[str, list[Estimate]]
    drifted: str


def run_of(answers: Answers, model: int, seed: int) -> Run:
    """A served model's run without drift, every request with both bases' estimates."""
    order = np.argsort(stream(seed, "memory/order").random(len(answers.prompts)))
    records = [{**answers.record(int(p), model), "est_tokenizer": "builtin"} for p in order]
    for place, record in enumerate(records):
        record |= {"arrival_s": float(place), "finished_s": float(place + 1), "finish_reason": "stop"}
    taught, served = records[:TAUGHT], records[TAUGHT:]
    regressor = Regression(fit(taught).regressor, answers.models[model])
    estimates = {
        name: estimate_many(base, served)
        for name, base in zip(BASES, (Table(silent), regressor), strict=True)
    }
    tenants = sorted(set(answers.datasets))
    return Run(order[TAUGHT:], served, estimates, str(tenants[seed % len(tenants)]))


def lengths(run: Run, drift: bool) -> list[int]:
    """What the answers are long: from the middle on the drifted tenant's are FACTOR as long."""
    half = len(run.records) // 2
    return [
        round(record["actual_output_tokens"] * FACTOR)
        if drift and place >= half and record["tenant"] == run.drifted
        else record["actual_output_tokens"]
        for place, record in enumerate(run.records)
    ]


class Fixed:
    """A base whose estimates are known."""

    reads = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.estimates: Sequence[Estimate] = ()

    def estimate(self, record: Record) -> Estimate:
        raise NotImplementedError

    def estimate_many(self, records: Sequence[Record]) -> list[Estimate]:
        return list(self.estimates)


def served(run: Run, base: str, way: str, actual: Sequence[int]) -> Floats:
    """The estimate of each request, learned on the way."""
    fixed = Fixed(base)
    calibrator = CALIBRATORS[way]() if way in CALIBRATORS else None
    errors = Memory(Of(base, "builtin", "m"), None)
    knn = Knn(fixed, {"builtin": errors}, silent)
    said = []
    for start in range(0, len(run.records), BATCH):
        records = [dict(record) for record in run.records[start : start + BATCH]]
        fixed.estimates = run.estimates[base][start : start + BATCH]
        estimates = knn.estimate_many(records) if way == " + knn" else fixed.estimates
        for record, estimate, length in zip(records, estimates, actual[start:], strict=False):
            annotate(record, fixed, calibrator or NoCorrection(), estimate)
            record["actual_output_tokens"] = length
            said.append(record["est_output_tokens"])
        if way == " + knn":
            seen = [Seen(r, unremembered_tokens(r), r["actual_output_tokens"], cut=False) for r in records]
            errors.learn("", seen)
            errors.settle()
        elif calibrator is not None:
            for record in records:
                calibrator.learn(record, record["finished_s"])
    return np.array(said, float)


def parts(run: Run, drift: bool) -> dict[str, NDArray[np.bool_]]:
    """The requests that are judged together."""
    late = np.arange(len(run.records)) >= len(run.records) // 2
    own = np.array([record["tenant"] == run.drifted for record in run.records])
    if not drift:
        return {"steady load": np.ones_like(late)}
    return {"after the drift, its tenant": late & own, "after the drift, the others": late & ~own}


class Served(NamedTuple):
    """What was said and what came, of the requests of a run that are judged together."""

    prompts: NDArray[np.int64]
    said: Floats
    actual: Floats


def judged(runs: Sequence[Run], base: str, way: str) -> dict[str, list[Served]]:
    """By part, every run's."""
    found: dict[str, list[Served]] = {}
    for drift in (False, True):
        for run in runs:
            actual = lengths(run, drift)
            said = served(run, base, way, actual)
            for part, of in parts(run, drift).items():
                found.setdefault(part, []).append(
                    Served(run.prompts[of], said[of], np.array(actual, float)[of])
                )
    return found


def means(runs: Sequence[Served], weight: NDArray[np.int64]) -> tuple[float, float]:
    """MAE and tau, means over runs; each prompt counts as often as `weight` says."""
    maes, taus = [], []
    for run in runs:
        drawn = np.repeat(np.arange(len(run.prompts)), weight[run.prompts])
        if len(drawn) > 1:
            maes.append(float(np.abs(run.said - run.actual)[drawn].mean()))
            taus.append(float(kendalltau(run.said[drawn], run.actual[drawn]).statistic))
    return float(np.mean(maes)), float(np.nanmean(taus))


def interval(values: Sequence[float] | Floats, form: str) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"[{low:{form}}, {high:{form}}]"


def compare(runs: Sequence[Run], prompts: int) -> None:
    """The table."""
    uniforms = stream(1, "memory/bootstrap").random((DRAWS, prompts))
    draws = [np.bincount((row * prompts).astype(int), minlength=prompts) for row in uniforms]
    once = np.ones(prompts, np.int64)
    for base in BASES:
        ways = {way: judged(runs, base, way) for way in WAYS}
        for part in ways[""]:
            print(f"\n{part:30s} {'MAE':>6s} {'':17s} {'change %':>8s} {'':16s} {'tau':>6s}")
            found = {way: means(of[part], once) for way, of in ways.items()}
            drawn = {way: np.array([means(of[part], draw) for draw in draws]) for way, of in ways.items()}
            for way, (mae, tau) in found.items():
                changes = 100 * (drawn[way][:, 0] / drawn[""][:, 0] - 1)
                change = f"{100 * (mae / found[''][0] - 1):8.1f} {interval(changes, '5.1f'):16s}"
                print(
                    f"  {base + way:28s} {mae:6.1f} {interval(drawn[way][:, 0], '5.1f'):17s} "
                    f"{change if way else '':25s} {tau:6.3f} {interval(drawn[way][:, 1], '5.3f')}",
                    flush=True,
                )
            one, other = PAIRED
            mae, tau = np.subtract(found[one], found[other])
            maes, taus = (drawn[one] - drawn[other]).T
            print(
                f"  {'knn - quantile':28s} {mae:+6.1f} {interval(maes, '+5.1f'):17s} "
                f"{'':25s} {tau:+6.3f} {interval(taus, '+5.3f')}",
                flush=True,
            )


def speed() -> None:
    """Requests a second of a full memory, and how long one alone takes."""
    words = stream(1, "memory/words").random((PAIRS + 4096, 12))
    prompts = [" ".join(WORDS[int(u * len(WORDS))] for u in row) for row in words]
    rows: list[Record] = [
        {
            "prompt": p,
            "prompt_tokens": 8 + n % 90,
            "tenant": f"t{n % 7}",
            "arrival_s": 1.0,
            "finished_s": 1.0 * n,
        }
        for n, p in enumerate(prompts)
    ]
    full = Memory(Of("table", "builtin", "m"), None)
    full.learn("", [Seen(row, 100.0, 50 + n % 300, cut=False) for n, row in enumerate(rows[:PAIRS])])
    full.settle()
    asked, estimates = rows[PAIRS:], [100.0] * 4096
    full.ratios(asked[:64], estimates[:64])
    took = [
        _seconds(lambda: [full.ratios(asked[n : n + 1024], estimates[:1024]) for n in range(0, 4096, 1024)])
        for _ in range(ROUNDS)
    ]
    alone = [_seconds(lambda: full.ratios(asked[:1], estimates[:1])) for _ in range(20)]
    cues = [_seconds(lambda: table(asked)) for _ in range(ROUNDS)]
    print(
        f"{PAIRS} pairs: {4096 / min(took):.0f} requests/s, {100 * min(cues) / min(took):.0f} % of the time "
        f"for their cues; one alone {1000 * min(alone):.1f} ms"
    )
    places = stream(1, "memory/places").random((PAIRS + 4096, len(NUMBERS))).astype(np.float32)
    search = NearestNeighbors(n_neighbors=memory.NEIGHBOURS, algorithm="brute", n_jobs=1).fit(places[:PAIRS])
    took = [_seconds(lambda: search.kneighbors(places[PAIRS:])) for _ in range(ROUNDS)]
    print(f"scikit-learn's search alone, brute force: {4096 / min(took):.0f} requests/s")


def _seconds(do: Callable[[], Any]) -> float:
    started = time.process_time()
    do()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--models", help="comma-separated; default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    with threadpool_limits(1):
        if options.speed:
            return speed()
        if options.folder is None:
            parser.error("FOLDER is missing")
        answers = Answers(options.folder, options.models.split(",") if options.models else None)
        runs = [run_of(answers, m, s) for m in range(len(answers.models)) for s in range(options.seeds)]
        print(f"{len(answers.prompts)} prompts, {options.seeds} seeds, {', '.join(answers.models)}")
        compare(runs, len(answers.prompts))
    return None


if __name__ == "__main__":
    main()
