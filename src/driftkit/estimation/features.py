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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftkit.estimation.base import prompt_text
from driftkit.records.schema import Record

#: raised with every change of what follows: a stored regressor reads its own columns only
FEATURE_SCHEMA = 1

HEAD, TAIL = 2000, 500  # characters

TEXT = 0
LABELS = ("category", "tenant", "tier")

_TOPICS = {
    "brief": "brief briefly short concise concisely succinct quick quickly shortest only just single "
    "headline title slogan tagline caption tweet sentence word phrase name abbreviation acronym "
    "motto nickname compliment keywords adjectives synonym synonyms hashtags",
    "long": "detailed detail details comprehensive thorough thoroughly depth elaborate long full "
    "complete extensive exhaustive lengthy",
    "document": "essay article blog report post paper speech review proposal letter email mail newsletter "
    "press biography cover memo announcement message description",
    "fiction": "story stories poem haiku song lyrics fiction novel tale dialogue script scene screenplay "
    "rap sonnet chapter narrative limerick conversation",
    "joke": "joke jokes riddle riddles pun puns funny quote quotes motto",
    "list": "list lists ideas suggestions examples ways tips names options reasons items steps points "
    "questions things topics bullet facts recommendations activities books movies songs",
    "plan": "plan guide tutorial itinerary schedule outline strategy course workout routine curriculum "
    "program agenda lesson roadmap trip",
    "transform": "rewrite rephrase paraphrase edit correct fix proofread replace convert transform modify "
    "reword improve revise change shorten simplify grammar reformat",
    "translate": "translate translation spanish french german italian chinese japanese russian portuguese "
    "korean hindi arabic latin",
    "summarise": "summarize summarise summary tldr gist key takeaways condense abstract",
    "classify": "classify identify extract categorize categorise sentiment label detect determine decide "
    "choose select predict whether positive negative true false rate rating score match sort "
    "find yes answer correct",
    "explain": "explain describe discuss analyze analyse elaborate tell teach understand explanation "
    "overview interpret evaluate critique history origin origins meaning concept thoughts "
    "opinion analysis notes summary",
    "why": "why reason cause causes because purpose effect effects impact",
    "method": "how instructions steps install build make setup procedure method process",
    "recipe": "recipe cook ingredients bake dish meal cooking dinner",
    "compare": "difference differences compare comparison versus vs pros cons advantages disadvantages "
    "similarities better contrast",
    "code": "python javascript java html css sql function code program class algorithm regex bash "
    "implement api bug array string typescript rust react django shell loop query php golang "
    "linux json",
    "mathematics": "calculate solve equation sum compute probability integral derivative percent average "
    "total math formula divided multiply prove proof puzzle riddle left remain",
    "table": "table csv markdown latex format xml yaml column columns row rows diagram chart spreadsheet",
    "create": "write create generate compose draft design develop come invent brainstorm give provide "
    "suggest propose produce",
    "role": "imagine pretend act roleplay suppose assume role character persona",
    "advice": "should best recommend help advice advise need want",
    "entity": "who whom whose when where which",
    "what": "what what's",
    "measure": "many much old far tall big",
    "auxiliary": "is are was were do does did can could will would has have",
    "social": "hi hello hey thanks thank please sorry",
    "first person": "i my me i'm i've we our",
    "second person": "you your",
    "given": "given following below text paragraph passage input context based provided",
    "fact": "famous known history first invented born died president war country city world capital",
}

_OPENINGS = (
    "what",
    "how",
    "why",
    "who when where which",
    "is are was were do does did can could will would has have should",
    "write compose draft create",
    "give list name provide suggest recommend",
    "explain describe discuss tell",
    "i i'm my",
    "you",
    "summarize summarise rewrite translate edit convert correct paraphrase",
    "find identify classify determine extract",
    "design make generate develop come build",
)

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

#: words that one of a unit takes
_UNITS = {
    **dict.fromkeys(("word", "words"), 1),
    **dict.fromkeys(("sentence", "sentences"), 15),
    **dict.fromkeys(("line", "lines", "verse", "verses"), 10),
    **dict.fromkeys(("paragraph", "paragraphs", "stanza", "stanzas"), 80),
    **dict.fromkeys(("minute", "minutes"), 150),
    **dict.fromkeys(("page", "pages"), 400),
}
_NUMERALS = {
    **{"a": 1, "single": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7},
    **{"eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20},
    **{"fifty": 50, "hundred": 100},
}

_TOPIC_OF: dict[str, tuple[int, ...]] = {}
for _place, _words in enumerate(_TOPICS.values()):
    for _word in _words.split():
        _TOPIC_OF[_word] = (*_TOPIC_OF.get(_word, ()), _place)
_OPENING_OF = {word: place for place, words in enumerate(_OPENINGS) for word in words.split()}
_NUMBERED, _MEASURED = frozenset(_NUMERALS), frozenset(_UNITS)

_find_words = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\d+").findall
_find_tokens = re.compile(r"\b\w\w+\b").findall  # what scikit-learn's vectorizers take for a word
_find_digits = re.compile(r"\d").findall
_has_bullet = re.compile(r"\s*(?:[-*•]|\d+[.)])").match
_APART = bytes(0x20 if chr(byte) in set(string.punctuation) - set("_'") else byte for byte in range(256))
_CAPITALS = string.ascii_uppercase.encode()
_DIGITS = string.digits.encode()
_CODE = b"`{}<>=;\\"

EARLY = 12  # words: a verb there is the instruction's

NUMBERS = (
    *("log prompt tokens", "has max_tokens", "log max_tokens", "log turn", "has text"),
    *(f"topic {name}" for name in _TOPICS),
    *(f"early {name}" for name in _TOPICS),
    *(f"opens with {words.split()[0]}" for words in _OPENINGS),
    *(f"says {phrase}" for phrase in _PHRASES),
    *("log asked words", "log asked items"),
    *(
        "log characters",
        "log words",
        "log lines",
        "log questions",
        "ends ?",
        "ends .",
        "ends :",
        "log colons",
    ),
    *(
        "log quotes",
        "log code marks",
        "log digits",
        "letters per word",
        "capitals ratio",
        "bytes per character",
    ),
    *("log first line", "log bullets", "log sentences", "log commas", "small start"),
)
_CUES = len(NUMBERS) - 5
_NO_CUES = [0.0] * _CUES


def looked_at(text: str) -> str:
    """The part of a prompt that is looked at."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


class Seen(NamedTuple):
    """What is seen of requests: the columns above, and the `tokens` of each text, of which terms are made."""

    texts: list[str]
    tokens: list[list[str]]
    labels: list[list[str]]  # a list for each of LABELS
    numbers: NDArray[np.float64]  # a row for each request
    vectors: NDArray[np.float32] | None


def look(records: Sequence[Record], embed: Any = None) -> Seen:
    """What is seen of `records`, and what `embed`, if given, makes of their texts."""
    texts, tokens, numbers = [], [], []
    for record in records:
        text = prompt_text(record)
        part = looked_at(text) if text is not None else ""
        lower = part.lower()
        words, terms = _taken_apart(lower)
        cued = [1.0, *_cues(text, part, lower, words)] if text is not None else [0.0, *_NO_CUES]
        texts.append(part)
        tokens.append(terms)
        numbers.append([*_declared(record), *cued])
    labels = [[record.get(label) or "" for record in records] for label in LABELS]
    vectors = embed(texts) if embed is not None else None
    return Seen(texts, tokens, labels, np.array(numbers), vectors)


def table(records: Sequence[Record], embed: Any = None) -> NDArray[np.object_]:
    """The same as one array, for scikit-learn: the text, the LABELS, the NUMBERS and the embedding."""
    known = look(records, embed)
    width = 1 + len(LABELS) + len(NUMBERS)
    embedded = 0 if known.vectors is None else known.vectors.shape[1]
    rows = np.empty((len(records), width + embedded), dtype=object)
    rows[:, TEXT] = known.texts
    for place, values in enumerate(known.labels, start=1):
        rows[:, place] = values
    rows[:, 1 + len(LABELS) : width] = known.numbers
    if known.vectors is not None:
        rows[:, width:] = known.vectors
    return rows


def _declared(record: Record) -> tuple[float, float, float, float]:
    cap = record.get("max_tokens")
    return (
        math.log(record["prompt_tokens"]),
        float(cap is not None),
        math.log(cap) if cap is not None else 0.0,
        math.log(record.get("turn") or 1),
    )


def _taken_apart(lower: str) -> tuple[list[str], list[str]]:
    """The words of a text in small letters: as cues count them, and as scikit-learn's vectorizers do.

    Most are letters alone, and the same to both: the expressions look at the rest only.
    """
    words: list[str] = []
    tokens: list[str] = []
    spaced = lower.encode("utf-8", "surrogatepass").translate(_APART).decode("utf-8", "surrogatepass")
    for piece in spaced.split():
        if piece.isalpha():
            words.append(piece)
            if len(piece) > 1:
                tokens.append(piece)
        else:
            words += _find_words(piece)
            tokens += _find_tokens(piece)
    return words, tokens


def _cues(text: str, part: str, lower: str, words: list[str]) -> list[float]:
    """The cues of a prompt of which `part` is looked at, as NUMBERS names them after the first five."""
    log1p = math.log1p
    topics = [0.0] * (2 * len(_TOPICS))
    for places in filter(None, map(_TOPIC_OF.get, words)):
        for place in places:
            if topics[place] < 3:
                topics[place] += 1
    for places in filter(None, map(_TOPIC_OF.get, words[:EARLY])):
        for place in places:
            topics[len(_TOPICS) + place] = 1.0
    opening = [0.0] * len(_OPENINGS)
    if words and words[0] in _OPENING_OF:
        opening[_OPENING_OF[words[0]]] = 1.0
    stripped = part.rstrip()
    count = part.count
    in_bytes = part.encode("utf-8", "replace")

    def count_of(characters: bytes) -> int:
        return len(in_bytes) - len(in_bytes.translate(None, characters))

    digits = count_of(_DIGITS) if part.isascii() else len(_find_digits(part))
    return [
        *topics,
        *opening,
        *map(float, map(lower.__contains__, _PHRASES)),
        *_asked(words, digits > 0),
        log1p(len(text)),
        log1p(len(words)),
        log1p(text.count("\n")),
        log1p(count("?")),
        float(stripped.endswith("?")),
        float(stripped.endswith(".")),
        float(stripped.endswith(":")),
        log1p(count(":")),
        log1p(count('"') + count("“")),
        log1p(count_of(_CODE)),
        log1p(digits),
        min(sum(map(len, words)) / len(words), 10.0) if words else 0.0,
        count_of(_CAPITALS) / (len(part) or 1),
        len(in_bytes) / (len(part) or 1) - 1,
        log1p(part.find("\n") if "\n" in part else len(part)),
        log1p(sum(map(bool, map(_has_bullet, part.split("\n"))))),
        log1p(count(". ")),
        log1p(count(",")),
        float(part[:1].islower()),
    ]


def _asked(words: list[str], digits: bool) -> tuple[float, float]:
    """Logarithms of 1 + the words, and of 1 + the things, that a prompt asks for: "two pages", "10 tips".

    `digits` says whether there may be numbers in digits.
    """
    numbers = {word: _NUMERALS[word] for word in _NUMBERED.intersection(words)}
    if digits:
        numbers.update({word: int(word) for word in filter(str.isdecimal, words) if len(word) < 6})
    things = max([number for word, number in numbers.items() if number <= 100 and word != "a"], default=0)
    asked = 0
    if numbers and not _MEASURED.isdisjoint(words):
        for place, unit in enumerate(words):
            if unit in _UNITS:
                for word in words[max(0, place - 2) : place]:
                    asked = max(asked, numbers.get(word, 0) * _UNITS[unit])
    return math.log1p(asked), math.log1p(things)
