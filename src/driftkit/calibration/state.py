"""The state folder: what calibration has learned, as readable JSON, one file per estimator and model.

Written atomically (a temporary file, fsync, rename), by one writer at a time (flock on `lock`), with a
version; readers never wait. A file that is damaged, foreign or newer is an error and stays as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from driftkit import __version__
from driftkit.calibration.stream import Key
from driftkit.errors import StateError

STATE_VERSION = 1
_KIND = "driftkit-calibration"


class StateFolder:
    """The folder DIR of `--state DIR`."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._files: dict[Key, Path] = {}

    def read(self, key: Key) -> dict[str, Any] | None:
        """What was learned for `key`; None when nothing was. StateError for a file that cannot be used."""
        path = self._file(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            hint = "restore it from a backup, or move it away to start anew"
            raise StateError(f"{path}:{error.lineno}: damaged state: {error.msg}", hint=hint) from None
        if type(document) is not dict or document.get("kind") != _KIND:
            raise StateError(f"{path}: not a driftkit state file", hint="give another --state DIR")
        version = document.get("version")
        if version != STATE_VERSION:
            hint = "it was written by a newer driftkit: upgrade this one"
            raise StateError(
                f"{path}: state version {version}, this driftkit reads {STATE_VERSION}", hint=hint
            )
        if document.get("key") != list(key):
            raise StateError(f"{path}: holds the state of {document.get('key')}", hint="was it renamed?")
        return document

    def stamp(self, key: Key) -> tuple[int, int, int] | None:
        """What changes when the file of `key` is replaced; None when there is none to be seen."""
        try:
            found = self._file(key).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder's lock, made if need be; StateError at once when somebody else writes."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StateError(f"{self.path}: {(error.strerror or str(error)).lower()}") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "one writer at a time: wait for it to end"
                raise StateError(f"{self.path}: another driftkit is writing this state", hint=hint) from None
            yield
        finally:
            os.close(lock)  # which also unlocks it

    def write(
        self,
        key: Key,
        method: str,
        learned: dict[str, Any],
        runs: dict[str, int],
        drift: dict[str, Any] | None,
    ) -> None:
        """Replace the file of `key`, whole or not at all. Call it under `writing`."""
        document = {
            "kind": _KIND,
            "version": STATE_VERSION,
            "written_by": f"driftkit {__version__}",
            "key": list(key),
            "method": method,
            "runs": runs,
            "learned": learned,
        }
        if drift is not None:
            document["drift"] = drift
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        path = self._file(key)
        temporary = self.path / ".writing"  # there is one writer; what a killed one left is overwritten
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
            raise

    def digest(self) -> str:
        """A hash of everything in the folder: the same when the same was learned."""
        whole = hashlib.blake2b(digest_size=8)
        for path in sorted(self.path.glob("*.json")):
            try:
                whole.update(path.name.encode() + b"\0" + path.read_bytes())
            except OSError as error:
                raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        return whole.hexdigest()

    def _file(self, key: Key) -> Path:
        path = self._files.get(key)
        if path is None:
            name = ".".join(quote(part, safe="").replace(".", "%2E") for part in key)
            path = self._files[key] = self.path / f"{name}.json"
        return path
