"""`--manifest FILE`: what was called, with what, on which input, so that a result can be had again."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from driftkit import __version__
from driftkit.records.io import Source
from driftkit.records.schema import SCHEMA

#: packages that a result may depend on
PACKAGES = ("click", "numpy", "orjson", "scipy", "tiktoken")


class Manifest:
    """Digests what a command reads and writes while it does; `write` leaves it all in a file, as JSON.

    `options` are the values that the options have in the end, wherever they come from.
    """

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self._path = Path(path)
        self._options = options
        self._started = time.time()
        self._inputs: list[_Digest] = []
        self._output: _Digest | None = None

    def reading(self, sources: Iterable[Source]) -> list[Source]:
        """The sources, digested (unpacked, where they are gzipped) as they are read."""
        watched: list[Source] = []
        for name, lines in sources:
            if name == os.devnull:  # a folder, whose files are opened by who reads them
                watched.append((name, lines))
                continue
            digest = _Digest(name)
            self._inputs.append(digest)
            watched.append((name, _watched(lines, digest)))
        return watched

    def writing(self, stream: IO[bytes], name: str = "<stdout>") -> IO[bytes]:
        """The stream, digested as it is written."""
        self._output = _Digest(name)
        return _Watched(stream, self._output)  # type: ignore[return-value]

    def write(self, argv: list[str], status: int) -> None:
        import orjson

        document = {
            "kind": "manifest",
            "schema": SCHEMA,
            "argv": argv,
            "options": self._options,
            "exit_status": status,
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "duration_s": round(time.time() - self._started, 3),
            "versions": {"driftkit": __version__, "python": sys.version.split()[0], **_versions()},
            "inputs": [digest.told() for digest in self._inputs],
            "output": self._output.told() if self._output is not None else None,
        }
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class _Digest:
    def __init__(self, name: str) -> None:
        self._name = name
        self._bytes = 0
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self._bytes += len(data)
        self._hash.update(data)

    def told(self) -> dict[str, Any]:
        return {"name": self._name, "bytes": self._bytes, "sha256": self._hash.hexdigest()}


class _Watched:
    """A binary stream as far as records.io.Writer uses one."""

    def __init__(self, stream: IO[bytes], digest: _Digest) -> None:
        self._stream = stream
        self._digest = digest
        self.flush = stream.flush
        self.isatty = stream.isatty

    def write(self, data: bytes) -> int:
        self._digest.add(data)
        return self._stream.write(data)


def _watched(lines: Iterable[bytes], digest: _Digest) -> Iterator[bytes]:
    for line in lines:
        digest.add(line)
        yield line


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
