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

import array
import binascii
import functools
import gzip
import hashlib
import importlib
import importlib.resources
import importlib.util
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from driftkit.errors import DriftkitError, UsageError

Count = Callable[[str], int]

BUILTIN_FILE = "builtin.bpe.gz"
BUILTIN_FORMAT = "driftkit-bpe/1"

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K_PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# Blocks of this many characters, all of one kind, are cut apart before BPE sees them: BPE on one piece is
# worse than linear, and a regex engine can run out of stack. A cut changes the count by about one token.
RUN_BLOCK_CHARS = 2048
# tiktoken itself waits for ever for a server that does not answer.
DOWNLOAD_TIMEOUT_S = (5.0, 20.0)


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
        return Tokenizer(name, _builtin())
    encodings = _encoding_names()
    if name in encodings:
        return Tokenizer(name, _named_encoding(name))
    path = Path(name)
    if "/" in name or path.suffix in {".json", ".tiktoken", ".model"} or _exists(path):
        return _from_file(path)
    known = ", ".join(["builtin", "whitespace", *encodings])
    raise UsageError(
        f"unknown tokenizer {name!r}",
        hint=f"known: {known}; or the path of a tokenizer.json, tekken.json or *.tiktoken file",
    )


def _count_words(text: str) -> int:
    return len(text.split())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL, is no path
        return False


# --- counting -------------------------------------------------------------------------------------


def _encoding_counter(pattern: str, ranks: dict[bytes, int]) -> Count:
    """A counter over `ranks` (token bytes to merge priority); ValueError if they do not make an encoding."""
    import tiktoken

    if len(ranks) < 256 or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("some single bytes have no token")
    if len(set(ranks.values())) != len(ranks):
        raise ValueError("two tokens have the same rank")
    encoding = tiktoken.Encoding("driftkit", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return _ordinary_counter(encoding.encode_ordinary)


def _ordinary_counter(encode_ordinary: Callable[[str], list[int]]) -> Count:
    def count(text: str) -> int:
        text = _encodable(text)
        if len(text) < 2 * RUN_BLOCK_CHARS:
            return len(encode_ordinary(text))
        return sum(len(encode_ordinary(part)) for part in _cut_long_runs(text))

    return count


def _encodable(text: str) -> str:
    """`text` with surrogate pairs joined and lone ones replaced, as tiktoken does: BPE works on UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


_SYMBOLS = re.compile(r"(?:[^\w\s]|_)+")
_NOT_SPACE_OR_DIGIT = re.compile(r"[^\s\d]+")


def _block_kind(block: str) -> str:
    """What the whole block consists of, or "" if it is mixed, as all ordinary text is."""
    if block.isalpha():
        return "letters"
    if block.isspace():
        return "space"
    if block.isnumeric():
        return "digits"
    # Thai, Hindi and the like mix letters with marks, which Python's regex takes for symbols.
    wanted = _SYMBOLS if block.isascii() else _NOT_SPACE_OR_DIGIT
    return "symbols" if wanted.fullmatch(block) else ""


def _cut_long_runs(text: str) -> list[str]:
    """Split `text` only inside runs of one kind of character that cover two whole blocks or more."""
    kinds = [_block_kind(text[at : at + RUN_BLOCK_CHARS]) for at in range(0, len(text), RUN_BLOCK_CHARS)]
    cuts = [
        index * RUN_BLOCK_CHARS
        for index in range(1, len(kinds))
        if kinds[index] and kinds[index] == kinds[index - 1]
    ]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


# --- builtin --------------------------------------------------------------------------------------


def _builtin() -> Count:
    """Our own vocabulary, made by tools/train_bpe.py."""
    try:
        packed = (importlib.resources.files("driftkit.estimation") / BUILTIN_FILE).read_bytes()
        pattern, ranks = unpack_merges(gzip.decompress(packed))
        return _encoding_counter(pattern, ranks)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DriftkitError(
            f"tokenizer builtin: its vocabulary {BUILTIN_FILE} cannot be read ({_reason(error)})",
            hint="the installation is damaged; install driftkit again",
        ) from error


def unpack_merges(packed: bytes) -> tuple[str, dict[bytes, int]]:
    """The pattern and the ranks in `packed`, as tools/train_bpe.py writes them; ValueError if it is not that.

    A line of JSON, then the left and then the right halves of all merges as little-endian 16-bit token
    numbers. Numbers below 256 are the bytes; merge i makes token 256 + i out of two tokens before it. Storing
    pairs and not byte strings is what keeps the file small and its loading quick.
    """
    header, _, body = packed.partition(b"\n")
    meta = orjson.loads(header)
    if not isinstance(meta, dict) or meta.get("format") != BUILTIN_FORMAT:
        raise ValueError(f"not a {BUILTIN_FORMAT} file")
    halves = array.array("H", body)
    if sys.byteorder == "big":
        halves.byteswap()
    merges = len(halves) // 2
    if merges * 2 != len(halves) or merges != meta.get("merges"):
        raise ValueError("truncated")
    tokens = [bytes([byte]) for byte in range(256)]
    try:
        for left, right in zip(halves[:merges], halves[merges:], strict=True):
            tokens.append(tokens[left] + tokens[right])
    except IndexError:
        raise ValueError("a merge names a token that does not exist yet") from None
    return str(meta["pattern"]), {token: rank for rank, token in enumerate(tokens)}


# --- tiktoken's own encodings ---------------------------------------------------------------------


def _encoding_names() -> list[str]:
    import tiktoken

    return tiktoken.list_encoding_names()


def _named_encoding(name: str) -> Count:
    import tiktoken
    import tiktoken.load

    original = tiktoken.load.read_file
    # tiktoken downloads without a time limit and takes none; this is the only place to give it one.
    tiktoken.load.read_file = functools.partial(_download, original)
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        raise DriftkitError(
            f"tokenizer {name}: its vocabulary is not in tiktoken's cache and the download failed "
            f"({type(error).__name__})",
            hint="use --tokenizer builtin, give a vocabulary file (tokenizer.json, tekken.json, *.tiktoken), "
            "or set TIKTOKEN_CACHE_DIR to a folder that has it",
        ) from error
    finally:
        tiktoken.load.read_file = original
    return _ordinary_counter(encoding.encode_ordinary)


def _download(original: Callable[[str], bytes], address: str) -> bytes:
    if not address.startswith(("http://", "https://")):
        return original(address)
    requests: Any = importlib.import_module("requests")  # tiktoken depends on it
    response = requests.get(address, timeout=DOWNLOAD_TIMEOUT_S)
    response.raise_for_status()
    return bytes(response.content)


# --- files ----------------------------------------------------------------------------------------


def _from_file(path: Path) -> Tokenizer:
    try:
        if path.is_dir():
            path = _vocabulary_in(path)
        data = path.read_bytes()
    except OSError as error:
        raise DriftkitError(f"{path}: {_reason(error)}", hint="give the path of a vocabulary file") from error
    try:
        count = _from_json(path, data) if data.lstrip()[:1] == b"{" else _from_tiktoken_file(path, data)
    except ValueError as error:
        raise DriftkitError(
            f"{path}: not a usable vocabulary: {_reason(error)}",
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


def _reason(error: BaseException) -> str:
    """One line about `error`, without the file name that an OSError repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _from_json(path: Path, data: bytes) -> Count:
    content = orjson.loads(data)  # JSONDecodeError is a ValueError
    if isinstance(content.get("config"), dict) and isinstance(content.get("vocab"), list):
        return _from_tekken(content)
    if isinstance(content.get("model"), dict):
        try:
            native = _from_tokenizer_json(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"unexpected structure ({type(error).__name__}: {error})") from error
        return native if native is not None else _with_tokenizers_package(path, content["model"])
    raise ValueError(
        "JSON, but neither a tokenizer.json (no 'model') nor a tekken.json (no 'config', 'vocab')"
    )


def _from_tekken(content: dict[str, Any]) -> Count:
    """Mistral's file: the vocabulary is longer than what the model uses, and the specials come out of it."""
    config = content["config"]
    try:
        size = config["default_vocab_size"] - config["default_num_special_tokens"]
        ranks = {
            binascii.a2b_base64(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:size]
        }
        return _encoding_counter(config["pattern"], ranks)
    except (KeyError, TypeError) as error:
        raise ValueError(f"unexpected structure ({type(error).__name__}: {error})") from error


def _from_tiktoken_file(path: Path, data: bytes) -> Count:
    if b"\0" in data[:4096]:
        raise ValueError("a binary file; of a SentencePiece model, give the tokenizer.json of the same model")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[binascii.a2b_base64(token, strict_mode=True)] = int(rank)
        except ValueError:  # binascii.Error is one
            raise ValueError(f"line {number} is not 'BASE64 RANK'") from None
    return _encoding_counter(guess_pattern(ranks), ranks)


def guess_pattern(ranks: dict[bytes, int]) -> str:
    """The splitting regex behind a bare list of tokens, told from what only that regex lets into it.

    A .tiktoken file has no regex. Only GPT-2's puts a space before a digit, only o200k's keeps a contraction
    with its word, and only Qwen's takes digits one by one; cl100k's, which Llama 3 uses too, does none of it.
    """
    if b" 1" in ranks:
        return GPT2_PATTERN
    if b" don't" in ranks:
        return O200K_PATTERN
    return CL100K_PATTERN if b"10" in ranks else QWEN_PATTERN


# --- Hugging Face tokenizer.json ------------------------------------------------------------------


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


def _from_tokenizer_json(content: dict[str, Any]) -> Count | None:
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
        count_piece = _encoding_counter(last.pattern + rest, ranks)
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
        text = _encodable(text)
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
    if importlib.util.find_spec("tokenizers") is None:
        raise DriftkitError(
            f"{path}: a {model.get('type', 'BPE')} vocabulary that is not plain byte-level BPE needs the "
            "package 'tokenizers'",
            hint="pip install 'driftkit[hf]'",
        )
    tokenizers: Any = importlib.import_module("tokenizers")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(_reason(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # special tokens in text are text

    def count(text: str) -> int:
        return len(tokenizer.encode(_encodable(text), add_special_tokens=False).ids)

    return count
