"""How fast `estimate --model regressor` is on one core, and how long a record waits for it in a live pipe.

    python benchmarks/regressor_speed.py FOLDER [RECORDS]        51,200 by default, about four minutes

FOLDER holds one JSON (or .json.gz) per served model, lists of objects with `instruction` and `output`, as
AlpacaEval writes them. Long prompts are an instruction, most with a piece of some answer under it as the text
that it is about: 20 to 300 words, evenly in the logarithm, where the instruction is not longer. Short ones
are the instruction alone. The regressor is fitted to two long prompts for each answer of the first five
models; the requests quote other texts.

Every process is kept on core 0. Rates are records by CPU time, the best of a few runs: of the whole process,
and of what RECORDS take beyond a single one. Wall time is beside them, and says how quiet the machine was.
Delays under --follow are from writing a line to having it back, a line every 20 ms, without the first.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from driftkit.estimation import store, tokenizers
from driftkit.estimation.fitting import fit
from driftkit.rng import stream

DRIFTKIT = str(Path(sys.executable).parent / "driftkit")
SERVED_MODELS = 5
SHORTEST, LONGEST = 20, 300  # words of a prompt
LIVE, GAP_S = 300, 0.02


def answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for path in sorted(folder.glob("*.json*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found[path.name.removesuffix(".gz").removesuffix(".json")] = json.loads(data)
    if not found:
        sys.exit(f"regressor_speed: {folder}: no answers there")
    return found


def prompts(rows: list[dict[str, Any]], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Without end: a prompt, and the row whose instruction it is made of."""
    texts = [row["output"] for row in rows]
    random = stream(0, name)
    while True:
        for row, (of, start, length) in zip(rows, random.random((len(rows), 3)), strict=True):
            wanted = int(SHORTEST * (LONGEST / SHORTEST) ** length) - len(row["instruction"].split())
            text = texts[int(of * len(texts))]
            begin = int(start * len(text) / 2)
            quoted = text[begin : begin + 12 * wanted] if wanted > 0 else ""
            words = len(quoted.split())
            while words > wanted > 0:
                quoted = quoted.rsplit(None, 1)[0]
                words -= 1
            yield f"{row['instruction']}\n\n{quoted}" if quoted else row["instruction"], row


def learn(given: dict[str, list[dict[str, Any]]], state: Path) -> None:
    """Leave a regressor in `state`."""
    count = tokenizers.load("builtin").count
    seen = []
    for model, rows in list(given.items())[:SERVED_MODELS]:
        made = prompts(rows, f"completions of {model}")
        for place, (prompt, row) in zip(range(2 * len(rows)), made, strict=False):
            seen.append(
                {
                    "id": f"{model}/{place}",
                    "prompt": prompt,
                    "prompt_tokens": max(1, count(prompt)),
                    "tenant": row.get("dataset") or "",
                    "served_model": model,
                    "actual_output_tokens": max(1, count(row["output"])),
                }
            )
    learned = fit(seen)
    store.write(state, learned)
    terms = len(learned.regressor.matrices.idf)
    print(f"fitted to {len(seen):,} completions: {terms:,} words and pairs of words")


def requests(given: dict[str, list[dict[str, Any]]], count: int, quote: bool) -> list[dict[str, Any]]:
    rows = [row for of_model in given.values() for row in of_model]
    return [
        {
            "kind": "request",
            "schema": 1,
            "id": f"r{place}",
            "arrival_s": place / 100,
            "tenant": row.get("dataset") or "",
            "max_tokens": 2048,
            "prompt": prompt if quote else row["instruction"],
        }
        for place, (prompt, row) in zip(range(count), prompts(rows, "requests"), strict=False)
    ]


def process(command: list[str], source: Path, times: int = 2) -> tuple[float, float]:
    """Seconds of CPU and of wall time, the best of so many times."""
    took = []
    for _ in range(times):
        with open(source, "rb") as stdin, open(os.devnull, "wb") as stdout:
            start = time.perf_counter()
            child = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
        if os.waitstatus_to_exitcode(status) != 0:
            sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
        took.append((usage.ru_utime + usage.ru_stime, wall))
    return min(took)


def delays(command: list[str], rows: list[dict[str, Any]]) -> list[float]:
    """Milliseconds from writing a record to having it back."""
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdin is not None
    assert child.stdout is not None
    waits = []
    for row in rows:
        start = time.perf_counter()
        child.stdin.write(orjson.dumps(row) + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        waits.append(1000 * (time.perf_counter() - start))
        time.sleep(GAP_S)
    child.stdin.close()
    child.wait()
    return waits[1:]


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 51_200
    tokens = tokenizers.load("builtin").count
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        given = answers(Path(sys.argv[1]))
        learn(given, state)
        estimate = ["estimate", "--model", "regressor", "--state", str(state)]
        command = ["taskset", "-c", "0", DRIFTKIT, *estimate, "--served-model", next(iter(given))]
        print(f"{count:,} requests\n")
        print("prompts  mean words  prompt_tokens  CPU s   wall s  records/s  past the start    us each")
        for prompt in ("long", "short"):
            rows = requests(given, count, quote=prompt == "long")
            words = statistics.fmean(len(row["prompt"].split()) for row in rows)
            counted = [{**row, "prompt_tokens": max(1, tokens(row["prompt"]))} for row in rows]
            for said, asked in (("given", counted), ("counted", rows)):
                file, single = Path(name) / "requests.jsonl", Path(name) / "single.jsonl"
                file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in asked))
                single.write_bytes(orjson.dumps(asked[0]) + b"\n")
                cpu, wall = process(command, file)
                each = (cpu - process(command, single, times=5)[0]) / (count - 1)
                rates = f"{count / cpu:9,.0f}  {1 / each:14,.0f}  {1e6 * each:9.1f}"
                print(f"{prompt:7s}  {words:10.0f}  {said:13s}  {cpu:5.2f}  {wall:7.2f}  {rates}", flush=True)
            waits = sorted(delays([*command, "--follow"], counted[:LIVE]))
            p50, p99 = statistics.median(waits), waits[int(0.99 * len(waits))]
            print(f"{prompt:7s}  --follow: a record is back after {p50:.1f} ms, P99 {p99:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
