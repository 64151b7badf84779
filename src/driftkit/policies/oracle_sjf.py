"""Shortest job first with the true output length: the headroom that is left to estimation."""

from typing import ClassVar

from driftkit.policies.base import StaticPolicy
from driftkit.records.schema import Record


class OracleSjf(StaticPolicy):
    name: ClassVar[str] = "oracle-sjf"
    reads: ClassVar[tuple[str, ...]] = ("prompt_tokens", "trace_output_tokens")

    def key(self, record: Record) -> int:
        output: int = record["trace_output_tokens"]
        prompt: int = record["prompt_tokens"]
        cap = record.get("max_tokens")
        return prompt + (output if cap is None else min(output, cap))
