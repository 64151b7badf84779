"""Words of a prompt that tell how long its answer is: what each is about, and how to find them all at once.

Plain English; the lists name no data set.
"""

from __future__ import annotations

import numpy as np

from driftkit.estimation.words import finder, key_of

TOPICS = {
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

OPENINGS = (
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

#: words that one of a unit takes
UNITS = {
    **dict.fromkeys(("word", "words"), 1),
    **dict.fromkeys(("sentence", "sentences"), 15),
    **dict.fromkeys(("line", "lines", "verse", "verses"), 10),
    **dict.fromkeys(("paragraph", "paragraphs", "stanza", "stanzas"), 80),
    **dict.fromkeys(("minute", "minutes"), 150),
    **dict.fromkeys(("page", "pages"), 400),
}
NUMERALS = {
    **{"a": 1, "single": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7},
    **{"eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20},
    **{"fifty": 50, "hundred": 100},
}

_WORDS = sorted(
    {word for words in (*TOPICS.values(), *OPENINGS, *UNITS, *NUMERALS) for word in words.split()}
)

#: place of a key among all words above, or -1, where the tables below say what no cue word does
find = finder(np.array([key_of(word) for word in _WORDS], np.uint64))

_topics = [[place for place, words in enumerate(TOPICS.values()) if word in words.split()] for word in _WORDS]
_most = max(map(len, _topics))
#: the topics of each, filled up with one more than there are
TOPICS_OF = np.array([[*of, *[len(TOPICS)] * (_most - len(of))] for of in [*_topics, []]])
_opening = {word: place for place, words in enumerate(OPENINGS) for word in words.split()}
OPENING_OF = np.array([_opening.get(word, -1) for word in [*_WORDS, ""]])
NUMERAL_OF = np.array([NUMERALS.get(word, 0) for word in [*_WORDS, ""]])
UNIT_OF = np.array([UNITS.get(word, 0) for word in [*_WORDS, ""]])
IS_A = np.array([word == "a" for word in [*_WORDS, ""]])
