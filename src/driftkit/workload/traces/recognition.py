"""Which format a trace is in, by its first bytes."""

from __future__ import annotations

from pathlib import Path

import orjson

from driftkit.errors import DriftkitError
from driftkit.workload.traces.burstgpt import COLUMNS as BURSTGPT

# a JSON object on the first line, by keys that no other format has together
_KEYS = (
    ("vllm-bench", ("input_lens", "output_lens")),
    ("vllm-bench", ("request_throughput", "duration")),
    ("openai-batch", ("custom_id", "body")),
    ("mooncake", ("timestamp", "input_length")),
    ("mooncake", ("timestamp", "hash_ids")),
    ("mooncake", ("timestamp", "output_length")),
    ("sharegpt", ("conversations",)),
)
_TAR_MAGIC = slice(257, 262)


def recognise(first_line: bytes, *, mapped: bool) -> str:
    """The name of the format that a trace's first line shows; DriftkitError when it shows none.

    `mapped`: the user says which field is which, so JSON and comma-separated rows are taken as they are.
    """
    head = first_line.removeprefix(b"\xef\xbb\xbf").strip()
    if first_line[_TAR_MAGIC] == b"ustar":
        return "servegen"
    if head.startswith(b"{"):
        return "jsonl" if mapped else _of_object(head)
    if head.startswith(b"["):
        return "sharegpt"
    cells = head.replace(b'"', b"").replace(b";", b",").replace(b"\t", b",").split(b",")
    if mapped or (b"arrival_s" in cells and len(cells) > 1):
        return "csv"
    if cells[:3] == [b"TIMESTAMP", b"ContextTokens", b"GeneratedTokens"]:
        return "azure"
    if set(BURSTGPT).issubset(cell.decode("utf-8", "replace") for cell in cells):
        return "burstgpt"
    if len(cells) > 1:
        hint = "name it with --trace-format, or say what is what, as in --map arrival_s=COLUMN"
    else:
        hint = "name it with --trace-format"
    raise DriftkitError("the trace's format is not recognised by its first line", hint=hint)


def _of_object(head: bytes) -> str:
    if head == b"{":  # a document over many lines
        return "vllm-bench"
    try:
        row = orjson.loads(head)
    except orjson.JSONDecodeError:
        return "jsonl"  # which says what is wrong with it
    for name, keys in _KEYS:
        if all(key in row for key in keys):
            return name
    return "jsonl"


def is_servegen_folder(path: str) -> bool:
    """Whether `path` is a folder of ServeGen clients, the one format that is not one file."""
    return path != "-" and any(Path(path).glob("chunk-*-trace.csv"))
