"""What each calibration method gains over the paper's table, and whether tracked quantiles hold.

    python benchmarks/calibration_methods.py [SEEDS]        10 by default

Error: the paper's loop, 3,000 requests of the preset in gang batches of 32 first come first served, estimated
by the table, calibrated afterwards with what had ended before each arrived. In tokens and in whitespace
words, both length models. `oracle` is what a constant per tenant and category would gain that knows all
outcomes of the run beforehand: their median for MAE, their mean for RMSE. `its medians` is what those medians
gain in RMSE, the most of whoever estimates a median, and `as median` the share of that. `spread` is the mean
that the quantiles of --method quantile imply, 0.3 P10 + 0.4 P50 + 0.3 P90 (Swanson). Change of MAE and RMSE
against the table in percent, with a 95 % interval over the seeds, and the share of the oracle's gain that
this is.

Coverage: --method quantile on 12,000 requests of three tenants at a load that the simulated server can take
(continuous batching, Poisson arrivals), none cut, so that one output in ten can lie above P90. Percent of the
outputs under P10 and above P90, whose aims are 10 and 10, and between them, 80: of all, and of the tenant
that is furthest off. Under `step` one tenant's outputs are half as long again after a third of the requests:
the first hundred of that tenant afterwards, and five hundred that arrive when 500 of its outputs had ended
since. Intervals over the seeds.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from driftkit import registry
from driftkit.calibration.base import observed_output
from driftkit.calibration.stream import Learning, Stream
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.estimation.base import NoCorrection, annotate, count_prompt
from driftkit.estimation.table import Table
from driftkit.estimation.tokenizers import load as load_tokenizer
from driftkit.policies.base import parse
from driftkit.records.completion import completion, in_order_of_arrival, job_of
from driftkit.records.schema import Record
from driftkit.reporting.stats import Array, t_interval
from driftkit.workload import generate, presets, spec

METHODS = ("ema", "ratio", "isotonic", "quantile")
SWANSON = {"cal_output_tokens_p10": 0.3, "cal_output_tokens": 0.4, "cal_output_tokens_p90": 0.3}
STEP = 1.5
SHIFTED = "tenant-standard"
STEADY = """
name = "steady"
requests = 12000
text = "templates"
{tenants}
[[phases]]
name = "steady"
share = 1
arrivals = {{ process = "poisson", rate_rps = {rate} }}
mix = {{ short_qa = 0.25, summary = 0.25, technical = 0.25, report = 0.25 }}
"""
TENANT = '[[tenants]]\nname = "tenant-{0}"\ntier = "{0}"\ntier_level = {1}\nshare = 1\n'
#: outputs that no cap cuts: the paper's categories with some spread, and chat answers, which are all alike
UNCUT = {
    "paper's": {name: f'model = "lognormal", median = {m}, sigma = 0.2' for name, m in
                (("short_qa", 70), ("summary", 280), ("technical", 420), ("report", 560))},
    "chat": dict.fromkeys(
        ("short_qa", "summary", "technical", "report"),
        'model = "mixture", parts = [{ share = 0.201, median = 104.4, sigma = 1.587 }, '
        "{ share = 0.799, median = 505.0, sigma = 0.374 }]",
    ),
}  # fmt: skip
RATES = {"paper's": 4.0, "chat": 3.0}


def completions(
    requests: Iterator[Record], tokenizer: str, batching: Literal["continuous", "static"]
) -> list[Record]:
    """Requests estimated by the table, and run first come first served, in the order of their ends."""
    counter = load_tokenizer(tokenizer)
    jobs = []
    for record in requests:
        count_prompt(record, counter.count, counter.name)
        annotate(record, Table(lambda text: None), NoCorrection())
        jobs.append(job_of(record, record["trace_output_tokens"]))
    ended = simulate(in_order_of_arrival(jobs), Setup(batching=batching), parse("fifo"), None)
    run: Record = {"run_id": "run"}
    return [completion(job, run) for together in ended for job in together]


def calibrated(records: list[Record], method: str) -> list[Record]:
    new = registry.load("calibrators", method)
    stream = Stream(lambda key: Learning(new()))
    found = [dict(record) for record in records]
    for record in found:
        stream.calibrate(record)
        stream.learn(record)
    return found


def column(records: list[Record], field: str) -> Array:
    return np.array([record[field] for record in records], dtype=np.float64)


def outcomes(records: list[Record]) -> Array:
    return np.array([observed_output(record) for record in records], dtype=np.float64)


def errors(estimate: Array, actual: Array) -> tuple[float, float]:
    """MAE and RMSE."""
    off = estimate - actual
    return float(np.mean(np.abs(off))), float(np.sqrt(np.mean(off * off)))


def constants(records: list[Record], of: Callable[[Array], object]) -> Array:
    """For each record `of` of all outcomes of its tenant and category."""
    places = defaultdict(list)
    for place, record in enumerate(records):
        places[record["tenant"], record["category"]].append(place)
    actual = outcomes(records)
    known = np.empty_like(actual)
    for cell in places.values():
        known[cell] = of(actual[cell])
    return known


def shown(values: list[float], digits: int = 1) -> str:
    mean, low, high = t_interval(np.array(values))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def error_rows(seeds: int) -> None:
    print(
        f"Error against the table, {seeds} seeds: change [95 % interval], share of the oracle's gain, percent"
    )
    print(f"{'lengths':<10} {'unit':<7} {'method':<11} {'MAE %':>22} {'of oracle':>10} {'RMSE %':>22} "
          f"{'of oracle':>10} {'as median':>10}")  # fmt: skip
    for model in "near-cap", "chat":
        for unit, tokenizer in (("tokens", "builtin"), ("words", "whitespace")):
            changes: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for seed in range(seeds):
                requests = generate.requests(spec.read(presets.text("driftsched"), model), seed)
                records = completions(requests, tokenizer, "static")
                actual = outcomes(records)
                mae, rmse = errors(column(records, "est_output_tokens"), actual)
                medians = errors(constants(records, np.median), actual)
                means = errors(constants(records, np.mean), actual)
                by_method = {m: calibrated(records, m) for m in METHODS}
                found = {m: errors(column(by_method[m], "cal_output_tokens"), actual) for m in METHODS}
                mean = sum(part * column(by_method["quantile"], of) for of, part in SWANSON.items())
                found |= {"spread": errors(mean, actual)}
                found |= {"its medians": medians, "oracle": (medians[0], means[1])}
                for name, (one, other) in found.items():
                    changes[name].append(((one / mae - 1) * 100, (other / rmse - 1) * 100))
            change = {name: np.mean(values, axis=0) for name, values in changes.items()}
            for name in change:
                of_mae, of_rmse = change[name] / change["oracle"] * 100
                as_median = change[name][1] / change["its medians"][1] * 100
                print(f"{model:<10} {unit:<7} {name:<11} {shown([c for c, _ in changes[name]]):>22} "
                      f"{of_mae:>9.0f}% {shown([c for _, c in changes[name]]):>22} {of_rmse:>9.0f}% "
                      f"{as_median:>9.0f}%")  # fmt: skip


def steady(lengths: str, seed: int, step: float) -> list[Record]:
    """12,000 requests, of which one tenant's outputs are `step` times as long after a third of them."""
    tenants = "".join(TENANT.format(*tier) for tier in (("premium", 1), ("standard", 2), ("batch", 3)))
    text = STEADY.format(tenants=tenants, rate=RATES[lengths]) + "".join(
        f"[categories.{name}]\nmax_tokens = 100000\noutput = {{ {model} }}\n"
        for name, model in UNCUT[lengths].items()
    )
    requests = list(generate.requests(spec.read(text.encode()), seed))
    for record in requests[len(requests) // 3 :]:
        record["after"] = True
        if record["tenant"] == SHIFTED:
            record["trace_output_tokens"] = round(record["trace_output_tokens"] * step)
    records = calibrated(completions(iter(requests), "builtin", "continuous"), "quantile")
    return [record for record in records if record["status"] == "ok"]


def missed(records: list[Record]) -> tuple[float, float]:
    """Percent under P10 and above P90."""
    actual = outcomes(records)
    low, high = column(records, "cal_output_tokens_p10"), column(records, "cal_output_tokens_p90")
    return float(np.mean(actual < low)) * 100, float(np.mean(actual > high)) * 100


def coverage_rows(seeds: int) -> None:
    print(f"\nCoverage of --method quantile, {seeds} seeds: percent [95 % interval]")
    print(f"{'lengths':<9} {'load':<7} {'of':<28} {'under P10':>20} {'above P90':>20} {'between':>20}")
    for lengths in UNCUT:
        rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for seed in range(seeds):
            for load, step in (("steady", 1.0), ("step", STEP)):
                records = steady(lengths, seed, step)
                rows[load, "all"].append(missed(records))
                tenants = sorted({record["tenant"] for record in records})
                each = [missed([r for r in records if r["tenant"] == tenant]) for tenant in tenants]
                rows[load, "tenant furthest off"].append(max(each, key=lambda m: abs(m[0] + m[1] - 20)))
                if step == 1.0:
                    continue
                own = [r for r in records if r["tenant"] == SHIFTED and r.get("after")]
                known = own[499]["finished_s"]
                by_arrival = sorted(own, key=lambda record: record["offered_s"])
                rows[load, "the tenant's first 100 after"].append(missed(by_arrival[:100]))
                later = [record for record in by_arrival if record["offered_s"] > known]
                rows[load, "after 500 of its had ended"].append(missed(later[:500]))
        for (load, of), values in rows.items():
            under, above = [u for u, _ in values], [a for _, a in values]
            between = [100 - u - a for u, a in values]
            print(
                f"{lengths:<9} {load:<7} {of:<28} {shown(under):>20} {shown(above):>20} {shown(between):>20}"
            )


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    error_rows(seeds)
    coverage_rows(seeds)
