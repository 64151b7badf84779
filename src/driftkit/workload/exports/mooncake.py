"""Mooncake JSONL, which AIPerf replays: `timestamp` in whole ms, lengths, prefix blocks.

https://docs.nvidia.com/aiperf, Trace Replay with Mooncake Traces. A request's text is replaced by its length,
since the format takes one of the two. Without a true output length the cap stands for it.
"""

from __future__ import annotations

from typing import ClassVar

from driftkit import rng
from driftkit.errors import FieldError
from driftkit.estimation.tokenizers import load
from driftkit.records.schema import Record, checker
from driftkit.workload.traces.mooncake import BLOCK_TOKENS

_check = checker(
    ("id", "arrival_s"),
    ("prompt_tokens", "trace_output_tokens", "max_tokens", "prefix_hashes", "prefix_block_tokens"),
)


class Mooncake:
    """Prompts whose length is not given are counted by `tokenizer`."""

    name: ClassVar[str] = "mooncake"
    holds: ClassVar[frozenset[str]] = frozenset(
        ("arrival_s", "prompt_tokens", "trace_output_tokens", "prefix_hashes", "prefix_block_tokens")
    )

    def __init__(self, tokenizer: str) -> None:
        self.remarks: dict[str, None] = {}
        self._count = load(tokenizer).count

    def row(self, record: Record) -> Record:
        _check(record)
        tokens = record.get("prompt_tokens") or max(1, self._count(_text(record)))
        output = record.get("trace_output_tokens") or record.get("max_tokens")
        if output is None:
            raise FieldError(
                "trace_output_tokens", "expected an integer >= 1, got nothing", hint="or max_tokens"
            )
        row: Record = {
            "timestamp": round(record["arrival_s"] * 1000),
            "input_length": tokens,
            "output_length": output,
        }
        if record.get("prefix_hashes") is not None:
            row["hash_ids"] = self._hash_ids(record, tokens)
        return row

    def _hash_ids(self, record: Record, tokens: int) -> list[int]:
        """As many as the prompt has blocks, the last one perhaps not full: replayers insist on that.

        Blocks that the record does not name are nobody else's.
        """
        block = record.get("prefix_block_tokens") or BLOCK_TOKENS
        if block != BLOCK_TOKENS:
            remark = f"hash_ids are blocks of {block} tokens, not {BLOCK_TOKENS}: tell the replayer"
            self.remarks[remark] = None
        known = record["prefix_hashes"][: -(-tokens // block)]
        own = (f"{record['id']}/{place}" for place in range(len(known), -(-tokens // block)))
        return [*known, *(rng.keyed(0, "mooncake/block", name) for name in own)]


def _text(record: Record) -> str:
    """What is said in a prompt or in messages, without what a chat template adds."""
    if (prompt := record.get("prompt")) is not None:
        return str(prompt)
    contents = (message.get("content") for message in record.get("messages") or [])
    return "\n".join(content for content in contents if type(content) is str)
