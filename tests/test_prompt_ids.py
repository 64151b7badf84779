"""Ids for prompts of which only the length is known: what is shared is equal, all else differs."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from driftkit.engines.prompt_ids import token_ids


def ids(name: str, tokens: int, **fields: Any) -> list[int]:
    return token_ids({"id": name, "arrival_s": 0.0, "prompt_tokens": tokens, **fields})


def test_they_are_those_of_the_record_for_ever() -> None:
    assert ids("a", 5) == [426, 121, 755, 325, 506]
    assert ids("a", 4, prefix_hashes=[7], prefix_block_tokens=2, session="s") == [735, 261, 929, 280]


@given(st.integers(1, 3000), st.lists(st.integers() | st.text(), max_size=8), st.integers(1, 600), st.text())
def test_as_many_as_asked_for_within_any_vocabulary(
    tokens: int, hashes: list[int | str], per_hash: int, session: str
) -> None:
    found = ids("a", tokens, prefix_hashes=hashes, prefix_block_tokens=per_hash, session=session)
    assert len(found) == tokens
    assert all(type(token) is int and 100 <= token < 1000 for token in found)
    assert found == ids("b", tokens, prefix_hashes=hashes, prefix_block_tokens=per_hash, session=session)


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_session_only_grows(shorter: int, longer: int) -> None:
    shorter, longer = sorted([shorter, longer])
    assert ids("turn 2", longer, session="s")[:shorter] == ids("turn 1", shorter, session="s")


def test_a_hash_has_its_tokens_wherever_it_stands_and_the_rest_is_the_requests() -> None:
    first = ids("a", 100, prefix_hashes=[7, 8], prefix_block_tokens=32)
    second = ids("b", 70, prefix_hashes=["other", 8, 9], prefix_block_tokens=32)
    assert first[32:64] == second[32:64]
    assert first[:32] != second[:32]
    assert first[64:70] != second[64:70]
    # a digit and its text are two names, and so are an id and a session of the same name
    assert len({tuple(ids("a", 16, prefix_hashes=[name], prefix_block_tokens=16)) for name in (7, "7")}) == 2
    assert ids("a", 16) != ids("b", 16, session="a")


def test_no_two_requests_share_a_block_by_chance() -> None:
    """16 ids out of 900 at random: 900**-16 for each of the 5 * 10**7 pairs."""
    blocks = {tuple(ids(f"r{number}", 16)) for number in range(10_000)}
    assert len(blocks) == 10_000


def test_ids_are_spread_evenly() -> None:
    """Chi-square of 900 cells over 90,000 draws: 899 degrees of freedom, above 1,100 once in 10**5."""
    counts = [0] * 900
    for token in ids("a", 90_000):
        counts[token - 100] += 1
    assert sum((count - 100) ** 2 / 100 for count in counts) < 1100
