"""What inference servers tell of themselves in Prometheus' text format.

A server's text is read, never trusted: who fetches it bounds its size, and a line that is not understood is
left out. Each name costs one search through the text, because the run's thread waits for the interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from driftkit.records.schema import MOST, Record

#: by field: the metric's name in vLLM (the third kv_ratio: before 0.10), SGLang, llama.cpp
NAMES: dict[str, tuple[bytes, ...]] = {
    "running_requests": (
        b"vllm:num_requests_running",
        b"sglang:num_running_reqs",
        b"llamacpp:requests_processing",
    ),
    "waiting_requests": (
        b"vllm:num_requests_waiting",
        b"sglang:num_queue_reqs",
        b"llamacpp:requests_deferred",
    ),
    "kv_ratio": (
        b"vllm:kv_cache_usage_perc",
        b"sglang:token_usage",
        b"vllm:gpu_cache_usage_perc",
        b"llamacpp:kv_cache_usage_ratio",
    ),
    "preemptions_total": (b"vllm:num_preemptions_total",),
}
LONGEST_NUMBER = 40  # characters


def told(text: bytes) -> Record:
    """The fields that a server's metrics know: sums over its engines, the mean of `kv_ratio`."""
    text = b"\n" + text
    record: Record = {}
    for field, names in NAMES.items():
        values = next(filter(None, ([*_values(text, name)] for name in names)), None)
        if values is None:
            continue
        total = math.fsum(values)
        if field == "kv_ratio":
            if (ratio := total / len(values)) <= 1:
                record[field] = ratio
        elif total <= MOST:
            record[field] = int(total)
    return record


def _values(text: bytes, name: bytes) -> Iterator[float]:
    """Of each line `NAME{LABELS} VALUE [TIMESTAMP]` whose value is one: finite and not negative."""
    start = text.find(b"\n" + name)
    while start >= 0:
        end = text.find(b"\n", start + 1)
        line = text[start + 1 + len(name) : end if end >= 0 else len(text)]
        if line[:1] == b"{":
            line = line[line.rfind(b"}") + 1 :]  # a label's value may hold a brace
        elif line[:1] not in (b" ", b"\t"):  # the name is the beginning of another
            line = b""
        number = line[: 2 * LONGEST_NUMBER].split(None, 1)
        if number and len(number[0]) <= LONGEST_NUMBER:
            try:
                value = float(number[0])
            except ValueError:
                value = math.nan
            if 0 <= value < math.inf:
                yield value
        start = text.find(b"\n" + name, end) if end >= 0 else -1
