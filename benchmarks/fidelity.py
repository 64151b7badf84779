"""How far the simulator is from real servers: request logs that you have, and published points of an L4.

    python benchmarks/fidelity.py [DATA_DIR]

Looks in DATA_DIR, and in its folder `vllm`, for `GPU_MODEL_requests.jsonl` with `GPU_MODEL_meta.json` beside
it, gzipped or not, as LLMServingSim publishes them (GitHub: casys-kaist/LLMServingSim, bench/examples); none
come with driftkit. Every constant is that of the packaged profile: nothing is fitted here. What the log's
server was started with, limits and KV blocks, is taken from the meta file.

A log has two clocks: arrival by the wall, the rest by the server's monotonic clock. The smallest difference
between being queued and arriving is taken as the offset between them, so latencies count from arrival,
and the quickest hand-over is taken as instant.
"""

from __future__ import annotations

import gzip
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import orjson

from driftkit import rng
from driftkit.engines.sim import hf_config, profiles
from driftkit.engines.sim.latency import kv_blocks
from driftkit.engines.sim.profile import Model, load_gpu, load_model
from driftkit.engines.sim.simulation import Setup, simulate
from driftkit.policies.base import parse
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.job import Job

METRICS = ("e2e_s", "ttft_s", "tpot_s")


@dataclass(frozen=True, slots=True)
class Latency:
    """What became of one request, in seconds; None for the time per token of a single one."""

    e2e_s: float
    ttft_s: float
    tpot_s: float | None

    @classmethod
    def of(cls, arrival: float, first: float, last: float, tokens: int) -> Latency:
        return cls(last - arrival, first - arrival, (last - first) / (tokens - 1) if tokens > 1 else None)


def simulated(requests: Iterable[tuple[float, int, int]], setup: Setup) -> list[Job]:
    """Run `(arrival s, prompt tokens, output tokens)`, first come first served."""
    records: list[dict[str, Any]] = [
        {"id": str(order), "arrival_s": arrival, "prompt_tokens": prompt, "trace_output_tokens": output}
        for order, (arrival, prompt, output) in enumerate(requests)
    ]
    jobs = in_order_of_arrival([job_of(record, record["trace_output_tokens"]) for record in records])
    for job in (job for together in simulate(jobs, setup, parse("fifo")) for job in together):
        if job.status != "ok":
            raise SystemExit(f"request {job.record['id']} was {job.status}: {job.error}")
    return jobs


def latencies(jobs: list[Job]) -> list[Latency]:
    return [
        Latency.of(job.offered_s, job.first_token_s or 0.0, job.finished_s, job.output_tokens) for job in jobs
    ]


# --- logs -----------------------------------------------------------------------------------------


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def packaged(name: str, known: tuple[str, ...]) -> str | None:
    """The profile that a log's file name means: `RTXPRO6000` is `rtx-pro-6000`."""
    plain = name.lower().replace("-", "")
    return next((profile for profile in known if profile.replace("-", "") == plain), None)


def compare_log(path: Path) -> None:
    gpu_name, model_name = path.name.split("_")[:2]
    gpu, model = packaged(gpu_name, profiles.GPUS), packaged(model_name, profiles.MODELS)
    if gpu is None or model is None:
        print(f"{path.name}: no profile for {gpu_name} and {model_name}\n")
        return
    rows = [orjson.loads(line) for line in content(path).splitlines()]
    meta = orjson.loads(content(path.with_name(path.name.replace("_requests.jsonl", "_meta.json"))))
    given, cache = meta["engine_kwargs"], meta.get("kv_cache", {})
    setup = Setup(
        load_gpu(gpu),
        load_model(model),
        max_num_seqs=given["max_num_seqs"],
        max_num_batched_tokens=given["max_num_batched_tokens"],
        max_model_len=given["max_model_len"],
        num_gpu_blocks=cache.get("num_gpu_blocks"),
        gpu_memory_utilization=cache.get("gpu_memory_utilization", 0.9),  # 0.19's default
    )
    offset = min(row["queued_ts"] - row["arrival_time"] for row in rows)
    start = min(row["arrival_time"] for row in rows)
    measured = [
        Latency.of(
            row["arrival_time"] + offset, row["first_token_ts"], row["last_token_ts"], row["output_toks"]
        )
        for row in rows
    ]
    jobs = simulated(
        ((row["arrival_time"] - start, row["input_toks"], row["output_toks"]) for row in rows), setup
    )
    fits = kv_blocks(setup.gpu, setup.served_model, setup.block_size, setup.gpu_memory_utilization)
    blocks = f"{setup.num_gpu_blocks} KV blocks as logged" if setup.num_gpu_blocks else f"{fits} KV blocks"
    print(f"{path.name}: vLLM {meta['vllm_version']}, {len(rows)} requests, {blocks}", end="")
    print(f" (the profile says {fits})" if setup.num_gpu_blocks else " by the profile", end="")
    print_comparison(measured, latencies(jobs))
    print(f"  simulated preemptions: {sum(job.preemptions for job in jobs)}\n")


def print_comparison(measured: list[Latency], simulated: list[Latency]) -> None:
    print("\n  seconds          measured   simulated   error %")
    for metric in METRICS:
        real, ours = (
            np.array([value for latency in side if (value := getattr(latency, metric)) is not None])
            for side in (measured, simulated)
        )
        rows = [("mean", real.mean(), ours.mean())]
        rows += [(f"p{p}", np.percentile(real, p), np.percentile(ours, p)) for p in (50, 90, 99)]
        for name, was, now in rows:
            print(f"  {metric:<8} {name:<5} {was:>11.4f} {now:>11.4f} {100 * (now / was - 1):>+9.2f}")


# --- published points of one L4 -------------------------------------------------------------------

MISTRAL_7B_V03 = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
LLAMA_30B_LAYER = {
    "model_type": "llama",
    "hidden_size": 6656,
    "num_hidden_layers": 1,
    "num_attention_heads": 52,
    "intermediate_size": 17920,
    "vocab_size": 1,
    "max_position_embeddings": 8192,
    "torch_dtype": "float16",
}


def like_ci(model: str) -> list[Latency]:
    """300 requests at 1 a second on an L4, as vLLM's CI sends them from ShareGPT.

    Lengths are assumed: independent and exponential, of the means that `vllm bench` prints for its sample,
    213 tokens in and 218 out, at most 1,024 each.
    """
    uniform = rng.stream(0, "benchmarks/fidelity").random((3, 300))
    arrivals = np.cumsum(-np.log1p(-uniform[0]))
    prompts, outputs = (
        np.clip(np.ceil(-mean * np.log1p(-u)), 1, 1024).astype(int)
        for mean, u in ((213, uniform[1]), (218, uniform[2]))
    )
    setup = Setup(load_gpu("l4"), load_model(model), max_model_len=2048)
    return latencies(
        simulated(zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True), setup)
    )


def decode_s(model: Model, sequences: int, context: int) -> float:
    """Seconds of the step in which `sequences` requests get their second token, on an L4."""
    setup = Setup(load_gpu("l4"), model, max_model_len=8192, max_num_batched_tokens=8192)
    jobs = simulated([(0.0, context, 2)] * sequences, setup)
    return fmean(latency.tpot_s or math.nan for latency in latencies(jobs))


def prefill_s(model: Model, tokens: int) -> float:
    """Seconds of the step that computes a prompt, on an L4, without what every step costs besides."""
    gpu = replace(load_gpu("l4"), step_overhead_s=0)
    setup = Setup(gpu, model, max_model_len=8192, max_num_batched_tokens=8192)
    return latencies(simulated([(0.0, tokens, 1)], setup))[0].ttft_s


def print_l4_points() -> None:
    qwen = load_model("qwen2.5-7b")
    mistral = hf_config.read(orjson.dumps(MISTRAL_7B_V03), "mistral-7b-v0.3")
    layer = hf_config.read(orjson.dumps(LLAMA_30B_LAYER), "llama-30b-layer")
    llama, opt = like_ci("llama-3.1-8b"), like_ci("opt-350m")
    points = [
        ("Qwen2.5-7B, batch 1, context 2048: step (arXiv 2605.30571)", 62.32, 1e3 * decode_s(qwen, 1, 2048)),
        ("Llama-3-8B, 300 at 1/s: TPOT (vLLM CI)", 85.0, mean_ms(llama, "tpot_s")),
        ("Llama-3-8B, 300 at 1/s: TTFT (vLLM CI)", 184.0, mean_ms(llama, "ttft_s")),
        (
            "opt-350m, 300 at 1/s: TPOT (vLLM CI; the profile's overhead is from it)",
            6.2,
            mean_ms(opt, "tpot_s"),
        ),
        ("opt-350m, 300 at 1/s: TTFT (vLLM CI)", 23.9, mean_ms(opt, "ttft_s")),
        (
            "Mistral-7B-v0.3, 4 at once, decode alone, context 512: step",
            4e3 / 48.8,
            1e3 * decode_s(mistral, 4, 512),
        ),
        ("LLaMA-30B, one layer, prompt of 1,000 (Helix)", 24.0, 1e3 * prefill_s(layer, 1000)),
        ("LLaMA-30B, one layer, prompt of 5,000 (Helix)", 106.0, 1e3 * prefill_s(layer, 5000)),
    ]
    print("One L4, published points, milliseconds:")
    print(f"  {'':<73} published   simulated   error %")
    for what, published, ours in points:
        print(f"  {what:<73} {published:>9.2f} {ours:>11.2f} {100 * (ours / published - 1):>+9.2f}")


def mean_ms(values: list[Latency], metric: str) -> float:
    return 1e3 * fmean(v for value in values if (v := getattr(value, metric)) is not None)


def main() -> None:
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        logs = sorted([*folder.glob("*_requests.jsonl*"), *folder.glob("vllm/*_requests.jsonl*")])
        if not logs:
            raise SystemExit(f"{folder}: no *_requests.jsonl or *_requests.jsonl.gz there")
        for log in logs:
            compare_log(log)
    print_l4_points()


if __name__ == "__main__":
    main()
