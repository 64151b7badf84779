"""Named random streams: drawing more of one thing never shifts another.

Only `Generator.random` is used anywhere (inverse transforms do the rest), because numpy keeps the bit
streams of PCG64 stable across versions but not the methods built on them (NEP 19).
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_EIGHT_WORDS = struct.Struct("<8Q").unpack


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of the stream `name` under `seed` (any integer >= 0)."""
    import numpy as np

    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def keyed(seed: int, name: str, key: str) -> int:
    """A 52-bit integer that depends on `seed`, `name` and `key` alone, not on what was drawn before.

    52 bits keep it exact in jq and spreadsheets, which hold numbers as doubles.
    """
    text = f"{seed}\0{name}\0{key}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 12


def uniforms(seed: int, name: str, index: int) -> tuple[float, ...]:
    """Eight uniforms in [0, 1): those at place `index` of the stream `name` under `seed`.

    Any place can be drawn without the ones before it and without a generator that remembers, so that a
    million streams cost no memory.
    """
    digest = hashlib.blake2b(f"{seed}\0{name}\0{index}".encode(), digest_size=64).digest()
    return tuple([(word >> 11) * 2.0**-53 for word in _EIGHT_WORDS(digest)])
