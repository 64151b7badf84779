"""A model as Hugging Face's `config.json` describes it: a dense decoder's sizes, and what follows from them.

Names of keys and their defaults are those of the `transformers` library. Parameters are counted to the last
one for the families in FAMILIES; of others whose keys are like Llama's, biases and norms within attention are
left out, a ten-thousandth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from driftkit.engines.sim.profile import Model
from driftkit.errors import LineError
from driftkit.records.toml_table import Table

#: what a size is called, newest first, and the least and most it can be
SIZES = {
    "hidden": (("hidden_size", "n_embd", "d_model"), 1, 10**6),
    "layers": (("num_hidden_layers", "n_layer", "n_layers"), 1, 10**4),
    "heads": (("num_attention_heads", "n_head", "n_heads"), 1, 10**4),
    "kv_heads": (("num_key_value_heads", "num_kv_heads"), 1, 10**4),
    "head_dim": (("head_dim",), 1, 10**5),
    "intermediate": (("intermediate_size", "ffn_dim", "n_inner"), 1, 10**7),
    "vocabulary": (("vocab_size",), 1, 10**8),
    "context": (("max_position_embeddings", "n_positions", "max_seq_len"), 2, 10**8),
}
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
#: keys of what costs something else than a dense decoder: a key and why it is refused
REFUSED = {
    "quantization_config": "quantised kernels do not follow from the size of their weights",
    "num_local_experts": "a mixture of experts is not modelled",
    "num_experts": "a mixture of experts is not modelled",
    "n_routed_experts": "a mixture of experts is not modelled",
    "kv_lora_rank": "latent attention is not modelled",
    "is_encoder_decoder": "an encoder is not modelled",
    "ssm_cfg": "state-space layers are not modelled",
    "state_size": "state-space layers are not modelled",
}


@dataclass(frozen=True, slots=True)
class Family:
    """What a `model_type` means beyond its sizes: `transformers` has it in code, not in the file."""

    gated: bool = True  # three matrices in the feed-forward block, not two
    qkv_bias: bool = False
    biased: bool = False  # every linear layer and norm has one
    tied: bool = False  # unless the file says
    positions: int | None = None  # learned positions: how many more than the context


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "opt": Family(gated=False, biased=True, tied=True, positions=2),
    "gpt2": Family(gated=False, biased=True, tied=True, positions=0),
    "gemma": Family(tied=True),
}


def read(data: bytes, name: str) -> Model:
    """The model that a `config.json` describes, called `name`; LineError for what is missing or absurd."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise LineError(f"not JSON: {str(error).partition(': line')[0].lower()}") from None
    if type(document) is not dict:
        raise LineError("expected a JSON object, the config.json of a model")
    config = Table(document, "")
    if "text_config" in config:  # of a model that sees or hears as well
        config = config.table("text_config")
    for key, why in REFUSED.items():
        if config.raw(key):
            raise config.wrong(key, why, "--profile FILE takes constants that you know better")
    return _model(config, name)


def _model(config: Table, name: str) -> Model:
    family = FAMILIES.get(config.name("model_type", "llama"), Family())
    hidden, layers, heads = (_size(config, size) for size in ("hidden", "layers", "heads"))
    kv_heads = _size(config, "kv_heads", heads)
    if heads % kv_heads:
        raise config.wrong(_key(config, "kv_heads"), f"expected a divisor of {heads} heads, got {kv_heads}")
    if hidden % heads and _key(config, "head_dim") not in config:
        raise config.wrong(_key(config, "heads"), f"expected a divisor of {hidden} hidden, got {heads}")
    head_dim = _size(config, "head_dim", hidden // heads)
    intermediate = _size(config, "intermediate", None if family.gated else 4 * hidden)
    vocabulary, context = _size(config, "vocabulary"), _size(config, "context")
    embedded = config.integer("word_embed_proj_dim", 1, 10**6, hidden)
    width, kv_width = heads * head_dim, kv_heads * head_dim

    attention = hidden * (width + 2 * kv_width) + width * hidden
    feed_forward = (3 if family.gated else 2) * hidden * intermediate
    norms = 2 * hidden
    if family.biased:
        norms *= 2
        attention += width + 2 * kv_width + hidden
        feed_forward += intermediate + hidden
    elif family.qkv_bias or config.boolean("attention_bias"):
        attention += width + 2 * kv_width
        attention += 0 if family.qkv_bias else hidden  # Llama's key means all four
    final = 2 * hidden if family.biased else hidden
    if config.raw("do_layer_norm_before") is False:  # OPT-350m alone: norms after, and none at the end
        final = 0
    projections = 2 * embedded * hidden if embedded != hidden else 0

    computed = layers * (attention + feed_forward + norms) + final + projections
    embedding = vocabulary * embedded
    tied = config.boolean("tie_word_embeddings") if "tie_word_embeddings" in config else family.tied
    positions = 0 if family.positions is None else (context + family.positions) * hidden
    return Model(
        name=name,
        parameters=computed + (1 if tied else 2) * embedding + positions,
        step_parameters=computed + embedding,  # the head's; the input's is a lookup, as positions are
        head_parameters=embedding,
        layers=layers,
        attention_width=width,
        kv_values_per_token=2 * layers * kv_width,
        bytes_per_value=_bytes_per_value(config),
        max_model_len=context,
    )


def _key(config: Table, size: str) -> str:
    """The key by which the file gives a size, or the newest when it gives none."""
    names = SIZES[size][0]
    return next((name for name in names if config.raw(name) is not None), names[0])


def _size(config: Table, size: str, default: int | None = None) -> int:
    _, least, most = SIZES[size]
    return config.integer(_key(config, size), least, most, default)


def _bytes_per_value(config: Table) -> int:
    """What vLLM serves under `dtype auto`: the file's type, float32 as float16."""
    key = "dtype" if config.raw("dtype") is not None else "torch_dtype"
    return min(2, BYTES[config.one_of(key, BYTES)])
