"""The errors a user may see, each with the exit code that the command-line contract gives it."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str) -> str:
    """Text for people with what is not printable escaped: a record's values must not break the line that
    shows them, nor drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


MOST_NAMES = 20  # in one hint


def near(word: str, known: Iterable[str]) -> str | None:
    """The hint for a name that there is none of: the nearest one, if there is a near one."""
    import difflib  # where a name is wrong, and not at every start

    for name in difflib.get_close_matches(word, list(known), n=1):
        return f"did you mean {name}?"
    return None


def near_or_known(word: str, known: Iterable[str]) -> str:
    """The same, or what names there are."""
    known = list(known)
    more = ", ..." if len(known) > MOST_NAMES else ""
    return near(word, known) or "known: " + (", ".join(known[:MOST_NAMES]) or "none") + more


class DriftkitError(Exception):
    """A failure that is explained in one line; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DriftkitError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class DamageError(DriftkitError):
    """A packed file that cannot be read on; `problem` is the message without the file's name."""

    def __init__(self, name: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{name}: {problem}", hint=hint)
        self.problem = problem


class LineError(DriftkitError):
    """The line in hand cannot be used; the reader adds file and line."""


class FieldError(LineError):
    """A field of the record in hand is missing or wrong."""

    def __init__(self, field: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field}: {problem}", hint=hint)
        self.field = field
        self.problem = problem


class StateError(DriftkitError):
    """The state folder cannot be used as it is; it has been left untouched."""


class NewerStateError(StateError):
    """A newer driftkit has written it."""
