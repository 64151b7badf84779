"""Byte-level BPE, counted by tiktoken: builtin, the encodings of tiktoken, *.tiktoken and tekken files."""

from __future__ import annotations

import array
import binascii
import functools
import gzip
import importlib
import importlib.resources
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any

import orjson

from driftkit.errors import DriftkitError

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


def reason(error: BaseException) -> str:
    """One line about `error`, without the file name that an OSError repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]


# --- counting -------------------------------------------------------------------------------------


def encoding_counter(pattern: str, ranks: dict[bytes, int]) -> Count:
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
        text = encodable(text)
        if len(text) < 2 * RUN_BLOCK_CHARS:
            return len(encode_ordinary(text))
        return sum(len(encode_ordinary(part)) for part in _cut_long_runs(text))

    return count


def encodable(text: str) -> str:
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


def builtin() -> Count:
    """Our own vocabulary, made by tools/train_bpe.py."""
    try:
        packed = (importlib.resources.files("driftkit.estimation.tokenizers") / BUILTIN_FILE).read_bytes()
        pattern, ranks = unpack_merges(gzip.decompress(packed))
        return encoding_counter(pattern, ranks)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DriftkitError(
            f"tokenizer builtin: its vocabulary {BUILTIN_FILE} cannot be read ({reason(error)})",
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


def encoding_names() -> list[str]:
    import tiktoken

    return tiktoken.list_encoding_names()


def named_encoding(name: str) -> Count:
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


def from_tekken(content: dict[str, Any]) -> Count:
    """Mistral's file: the vocabulary is longer than what the model uses, and the specials come out of it."""
    config = content["config"]
    try:
        size = config["default_vocab_size"] - config["default_num_special_tokens"]
        ranks = {
            binascii.a2b_base64(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:size]
        }
        return encoding_counter(config["pattern"], ranks)
    except (KeyError, TypeError) as error:
        raise ValueError(f"unexpected structure ({type(error).__name__}: {error})") from error


def from_tiktoken_file(data: bytes) -> Count:
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
    return encoding_counter(guess_pattern(ranks), ranks)


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
