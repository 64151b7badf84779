"""How long one step takes: a roofline over the memory it reads and the arithmetic it does."""

from __future__ import annotations

from dataclasses import dataclass

from driftkit.engines.sim.profile import Gpu, Model


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, linear under each roof: `overhead + max(memory, compute)`.

    memory  = weights_s + kv_token_s * KV tokens read
    compute = token_s * tokens computed + pair_s * (token, context token) pairs attended
    """

    overhead_s: float
    weights_s: float
    kv_token_s: float
    token_s: float
    pair_s: float

    @classmethod
    def of(cls, gpu: Gpu, model: Model) -> StepTime:
        bandwidth = gpu.bandwidth_bytes_per_s * gpu.memory_efficiency
        flops = gpu.peak_flops * gpu.compute_efficiency
        return cls(
            overhead_s=gpu.step_overhead_s,
            weights_s=model.step_parameters * model.bytes_per_value / bandwidth,
            kv_token_s=model.kv_bytes_per_token / bandwidth,
            # a multiply and an add per parameter; per pair the same for the score and for the sum
            token_s=2 * model.step_parameters / flops,
            pair_s=4 * model.layers * model.attention_width / flops,
        )

    def seconds(self, tokens: int, kv_tokens: int, pairs: int) -> float:
        memory = self.weights_s + self.kv_token_s * kv_tokens
        compute = self.token_s * tokens + self.pair_s * pairs
        return self.overhead_s + (memory if memory > compute else compute)

    def scaled(self, factor: float) -> StepTime:
        """Every constant times `factor`, to ask how much a result depends on them."""
        return StepTime(
            self.overhead_s * factor,
            self.weights_s * factor,
            self.kv_token_s * factor,
            self.token_s * factor,
            self.pair_s * factor,
        )


def kv_blocks(gpu: Gpu, model: Model, block_size: int, utilization: float) -> int:
    """KV blocks that fit beside the weights in `utilization` of the GPU's memory (null block included)."""
    weights = model.parameters * model.bytes_per_value
    free = gpu.memory_bytes * utilization - weights - gpu.reserved_bytes
    return max(0, int(free // (model.kv_bytes_per_token * block_size)))
