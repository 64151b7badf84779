"""mdoc(7): from plain paragraphs to what mandoc and groff read.

A paragraph is text; a line list when its lines begin with `- `; verbatim when it begins with a space. In
text, `code`, --options and field_names become macros.
"""

from __future__ import annotations

import re
import textwrap

from driftkit.records.schema import FIELDS

WIDTH = 78
_SENTENCE = re.compile(r"(?<=[.?!])\s+|(?<=[.?!][)\"'])\s+")
_MARKED = re.compile(
    r"(?P<before>[(\[]*)(?:`(?P<code>[^`]+)`|(?P<option>--[a-z][a-z-]*)|(?P<field>[a-z0-9]+(?:_[a-z0-9]+)+))"
    r"(?P<after>[^\s`]*)"
)
_CLOSING = ".,;:?!)]"


def escape(text: str) -> str:
    return text.replace("\\", "\\e").replace("§", "\\(sc")


def argument(text: str) -> str:
    """Text as one argument of a macro: quoted where it has spaces, never taken for a macro itself."""
    text = escape(text).replace('"', "\\(dq")
    if re.fullmatch(r"[A-Z%][A-Za-z0-9]{1,2}", text) or text in tuple(".,:;()[]?!|"):
        text = "\\&" + text
    return f'"{text}"' if " " in text or not text else text


def block(paragraphs: list[str] | tuple[str, ...], *, inside: bool = False) -> list[str]:
    """Lines of mdoc. `inside` a list item or a section that has begun, the first paragraph needs no `.Pp`."""
    lines: list[str] = []
    for number, paragraph in enumerate(paragraphs):
        if paragraph.startswith(" "):
            lines += verbatim(textwrap.dedent(paragraph))
            continue
        if (number or inside) and not paragraph.startswith("- "):
            lines.append(".Pp")
        if re.search(r"(?m)^- ", paragraph):
            lines += _bullets(paragraph)
        else:
            lines += prose(paragraph)
    return lines


def verbatim(text: str) -> list[str]:
    body = [re.sub(r"^([.'])", r"\\&\1", escape(line)) for line in text.splitlines()]
    return [".Bd -literal -offset indent", *body, ".Ed"]


def _bullets(paragraph: str) -> list[str]:
    head, *items = re.split(r"(?m)^- ", paragraph)
    lines = prose(head) if head.strip() else []
    lines.append(".Bl -bullet")
    for item in items:
        lines += [".It", *prose(item)]
    return [*lines, ".El"]


def prose(text: str) -> list[str]:
    """Wrapped text, each sentence on a line of its own, marks as macros."""
    lines: list[str] = []
    for sentence in _SENTENCE.split(" ".join(text.split())):
        lines += _sentence(sentence)
    return lines


def _sentence(sentence: str) -> list[str]:
    lines: list[str] = []
    place = 0
    for match in _MARKED.finditer(sentence):
        if match["field"] and match["field"] not in FIELDS:
            continue
        if match.start() < place or (match.start() and sentence[match.start() - 1] not in " ("):
            continue
        lines += _wrapped(sentence[place : match.start()])
        lines.append(_marked(match))
        place = match.end()
    return lines + _wrapped(sentence[place:])


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(text.strip(), WIDTH, break_long_words=False, break_on_hyphens=False)
    return [re.sub(r"^([.'])", r"\\&\1", escape(line)) for line in lines]


def _marked(match: re.Match[str]) -> str:
    if match["code"] in FIELDS:
        macro = f".Va {match['code']}"
    elif match["code"]:
        macro = f".Ql {argument(match['code'])}"
    elif match["option"]:
        macro = f".Fl {argument(match['option'][1:])}"
    else:
        macro = f".Va {argument(match['field'])}"
    if match["before"]:
        name, _, rest = macro.partition(" ")
        macro = f"{name} {' '.join(match['before'])} {rest}"
    after = match["after"]
    glued = after.rstrip(_CLOSING)
    if glued:
        macro += f" Ns {argument(glued)}"
    closing = after[len(glued) :]
    return macro + "".join(f" {mark}" for mark in closing)
