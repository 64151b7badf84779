"""How far are the counts of one vocabulary from those of others, on real prompts, and how fast is counting?

    python benchmarks/tokenizer_counts.py FOLDER_OR_FILE... \\
        --against cl100k_base --against qwen.tiktoken --against tekken.json [--tokenizer builtin]

Reads *.json, *.jsonl and their .gz, and takes from every record the strings that a model could be asked or
could answer: instruction, input, output, question, answer, prompt, text, turns, messages, conversations. One
corpus per file and field. What is absent is skipped with a word on stderr. Vocabularies are any that
`driftkit estimate --tokenizer` takes; cl100k_base and o200k_base are in the wheel of litellm (set
TIKTOKEN_CACHE_DIR to its folder litellm_core_utils/tokenizers), qwen.tiktoken in that of dashscope,
tekken.json in that of mistral-common.

Per corpus and vocabulary the table has the ratio of the total counts (tokenizer / vocabulary), and the median
and the 90th percentile of |ratio - 1| over the texts that have at least 16 tokens. A star marks a total that
is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driftkit.errors import DriftkitError
from driftkit.estimation.tokenizers import Tokenizer, load

FIELDS = (
    "instruction",
    "input",
    "output",
    "question",
    "answer",
    "prompt",
    "text",
    "turns",
    "messages",
    "conversations",
)
MIN_TOKENS = 16
MIN_TEXTS = 20


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file of lines, or of one list; ValueError or OSError if it is neither."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        content = file.read()
    try:
        whole = json.loads(content)
    except json.JSONDecodeError:
        whole = [json.loads(line) for line in content.splitlines() if line.strip()]
    for record in whole if isinstance(whole, list) else [whole]:
        if isinstance(record, dict):
            yield record


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item.get("content", item.get("value")) if isinstance(item, dict) else item)


def corpora(paths: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """(file:field, texts) for each field of each readable file that has enough of them."""
    for path in paths:
        if not path.exists():
            print(f"tokenizer_counts: {path}: not here, skipped", file=sys.stderr)
            continue
        found = [path]
        if path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.name.removesuffix(".gz").endswith((".json", ".jsonl"))
            )
        for file in found:
            texts: dict[str, list[str]] = {}
            try:
                for record in records(file):
                    for field in FIELDS:
                        texts.setdefault(field, []).extend(s for s in strings(record.get(field)) if s.strip())
            except (OSError, ValueError) as error:
                print(f"tokenizer_counts: {file}: skipped: {error}", file=sys.stderr)
                continue
            for field, values in texts.items():
                if len(values) >= MIN_TEXTS:
                    yield f"{file.name.split('.json')[0]}:{field}", values


def row(corpus: str, texts: list[str], own: list[int], other: Tokenizer) -> str:
    theirs = [other.count(text) for text in texts]
    off = [abs(a / b - 1) for a, b in zip(own, theirs, strict=True) if b >= MIN_TOKENS] or [float("nan")]
    p90 = sorted(off)[min(len(off) - 1, int(0.9 * len(off)))]
    total = sum(own) / sum(theirs)
    return (
        f"{corpus:44.44s} {other.name:24.24s} {len(texts):6d} {sum(theirs):9d} {total:7.3f} "
        f"{statistics.median(off):7.3f} {p90:7.3f}{'  *' if abs(total - 1) > 0.1 else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare token counts.")
    parser.add_argument("path", type=Path, nargs="+")
    parser.add_argument("--tokenizer", default="builtin")
    parser.add_argument("--against", action="append", default=[], metavar="TOKENIZER")
    options = parser.parse_args()
    started = time.perf_counter()
    own = load(options.tokenizer)
    print(
        f"{own.name}: loaded in {1000 * (time.perf_counter() - started):.0f} ms (tiktoken's import included)"
    )
    others = []
    for name in options.against:
        try:
            others.append(load(name))
        except DriftkitError as error:
            print(f"tokenizer_counts: {error}; skipped", file=sys.stderr)
    print(
        f"{'corpus':44s} {'vocabulary':24s} {'texts':>6s} {'tokens':>9s} {'ratio':>7s} "
        f"{'|r-1|50':>7s} {'90':>7s}"
    )
    size = spent = tokens = 0.0
    for corpus, texts in corpora(options.path):
        started = time.perf_counter()
        counts = [own.count(text) for text in texts]
        spent += time.perf_counter() - started
        size += sum(len(text.encode("utf-8", "replace")) for text in texts)
        tokens += sum(counts)
        for other in others:
            print(row(corpus, texts, counts, other))
    if spent:
        print(
            f"{own.name}: {size / spent / 1e6:.1f} MB/s, {tokens / spent / 1e6:.2f} million tokens/s, "
            "one core"
        )


if __name__ == "__main__":
    main()
