"""Profiles of GPUs and models: those that ship, a user's own, and what a config.json says."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli import ok, records, run, said
from driftkit.engines.sim import hf_config, profiles
from driftkit.engines.sim.latency import Load, StepTime, kv_blocks
from driftkit.engines.sim.profile import Model, load_gpu, load_model
from driftkit.errors import LineError

FOLDER = Path(profiles.__file__).parent
GIB = 2**30

REQUESTS = b"".join(
    b'{"id":"%d","arrival_s":%d,"prompt_tokens":50,"est_output_tokens":20,"est_total_tokens":70,"trace_output_tokens":20}\n'
    % (n, n)
    for n in range(3)
)

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
OPT = {
    "model_type": "opt",
    "hidden_size": 1024,
    "word_embed_proj_dim": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "ffn_dim": 4096,
    "vocab_size": 50272,
    "do_layer_norm_before": False,
    "max_position_embeddings": 2048,
    "torch_dtype": "float16",
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LLAMA_2 = {**LLAMA, "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000} | {
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}
QWEN_1_5 = {**QWEN, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16} | {
    "num_key_value_heads": 16,
    "intermediate_size": 5504,
    "vocab_size": 151936,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "vocab_size": 32768, "max_position_embeddings": 32768}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "vocab_size": 50257,
    "n_positions": 1024,
    "torch_dtype": "float32",
}


def described(config: dict[str, Any], name: str = "here") -> Model:
    return hf_config.read(json.dumps(config).encode(), name)


def own_profile(**changes: str) -> str:
    """The packaged L4 and Qwen1.5 as one file; `changes` are the values of constants, `""` for none."""
    gpu = (FOLDER / "gpu" / "l4.toml").read_text()
    model = (FOLDER / "model" / "qwen1.5-1.8b.toml").read_text()
    lines = []
    for line in f"[gpu]\n{gpu}\n[model]\n{model}".splitlines():
        key = line.partition(" = ")[0]
        if key not in changes:
            lines.append(line)
        elif changes[key]:
            lines.append(f"{key} = {changes[key]}")
    return "\n".join(lines) + "\n"


# --- those that ship ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpu", "model"])
def test_the_names_are_those_of_the_files(kind: str) -> None:
    names = profiles.GPUS if kind == "gpu" else profiles.MODELS
    assert sorted(path.stem for path in (FOLDER / kind).iterdir()) == list(names)
    for name in names:
        content = tomllib.loads((FOLDER / kind / f"{name}.toml").read_text())
        assert content["name"] == name


@pytest.mark.parametrize(
    ("name", "tokens", "seqs"),  # vLLM 0.32, server: by memory, and the A100 as the small ones
    [
        ("l4", 2048, 256),
        ("rtx4090", 2048, 256),
        ("a10g", 2048, 256),
        ("a100-80gb", 2048, 256),
        ("rtx-pro-6000", 8192, 1024),
        ("h100", 8192, 1024),
        ("h200", 8192, 1024),
    ],
)
def test_a_gpu_has_the_defaults_of_its_size(name: str, tokens: int, seqs: int) -> None:
    gpu = load_gpu(name)
    assert (gpu.max_num_batched_tokens, gpu.max_num_seqs) == (tokens, seqs)
    if seqs == 1024:
        assert 70 * GIB <= gpu.memory_bytes < 160 * GIB


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("qwen1.5-1.8b", 2 * 24 * 16 * 128 * 2),  # key and value x layers x KV heads x size x bytes
        ("qwen2.5-7b", 2 * 28 * 4 * 128 * 2),  # 57,344
        ("llama-3.1-8b", 2 * 32 * 8 * 128 * 2),  # 131,072
        ("llama-2-7b", 2 * 32 * 32 * 128 * 2),  # 524,288
        ("opt-350m", 2 * 24 * 16 * 64 * 2),  # 98,304
    ],
)
def test_kv_bytes_per_token_by_hand(name: str, kv_bytes: int) -> None:
    assert load_model(name).kv_bytes_per_token == kv_bytes


def test_a_4090_has_the_kv_blocks_that_vllm_found_there() -> None:
    """vLLM 0.19 logged 2,588 for Llama-3.1-8B at 0.9; ours assumes what is held back, so within 5 %."""
    blocks = kv_blocks(load_gpu("rtx4090"), load_model("llama-3.1-8b"), 16, 0.9)
    assert abs(blocks / 2588 - 1) < 0.05


def test_an_l4_decodes_qwen_as_published() -> None:
    """62.32 ms a step at batch 1 and context 2048 (arXiv 2605.30571)."""
    step_time = StepTime.of(load_gpu("l4"), load_model("qwen2.5-7b"))
    assert abs(step_time.seconds(Load(1, 1, 2048, 0, 0)) / 62.32e-3 - 1) < 0.01


def test_matrices_are_never_faster_than_either_bound_and_end_at_it() -> None:
    gpu, model = load_gpu("rtx4090"), load_model("llama-3.1-8b")
    step = StepTime.of(replace(gpu, step_overhead_s=0, sequence_overhead_s=0), model)
    for tokens in (1, 64, 256, 2048):
        seconds, _ = step.decode(tokens, 0)
        assert max(step.weights_s, step.token_s * tokens) <= seconds
        assert seconds <= 2**0.5 * max(step.weights_s, step.token_s * tokens)
    # LLMServingSim's times of a layer's four matrices, 32 times, and of the head
    for tokens, heads, measured in (
        (32, 32, 17.75e-3),
        (128, 128, 20.5e-3),
        (256, 256, 24.8e-3),
        (2048, 0, 0.173),
    ):
        assert abs(step.decode(tokens, heads)[0] / measured - 1) < 0.21


def test_only_tokens_whose_successor_is_drawn_go_through_the_head() -> None:
    model = load_model("qwen1.5-1.8b")
    step = StepTime.of(load_gpu("l4"), model)
    per_token = step.token_s + step.head_s
    assert (
        abs(per_token / step.token_s - model.step_parameters / (model.step_parameters - 311_164_928)) < 1e-9
    )
    assert step.seconds(Load(1000, 1, 0, 1000, 500_500)) < step.seconds(Load(1000, 1000, 0, 1000, 500_500))


def test_reading_kv_costs_more_beside_a_prompt_where_tiles_are_of_one_head() -> None:
    """Of 4 heads that share KV (LLMServingSim, RTX 4090, 32 requests at 1,024: 304 us a layer, alone 181)."""
    step = StepTime.of(load_gpu("rtx4090"), load_model("llama-3.1-8b"))
    alone, beside = Load(48, 32, 32 * 1024, 0, 0), Load(48, 32, 32 * 1024, 16, 136)
    assert 32 * 80e-6 < step.seconds(beside) - step.seconds(alone) < 32 * 180e-6
    packed = StepTime.of(load_gpu("h100"), load_model("llama-3.1-8b"))
    assert packed.seconds(beside) - packed.seconds(alone) < 1e-5


# --- config.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "parameters"),  # as their model cards count them
    [
        ("qwen1.5-1.8b", QWEN_1_5, 1_836_828_672),
        ("qwen2.5-7b", QWEN, 7_615_616_512),
        ("llama-3.1-8b", LLAMA, 8_030_261_248),
        ("llama-2-7b", LLAMA_2, 6_738_415_616),
        ("opt-350m", OPT, 331_196_416),
    ],
)
def test_a_config_says_what_the_packaged_profile_does(
    name: str, config: dict[str, Any], parameters: int
) -> None:
    model = described(config, name)
    assert model == load_model(name)
    assert model.parameters == parameters


def test_other_families_are_counted_to_the_last_parameter() -> None:
    assert described(MISTRAL).parameters == 7_248_023_552
    gpt2 = described(GPT2)
    assert gpt2.parameters == 124_439_808
    assert gpt2.step_parameters == 124_439_808 - 1024 * 768  # tied: all but the positions
    assert gpt2.bytes_per_value == 2  # vLLM serves float32 as float16


def test_tied_embeddings_are_held_once_and_read_once() -> None:
    untied, tied = described(QWEN), described({**QWEN, "tie_word_embeddings": True})
    assert untied.parameters - tied.parameters == 152064 * 3584
    assert untied.step_parameters == tied.step_parameters == tied.parameters


def test_head_dim_need_not_divide_the_hidden_size() -> None:
    model = described({**QWEN, "head_dim": 256})
    assert model.attention_width == 28 * 256
    assert model.kv_values_per_token == 2 * 28 * 4 * 256


def test_a_model_that_also_sees_is_its_text_model() -> None:
    assert described({"model_type": "seer", "text_config": QWEN}) == described(QWEN)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers: expected an integer from 1 to 10000, got nothing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected an integer from 1 to 10000, got 0"),
        ({"hidden_size": "big"}, "hidden_size: expected an integer from 1 to 1000000, got 'big'"),
        ({"vocab_size": 1.5}, "vocab_size: expected an integer from 1 to 100000000, got 1.5"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: expected a divisor of 28 heads, got 5"),
        ({"num_attention_heads": 24}, "num_attention_heads: expected a divisor of 3584 hidden, got 24"),
        (
            {"intermediate_size": None},
            "intermediate_size: expected an integer from 1 to 10000000, got nothing",
        ),
        ({"torch_dtype": "float8"}, "torch_dtype: expected one of float16, bfloat16, float32, got 'float8'"),
        ({"torch_dtype": None}, "torch_dtype: expected one of float16, bfloat16, float32, got nothing"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, got 'no'"),
        ({"num_experts": 8}, "num_experts: a mixture of experts is not modelled"),
        ({"kv_lora_rank": 512}, "kv_lora_rank: latent attention is not modelled"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quantised kernels do not follow"),
        ({"text_config": 1}, "text_config: expected a table, got 1"),
    ],
)
def test_a_config_that_cannot_be_used_says_which_key(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LineError) as error:
        described({**QWEN, **changes})
    assert error.value.message.startswith(says)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_not_a_config(data: bytes) -> None:
    with pytest.raises(LineError, match=r"not JSON|expected a JSON object"):
        hf_config.read(data, "here")


def test_served_model_takes_a_folder_or_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5-7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN))
    by_folder = ok(["run", "--served-model", folder], REQUESTS)
    assert by_folder == ok(["run", "--served-model", folder / "config.json"], REQUESTS)
    assert {row["served_model"] for row in records(by_folder)} == {"Qwen2.5-7B"}
    packaged = records(ok(["run", "--served-model", "qwen2.5-7b"], REQUESTS))
    assert [row["e2e_s"] for row in records(by_folder)] == [row["e2e_s"] for row in packaged]


def test_a_served_model_that_is_not_there(tmp_path: Path) -> None:
    (line,) = said(run(["run", "--served-model", tmp_path], REQUESTS), 2)
    assert line == f"driftkit run: --served-model: {tmp_path}/config.json: no such file or directory"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (line,) = said(run(["run", "--served-model", tmp_path], REQUESTS), 1)
    assert line.startswith(f"driftkit run: {tmp_path}/config.json: hidden_size: expected an integer")


@pytest.mark.parametrize("name", ["", "qwen", "a" * 300])
def test_a_served_model_that_is_no_name_and_no_file(name: str) -> None:
    line, hint = said(run(["run", "--served-model", name], REQUESTS), 2)
    assert line == f"driftkit run: --served-model: no profile named {name!r}"
    assert "known: llama-2-7b" in hint


def test_a_model_is_called_as_its_folder_even_where_that_is_not_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"model-\xff")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN))
    (row, *_) = records(ok(["run", "--served-model", folder], REQUESTS))
    assert row["served_model"] == "model-\\udcff"


def test_a_path_with_a_null_character_from_a_config_file(tmp_path: Path) -> None:
    path = tmp_path / "driftkit.toml"
    for option in ("served-model", "profile"):
        path.write_text(f'[run]\n{option} = "./a\\u0000b"\n')
        (line,) = said(run(["run", "--config", path], REQUESTS), 2)
        assert f"--{option}" in line


# --- a profile of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("command", [["run"], ["schedule", "--policy", "sjf"]], ids=lambda args: args[0])
def test_the_packaged_constants_in_a_file_are_the_packaged_profiles(
    command: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(own_profile())
    packaged = ok([*command, "--gpu", "l4", "--served-model", "qwen1.5-1.8b"], REQUESTS)
    assert ok([*command, "--profile", path], REQUESTS) == packaged == ok(command, REQUESTS)
    path.write_text(own_profile(step_overhead_s="0.02"))
    assert ok([*command, "--profile", path], REQUESTS) != packaged


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (own_profile(peak_flops=""), "gpu.peak_flops: expected a number from 1e+06 to 1e+18, got nothing"),
        (own_profile(layers=""), "model.layers: expected an integer from 1 to 10000, got nothing"),
        (
            own_profile(memory_efficiency="81"),
            "gpu.memory_efficiency: expected a number from 0.001 to 1, got 81",
        ),
        (own_profile(step_overhead_s="nan"), "gpu.step_overhead_s: expected a number from 0 to 10, got nan"),
        (own_profile(idle_watts=""), "gpu.idle_watts: expected a number from 0 to 10000, got nothing"),
        (own_profile(peak_watts="-72"), "gpu.peak_watts: expected a number from 1 to 100000, got -72"),
        (own_profile(peak_watts="28"), "gpu.idle_watts: expected less than peak_watts, 28, got 28"),
        (
            own_profile(bandwidth_bytes_per_s="-3e11"),
            "gpu.bandwidth_bytes_per_s: expected a number from 1e+06",
        ),
        (own_profile(bandwidth_bytes_per_s="inf"), "gpu.bandwidth_bytes_per_s: expected a number from 1e+06"),
        (own_profile(layers="2.0"), "model.layers: expected an integer from 1 to 10000, got 2.0"),
        (own_profile(reserved_bytes="24_152_899_584"), "gpu.reserved_bytes: expected less than memory_bytes"),
        (
            own_profile(max_num_seqs="4096"),
            "gpu.max_num_batched_tokens: expected at least max_num_seqs, 4096",
        ),
        (own_profile(parameters="9"), "model.step_parameters: expected at most parameters, 9"),
        (own_profile(head_parameters="9e9"), "model.head_parameters: expected an integer"),
        (
            own_profile(head_parameters="1525663744"),
            "model.head_parameters: expected less than step_parameters",
        ),
        (own_profile() + "layer = 3\n", "model.layer: no such key here\n  did you mean layers?"),
        (own_profile() + "[modle]\n", "modle: no such key here\n  did you mean model?"),
        ("gpu = 3\nmodel = 3\n", "gpu: expected a table, got 3"),
        ("", "gpu: expected a table [gpu], got nothing"),
        ("[gpu\n", "not TOML: "),
    ],
)
def test_a_profile_that_cannot_be_used_is_one_line(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    result = run(["run", "--profile", path], REQUESTS)
    assert "\n".join(said(result, 1)).startswith(f"driftkit run: {path}: {says}")
    assert result.stdout == b""


@pytest.mark.parametrize("option", [("--gpu", "l4"), ("--served-model", "qwen1.5-1.8b")])
def test_a_profile_is_whole(option: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(own_profile())
    (line,) = said(run(["schedule", "--policy", "fifo", "--profile", path, *option], REQUESTS), 2)
    assert f"--profile and {option[0]} exclude each other" in line


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    (line,) = said(run(["run", "--profile", tmp_path / "none.toml"], REQUESTS), 2)
    assert line == f"driftkit run: --profile: {tmp_path}/none.toml: no such file or directory"
