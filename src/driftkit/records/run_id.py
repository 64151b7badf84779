"""A run's name: the same for the same input and options, so that learning a run twice can be noticed."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from driftkit.records.schema import Record


class RunId:
    """Digests the options of a run, then its records in input order."""

    def __init__(self, *options: Any) -> None:
        self._hash = hashlib.blake2b(repr(options).encode(), digest_size=6)

    def add(self, record: Record) -> None:
        self._hash.update(orjson.dumps(record))

    def value(self) -> str:
        return "run-" + self._hash.hexdigest()
