"""Make a model so small that vLLM runs it on a CPU: a Llama of four layers, without weights.

    python tools/tiny_model.py FOLDER
    vllm serve FOLDER --load-format dummy

The weights are drawn by chance when it is loaded, so it writes nonsense, in as much time as if it made sense.
The tokenizer is real: the first merges of driftkit's own `builtin` vocabulary as a tokenizer.json, with an
end token and a chat template, so that text and chats go in. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import array
import gzip
import importlib.resources
import json
import sys
from pathlib import Path
from typing import Any

from driftkit.estimation.tokenizers.encodings import BUILTIN_FILE

# with all 65,536 tokens the last layer would be most of the work
TOKENS = 8192
END = "<|end|>"
END_ID = TOKENS - 1
CONTEXT_TOKENS = 2048
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": TOKENS,
    "max_position_embeddings": CONTEXT_TOKENS,
    "eos_token_id": END_ID,
    "torch_dtype": "float32",
}


def byte_characters() -> list[str]:
    """The character that a tokenizer.json writes for each byte: itself where it can be seen, else one past
    255 (GPT-2's table)."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(hidden)) for byte in range(256)]


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json of TOKENS tokens: the bytes, merges of `builtin` in its order, and END."""
    packed = (importlib.resources.files("driftkit.estimation.tokenizers") / BUILTIN_FILE).read_bytes()
    header, _, body = gzip.decompress(packed).partition(b"\n")
    halves = array.array("H", body)
    if sys.byteorder == "big":
        halves.byteswap()
    tokens = byte_characters()
    merges = []
    pairs = zip(halves[: len(halves) // 2], halves[len(halves) // 2 :], strict=True)
    for left, right in pairs:
        if len(tokens) == END_ID:
            break
        merges.append([tokens[left], tokens[right]])
        tokens.append(tokens[left] + tokens[right])
    split = {"Regex": json.loads(header)["pattern"]}
    whole = {"use_regex": False, "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": END_ID,
                "content": END,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": split, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", **whole},
            ],
        },
        "decoder": {"type": "ByteLevel", **whole},
        "model": {"type": "BPE", "vocab": dict(zip(tokens, range(END_ID), strict=True)), "merges": merges},
    }


def make(folder: Path) -> None:
    """Write the model's files into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": CONFIG,
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "model_max_length": CONTEXT_TOKENS,
            "chat_template": CHAT,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where to make it")
    make(parser.parse_args().folder)
