"""How fast and how true driftkit's HTTP client is on one core, beside AIPerf, GuideLLM and a bare minimum.

    benchmarks/install_peers.sh                      once: AIPerf and GuideLLM, in .venv-peers
    python benchmarks/client_ceiling.py              requests/s at 64 open requests, no delay in the server
    python benchmarks/client_ceiling.py --ttft       error of the time to the first token, 1,000 open streams
    python benchmarks/client_ceiling.py --arrivals   error of the arrivals, Poisson, 500 requests/s; only ours

The server (tools/streaming_server.py) has core 0, the client and all its processes core 1. Every client sends
prompts of 16 words, asks for a stream, and gets 4 tokens (20 with --ttft). The rate is what the client
itself reports, without its start-up: the best of --repeats, the clients in turn, because a machine's pace
drifts. Run it on a machine that has nothing else to do; what others took of core 1 is printed. With --ttft,
requests start evenly in time, and the first 1,000, before all streams are open, do not count. How late the
server itself was is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PEERS = ROOT / ".venv-peers"
MODEL = "driftkit-test"
PROMPT = " ".join(["word"] * 16)
SERVER_CORE, CLIENT_CORE = "0", "1"
TRUTH_S = 0.05
ARRIVALS_RPS = 500.0
QUIET = 0.05  # what others may take of the client's core


class Load(NamedTuple):
    requests: int
    open: int  # requests in flight, at most
    tokens: int
    rate: float = 0.0  # requests/s, evenly in time; 0: the next when one ends


class Measured(NamedTuple):
    requests_per_s: float
    ttft_s: list[float]  # in the order in which the requests started


def on_client_core(command: list[str | Path], env: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        ["taskset", "-c", CLIENT_CORE, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    if result.returncode:
        sys.exit(
            f"{command[0]} ended with {result.returncode}:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        )
    return result.stdout


@contextlib.contextmanager
def server(load: Load, ttft_s: float = 0.0, gap_s: float = 0.0) -> Iterator[str]:
    delays = ["--tokens", str(load.tokens), "--ttft", str(ttft_s), "--gap", str(gap_s)]
    command = ["taskset", "-c", SERVER_CORE, sys.executable, ROOT / "tools/streaming_server.py", *delays]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def served(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + "/served") as answer:
        fields: dict[str, Any] = orjson.loads(answer.read())
    return fields


def raw(url: str, load: Load, folder: Path) -> Measured:
    sizes = ["--requests", str(load.requests), "--concurrency", str(load.open), "--tokens", str(load.tokens)]
    command = [sys.executable, ROOT / "benchmarks/raw_client.py", url, *sizes, "--rate", str(load.rate)]
    fields = orjson.loads(on_client_core(command))
    return Measured(fields["requests_per_s"], fields["ttft_s"])


def driftkit(url: str, load: Load, folder: Path) -> Measured:
    arrivals = [index / load.rate if load.rate else 0.0 for index in range(load.requests)]
    rows = run_driftkit(url, arrivals, load.tokens, folder, "client", load.open)
    seconds = max(row["finished_s"] for row in rows) - min(row["dispatched_s"] for row in rows)
    rows.sort(key=lambda row: row["dispatched_s"])
    return Measured(len(rows) / seconds, [row["ttft_s"] for row in rows])


def run_driftkit(
    url: str, arrivals: list[float], tokens: int, folder: Path, dispatch: str, most_open: int
) -> list[dict[str, Any]]:
    """The completions of requests that are due at `arrivals`, all of them `ok`."""
    requests = folder / "requests.jsonl"
    fixed = {"prompt": PROMPT, "prompt_tokens": 16, "max_tokens": tokens}
    with requests.open("wb") as file:
        for index, arrival in enumerate(arrivals):
            file.write(orjson.dumps({"id": str(index), "arrival_s": arrival, **fixed}) + b"\n")
    bound: list[str | Path] = ["--max-concurrency", str(most_open)] if dispatch == "client" else []
    command = [BIN / "driftkit", "run", "--engine", "http", "--base-url", url, "--model", MODEL]
    output = on_client_core([*command, "--dispatch", dispatch, *bound, requests])
    rows = [orjson.loads(line) for line in output.splitlines()]
    bad = [row for row in rows if row["status"] != "ok" or row["actual_output_tokens"] != tokens]
    if bad or len(rows) != len(arrivals):
        sys.exit(f"driftkit: {len(bad)} of {len(rows)} are not ok, {len(arrivals)} wanted: {bad[:1]}")
    return rows


def aiperf(url: str, load: Load, folder: Path) -> Measured:
    prompts = folder / "aiperf.jsonl"
    prompts.write_bytes((orjson.dumps({"text": PROMPT}) + b"\n") * 100)
    asked = ["--endpoint-type", "completions", "--streaming", "--use-server-token-count"]
    asked += ["--osl", str(load.tokens), "--extra-inputs", "ignore_eos:true"]
    pace = ["--concurrency", str(load.open), "--request-count", str(load.requests)]
    if load.rate:
        pace += ["--request-rate", str(load.rate), "--arrival-pattern", "constant"]
    lean = ["--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"]
    lean += ["--export-level", "records" if load.rate else "summary"]
    results = folder / "aiperf"
    data = ["--input-file", prompts, "--custom-dataset-type", "single_turn"]
    data += ["--tokenizer", tokenizer(folder), "--artifact-dir", results]
    on_client_core(
        [PEERS / "aiperf/bin/aiperf", "profile", "-m", MODEL, "-u", url, *asked, *pace, *lean, *data]
    )
    summary = orjson.loads((results / "profile_export_aiperf.json").read_bytes())
    ttft_s: list[float] = []
    if load.rate:
        rows = [orjson.loads(line) for line in (results / "profile_export.jsonl").read_bytes().splitlines()]
        rows.sort(key=lambda row: row["metadata"]["request_start_ns"])
        ttft_s = [row["metrics"]["time_to_first_token"]["value"] / 1e3 for row in rows]
    return Measured(summary["request_throughput"]["avg"], ttft_s)


def guidellm(url: str, load: Load, folder: Path) -> Measured:
    """One worker process: more of them only take turns on the core, and are slower."""
    prompts = folder / "guidellm.jsonl"
    row = orjson.dumps({"prompt": PROMPT, "output_tokens_count": load.tokens}) + b"\n"
    prompts.write_bytes(row * load.requests)
    pace = f"kind=constant,rate={load.rate}" if load.rate else f"kind=concurrent,streams={load.open}"
    results = folder / "guidellm.json"
    backend = f"kind=openai_http,target={url},model={MODEL},request_format=/v1/completions"
    command = [PEERS / "guidellm/bin/guidellm", "run", "--backend", backend, "--profile", pace]
    command += ["--constraint", f"kind=max_requests,count={load.requests}"]
    command += ["--tokenizer", f"kind=hf_auto,model={tokenizer(folder)}"]
    command += ["--data", f"kind=json_file,path={prompts}", "--output", f"kind=json,path={results}"]
    on_client_core([*command, "--disable-progress"], {"GUIDELLM__MAX_WORKER_PROCESSES": "1"})
    found = orjson.loads(results.read_bytes())["benchmarks"][0]
    rows = found["requests"]["successful"]
    if len(rows) != load.requests:
        sys.exit(f"guidellm: {len(rows)} of {load.requests} succeeded")
    rows.sort(key=lambda row: row["request_start_time"])
    return Measured(len(rows) / found["duration"], [row["time_to_first_token_ms"] / 1e3 for row in rows])


CLIENTS: dict[str, Callable[[str, Load, Path], Measured]] = {
    "raw asyncio": raw,
    "driftkit": driftkit,
    "AIPerf": aiperf,
    "GuideLLM": guidellm,
}
# what each is given to send in the rate's measurement: a few seconds of work
REQUESTS = {"raw asyncio": 40_000, "driftkit": 20_000, "AIPerf": 4_000, "GuideLLM": 3_000}


def tokenizer(folder: Path) -> Path:
    """A tokenizer of two words, because the peers want one and fetch it from the network otherwise."""
    path = folder / "tokenizer"
    path.mkdir(exist_ok=True)
    special = [{"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": False}]
    special = [{**token, "normalized": False, "special": True} for token in special]
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "word": 1, "token": 2}, "unk_token": "<unk>"}
    unused = dict.fromkeys(["truncation", "padding", "normalizer", "post_processor", "decoder"])
    words = {"pre_tokenizer": {"type": "Whitespace"}, "added_tokens": special, "model": model}
    (path / "tokenizer.json").write_text(json.dumps({"version": "1.0", **unused, **words}))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    return path


def busy_s(core: str) -> float:
    """Seconds that a core has worked since the machine started (proc(5), /proc/stat)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal = (int(tick) for tick in ticks[:8])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    raise ValueError(f"no core {core}")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def rates(clients: list[str], repeats: int) -> None:
    best = dict.fromkeys(clients, 0.0)
    others = dict.fromkeys(
        clients, 0.0
    )  # share of the client's core that was not the client's, in its best run
    for _ in range(repeats):
        for name in clients:
            load = Load(requests=REQUESTS[name], open=64, tokens=4)
            with server(load) as url, tempfile.TemporaryDirectory() as folder:
                start, busy, own = time.perf_counter(), busy_s(CLIENT_CORE), children_s()
                measured = CLIENTS[name](url, load, Path(folder))
                spent = busy_s(CLIENT_CORE) - busy - (children_s() - own)
                share = max(0.0, spent / (time.perf_counter() - start))
                said = served(url)
                if said["served"] != load.requests or said["cut_off"]:
                    sys.exit(f"{name}: the server served {said}, {load.requests} wanted")
                if measured.requests_per_s > best[name]:
                    best[name], others[name] = measured.requests_per_s, share
    print(f"{'client':12} {'requests/s':>10} {'of raw':>7} {'driftkit is':>12} {'core 1, others':>15}")
    for name, rate in best.items():
        of_raw = f"{rate / best['raw asyncio']:6.1%}" if "raw asyncio" in best else ""
        ratio = f"{best['driftkit'] / rate:11.1f}x" if "driftkit" in best else ""
        print(f"{name:12} {rate:10,.0f} {of_raw:>7} {ratio:>12} {others[name]:15.0%}")
    if max(others.values()) > QUIET:
        print("the machine was not quiet: do not quote these figures", file=sys.stderr)


def children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def ttft_errors(clients: list[str]) -> None:
    tokens, gap_s = 20, 0.2
    rate = 1000 / (TRUTH_S + (tokens - 1) * gap_s)
    load = Load(requests=3000, open=1500, tokens=tokens, rate=rate)
    print(f"error of the TTFT in ms, truth {TRUTH_S * 1e3:g} ms, {rate:.0f} requests/s of {tokens} tokens")
    print(
        f"{'client':12} {'mean':>8} {'P50':>8} {'P99':>8} {'most open':>10} {'server, mean':>13} {'P99':>6}"
    )
    for name in clients:
        with server(load, TRUTH_S, gap_s) as url, tempfile.TemporaryDirectory() as folder:
            ttft_s = CLIENTS[name](url, load, Path(folder)).ttft_s[1000:]
            said = served(url)
        off = [(value - TRUTH_S) * 1e3 for value in ttft_s]
        mean, late = sum(off) / len(off), said["first_token_late_s"]
        figures = (
            f"{mean:8.2f} {percentile(off, 0.5):8.2f} {percentile(off, 0.99):8.2f} {said['most_open']:10}"
        )
        print(f"{name:12} {figures} {late['mean'] * 1e3:13.2f} {late['p99'] * 1e3:6.2f}", flush=True)


def arrival_errors() -> None:
    chance = random.Random(0)
    arrivals = [0.0]
    while arrivals[-1] < 20:
        arrivals.append(arrivals[-1] + chance.expovariate(ARRIVALS_RPS))
    load = Load(requests=len(arrivals), open=0, tokens=4)
    with server(load) as url, tempfile.TemporaryDirectory() as folder:
        rows = run_driftkit(url, arrivals, load.tokens, Path(folder), "engine", 0)
    print(f"error of the arrivals in ms, {len(rows):,} of a Poisson process at {ARRIVALS_RPS:g} requests/s")
    for what, late_s in (
        ("client_lag_s", [row["client_lag_s"] for row in rows]),
        ("dispatched_s - offered_s", [row["dispatched_s"] - row["offered_s"] for row in rows]),
    ):
        figures = " ".join(
            f"P{share:g} {percentile(late_s, share / 100) * 1e3:.2f}" for share in (50, 99, 99.9)
        )
        print(f"{what:26} {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ttft", action="store_true")
    parser.add_argument("--arrivals", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", default=",".join(CLIENTS), help="which, by commas")
    args = parser.parse_args()
    clients = args.clients.split(",")
    if args.ttft:
        ttft_errors(clients)
    elif args.arrivals:
        arrival_errors()
    else:
        rates(clients, args.repeats)


if __name__ == "__main__":
    main()
