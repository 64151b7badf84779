"""What a request says about the length of its answer, as one row of a table.

    column   what
    text     the prompt, for TF-IDF
    labels   category, tenant, tier; "" where absent
    numbers  prompt tokens, max_tokens, turn, and cues that a reader can follow: what is asked for (a poem, a
             list, code, a translation), how much of it ("in 500 words", "ten ideas"), and the prompt's form

Cues count whole words; the lists are plain English and name no data set. Of a long prompt its first HEAD
and last TAIL characters are looked at: instructions stand at one of its ends.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftkit.estimation import cue_words
from driftkit.estimation.base import prompt_text
from driftkit.estimation.cue_words import IS_A, NUMERAL_OF, OPENING_OF, OPENINGS, TOPICS, TOPICS_OF, UNIT_OF
from driftkit.estimation.words import Cut, Ints, Words, cut
from driftkit.records.schema import Record

#: raised with every change of what follows: a stored regressor reads its own columns only
FEATURE_SCHEMA = 2

HEAD, TAIL = 2000, 500  # characters

TEXT = 0
LABELS = ("category", "tenant", "tier")

_PHRASES = (
    "step by step",
    "step-by-step",
    "how to",
    "how do",
    "what is",
    "what are",
    "tell me",
    "such as",
    "how many",
    "how much",
    "can you",
    "how do you say",
)

_find_digits = re.compile(r"\d").findall
_has_bullet = re.compile(r"\s*(?:[-*•]|\d+[.)])").match
_CAPITALS = string.ascii_uppercase.encode()
_DIGITS = string.digits.encode()
_CODE = b"`{}<>=;\\"

AT_ONCE = 256  # requests: their characters as numbers stay in the processor's cache
EARLY = 12  # words: a verb there is the instruction's

_DECLARED = ("log prompt tokens", "has max_tokens", "log max_tokens", "log turn", "has text")
_OF_TEXT = (
    *(f"topic {name}" for name in TOPICS),
    *(f"early {name}" for name in TOPICS),
    *(f"opens with {words.split()[0]}" for words in OPENINGS),
    *("log asked words", "log asked items", "log words", "letters per word"),
    *(f"says {phrase}" for phrase in _PHRASES),
    *("log characters", "log lines", "log questions", "ends ?", "ends .", "ends :", "log colons"),
    *("log quotes", "log code marks", "log digits", "capitals ratio", "bytes per character"),
    *("log first line", "log bullets", "log sentences", "log commas", "small start"),
)
_LOGARITHMS = [name.startswith("log ") for name in _OF_TEXT]  # of 1 + what is counted
NUMBERS = (*_DECLARED, *_OF_TEXT)


def looked_at(text: str) -> str:
    """The part of a prompt that is looked at."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


class Seen(NamedTuple):
    """What is seen of requests: the columns above, and the `tokens` of the texts, of which terms are made."""

    texts: list[str]
    tokens: Words
    labels: list[list[str]]  # a list for each of LABELS
    numbers: NDArray[np.float64]  # a row for each request
    vectors: NDArray[np.float32] | None


def look(records: Sequence[Record], embed: Any = None) -> Seen:
    """What is seen of `records`, and what `embed`, if given, makes of their texts."""
    given = [prompt_text(record) for record in records]
    absent = [text is None for text in given]
    whole = [text or "" for text in given]
    parts = [looked_at(text) for text in whole]
    small = [part.lower() for part in parts]
    cut_up = cut(small)
    of_text = np.hstack([_of_words(cut_up, len(parts)), list(map(_of_form, whole, parts, small))])
    of_text[:, _LOGARITHMS] = np.log1p(of_text[:, _LOGARITHMS])
    of_text[absent] = 0.0
    numbers = np.hstack([list(map(_declared, records, given)), of_text])
    labels = [[record.get(label) or "" for record in records] for label in LABELS]
    return Seen(parts, cut_up.tokens, labels, numbers, embed(parts) if embed is not None else None)


def in_parts(records: Sequence[Record], embed: Any = None) -> Iterator[Seen]:
    """The same of any number of records, AT_ONCE of them at a time."""
    for start in range(0, len(records), AT_ONCE):
        yield look(records[start : start + AT_ONCE], embed)


def table(records: Sequence[Record], embed: Any = None) -> NDArray[np.object_]:
    """The same as one array, for scikit-learn: the text, the LABELS, the NUMBERS and the embedding."""
    return np.concatenate([_rows(seen) for seen in in_parts(records, embed)])


def _rows(seen: Seen) -> NDArray[np.object_]:
    width = 1 + len(LABELS) + len(NUMBERS)
    embedded = 0 if seen.vectors is None else seen.vectors.shape[1]
    rows = np.empty((len(seen.texts), width + embedded), dtype=object)
    rows[:, TEXT] = seen.texts
    for place, values in enumerate(seen.labels, start=1):
        rows[:, place] = values
    rows[:, 1 + len(LABELS) : width] = seen.numbers
    if seen.vectors is not None:
        rows[:, width:] = seen.vectors
    return rows


def _declared(record: Record, text: str | None) -> tuple[float, ...]:
    cap = record.get("max_tokens")
    return (
        math.log(record["prompt_tokens"]),
        float(cap is not None),
        math.log(cap) if cap is not None else 0.0,
        math.log(record.get("turn") or 1),
        float(text is not None),
    )


def _of_words(cut_up: Cut, texts: int) -> NDArray[np.float64]:
    """Topics, openings and what is asked for; how many words there are, and of how many letters."""
    words = cut_up.cue_words
    known = cue_words.find(words.key)
    count = np.bincount(words.text, minlength=texts)
    first = np.cumsum(count) - count
    early = np.arange(len(known)) - first[words.text] < EARLY
    openings = np.zeros((texts, len(OPENINGS) + 1))
    opens = count > 0
    openings[opens, OPENING_OF[known[first[opens]]]] = 1.0
    letters = np.bincount(words.text, words.end - words.start, minlength=texts)
    return np.hstack(
        [
            np.minimum(_topics(words.text, known, texts), 3),
            np.minimum(_topics(words.text[early], known[early], texts), 1),
            openings[:, :-1],
            _asked(cut_up, known, texts),
            count[:, None],
            np.minimum(letters / np.maximum(count, 1), 10.0)[:, None],
        ]
    )


def _topics(text: Ints, known: Ints, texts: int) -> Ints:
    """How many words of each topic there are in each text."""
    width = len(TOPICS) + 1
    places = text[:, None] * width + TOPICS_OF[known]
    return np.bincount(places.ravel(), minlength=texts * width).reshape(texts, width)[:, :-1]


def _asked(cut_up: Cut, known: Ints, texts: int) -> Ints:
    """The words, and the things, that each text asks for: "two pages", "10 tips"."""
    words = cut_up.cue_words
    number = NUMERAL_OF[known]
    for place in np.flatnonzero(cut_up.in_digits & (words.end - words.start < 6)).tolist():
        number[place] = int(cut_up.joined[words.start[place] : words.end[place]])
    asked = np.zeros((texts, 2), np.int64)
    units = np.flatnonzero(UNIT_OF[known])
    for back in (1, 2):
        at = units[units >= back]
        at = at[words.text[at] == words.text[at - back]]
        np.maximum.at(asked[:, 0], words.text[at], number[at - back] * UNIT_OF[known[at]])
    things = (number <= 100) & ~IS_A[known]
    np.maximum.at(asked[:, 1], words.text[things], number[things])
    return asked


def _of_form(text: str, part: str, lower: str) -> list[float]:
    """The phrases and the form of a prompt of which `part` is looked at, `lower` in small letters."""
    stripped = part.rstrip()
    count = part.count
    in_bytes = part.encode("utf-8", "replace")

    def count_of(characters: bytes) -> int:
        return len(in_bytes) - len(in_bytes.translate(None, characters))

    digits = count_of(_DIGITS) if part.isascii() else len(_find_digits(part))
    return [
        *map(lower.__contains__, _PHRASES),
        len(text),
        text.count("\n"),
        count("?"),
        stripped.endswith("?"),
        stripped.endswith("."),
        stripped.endswith(":"),
        count(":"),
        count('"') + count("“"),
        count_of(_CODE),
        digits,
        count_of(_CAPITALS) / (len(part) or 1),
        len(in_bytes) / (len(part) or 1) - 1,
        part.find("\n") if "\n" in part else len(part),
        sum(map(bool, map(_has_bullet, part.split("\n")))),
        count(". "),
        count(","),
        part[:1].islower(),
    ]
