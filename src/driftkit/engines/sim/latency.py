"""How long one step takes: a roofline over the memory it reads and the arithmetic it does."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from driftkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: bytes, bytes/s, FLOP/s, the share of each that is reached, seconds lost per step."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops: float
    memory_efficiency: float
    compute_efficiency: float
    step_overhead_s: float
    reserved_bytes: int
    max_num_batched_tokens: int
    max_num_seqs: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model: parameters held and read per step, and what attention and the KV cache cost per token."""

    name: str
    parameters: int
    step_parameters: int
    layers: int
    attention_width: int
    kv_values_per_token: int
    bytes_per_value: int
    max_model_len: int

    @property
    def kv_bytes_per_token(self) -> int:
        return self.kv_values_per_token * self.bytes_per_value


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


def gpu_names() -> list[str]:
    return _names("gpu")


def model_names() -> list[str]:
    return _names("model")


def load_gpu(name: str) -> Gpu:
    """The packaged profile `name`; UsageError lists the names there are."""
    return Gpu(**_load("gpu", name))


def load_model(name: str) -> Model:
    return Model(**_load("model", name))


def _names(kind: str) -> list[str]:
    folder = resources.files("driftkit.engines.sim") / "profiles" / kind
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir())


def _load(kind: str, name: str) -> dict[str, Any]:
    if name not in _names(kind):
        option = "--gpu" if kind == "gpu" else "--served-model"
        raise UsageError(f"{option}: no profile named {name!r}", hint="known: " + ", ".join(_names(kind)))
    path = resources.files("driftkit.engines.sim") / "profiles" / kind / f"{name}.toml"
    return tomllib.loads(path.read_text())
