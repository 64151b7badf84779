"""Token counts: one function, `load`, turns a name or a vocabulary file into a counter.

The exception to "domain code opens no files": a vocabulary is read from the given path, from package data, or
by tiktoken from its own cache.

Everything that is byte-level BPE is counted by tiktoken, whatever file it came in, so the base install needs
one BPE engine and reads GPT, Llama 3, Qwen, DeepSeek and Mistral (tekken) vocabularies. SentencePiece and
unigram vocabularies need the optional package `tokenizers`.

Text is always counted as plain text: `<|endoftext|>` typed by a user is a handful of ordinary tokens, and
the tokens that a chat template or a BOS rule would add are not counted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import orjson

from driftkit.errors import DriftkitError, UsageError
from driftkit.estimation.tokenizers.encodings import (
    Count,
    builtin,
    encoding_names,
    from_tekken,
    from_tiktoken_file,
    named_encoding,
    reason,
)
from driftkit.estimation.tokenizers.huggingface import from_tokenizer_json


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A named way to count tokens.

    `name` says which vocabulary it is and never where it lies: for files, the file's name and the first eight
    hex digits of its SHA-256, so that what was learned with one vocabulary is not used with another.
    `count` takes any `str`, lone surrogates included, and returns a number of tokens >= 0.
    """

    name: str
    count: Count


def load(name: str) -> Tokenizer:
    """Return the tokenizer called `name`.

    `name` is `whitespace`, `builtin`, a tiktoken encoding, or the path of a `tekken.json`, a `*.tiktoken` or
    a Hugging Face `tokenizer.json`, or of a folder that has one of the two JSON files.

    Raises UsageError for a name that nothing answers to, and DriftkitError for a vocabulary that cannot be
    loaded.
    """
    if name == "whitespace":
        return Tokenizer(name, _count_words)
    if name == "builtin":
        return Tokenizer(name, builtin())
    if name in encoding_names():
        return Tokenizer(name, named_encoding(name))
    path = Path(name)
    if "/" in name or path.suffix in {".json", ".tiktoken", ".model"} or _exists(path):
        return _from_file(path)
    raise UsageError(
        f"unknown tokenizer {name!r}",
        hint=f"known: {', '.join(names())}; or the path of a tokenizer.json, tekken.json or *.tiktoken file",
    )


def names() -> list[str]:
    """The names that `load` knows, besides paths."""
    return ["builtin", "whitespace", *encoding_names()]


def _count_words(text: str) -> int:
    return len(text.split())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL, is no path
        return False


def _from_file(path: Path) -> Tokenizer:
    try:
        if path.is_dir():
            path = _vocabulary_in(path)
        data = path.read_bytes()
    except OSError as error:
        raise DriftkitError(f"{path}: {reason(error)}", hint="give the path of a vocabulary file") from error
    try:
        count = _from_json(path, data) if data.lstrip()[:1] == b"{" else from_tiktoken_file(data)
    except ValueError as error:
        raise DriftkitError(
            f"{path}: not a usable vocabulary: {reason(error)}",
            hint="a tokenizer.json, tekken.json or *.tiktoken file is wanted",
        ) from error
    return Tokenizer(f"{path.name}@{hashlib.sha256(data).hexdigest()[:8]}", count)


def _vocabulary_in(folder: Path) -> Path:
    for name in ("tokenizer.json", "tekken.json"):
        if (folder / name).is_file():
            return folder / name
    raise DriftkitError(
        f"{folder}: a folder without tokenizer.json or tekken.json", hint="give the path of a vocabulary file"
    )


def _from_json(path: Path, data: bytes) -> Count:
    content = orjson.loads(data)  # JSONDecodeError is a ValueError
    if isinstance(content.get("config"), dict) and isinstance(content.get("vocab"), list):
        return from_tekken(content)
    if isinstance(content.get("model"), dict):
        return from_tokenizer_json(path, content)
    raise ValueError(
        "JSON, but neither a tokenizer.json (no 'model') nor a tekken.json (no 'config', 'vocab')"
    )
