"""Hugging Face's tokenizer.json: counted by tiktoken where that is exact, else by package `tokenizers`."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftkit.errors import DriftkitError
from driftkit.estimation.tokenizers.encodings import GPT2_PATTERN, Count, encodable, encoding_counter, reason


def from_tokenizer_json(path: Path, content: dict[str, Any]) -> Count:
    """A counter for the vocabulary `content`, read from `path`; ValueError if it is not one."""
    try:
        native = _native(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unexpected structure ({type(error).__name__}: {error})") from error
    return native if native is not None else _with_tokenizers_package(path, content["model"])


@dataclass(frozen=True, slots=True)
class _Split:
    """One pre-tokenizer step: what `pattern` matches becomes a piece, and so does the rest if `keep_rest`."""

    pattern: str
    keep_rest: bool


@dataclass(frozen=True, slots=True)
class _ByteLevel:
    """A pre-tokenizer that is exactly some splits and then bytes."""

    splits: list[_Split]
    prefix_space: bool


def _native(content: dict[str, Any]) -> Count | None:
    """A counter for a byte-level BPE, or None for what tiktoken cannot do exactly."""
    model = content["model"]
    pre = _byte_level(content.get("pre_tokenizer"))
    forms = _normal_forms(content.get("normalizer"))
    added = _added_tokens(content.get("added_tokens") or [])
    if (
        model.get("type", "BPE") != "BPE"
        or any(model.get(key) for key in ("byte_fallback", "dropout"))
        or any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        or pre is None
        or forms is None
        or added is None
    ):
        return None
    ranks = _merge_ranks(model, {token["content"] for token in content.get("added_tokens") or []})
    if ranks is None:
        return None
    return _pieces_counter(pre, forms, added, ranks)


def _byte_level(pre_tokenizer: dict[str, Any] | None) -> _ByteLevel | None:
    if pre_tokenizer is None:
        return None
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not steps or steps[-1]["type"] != "ByteLevel":
        return None
    splits = []
    for step in steps[:-1]:
        split = _split_step(step)
        if split is None:
            return None
        splits.append(split)
    if steps[-1].get("use_regex", True):
        splits.append(_Split(GPT2_PATTERN, keep_rest=True))
    # Before the last version the key was always there and true by default.
    return _ByteLevel(splits, prefix_space=bool(steps[-1].get("add_prefix_space", True)))


def _split_step(step: dict[str, Any]) -> _Split | None:
    if step["type"] == "Digits":
        return _Split(r"\p{N}" if step.get("individual_digits") else r"\p{N}+", keep_rest=True)
    if step["type"] != "Split":
        return None
    pattern = step["pattern"]
    regex = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
    if step["behavior"] == "Isolated":
        return _Split(regex, keep_rest=True)
    if step["behavior"] == "Removed" and step.get("invert"):
        return _Split(regex, keep_rest=False)
    return None


def _normal_forms(normalizer: dict[str, Any] | None) -> list[str] | None:
    """The Unicode normal forms to apply in turn, or None if the normalizer does anything else."""
    if normalizer is None:
        return []
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    forms = [step["type"] for step in steps]
    return forms if set(forms) <= {"NFC", "NFD", "NFKC", "NFKD"} else None


def _added_tokens(tokens: Iterable[dict[str, Any]]) -> list[str] | None:
    """Added tokens that plain text may contain, or None if one of them eats its neighbours.

    Special ones are left out: in text they are text.
    """
    plain = [token for token in tokens if not token.get("special")]
    if any(token.get(key) for token in plain for key in ("single_word", "lstrip", "rstrip")):
        return None
    return sorted((token["content"] for token in plain if token["content"]), key=len, reverse=True)


def _byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(rest)}


def _merge_ranks(model: dict[str, Any], added: set[str]) -> dict[bytes, int] | None:
    alphabet = _byte_of_char()

    def raw(token: str) -> bytes:
        return bytes([alphabet[char] for char in token])

    ranks = {bytes([byte]): byte for byte in range(256)}
    try:
        if model.get("ignore_merges"):
            # Such a vocabulary was a tiktoken one, and there a token's number is its priority. Added
            # tokens may be listed in it; they are not made by merging.
            words = {
                raw(token): number + 256 for token, number in model["vocab"].items() if token not in added
            }
            return ranks | {token: rank for token, rank in words.items() if len(token) > 1}
        for merge in model["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            # Two merges may make the same token; the first one counts.
            ranks.setdefault(raw(left + right), len(ranks))
    except KeyError:  # a character outside the alphabet: this BPE is not over bytes
        return None
    return ranks


def _pieces_counter(
    pre: _ByteLevel, forms: list[str], added: list[str], ranks: dict[bytes, int]
) -> Count | None:
    """Count as Hugging Face does: cut out added tokens, normalise, split step by step, merge bytes.

    tiktoken does the last split, so with a single regex, the common case, Python loops over no pieces.
    """
    regex: Any = importlib.import_module("regex")  # tiktoken depends on it
    last = pre.splits[-1] if pre.splits else _Split(r"[\s\S]+", keep_rest=True)
    # "&&" (set intersection) means something else to Python's regex.
    if any("&&" in split.pattern for split in pre.splits[:-1]):
        return None
    try:
        earlier = [(regex.compile(split.pattern), split.keep_rest) for split in pre.splits[:-1]]
        # tiktoken drops what its pattern does not match; here it has to stay, as one piece.
        rest = rf"|(?:(?!{last.pattern})[\s\S])+" if last.keep_rest else ""
        count_piece = encoding_counter(last.pattern + rest, ranks)
    except regex.error:
        return None
    find_added = regex.compile("|".join(regex.escape(token) for token in added)) if added else None

    def count_plain(text: str) -> int:
        for form in forms:
            text = unicodedata.normalize(form, text)  # type: ignore[arg-type]
        pieces = [text]
        for pattern, keep_rest in earlier:
            pieces = [part for piece in pieces for part in _split_text(pattern, piece, keep_rest)]
        if pre.prefix_space:
            pieces = [piece if piece[:1] == " " else " " + piece for piece in pieces if piece]
        return sum(count_piece(piece) for piece in pieces)

    def count(text: str) -> int:
        text = encodable(text)
        if find_added is None:
            return count_plain(text)
        # A capturing-free split leaves only what lies between; the added tokens are one token each.
        between = find_added.split(text)
        return len(between) - 1 + sum(count_plain(part) for part in between if part)

    return count


def _split_text(pattern: Any, text: str, keep_rest: bool) -> list[str]:
    pieces = []
    end = 0
    for match in pattern.finditer(text):
        if keep_rest and match.start() > end:
            pieces.append(text[end : match.start()])
        if match.end() > match.start():
            pieces.append(match.group())
        end = match.end()
    if keep_rest and end < len(text):
        pieces.append(text[end:])
    return pieces


def _with_tokenizers_package(path: Path, model: dict[str, Any]) -> Count:
    try:
        tokenizers: Any = importlib.import_module("tokenizers")
    except ImportError as error:
        raise DriftkitError(
            f"{path}: a {model.get('type', 'BPE')} vocabulary that is not plain byte-level BPE needs the "
            "package 'tokenizers'",
            hint="pip install 'driftkit[hf]'",
        ) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(reason(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # special tokens in text are text

    def count(text: str) -> int:
        return len(tokenizer.encode(encodable(text), add_special_tokens=False).ids)

    return count
