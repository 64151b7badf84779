"""A JSON document that is kept: of a kind and a version, written whole or not at all.

A file that is damaged, foreign or newer is an error and stays as it is. This module opens files.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from driftkit import __version__
from driftkit.errors import NewerStateError, StateError

BEGIN_ANEW = "move it away to start anew"
ANEW = f"restore it from a backup, or {BEGIN_ANEW}"
_ABOUT = ("kind", "version", "written_by")  # what says nothing of the content


def read(path: Path, kind: str, version: int, anew: str = BEGIN_ANEW) -> dict[str, Any] | None:
    """The document at `path`, None when there is none; StateError for a file that cannot be used, which says
    how to begin `anew`."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise StateError(
            f"{path}:{error.lineno}: damaged state: {error.msg}", hint=f"restore it from a backup, or {anew}"
        ) from None
    if type(document) is not dict or document.get("kind") != kind:
        raise StateError(f"{path}: not a driftkit state file", hint="give another --state DIR")
    found = document.get("version")
    if found != version:
        problem = f"{path}: state version {found}, this driftkit reads {version}"
        if type(found) is int and found > version:
            raise NewerStateError(problem, hint="it was written by another driftkit: upgrade this one")
        raise StateError(problem, hint=f"it was written by another driftkit: {anew}")
    return document


def hashed(content: dict[str, Any]) -> dict[str, Any]:
    """The content and `sha256`, its hash: it finds damage and edits by hand, and is no signature."""
    return {**content, "sha256": _hash(content)}


def check_hash(path: Path, document: dict[str, Any], hint: str = ANEW) -> None:
    """StateError for a document that is no longer what `hashed` has seen."""
    if document.get("sha256") != _hash(document):
        raise StateError(f"{path}: damaged, or edited by hand: its hash is another", hint=hint)


def _hash(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256" and name not in _ABOUT}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def quoted(part: str) -> str:
    """A part of a file's name that any text may be; parts are joined by dots."""
    return quote(part, safe="").replace(".", "%2E")


def digest(path: Path) -> str | None:
    """A hash of the file; None when there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def write(path: Path, kind: str, version: int, content: dict[str, Any]) -> None:
    """Replace the file by a document of this content; one writer at a time."""
    document = {"kind": kind, "version": version, "written_by": f"driftkit {__version__}", **content}
    replace(path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def replace(path: Path, data: bytes) -> None:
    """Replace the file, whole or not at all (a temporary file, fsync, rename); one writer at a time."""
    temporary = path.parent / ".writing"  # what a killed writer left is overwritten
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        raise
