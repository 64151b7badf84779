"""Token ids for a prompt of which only the length is known, and what it shares with others.

They are drawn from 100 to 999, which are plain tokens of any real vocabulary. Two prompts have the same ids
where `prefix_hashes` or `session` say that they are the same, and elsewhere only by chance: full KV blocks,
which take 16 tokens in a row at least, are then shared by a server's prefix cache as they were in the trace.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from driftkit.records.schema import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST_ID, IDS = 100, 900


def token_ids(record: Record) -> list[int]:
    """`prompt_tokens` ids that depend on the record alone.

    A block that `prefix_hashes` names has the same ids wherever that hash stands. What follows belongs to the
    session, and is longer in a later turn but begins the same; without a session, to the request's id. (What
    the model answered is not known here: a later turn has other tokens in its place.)
    """
    import numpy as np

    length: int = record["prompt_tokens"]
    hashes = record.get("prefix_hashes") or []
    per_hash = record.get("prefix_block_tokens") or 1
    hashes = hashes[: -(-length // per_hash)]
    named = min(length, len(hashes) * per_hash)
    session = record.get("session")
    owner = _key("id", record["id"]) if session is None else _key("session", session)
    blocks = np.array([_key("hash", name) for name in hashes], dtype=np.uint64)
    within = np.arange(per_hash, dtype=np.uint64)
    own = np.arange(named, length, dtype=np.uint64)
    words = np.concatenate(
        [_mixed(blocks[:, None], within[None, :]).ravel()[:named], _mixed(np.uint64(owner), own)]
    )
    ids: list[int] = (words % np.uint64(IDS) + np.uint64(FIRST_ID)).tolist()
    return ids


def _key(kind: str, name: object) -> int:
    """64 bits for one of the texts; a number and its digits are two names."""
    return int.from_bytes(hashlib.blake2b(f"{kind}\0{name!r}".encode(), digest_size=8).digest(), "little")


def _mixed(key: NDArray[np.uint64] | np.uint64, place: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers `place` of the stream that starts at `key`: SplitMix64 (Steele, Lea and Flood 2014)."""
    import numpy as np

    word = key + (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
