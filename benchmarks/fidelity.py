"""How far the simulator is from real servers: request logs that you have, and published points of an L4.

    python benchmarks/fidelity.py [DATA_DIR]

Looks in DATA_DIR for `vllm/GPU_MODEL_requests.jsonl` with `GPU_MODEL_meta.json` beside it, as LLMServingSim
publishes them (GitHub: casys-kaist/LLMServingSim, bench/examples), and `workload*.jsonl`, whose token ids say
which prompts begin alike; for `vtc/FCFS_real.jsonl` of the VTC paper (GitHub: Ying1123/VTC-artifact); and for
`vllm_cpu_steps/NAME.requests.jsonl`, vLLM on two CPU cores. Files may be gzipped; none come with driftkit,
except one of the last, in examples.

What a log's server was started with, limits and KV blocks, is taken from its meta file. `data sheet` is the
packaged profile, fitted to none of these logs. `first half` is what `driftkit calibrate --fit engine` does:
fitted to the first half by arrival. `other log` takes what the other card's first half has taught: the ratios
by which its efficiencies moved, and its overheads. `held out` are the errors in the second half alone.

A log of LLMServingSim has two clocks: arrival by the wall, the rest by the server's monotonic clock. The
smallest difference between being queued and arriving is taken as the offset between them, so latencies
count from arrival, and the quickest hand-over is taken as instant.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import orjson

from driftkit import rng
from driftkit.engines.sim import fit, hf_config, profile, profiles
from driftkit.engines.sim.profile import Model, load_gpu, load_model
from driftkit.engines.sim.simulation import Setup
from driftkit.policies.base import parse
from driftkit.records.schema import Record

EXAMPLES = Path(__file__).parent.parent / "examples"
FCFS = parse("fifo")


class Log(NamedTuple):
    title: str
    run: fit.Run
    setup: Setup


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in content(path).splitlines()]


def run_of(records: Iterable[Record]) -> fit.Run:
    completions = (fit.observed(record) for record in records)
    return fit.run_of((one for one in completions if one is not None), FCFS)


def on(setup: Setup, requests: Iterable[tuple[float, int, int]]) -> fit.Latencies:
    """`(arrival s, prompt tokens, output tokens)`, simulated, first come first served."""
    asked = [
        fit.Observed({"id": str(order), "arrival_s": arrival, "prompt_tokens": prompt}, output, 0.0, 0.0)
        for order, (arrival, prompt, output) in enumerate(requests)
    ]
    return fit.Run(asked, FCFS).replayed(setup)


# --- logs -----------------------------------------------------------------------------------------


def packaged(name: str, known: tuple[str, ...]) -> str:
    """The profile that a log's file name means: `RTXPRO6000` is `rtx-pro-6000`."""
    plain = name.lower().replace("-", "")
    for packaged in known:
        if packaged.replace("-", "") == plain:
            return packaged
    raise SystemExit(f"no profile for {name}; known: {', '.join(known)}")


def beginnings(folder: Path) -> list[list[int]]:
    """Names of the full blocks of 16 tokens that each prompt of the workload begins with."""
    found = []
    for path in folder.glob("workload*.jsonl*"):
        numbers: dict[tuple[int, tuple[int, ...]], int] = {}
        for request in lines(path):
            ids, names, name = request["input_tok_ids"], [], -1
            for start in range(0, len(ids) - 15, 16):
                name = numbers.setdefault((name, tuple(ids[start : start + 16])), len(numbers))
                names.append(name)
            found.append(names)
    return found


def servingsim_log(path: Path) -> Log:
    gpu_name, model_name = path.name.split("_")[:2]
    rows = lines(path)
    meta = orjson.loads(content(path.with_name(path.name.replace("_requests.jsonl", "_meta.json"))))
    given, cache = meta["engine_kwargs"], meta.get("kv_cache", {})
    setup = Setup(
        load_gpu(packaged(gpu_name, profiles.GPUS)),
        load_model(packaged(model_name, profiles.MODELS)),
        max_num_seqs=given["max_num_seqs"],
        max_num_batched_tokens=given["max_num_batched_tokens"],
        max_model_len=given["max_model_len"],
        num_gpu_blocks=cache.get("num_gpu_blocks"),
        gpu_memory_utilization=cache.get("gpu_memory_utilization", 0.9),  # 0.19's default
    )
    offset = min(row["queued_ts"] - row["arrival_time"] for row in rows)
    start = min(row["arrival_time"] for row in rows)
    begins = beginnings(path.parent)
    records = []
    for row in rows:
        record: Record = {
            "id": row["request_id"],
            "prompt_tokens": row["input_toks"],
            "actual_output_tokens": row["output_toks"],
            "offered_s": row["arrival_time"] - start,
            "first_token_s": row["first_token_ts"] - offset - start,
            "finished_s": row["last_token_ts"] - offset - start,
        }
        if begins:
            names = begins[int(row["request_id"].removeprefix("bench-"))]
            record |= {"prefix_hashes": names, "prefix_block_tokens": 16}
        records.append(record)
    says = "as logged" if setup.num_gpu_blocks else "by the profile"
    held = f"{setup.limits().num_gpu_blocks} KV blocks {says}"
    title = f"{path.name}: vLLM {meta['vllm_version']}, {len(rows)} requests, {held}"
    return Log(title, run_of(records), setup)


def vtc_log(path: Path) -> Log:
    """Llama-2-7B on an A10G, served by S-LoRA, whose KV cache has 10,000 tokens and no blocks.

    It admits only whom it will have room for to the end, so that nobody is preempted; nearest to that is a
    watermark of what its log shows free while others wait: 8,790 of 10,000 tokens are held in the median.
    """
    responses = lines(path)[0]["result"]["responses"]
    records = [
        {
            "id": str(order),
            "prompt_tokens": response["prompt_len"],
            "actual_output_tokens": response["output_len"],
            "offered_s": response["req_time"],
            "first_token_s": response["req_time"] + response["first_token_latency"],
            "finished_s": response["req_time"] + response["request_latency"],
        }
        for order, response in enumerate(responses)
    ]
    setup = Setup(
        load_gpu("a10g"),
        load_model("llama-2-7b"),
        num_gpu_blocks=10_001,
        block_size=1,
        watermark=0.12,
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    return Log(f"{path.name}: S-LoRA, Llama-2-7B, A10G, {len(records)} requests", run_of(records), setup)


def cpu_log(path: Path) -> Log:
    gpu, model = profile.read((EXAMPLES / "cpu.toml").read_bytes())
    rows = lines(path)
    records = [
        {
            "id": row["id"],
            "prompt_tokens": row["prompt_tokens"],
            "actual_output_tokens": row["output_tokens"],
            "offered_s": row["sent_s"],
            "first_token_s": row["first_token_s"],
            "finished_s": row["last_token_s"],
        }
        for row in rows
    ]
    setup = Setup(gpu, model, num_gpu_blocks=100, block_size=32)
    title = f"{path.name}: vLLM 0.32 on two CPU cores, {len(rows)} requests; its sheet: examples/cpu.toml"
    return Log(title, run_of(records), setup)


def moved(setup: Setup, taught: Setup, before: Setup) -> Setup:
    """`setup` with what a fit from `before` to `taught` has found."""
    changes: dict[str, float] = {}
    for name in fit.FITTED:
        value = getattr(taught.gpu, name)
        if name.endswith("efficiency"):
            value = min(1.0, getattr(setup.gpu, name) * value / getattr(before.gpu, name))
        changes[name] = value
    return replace(setup, gpu=replace(setup.gpu, **changes))  # type: ignore[arg-type]


def compare(logs: list[Log]) -> None:
    fits = [fit.fit(log.run, log.setup) for log in logs]
    for place, (log, found) in enumerate(zip(logs, fits, strict=True)):
        columns = {"data sheet": log.setup, "first half": found.setup}
        if len(logs) == 2:
            other = 1 - place
            columns["other log"] = moved(log.setup, fits[other].setup, logs[other].setup)
        replays = {name: log.run.replayed(setup) for name, setup in columns.items()}
        held_out = slice(found.judged, None)
        print(log.title)
        heads = [*replays, "held out: sheet", "held out: half"]
        print(f"  {'error %':<14} {'measured s':>10}" + "".join(f"{head:>16}" for head in heads))
        real = log.run.latencies
        whole = {name: fit.errors(real, replay, replay) for name, replay in replays.items()}
        halves = [
            fit.errors(*(side.part(held_out) for side in (real, replays[name], replays[name])))
            for name in ("data sheet", "first half")
        ]
        for row in zip(*whole.values(), *halves, strict=True):
            first = row[0]
            cells = "".join(f"{one.percent:>+16.2f}" for one in row)
            print(f"  {first.metric:<9}{first.statistic:<5} {first.measured_s:>10.4f}{cells}")
        constants = ", ".join(f"{name} {getattr(found.setup.gpu, name):g}" for name in fit.FITTED)
        print(f"  first half: {constants}\n")


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


def like_ci(model: str) -> fit.Latencies:
    """300 requests at 1 a second on an L4, as vLLM's CI sends them from ShareGPT.

    Lengths are assumed: independent and exponential, of the means that `vllm bench` prints for its sample,
    213 tokens in and 218 out, at most 1,024 each. That vLLM did not plan a step while another ran.
    """
    uniform = rng.stream(0, "benchmarks/fidelity").random((3, 300))
    arrivals = np.cumsum(-np.log1p(-uniform[0]))
    prompts, outputs = (
        np.clip(np.ceil(-mean * np.log1p(-u)), 1, 1024).astype(int)
        for mean, u in ((213, uniform[1]), (218, uniform[2]))
    )
    setup = Setup(load_gpu("l4"), load_model(model), max_model_len=2048, async_scheduling=False)
    return on(setup, zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True))


def decode_s(model: Model, sequences: int, context: int) -> float:
    """Seconds of the step in which `sequences` requests get their second token, on an L4."""
    setup = Setup(load_gpu("l4"), model, max_model_len=8192, max_num_batched_tokens=8192)
    return fmean(on(setup, [(0.0, context, 2)] * sequences).tpot_s)


def prefill_s(model: Model, tokens: int) -> float:
    """Seconds of the step that computes a prompt, on an L4, without what every step costs besides."""
    gpu = replace(load_gpu("l4"), step_overhead_s=0, frontend_s=0)
    setup = Setup(gpu, model, max_model_len=8192, max_num_batched_tokens=8192)
    return float(on(setup, [(0.0, tokens, 1)]).ttft_s[0])


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
        ("opt-350m, 300 at 1/s: TTFT (vLLM CI; the front end is from it)", 23.9, mean_ms(opt, "ttft_s")),
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


def mean_ms(latencies: fit.Latencies, metric: str) -> float:
    return 1e3 * float(np.nanmean(getattr(latencies, metric)))


def main() -> None:
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        vllm = [servingsim_log(path) for path in sorted(folder.glob("vllm/*_requests.jsonl*"))]
        vtc = [vtc_log(path) for path in folder.glob("vtc/FCFS_real.jsonl*")]
        recordings = [
            folder / f"vllm_cpu_steps/{name}.requests.jsonl.gz" for name in ("C1", "A1", "B1", "D1")
        ]
        cpu = [cpu_log(path) for path in recordings if path.exists()]
        if not vllm + vtc + cpu:
            raise SystemExit(f"{folder}: no logs there")
        compare(vllm)
        for log in vtc + cpu:
            compare([log])
    print_l4_points()


if __name__ == "__main__":
    main()
