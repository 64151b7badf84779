"""How soon each detector notices drift, how often it cries wolf, and how fast it is.

    python benchmarks/drift_detection.py [--seeds 200] [--quiet-completions 1000000] [--trace FILE]

Delay: one tenant's outputs become longer by a step of 1.5, and its completions from the step to the alarm
are counted; `before` is how many there were to learn from, `early` how often an alarm came before the step.
False alarms: the same without a step, as the log of one tenant, of 20 and of 2,000. Estimates are the
paper's table.

What tenants write: `lognormal s` are answers whose logarithm scatters by s and that nothing cuts. `near-cap`
and `chat` are the length models of the driftsched preset, whose caps cut two thirds of the outputs: what lies
above the cut cannot be seen, before the step nor after it.

`the best`: what any detector could do that knows how long outputs are, before and after, and only not when
that changes. KL is what a completion tells after the step, in nats; Page's CUSUM of the true likelihood ratio
has the shortest mean delay in the worst case of all with as many false alarms (Moustakides, Annals of
Statistics 14, 1986), and here begins in that worst case, at 0.

River's detectors, of the same names, see the same log(actual / estimate), with the settings that they come
with, over a tenth of the seeds. They are looked for in .venv-peers/river (benchmarks/install_peers.sh).

With a trace, Azure's hour of conversations for instance: its alarms, as one tenant's log with one estimate
for all, as it was and in random order, where nothing can drift; and its medians by ten minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np

from driftkit import registry, rng
from driftkit.calibration.drift.watch import Watch
from driftkit.records.schema import Record
from driftkit.workload import presets, spec

STEP = 1.5
AFTER = 2000
SOON = 200
RARE = 20_000  # completions, of which less than one may raise a false alarm
RESIDUAL = ("sprt", "page-hinkley", "adwin", "kswin")
MODELS = ("lognormal 0.5", "lognormal 0.7", "lognormal 1.0", "near-cap", "chat")
CAPS = {"short_qa": 64, "summary": 256, "technical": 384, "report": 512}

Found = Callable[[Record], bool]


def lengths(name: str) -> tuple[spec.LengthModel | None, float]:
    if name.startswith("lognormal"):
        return None, float(name.split()[1])
    return spec.read(presets.text("driftsched"), name).settings.output, 0.0


def completions(model: str, seed: int, tenants: int, count: int, step_at: int) -> Iterator[Record]:
    """`count` completions, one a second, of tenants in turn; from `step_at` on the outputs are longer."""
    output, sigma = lengths(model)
    draws = rng.stream(seed, f"benchmark/drift/{model}/{tenants}")
    for first in range(0, count, 4096):
        for place, (u, c, p) in enumerate(draws.random((min(4096, count - first), 3)).tolist(), first):
            category, cap = list(CAPS.items())[int(c * 4)]
            factor = STEP if place >= step_at else 1.0
            if output is None:
                tokens = max(1, int(cap * factor * math.exp(sigma * NormalDist().inv_cdf(u or 0.5))))
            else:
                tokens = output.tokens(u, cap, factor)
            yield {
                "id": str(place),
                "tenant": f"t{place % tenants}",
                "category": category,
                "prompt_tokens": 20 + int(p * 200),
                "est_output_tokens": cap,
                "actual_output_tokens": tokens,
                "finish_reason": "length" if output is not None and tokens == cap else "stop",
                "arrival_s": float(place),
                "started_s": float(place),
                "finished_s": float(place),
            }


# --- the best -------------------------------------------------------------------------------------


def masses(model: str, cap: int, factor: float) -> Any:
    """How likely an output is to end in each of many bins of its length; the last is the cut."""
    output, sigma = lengths(model)
    if output is None:
        parts, scale, longest = ((1.0, 1.0, sigma),), cap, cap * 1000
    else:
        parts, scale, longest = output.distribution.parts, cap if output.distribution.of_cap else 1, cap
    edges = np.geomspace(longest * 1e-6, longest, 3000) / factor
    below = [
        sum(share * NormalDist().cdf(math.log(edge / (scale * mid)) / wide) for share, mid, wide in parts)
        for edge in edges
    ]
    return np.diff([0.0, *below, 1.0])


def ratios(model: str) -> tuple[Any, Any, Any]:
    """The log-likelihood ratios that a completion may have, and how likely before and after the step."""
    before, after = (np.concatenate([masses(model, cap, f) / 4 for cap in CAPS.values()]) for f in (1, STEP))
    seen = (before > 1e-15) & (after > 1e-15)
    before, after = before[seen], after[seen]
    return np.log(after / before), before, after


def steps(ratio: Any, mass: Any, threshold: float, states: int = 250) -> Any:
    """From each height of a CUSUM to each in one completion (Brook and Evans, Biometrika 59, 1972)."""
    heights = ratio / (threshold / (states - 1))
    down = np.floor(heights).astype(int)
    by = np.zeros(2 * states + 1)
    for move, weight in ((down, 1 - (heights - down)), (down + 1, heights - down)):
        np.add.at(by, np.clip(move + states, 0, 2 * states), mass * weight)
    reached = np.cumsum(by)
    table = np.array([by[states - height : 2 * states - height] for height in range(states)])
    table[:, 0] = [reached[states - height] for height in range(states)]
    return table


def best(model: str) -> tuple[float, float, int, int]:
    """KL in nats a completion, and the delay of that CUSUM: mean, median and 95 %, in completions."""
    ratio, before, after = ratios(model)
    low, high = 1.0, 20.0
    for _ in range(20):
        threshold = (low + high) / 2
        stays = steps(ratio, before, threshold)
        run_length = np.linalg.solve(np.eye(len(stays)) - stays, np.ones(len(stays)))[0]
        low, high = (threshold, high) if run_length < RARE else (low, threshold)
    stays = steps(ratio, after, high)
    left = [np.eye(len(stays))[0]]
    while left[-1].sum() > 1e-4:
        left.append(left[-1] @ stays)
    still = [float(state.sum()) for state in left]
    at = [next(count for count, share in enumerate(still) if share <= 1 - level) for level in (0.5, 0.95)]
    return float((after * ratio).sum()), sum(still), at[0], at[1]


# --- ours and River's -----------------------------------------------------------------------------


def ours(name: str) -> Callable[[], Found]:
    def new() -> Found:
        watch = Watch([name])
        return lambda record: bool(watch.observe(record))

    return new


def rivers() -> dict[str, Callable[[], Found]]:
    """River's, by name; none where it is not installed."""
    sys.path.extend(map(str, Path(__file__).parents[1].glob(".venv-peers/river/lib/*/site-packages")))
    try:
        from river import drift
    except ImportError:
        print("River is not installed (benchmarks/install_peers.sh): going on without")
        return {}

    def found_by(make: Callable[[], Any]) -> Callable[[], Found]:
        def new() -> Found:
            detector = make()

            def found(record: Record) -> bool:
                detector.update(math.log(record["actual_output_tokens"] / record["est_output_tokens"]))
                return bool(detector.drift_detected)

            return found

        return new

    return {
        "river PageHinkley": found_by(drift.PageHinkley),
        "river ADWIN": found_by(drift.ADWIN),
        "river KSWIN": found_by(lambda: drift.KSWIN(seed=0)),
    }


def delay(new: Callable[[], Found], model: str, before: int, seed: int) -> float:
    """Completions from the step to the alarm; -1 for one that came before it."""
    found = new()
    for place, record in enumerate(completions(model, seed, 1, before + AFTER, before)):
        if found(record):
            return place + 1 - before if place >= before else -1
    return math.inf


def false_alarms(model: str, tenants: int, count: int) -> Counter[str]:
    """Alarms by detector; all watch at once, and what one restarts it restarts for all, seldom enough."""
    watch = Watch(registry.names("detectors"))
    quiet = completions(model, 1, tenants, count, count + 1)
    return Counter(alarm["detector"] for record in quiet for alarm in watch.observe(record))


def of_trace(file: str) -> list[Record]:
    """The requests of a trace as completions that took no time."""
    made = subprocess.run(
        [sys.executable, "-m", "driftkit", "gen", "--trace", file], stdout=subprocess.PIPE, check=True
    )
    return [
        {
            "id": request["id"],
            "prompt_tokens": request["prompt_tokens"],
            "est_output_tokens": 200,
            "actual_output_tokens": max(1, request["trace_output_tokens"]),
            "finished_s": request["arrival_s"],
        }
        for request in map(json.loads, made.stdout.splitlines())
    ]


def show_trace(file: str) -> None:
    rows = of_trace(file)
    print(f"\nalarms of the default detectors in {len(rows):,} requests of {Path(file).name}")
    order = rng.stream(0, "benchmark/drift/order").permutation(len(rows)).tolist()
    times = [row["finished_s"] for row in rows]
    shuffled = [{**rows[place], "finished_s": at_s} for place, at_s in zip(order, times, strict=True)]
    for called, log in (("as it was", rows), ("in random order", shuffled)):
        watch = Watch(registry.names("detectors")[:4])
        alarms = [alarm for row in log for alarm in watch.observe(row)]
        alarms += watch.end_run(times[-1])
        print(f"  {called}: {len(alarms)}")
        for alarm in alarms:
            begun, raised = alarm["since_s"], alarm["at_s"]
            print(f"    {begun:>6.0f} s, at {raised:>6.0f} s  {alarm['detector']} of {alarm['drift_of']}")
    for first in range(0, int(times[-1]) + 1, 600):
        part = [row for row in rows if first <= row["finished_s"] < first + 600]
        if part:
            middle = [median(row[name] for row in part) for name in ("prompt_tokens", "actual_output_tokens")]
            print(f"  {first:>6} s: median prompt {middle[0]:.0f}, output {middle[1]:.0f}, of {len(part)}")


def shown(value: float) -> str:
    return f">{AFTER}" if value == math.inf else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--quiet-completions", type=int, default=1_000_000)
    parser.add_argument("--trace", metavar="FILE")
    asked = parser.parse_args()

    print(f"the best, with a false alarm in {RARE:,} completions: until a step of {STEP:g} is noticed")
    print(f"{'lengths':<15} {'KL':>6} {f'ln {RARE} / KL':>14} {'mean':>6} {'median':>6} {'95 %':>6}")
    for model in MODELS:
        kl, mean, middle, high = best(model)
        bound = math.log(RARE) / kl
        print(f"{model:<15} {kl:>6.3f} {bound:>14.0f} {mean:>6.0f} {middle:>6} {high:>6}", flush=True)

    print(f"\ncompletions of the tenant until a step of {STEP:g} is noticed, over {asked.seeds} seeds")
    detectors = {name: ours(name) for name in RESIDUAL} | rivers()
    soon = f"<= {SOON}"
    print(f"{'lengths':<15} {'before':>6}  {'detector':<18} {'median':>7} {'95 %':>7} {soon:>7} {'early':>6}")
    for model in MODELS:
        for before in (200, 1000):
            for name, new in detectors.items():
                seeds = asked.seeds if name in RESIDUAL else math.ceil(asked.seeds / 10)
                delays = [delay(new, model, before, seed) for seed in range(seeds)]
                late = sorted(each for each in delays if each >= 0)
                early = len(delays) - len(late)
                if late:
                    high = shown(late[min(math.ceil(0.95 * len(late)), len(late)) - 1])
                    within = f"{sum(each <= SOON for each in late) / len(late):.0%}"
                    row = f"{shown(median(late)):>7} {high:>7} {within:>7} {early:>6}"
                else:
                    row = f"{'-':>7} {'-':>7} {'-':>7} {early:>6}"
                print(f"{model:<15} {before:>6}  {name:<18} {row}", flush=True)

    count = asked.quiet_completions
    print(f"\nfalse alarms in {count:,} completions without drift, and in {RARE:,} on average")
    names = registry.names("detectors")
    print(f"{'lengths':<15} {'tenants':>7}  {'  '.join(f'{name:>16}' for name in names)}")
    for model in ("lognormal 0.7", "chat"):
        for tenants in (1, 20, 2000):
            alarms = false_alarms(model, tenants, count)
            cells = (f"{alarms[name]:>8} {alarms[name] / count * RARE:>7.3f}" for name in names)
            print(f"{model:<15} {tenants:>7}  {'  '.join(cells)}", flush=True)
    for name, new in list(detectors.items())[len(RESIDUAL) :]:
        found = new()
        raised = sum(found(record) for record in completions("chat", 1, 1, RARE, RARE + 1))
        print(f"{'chat':<15} {1:>7}  {name}, in {RARE:,}: {raised}", flush=True)

    print("\ncompletions a second on one core")
    records = list(completions("chat", 0, 3, 100_000, 50_000))
    for called in (["sprt"], ["page-hinkley"], names[:4], names):
        watch = Watch(called)
        begun = time.perf_counter()
        for record in records:
            watch.observe(record)
        print(f"{len(records) / (time.perf_counter() - begun):>10,.0f}  {' '.join(called)}")
    if asked.trace:
        show_trace(asked.trace)


if __name__ == "__main__":
    main()
