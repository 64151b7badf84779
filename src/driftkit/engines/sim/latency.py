"""How long one step takes: a roofline over memory read and arithmetic done, kernel by kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from driftkit.engines.sim.profile import Gpu, Model


class Load(NamedTuple):
    """What a step computes.

    `tokens` of `sequences` requests go through the model's matrices. Attention is counted apart for those
    who compute one token and for prompts: each reads its KV tokens, its own new ones included, and attends
    (token, context token) pairs; a single token attends as many as it reads.
    """

    tokens: int
    sequences: int
    decode_kv: int
    prefill_kv: int
    prefill_pairs: int


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step: overhead, then the matrices, then attention, one after the other.

    matrices  = max(weights_s, token_s * tokens)
    attention = max(kv_token_s, pair_s) * decode_kv + max(kv_token_s * prefill_kv, pair_s * prefill_pairs)

    Each is bound by memory or by arithmetic on its own: while a kernel multiplies, the next one's KV tokens
    are not read yet.
    """

    overhead_s: float
    sequence_s: float
    weights_s: float
    token_s: float
    kv_token_s: float
    pair_s: float

    @classmethod
    def of(cls, gpu: Gpu, model: Model) -> StepTime:
        bandwidth = gpu.bandwidth_bytes_per_s * gpu.memory_efficiency
        flops = gpu.peak_flops * gpu.compute_efficiency
        return cls(
            overhead_s=gpu.step_overhead_s,
            sequence_s=gpu.sequence_overhead_s,
            weights_s=model.step_parameters * model.bytes_per_value / bandwidth,
            # a multiply and an add per parameter; per pair the same for the score and for the sum
            token_s=2 * model.step_parameters / flops,
            kv_token_s=model.kv_bytes_per_token / bandwidth,
            pair_s=4 * model.layers * model.attention_width / flops,
        )

    def seconds(self, load: Load) -> float:
        tokens, sequences, decode_kv, prefill_kv, prefill_pairs = load
        fixed, per_kv = self.decode(tokens, sequences)
        prefill = max(self.kv_token_s * prefill_kv, self.pair_s * prefill_pairs)
        return fixed + per_kv * decode_kv + prefill

    def decode(self, tokens: int, sequences: int) -> tuple[float, float]:
        """(seconds, seconds per KV token read) of a step in which nobody prefills."""
        matrices = max(self.weights_s, self.token_s * tokens)
        return self.overhead_s + self.sequence_s * sequences + matrices, max(self.kv_token_s, self.pair_s)

    def scaled(self, factor: float) -> StepTime:
        """Every constant times `factor`, to ask how much a result depends on them."""
        return StepTime(*(getattr(self, name) * factor for name in self.__slots__))


def kv_blocks(gpu: Gpu, model: Model, block_size: int, utilization: float) -> int:
    """KV blocks that fit beside the weights in `utilization` of the GPU's memory (null block included)."""
    weights = model.parameters * model.bytes_per_value
    free = gpu.memory_bytes * utilization - weights - gpu.reserved_bytes
    return max(0, int(free // (model.kv_bytes_per_token * block_size)))
