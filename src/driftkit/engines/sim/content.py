"""Which of a request's tokens others have too: names for the KV blocks of its prompt.

`prefix_hashes` names the beginning of a prompt, in blocks of `prefix_block_tokens`; a hash stands for its
tokens and all before them. A `session` is a conversation: a prompt at least as long as everything said before
is taken to begin with it, and with the answers, which no hash names.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from driftkit.records.schema import Record


@dataclass(slots=True, eq=False)
class Conversation:
    """What has been said in a session: `tokens` so far."""

    tokens: int = 0

    def name(self, block: int) -> Hashable:
        return (self, block)


@dataclass(slots=True)
class Contents:
    """Names the content of requests, in order of submission, for KV blocks of `block_size` tokens."""

    block_size: int
    _sessions: dict[str, Conversation] = field(default_factory=dict)

    def shared(self, record: Record, prompt_tokens: int) -> tuple[list[Hashable], Conversation | None]:
        """Names of the prompt's full blocks that others may have, from the first; and its conversation."""
        names: list[Hashable] = []
        hashes = record.get("prefix_hashes")
        if hashes:
            per_hash = record["prefix_block_tokens"]
            tokens = min(len(hashes) * per_hash, prompt_tokens)
            for end in range(self.block_size, tokens + 1, self.block_size):
                place, offset = divmod(end - 1, per_hash)
                names.append((hashes[place], place, offset))
        session = record.get("session")
        if session is None:
            return names, None
        conversation = self._sessions.get(session)
        if conversation is None or prompt_tokens < conversation.tokens:
            conversation = self._sessions[session] = Conversation()
        conversation.tokens = prompt_tokens
        full = prompt_tokens // self.block_size
        names.extend(conversation.name(block) for block in range(len(names), full))
        return names, conversation
