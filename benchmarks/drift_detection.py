"""How soon each detector notices drift, how often it cries wolf, and how fast it is.

    python benchmarks/drift_detection.py [--seeds 200] [--quiet-completions 2000000]

Delay: one tenant's outputs become longer by a step of 1.5, and its completions from the step to the alarm
are counted; `before` is how many there were to learn from, `early` how often an alarm came before the step.
False alarms: the same without a step, as the log of one tenant, of 20 and of 2,000. Estimates are the
paper's table.

What tenants write: `lognormal s` are answers whose logarithm scatters by s and that nothing cuts. `near-cap`
and `chat` are the length models of the driftsched preset, whose caps cut two thirds of the outputs: what lies
above the cut cannot be seen, before the step nor after it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from statistics import NormalDist, median

from driftkit import registry, rng
from driftkit.calibration.drift.watch import Watch
from driftkit.records.schema import Record
from driftkit.workload import presets, spec

STEP = 1.5
AFTER = 2000
RESIDUAL = ("page-hinkley", "sprt", "adwin", "kswin")
CAPS = {"short_qa": 64, "summary": 256, "technical": 384, "report": 512}


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


def delay(detector: str, model: str, before: int, seed: int) -> float:
    """Completions from the step to the alarm; -1 for one that came before it."""
    watch = Watch([detector])
    for place, record in enumerate(completions(model, seed, 1, before + AFTER, before)):
        if watch.observe(record):
            return place + 1 - before if place >= before else -1
    return math.inf


def false_alarms(model: str, tenants: int, count: int) -> Counter[str]:
    """Alarms by detector; all watch at once, and what one restarts it restarts for all, seldom enough."""
    watch = Watch(registry.names("detectors"))
    quiet = completions(model, 1, tenants, count, count + 1)
    return Counter(alarm["detector"] for record in quiet for alarm in watch.observe(record))


def shown(value: float) -> str:
    return f">{AFTER}" if value == math.inf else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--quiet-completions", type=int, default=2_000_000)
    asked = parser.parse_args()

    print(f"completions of the tenant until a step of {STEP:g} is noticed, over {asked.seeds} seeds")
    print(f"{'lengths':<15} {'before':>6}  {'detector':<13} {'median':>7} {'95 %':>7} {'early':>6}")
    for model in ("lognormal 0.5", "lognormal 0.7", "lognormal 1.0", "near-cap", "chat"):
        for before in (200, 1000):
            for detector in RESIDUAL:
                delays = [delay(detector, model, before, seed) for seed in range(asked.seeds)]
                late = sorted(each for each in delays if each >= 0)
                high = late[min(math.ceil(0.95 * len(late)), len(late)) - 1]
                early = len(delays) - len(late)
                row = f"{detector:<13} {shown(median(late)):>7} {shown(high):>7} {early:>6}"
                print(f"{model:<15} {before:>6}  {row}", flush=True)

    count = asked.quiet_completions
    print(f"\nfalse alarms in {count:,} completions without drift, and in 20,000 on average")
    names = registry.names("detectors")
    print(f"{'lengths':<15} {'tenants':>7}  {'  '.join(f'{name:>16}' for name in names)}")
    for model in ("lognormal 0.7", "chat"):
        for tenants in (1, 20, 2000):
            alarms = false_alarms(model, tenants, count)
            cells = (f"{alarms[name]:>8} {alarms[name] / count * 20_000:>7.3f}" for name in names)
            print(f"{model:<15} {tenants:>7}  {'  '.join(cells)}", flush=True)

    print("\ncompletions a second on one core")
    records = list(completions("chat", 0, 3, 100_000, 50_000))
    for called in (names[:4], names):
        watch = Watch(called)
        begun = time.perf_counter()
        for record in records:
            watch.observe(record)
        print(f"{len(records) / (time.perf_counter() - begun):>10,.0f}  {' '.join(called)}")


if __name__ == "__main__":
    main()
