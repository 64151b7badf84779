"""The errors a user may see, each with the exit code that the command-line contract gives it."""


def printable(text: str) -> str:
    """Text for people with what is not printable escaped: a record's values must not break the line that
    shows them, nor drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


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
