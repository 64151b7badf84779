"""Counting tokens: names, vocabulary files of every kind, and text that breaks naive counters."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from driftkit.errors import DriftkitError, UsageError
from driftkit.estimation.tokenizers import Tokenizer, encodings, huggingface, load, names

MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (" ", "hello"), ("1", "0")]


def _alphabet() -> dict[int, str]:
    return {byte: char for char, byte in huggingface._byte_of_char().items()}


def _spell(text: str) -> str:
    return "".join(_alphabet()[byte] for byte in text.encode())


def _tiktoken_file(path: Path, extra: list[bytes]) -> Path:
    tokens = [bytes([byte]) for byte in range(256)] + extra
    lines = (base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _merged(merges: list[tuple[str, str]] = MERGES) -> list[bytes]:
    return [(left + right).encode() for left, right in merges]


def _hf(path: Path, **changes: Any) -> Path:
    """A tokenizer.json in the style of GPT-2 with the merges above; `changes` go to the top or the model."""
    words = [_alphabet()[byte] for byte in range(256)] + [_spell(a + b) for a, b in MERGES]
    model: dict[str, Any] = {
        "type": "BPE",
        "vocab": {word: number for number, word in enumerate(words)},
        "merges": [f"{_spell(a)} {_spell(b)}" for a, b in MERGES],
    }
    content: dict[str, Any] = {
        "added_tokens": [{"id": 900, "content": "<|end|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    }
    model.update(changes.pop("model", {}))
    content |= {"model": model} | changes
    path.write_text(json.dumps(content))
    return path


def _tekken(path: Path) -> Path:
    tokens = [bytes([byte]) for byte in range(256)] + _merged() + [b"beyond the model's size"]
    content = {
        "config": {
            "pattern": encodings.QWEN_PATTERN,
            "default_vocab_size": 256 + len(MERGES) + 3,
            "default_num_special_tokens": 3,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def _every_kind(folder: Path) -> list[Tokenizer]:
    return [
        load("whitespace"),
        load("builtin"),
        load(str(_tiktoken_file(folder / "own.tiktoken", _merged()))),
        load(str(_hf(folder / "tokenizer.json"))),
        load(str(_tekken(folder / "tekken.json"))),
    ]


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    return _every_kind(tmp_path_factory.mktemp("vocabularies"))


def test_whitespace_counts_words() -> None:
    assert load("whitespace").count(" two  words\n") == 2
    assert load("whitespace").name == "whitespace"


def test_builtin_counts_like_a_big_vocabulary() -> None:
    count = load("builtin").count
    assert count("hello world") == 2
    assert count("The quick brown fox jumps over the lazy dog.") == pytest.approx(10, abs=2)
    assert count("") == 0


def test_builtin_is_small_and_quick_to_load() -> None:
    path = Path(encodings.__file__).with_name(encodings.BUILTIN_FILE)
    assert path.stat().st_size < 600_000
    started = time.perf_counter()
    load("builtin")
    assert time.perf_counter() - started < 2.0  # about 0.1 s; the margin is for a busy machine


@pytest.mark.parametrize(
    "text", ["", "hello", "\ud800 lone \udfff", "<|endoftext|><|end|>", "\0\x07", "日本 e\u0301"]
)
def test_no_text_raises(every_kind: list[Tokenizer], text: str) -> None:
    for tokenizer in every_kind:
        assert tokenizer.count(text) >= (1 if text.split() and text != "\0\x07" else 0)


@given(st.text(st.characters(), max_size=200))
def test_any_text_is_counted_at_most_once_per_byte(text: str) -> None:
    count = load_cached("builtin").count
    assert 0 <= count(text) <= len(text.encode("utf-8", "surrogatepass"))


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_line_break_between_texts_bounds_the_sum(left: str, right: str) -> None:
    count = load_cached("builtin").count
    assert count(left + right) <= count(left) + count(right) + 3


_LOADED: dict[str, Tokenizer] = {}


def load_cached(name: str) -> Tokenizer:
    return _LOADED.setdefault(name, load(name)) if name not in _LOADED else _LOADED[name]


@pytest.mark.parametrize("unit", ["a", " ", "!", "1", "\n", "é", "中", "ก็", "_"])
def test_long_runs_take_linear_time(every_kind: list[Tokenizer], unit: str) -> None:
    text = unit * (200_000 // len(unit))
    for tokenizer in every_kind:
        started = time.perf_counter()
        tokenizer.count(text)
        assert time.perf_counter() - started < 20


def test_cutting_long_runs_leaves_ordinary_text_alone() -> None:
    text = "Ordinary prose, with spaces. " * 2000
    assert encodings._cut_long_runs(text) == [text]
    run = "a" * (10 * encodings.RUN_BLOCK_CHARS)
    parts = encodings._cut_long_runs("x " + run + " y")
    assert "".join(parts) == "x " + run + " y"
    assert max(map(len, parts)) < 3 * encodings.RUN_BLOCK_CHARS


# Files.


def test_files_of_every_kind_agree(tmp_path: Path) -> None:
    for tokenizer in _every_kind(tmp_path)[2:]:
        assert tokenizer.count("hello hello") == 2, tokenizer.name
        assert tokenizer.count("help") == 3, tokenizer.name  # "he", "l", "p"


def test_special_tokens_are_text(tmp_path: Path) -> None:
    assert load(str(_hf(tmp_path / "tokenizer.json"))).count("<|end|>") == len("<|end|>")


def test_the_name_is_the_content_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    names = {load(str(_hf(tmp_path / folder / "tokenizer.json"))).name for folder in ("a", "b")}
    assert len(names) == 1
    other = _hf(tmp_path / "tokenizer.json", normalizer={"type": "NFC"})
    assert load(str(other)).name not in names


def test_a_folder_with_a_vocabulary(tmp_path: Path) -> None:
    _hf(tmp_path / "tokenizer.json")
    assert load(str(tmp_path)).count("hello") == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DriftkitError, match=r"without tokenizer\.json"):
        load(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("tokens", "pattern"),
    [
        ([b" 1"], encodings.GPT2_PATTERN),
        ([b" don't", b"10"], encodings.O200K_PATTERN),
        ([b"10"], encodings.CL100K_PATTERN),
        ([b"he"], encodings.QWEN_PATTERN),
    ],
)
def test_the_pattern_is_told_from_the_tokens(tokens: list[bytes], pattern: str) -> None:
    assert encodings.guess_pattern({token: rank for rank, token in enumerate(tokens)}) == pattern


def test_digits_follow_the_pattern(tmp_path: Path) -> None:
    plain = _tiktoken_file(tmp_path / "qwen.tiktoken", _merged()[:-1])
    paired = _tiktoken_file(tmp_path / "cl.tiktoken", _merged())
    assert load(str(plain)).count("1010") == 4
    assert load(str(paired)).count("1010") == 3  # "10", "1" from the first three digits, then "0"


def test_hf_split_then_byte_level(tmp_path: Path) -> None:
    pre = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "Split", "pattern": {"Regex": "h|l"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    }
    count = load(str(_hf(tmp_path / "tokenizer.json", pre_tokenizer=pre))).count
    assert count("hello") == 5  # the split keeps every merge apart
    assert count("1010") == 4
    assert count("xyz") == 3  # what the split does not match is still counted


def test_hf_prefix_space_and_normal_form(tmp_path: Path) -> None:
    pre = {"type": "ByteLevel", "add_prefix_space": True}
    normal = {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}
    count = load(str(_hf(tmp_path / "tokenizer.json", pre_tokenizer=pre, normalizer=normal))).count
    assert count("hello") == 1
    assert count("ｈello") == 1  # fullwidth h


def test_hf_added_tokens_that_are_not_special_are_one_token(tmp_path: Path) -> None:
    added = [{"id": 900, "content": "    ", "special": False}, {"id": 901, "content": "  ", "special": False}]
    count = load(str(_hf(tmp_path / "tokenizer.json", added_tokens=added))).count
    assert count("x      y") == 4


def test_hf_ignore_merges_uses_whole_words(tmp_path: Path) -> None:
    vocab = {_alphabet()[byte]: byte for byte in range(256)} | {"word": 256, "<|end|>": 257}
    changes = {"vocab": vocab, "merges": [], "ignore_merges": True}
    count = load(str(_hf(tmp_path / "tokenizer.json", model=changes))).count
    assert count("word") == 1
    assert count("<|end|>") == 7


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"byte_fallback": True}},
        {"model": {"type": "Unigram"}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"model": {"merges": ["▁ t"]}},
    ],
)
def test_other_kinds_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # an import of it fails
    with pytest.raises(DriftkitError) as caught:
        load(str(_hf(tmp_path / "tokenizer.json", **change)))
    assert caught.value.hint == "pip install 'driftkit[hf]'"
    assert "\n" not in str(caught.value)


def test_other_kinds_use_the_package(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    words = hf.Tokenizer(hf.models.WordLevel({"hello": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    words.save(str(path))
    assert load(str(path)).count("hello \ud800 hello") == 3


def test_native_counts_equal_the_package(tmp_path: Path) -> None:
    trained = hf.Tokenizer(hf.models.BPE())
    trained.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(_alphabet().values())
    trainer = hf.trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    source = Path(__file__).read_text()
    trained.train_from_iterator([source], trainer)
    trained.save(str(tmp_path / "tokenizer.json"))
    count = load(str(tmp_path / "tokenizer.json")).count
    for text in [source, *source.splitlines()]:
        assert count(text) == len(trained.encode(text).ids)


# What goes wrong.


def test_unknown_name_lists_what_is_known() -> None:
    with pytest.raises(UsageError, match="unknown tokenizer 'nope'") as caught:
        load("nope")
    assert caught.value.hint is not None
    assert {"builtin,", "whitespace,", "o200k_base,"} <= set(caught.value.hint.split())
    assert ", ".join(names()) in caught.value.hint


@pytest.mark.parametrize("name", ["\0", "x" * 5000, ""])
def test_impossible_names(name: str) -> None:
    with pytest.raises(DriftkitError):
        load(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tiktoken", b"IQ== 0\nIg= x\n"),
        ("short.tiktoken", b"IQ== 0\n"),
        ("binary.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"),
        ("empty.json", b""),
        ("broken.json", b'{"model": '),
        ("foreign.json", b'{"hello": 1}'),
        ("odd.json", b'{"model": {"vocab": {}}, "pre_tokenizer": {"type": "ByteLevel"}}'),
        ("odder.json", b'{"model": {"merges": [1]}, "pre_tokenizer": {"type": "ByteLevel"}}'),
        ("tekken.json", b'{"config": {}, "vocab": []}'),
        ("tekken2.json", b'{"config": {"default_vocab_size": "x"}, "vocab": [1]}'),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DriftkitError) as caught:
        load(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DriftkitError, match="No such file"):
        load(str(tmp_path / "tokenizer.json"))


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tiktoken.load
    import tiktoken.registry

    asked: list[dict[str, Any]] = []

    def refuse(address: str, **options: Any) -> None:
        asked.append(options)
        raise ConnectionError("no network\nin this test")

    monkeypatch.setattr("requests.get", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    original = tiktoken.load.read_file
    with pytest.raises(DriftkitError) as caught:
        load("r50k_base")
    assert tiktoken.load.read_file is original
    assert all(options["timeout"] for options in asked)
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None
    assert "TIKTOKEN_CACHE_DIR" in caught.value.hint


def test_a_damaged_builtin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "BUILTIN_FILE", "absent.gz")
    with pytest.raises(DriftkitError, match="builtin"):
        load("builtin")


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b'{"format":"driftkit-bpe/1","merges":1,"pattern":"."}\n',
        b'{"format":"driftkit-bpe/1","merges":1,"pattern":"."}\n\x01',
        b'{"format":"driftkit-bpe/1","merges":1,"pattern":"."}\n\xff\xff\x00\x00',
    ],
)
def test_unpacking_checks_what_it_gets(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encodings.unpack_merges(packed)


def test_unpacking_two_merges() -> None:
    header = b'{"format":"driftkit-bpe/1","merges":2,"pattern":"."}\n'
    halves = [ord("a"), 256, ord("b"), ord("c")]
    pattern, ranks = encodings.unpack_merges(header + b"".join(n.to_bytes(2, "little") for n in halves))
    assert pattern == "."
    assert ranks[b"ab"] == 256
    assert ranks[b"abc"] == 257
