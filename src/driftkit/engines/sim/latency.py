"""How long one step takes: a roofline over memory read and arithmetic done, kernel by kernel."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import hypot
from typing import NamedTuple

from driftkit.engines.sim.profile import Gpu, Model

#: Attention's arithmetic, of what matrices reach. A property of the kernel, shared by all cards: prompts of
#: 2,048 tokens on long contexts reach 0.73 of the peak on an RTX 4090 and 0.58 on an RTX PRO 6000, where
#: matrices reach 0.96 and 0.70 (LLMServingSim's published kernel times, profiler/perf/*/meta-llama).
ATTENTION_SHARE = 0.8


class Load(NamedTuple):
    """What a step computes.

    `tokens` of `sequences` requests go through the model's matrices, one of each through the head. Attention
    is counted apart for those who compute one token and for prompts: each reads its KV tokens, its own new
    ones included, and attends (token, context token) pairs; a single token attends as many as it reads.
    """

    tokens: int
    sequences: int
    decode_kv: int
    prefill_kv: int
    prefill_pairs: int


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step: overhead, then the matrices, then attention, one after the other.

    matrices  = hypot(weights_s, token_s * tokens + head_s * sequences)
    attention = decode_kv * kv + max(kv_token_s * prefill_kv, pair_s * prefill_pairs)
    kv        = max(kv_token_s, pair_s), and max(kv_token_s, shared_kv_s) beside a prompt

    Each is bound by memory or by arithmetic on its own: while a kernel multiplies, the next one's KV tokens
    are not read yet. Matrices between the two bounds take longer than either, the root of the squares' sum:
    compared by hand with published kernel times of an RTX 4090, an RTX PRO 6000 and an A100 (LLMServingSim,
    Vidur) from 1 to 2,048 tokens, it is some 10 % off, at worst 21 % (RTX 4090, 256 tokens).
    """

    overhead_s: float
    sequence_s: float
    weights_s: float
    token_s: float
    kv_token_s: float
    pair_s: float
    head_s: float = 0.0
    shared_kv_s: float = 0.0

    @classmethod
    def of(cls, gpu: Gpu, model: Model) -> StepTime:
        bandwidth = gpu.bandwidth_bytes_per_s * gpu.memory_efficiency
        flops = gpu.peak_flops * gpu.compute_efficiency
        pair_s = 4 * model.layers * model.attention_width / (flops * ATTENTION_SHARE)
        return cls(
            overhead_s=gpu.step_overhead_s,
            sequence_s=gpu.sequence_overhead_s,
            weights_s=model.step_parameters * model.bytes_per_value / bandwidth,
            # a multiply and an add per parameter; per pair the same for the score and for the sum
            token_s=2 * (model.step_parameters - model.head_parameters) / flops,
            kv_token_s=model.kv_bytes_per_token / bandwidth,
            pair_s=pair_s,
            head_s=2 * model.head_parameters / flops,
            shared_kv_s=gpu.attention_rows * pair_s,
        )

    def seconds(self, load: Load) -> float:
        tokens, sequences, decode_kv, prefill_kv, prefill_pairs = load
        fixed, per_kv = self.decode(tokens, sequences)
        if not prefill_pairs:
            return fixed + per_kv * decode_kv
        prefill = max(self.kv_token_s * prefill_kv, self.pair_s * prefill_pairs)
        return fixed + max(per_kv, self.shared_kv_s) * decode_kv + prefill

    def decode(self, tokens: int, sequences: int) -> tuple[float, float]:
        """(seconds, seconds per KV token read) of a step in which nobody prefills."""
        matrices = hypot(self.weights_s, self.token_s * tokens + self.head_s * sequences)
        return self.overhead_s + self.sequence_s * sequences + matrices, max(self.kv_token_s, self.pair_s)

    def scaled(self, factor: float) -> StepTime:
        """Every constant times `factor`, to ask how much a result depends on them."""
        return StepTime(*(constant * factor for constant in astuple(self)))


def kv_blocks(gpu: Gpu, model: Model, block_size: int, utilization: float) -> int:
    """KV blocks that fit beside the weights in `utilization` of the GPU's memory (null block included)."""
    weights = model.parameters * model.bytes_per_value
    free = gpu.memory_bytes * utilization - weights - gpu.reserved_bytes
    return max(0, int(free // (model.kv_bytes_per_token * block_size)))
