"""The state folder: what calibration has learned, as readable JSON, one file per estimator and model.

Written atomically, by one writer at a time (flock on `lock`), with a version; readers never wait. A file that
is damaged, foreign or newer is an error and stays as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftkit.calibration.stream import Key
from driftkit.errors import StateError
from driftkit.records.document import quoted, read, write

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
        document = read(path, _KIND, STATE_VERSION)
        if document is None:
            return None
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

    def write(self, key: Key, content: dict[str, Any]) -> None:
        """Replace the file of `key`, whole or not at all. Call it under `writing`."""
        write(self._file(key), _KIND, STATE_VERSION, {"key": list(key), **content})

    def digest(self) -> str:
        """A hash of everything in the folder: the same when the same was learned."""
        whole = hashlib.blake2b(digest_size=8)
        for path in sorted(self.path.glob("*.json")):
            try:
                whole.update(path.name.encode() + b"\0" + path.read_bytes())
            except OSError as error:
                raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        return whole.hexdigest()

    def begin_anew(self, estimator: str, served_model: str | None = None) -> list[Path]:
        """Take away what was learned of an estimator's errors, which has others from now on: under any
        tokenizer, and for any model where none is given. Call it under `writing`.
        """
        model = quoted(served_model) if served_model is not None else "*"
        files = sorted(self.path.glob(f"{quoted(estimator)}.*.{model}.json"))
        for path in files:
            path.unlink(missing_ok=True)
        return files

    def _file(self, key: Key) -> Path:
        path = self._files.get(key)
        if path is None:
            path = self._files[key] = self.path / f"{'.'.join(map(quoted, key))}.json"
        return path
