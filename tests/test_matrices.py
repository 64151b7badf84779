"""The matrices predict what scikit-learn's does; texts are taken apart as plain expressions would."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from threadpoolctl import threadpool_limits

from driftkit.estimation.features import NUMBERS, look, looked_at, table
from driftkit.estimation.fitting import fit
from driftkit.estimation.matrices import predictor
from driftkit.estimation.regressor import Fit
from driftkit.estimation.words import cut, finder, key_of, pairs

WORDS = ("write", "a", "long", "story", "about", "don't", "list", "12", "tips", "on", "why?", "ten_4", "北京")


class Vowels:
    """An embedding of sorts."""

    name = "vowels 1"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[text.count(vowel) / 9 for vowel in "aeiou"] for text in texts], np.float32)


def completion(number: int) -> dict[str, Any]:
    """With more categories than the encoder keeps apart, most of them rare."""
    text = " ".join(WORDS[number * step % len(WORDS)] for step in range(number % 13))
    return {
        "prompt": text if number % 10 else None,
        "prompt_tokens": 1 + number % 50,
        "category": f"c{number % 149 if number % 2 else number % 3}",
        "tenant": f"t{number % 4}",
        "max_tokens": 500 if number % 3 else None,
        "turn": 1 + number % 2,
        "served_model": f"m{number % 3}",
        "actual_output_tokens": 10 + 7 * (number % 13),
    }


@cache
def fitted(kind: str) -> Fit:
    rows = [completion(number) for number in range(400)]
    if kind == "no text":
        rows = [{**row, "prompt": None} for row in rows]
    with threadpool_limits(1):
        return fit(rows, embed=Vowels() if kind == "embeddings" else None)


LABELS = st.none() | st.sampled_from(["", "c1", "c77", "t1", "never seen"])
TEXTS = st.none() | st.text() | st.lists(st.sampled_from([*WORDS, "\n", "-", "1.", "_", "'"])).map(" ".join)
RECORDS = st.fixed_dictionaries(
    {"prompt": TEXTS, "prompt_tokens": st.integers(1, 10**9)},
    optional={
        "category": LABELS,
        "tenant": LABELS,
        "tier": LABELS,
        "max_tokens": st.none() | st.integers(1, 10**9),
        "turn": st.none() | st.integers(1, 10**9),
    },
)
LONG = [
    {"prompt": text, "prompt_tokens": 30_000}
    for text in (
        "word " * 20_000,
        "a" * 100_000,
        "Write a long story about the sea. " * 3_000,
        "北京 " * 33_334,
    )
]


def assert_alike(kind: str, records: Sequence[dict[str, Any]]) -> None:
    learned, embed = fitted(kind), Vowels() if kind == "embeddings" else None
    with threadpool_limits(1):  # matrices so small are not worth more
        theirs = learned.pipeline.predict(table(records, embed))
        ours = predictor(learned.regressor.matrices)(look(records, embed))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


KINDS = ["text", "no text", "embeddings"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=20))
def test_it_predicts_what_the_pipeline_does(kind: str, records: list[dict[str, Any]]) -> None:
    assert_alike(kind, records)


@pytest.mark.parametrize("kind", KINDS)
def test_of_what_was_learned_from_too_and_of_long_prompts(kind: str) -> None:
    assert_alike(kind, [completion(number) for number in range(300)])
    assert_alike(kind, LONG)


def test_rare_labels_are_among_what_it_is_compared_on() -> None:
    labels = fitted("text").pipeline["columns"].named_transformers_["labels"]
    assert [rare is not None for rare in labels.infrequent_categories_] == [True, False, False]


CUE_WORDS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")
PIECES = st.sampled_from("aé9٣_'-•*.)İßǅ½²北\n\r\t \x0b\x1c\x85\u2028\ud800\0") | st.characters()
PIECED = st.text(PIECES, max_size=60) | st.text(st.sampled_from("abA9_'\"-*.) \n\t,:"), max_size=60)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(PIECED.map(str.lower), min_size=1, max_size=5))
def test_texts_are_taken_apart_as_plain_expressions_would(texts: list[str]) -> None:
    tokenize = CountVectorizer().build_tokenizer()
    cut_up = cut(texts)
    for words, find in ((cut_up.cue_words, CUE_WORDS.findall), (cut_up.tokens, tokenize)):
        spans = zip(words.text.tolist(), words.start.tolist(), words.end.tolist(), strict=True)
        found = [(text, cut_up.joined[start:end]) for text, start, end in spans]
        assert found == [(place, word) for place, text in enumerate(texts) for word in find(text)]
        assert words.key.tolist() == [key_of(word) for _, word in found]
    of, keys = pairs(cut_up.tokens)
    expected = [(place, pair) for place, text in enumerate(texts) for pair in pairwise(tokenize(text))]
    assert of.tolist() == [place for place, _ in expected]
    assert keys.tolist() == [key_of(*pair) for _, pair in expected]


@pytest.mark.parametrize("count", [1, 2, 300, 20_000])
def test_words_are_found_by_their_keys(count: int) -> None:
    words = [f"{'un' * (number % 3)}word{number}" for number in range(2 * count)]
    keys = np.array([key_of(word) for word in words], np.uint64)
    assert finder(keys[:count])(keys).tolist() == [*range(count), *[-1] * count]


@settings(max_examples=300, deadline=None)
@given(text=PIECED)
def test_cues_are_counted_as_plain_expressions_would(text: str) -> None:
    seen = look([{"prompt": text, "prompt_tokens": 1}])
    part = looked_at(text)
    found = dict(zip(NUMBERS, seen.numbers[0].tolist(), strict=True))
    words = CUE_WORDS.findall(part.lower())
    bullets = re.findall(r"^\s*(?:[-*•]|\d+[.)])", part, re.MULTILINE)
    assert found["log words"] == pytest.approx(math.log1p(len(words)))
    assert found["letters per word"] == (min(len("".join(words)) / len(words), 10) if words else 0)
    assert found["log bullets"] == pytest.approx(math.log1p(len(bullets)))
    assert found["log digits"] == pytest.approx(math.log1p(len(re.findall(r"\d", part))))


ASKED = {"a": 1, "two": 2, "hundred": 100, "12": 12, "101": 101, "123456": 0, "٣": 3, "tips": 0}
UNITS = {"words": 1, "page": 400, "sentences": 15}


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.sampled_from([*ASKED, *UNITS]), max_size=12))
def test_what_is_asked_for_is_the_largest_of_what_the_numbers_say(words: list[str]) -> None:
    seen = look([{"prompt": " ".join(words), "prompt_tokens": 1}])
    found = dict(zip(NUMBERS, seen.numbers[0].tolist(), strict=True))
    numbers = [(place, ASKED.get(word, 0)) for place, word in enumerate(words)]
    measured = [n * UNITS.get(unit, 0) for at, n in numbers for unit in words[at + 1 : at + 3]]
    assert found["log asked words"] == pytest.approx(math.log1p(max(measured, default=0)))
    things = [number for place, number in numbers if number <= 100 and words[place] != "a"]
    assert found["log asked items"] == pytest.approx(math.log1p(max(things, default=0)))
