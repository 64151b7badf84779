"""What a step costs is computed from two sets of constants, a GPU's and a model's: a profile.

Those that come with driftkit have a file each; a user's own is one file with both as tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from driftkit.engines.sim import profiles
from driftkit.errors import UsageError, near
from driftkit.records.toml_table import Table, parse

#: least and most that each constant can be: what is outside is a slip of the unit, not a machine
Bounds = Mapping[str, tuple[float, float]]
GPU_INTEGERS: Bounds = {
    "memory_bytes": (10**6, 10**14),
    "reserved_bytes": (0, 10**13),
    "attention_rows": (1, 1024),
    "max_num_batched_tokens": (1, 10**7),
    "max_num_seqs": (1, 10**6),
}
GPU_NUMBERS: Bounds = {
    "bandwidth_bytes_per_s": (1e6, 1e15),
    "peak_flops": (1e6, 1e18),
    "memory_efficiency": (0.001, 1),
    "compute_efficiency": (0.001, 1),
    "step_overhead_s": (0, 10),
    "sequence_overhead_s": (0, 1),
    "frontend_s": (0, 10),
    "idle_watts": (0, 10_000),
    "peak_watts": (1, 100_000),
}
MODEL_INTEGERS: Bounds = {
    "parameters": (1, 10**14),
    "step_parameters": (1, 10**14),
    "head_parameters": (0, 10**14),
    "layers": (1, 10**4),
    "attention_width": (1, 10**7),
    "kv_values_per_token": (1, 10**9),
    "bytes_per_value": (1, 8),
    "max_model_len": (2, 10**8),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and the server on it: bytes, bytes/s, FLOP/s, the share of each that is reached, seconds.

    `attention_rows` are computed for a request's single token where a prompt shares the step.
    `step_overhead_s` is lost in every step, `sequence_overhead_s` for each request in one, `frontend_s`
    before a request is in the scheduler's queue. `async_scheduling`: a step is planned while another runs.
    `idle_watts` are drawn with its clocks up and nothing to compute, `peak_watts` by arithmetic alone.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops: float
    memory_efficiency: float
    compute_efficiency: float
    step_overhead_s: float
    sequence_overhead_s: float
    frontend_s: float
    reserved_bytes: int
    attention_rows: int
    idle_watts: float
    peak_watts: float
    max_num_batched_tokens: int
    max_num_seqs: int
    async_scheduling: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model: parameters held, read per step, and of these applied only to tokens whose successor is drawn
    (the head); what attention and the KV cache cost per token.
    """

    name: str
    parameters: int
    step_parameters: int
    head_parameters: int
    layers: int
    attention_width: int
    kv_values_per_token: int
    bytes_per_value: int
    max_model_len: int

    @property
    def kv_bytes_per_token(self) -> int:
        return self.kv_values_per_token * self.bytes_per_value


def load_gpu(name: str) -> Gpu:
    """The GPU `name` of those that come with driftkit; UsageError for any other."""
    if name not in profiles.GPUS:
        raise unknown("--gpu", name, profiles.GPUS)
    return _gpu(parse(profiles.text("gpu", name)))


def load_model(name: str) -> Model:
    if name not in profiles.MODELS:
        raise unknown("--served-model", name, profiles.MODELS)
    return _model(parse(profiles.text("model", name)))


def read(data: bytes) -> tuple[Gpu, Model]:
    """A user's own profile: a TOML file with the tables `gpu` and `model`; LineError for what is wrong."""
    document = parse(data)
    for key in ("gpu", "model"):
        if key not in document:
            raise document.expected(key, f"a table [{key}]")
    gpu, model = document.table("gpu"), document.table("model")
    document.done()
    return _gpu(gpu), _model(model)


def unknown(option: str, name: str, known: tuple[str, ...]) -> UsageError:
    hint = " ".join(filter(None, [near(name, known), f"known: {', '.join(known)}"]))
    return UsageError(f"{option}: no profile named {name!r}", hint=hint)


def _gpu(table: Table) -> Gpu:
    gpu = Gpu(
        name=table.name("name"),
        **_integers(table, GPU_INTEGERS),
        **_numbers(table, GPU_NUMBERS),
        async_scheduling=table.boolean("async_scheduling"),
    )
    table.done()
    if gpu.reserved_bytes >= gpu.memory_bytes:
        raise table.wrong("reserved_bytes", f"expected less than memory_bytes, got {gpu.reserved_bytes}")
    if gpu.idle_watts >= gpu.peak_watts:
        raise table.wrong(
            "idle_watts", f"expected less than peak_watts, {gpu.peak_watts:g}, got {gpu.idle_watts:g}"
        )
    if gpu.max_num_batched_tokens < gpu.max_num_seqs:
        problem = f"expected at least max_num_seqs, {gpu.max_num_seqs}, got {gpu.max_num_batched_tokens}"
        raise table.wrong("max_num_batched_tokens", problem)
    return gpu


def _model(table: Table) -> Model:
    model = Model(name=table.name("name"), **_integers(table, MODEL_INTEGERS))
    table.done()
    if model.step_parameters > model.parameters:
        problem = f"expected at most parameters, {model.parameters}, got {model.step_parameters}"
        raise table.wrong("step_parameters", problem)
    if model.head_parameters >= model.step_parameters:
        problem = f"expected less than step_parameters, {model.step_parameters}, got {model.head_parameters}"
        raise table.wrong("head_parameters", problem)
    return model


def _integers(table: Table, bounds: Bounds) -> dict[str, Any]:
    return {key: table.integer(key, int(least), int(most)) for key, (least, most) in bounds.items()}


def _numbers(table: Table, bounds: Bounds) -> dict[str, Any]:
    return {key: table.number(key, least, most) for key, (least, most) in bounds.items()}
