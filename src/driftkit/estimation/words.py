"""The words of many texts at once: where they stand, and a key that tells each word from others.

    cue words   letters, with apostrophes inside; or digits      [^\\W\\d_]+(?:'[^\\W\\d_]+)*|\\d+
    tokens      what scikit-learn's vectorizers take for words   \\b\\w\\w+\\b

Every step is one pass of numpy over the characters, or the words, of all texts: a loop in Python that made a
string of each word took most of the time of an estimate.

A key is the polynomial of Rabin and Karp, sum(character[i] * BASE^i) modulo 2^64. Two words among millions
have the same with a chance of one in millions, and then count as one: no more than a cue that misleads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Kinds = NDArray[np.uint8]

OTHER, LETTER, DIGIT, MARK, APOSTROPHE = range(5)  # kinds of characters; a mark is what else is in \w

# odd, so that they have an inverse modulo 2^64; otherwise any numbers without a pattern
BASE = 0xD6E8FEB86659FD93
BESIDE = 0xA0761D6478BD642F
SPREAD = 0x9E3779B97F4A7C15


class Words(NamedTuple):
    """Words in the order in which they stand: of which text each is, its first character and the one after
    its last among those of all texts, and its key."""

    text: Ints
    start: Ints
    end: Ints
    key: Keys


class Cut(NamedTuple):
    """`joined` is what `start` and `end` are places in; `in_digits` says which cue words are numbers."""

    joined: str
    cue_words: Words
    in_digits: NDArray[np.bool]
    tokens: Words


def cut(texts: Sequence[str]) -> Cut:
    """The words of texts that are in small letters."""
    joined = "\n".join(["", *texts, ""])  # so that there is something before each character and after it
    first = np.cumsum([1, *(len(text) + 1 for text in texts)])  # of each text, and of one more
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    kinds = _kinds(joined, codes)
    powers, inverses = _powers(len(codes).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])

    def words(start: Ints, end: Ints) -> Words:
        of = np.repeat(np.arange(len(texts)), np.diff(np.searchsorted(start, first)))
        return Words(of, start, end, (sums[end] - sums[start]) * inverses[start])

    cue_words = words(*_runs(_cued(kinds)))
    start, end = _runs(((kinds > OTHER) & (kinds < APOSTROPHE)).view(np.uint8))
    long = end - start > 1
    return Cut(joined, cue_words, kinds[cue_words.start] == DIGIT, words(start[long], end[long]))


def pairs(words: Words) -> tuple[Ints, Keys]:
    """Of which text each pair of neighbours is, and its key."""
    alike = words.text[1:] == words.text[:-1]
    return words.text[1:][alike], (words.key[:-1] + words.key[1:] * np.uint64(BESIDE))[alike]


def key_of(*words: str) -> int:
    """The key of a word, or of a pair of words."""
    key = 0
    for word in reversed(words):
        of_word = 0
        for character in reversed(word):
            of_word = (of_word * BASE + ord(character)) % 2**64
        key = (key * BESIDE + of_word) % 2**64
    return key


def finder(known: Keys) -> Callable[[Keys], Ints]:
    """Gives the place of keys among `known`, and -1 for those that are not there.

    They are sorted by what they are when spread, whose top bits say where to begin: a binary search takes
    several times as long.
    """
    spread = known * np.uint64(SPREAD)
    place = np.append(np.argsort(spread), -1)
    spread = np.append(spread[place[:-1]], np.uint64(2**64 - 1))  # none is after the last
    bits = len(known).bit_length() + 2
    shift = np.uint64(64 - bits)
    first = np.searchsorted(spread[:-1] >> shift, np.arange(1 << bits, dtype=np.uint64))

    def find(asked: Keys) -> Ints:
        wanted = asked * np.uint64(SPREAD)
        at = first[(wanted >> shift).astype(np.int64)]
        short = np.flatnonzero(spread[at] < wanted)
        while len(short):
            at[short] += 1
            short = short[spread[at[short]] < wanted[short]]
        return np.where(spread[at] == wanted, place[at], -1)

    return find


def _kinds(joined: str, codes: NDArray[np.uint32]) -> Kinds:
    kinds = np.frombuffer(bytearray(joined.encode("ascii", "replace").translate(_KINDS)), np.uint8)
    if not joined.isascii():
        beyond = codes > 127
        which, places = np.unique(codes[beyond], return_inverse=True)
        kinds[beyond] = np.array([_kind(chr(code)) for code in which.tolist()], np.uint8)[places]
    return kinds


def _kind(character: str) -> int:
    if character.isdecimal():
        return DIGIT
    if character.isalnum():
        return LETTER
    return {"_": MARK, "'": APOSTROPHE}.get(character, OTHER)


_KINDS = bytes(_kind(chr(code)) if code < 128 else OTHER for code in range(256))
_CUED = bytes(kind if kind in (LETTER, DIGIT) else OTHER for kind in range(256))


def _cued(kinds: Kinds) -> Kinds:
    """Without marks, and apostrophes as letters where they have one on either side."""
    cued = np.frombuffer(bytearray(kinds.tobytes().translate(_CUED)), np.uint8)
    apostrophes = np.flatnonzero(kinds == APOSTROPHE)
    inside = (kinds[apostrophes - 1] == LETTER) & (kinds[apostrophes + 1] == LETTER)
    cued[apostrophes[inside]] = LETTER
    return cued


def _runs(kinds: Kinds) -> tuple[Ints, Ints]:
    """Where runs of one kind begin and where they have ended, but for OTHER, which is first and last."""
    changes = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    return changes[kinds[changes] != OTHER], changes[kinds[changes - 1] != OTHER]


@cache
def _powers(bits: int) -> tuple[Keys, Keys]:
    """BASE^i, and their inverses modulo 2^64, for so many i as these bits count."""
    powers = np.full(1 << bits, BASE, np.uint64)
    inverses = np.full(1 << bits, pow(BASE, -1, 2**64), np.uint64)
    powers[0] = inverses[0] = 1
    return np.cumprod(powers), np.cumprod(inverses)
