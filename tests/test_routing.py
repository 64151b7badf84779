"""Which replica a request goes to: cases by hand, what holds of any loads, and how even it gets."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftkit import rng
from driftkit.engines.http.routing import ROUTERS, Router, beginning


def request(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "arrival_s": 0.0, **fields}


def chosen(router: Router, loads: list[list[float]]) -> list[int]:
    return [router.choose(request(f"r{number}"), load) for number, load in enumerate(loads)]


# --- cases by hand ---------------------------------------------------------------------------------


def test_round_robin_takes_turns_and_passes_over_what_is_out_of_service() -> None:
    router = ROUTERS["round-robin"](3, 0)
    assert chosen(router, [[9, 0, 0]] * 4) == [0, 1, 2, 0]
    assert chosen(router, [[0, math.inf, 0]] * 3) == [2, 0, 2]
    assert chosen(router, [[0, 0, 0]] * 2) == [0, 1]


def test_least_loaded_breaks_ties_by_what_was_sent_then_by_order() -> None:
    router = ROUTERS["least-loaded"](3, 0)
    assert chosen(router, [[2, 1, 3], [1, 1, 1], [1, 1, 1], [0, 0, 0], [4, math.inf, 9]]) == [1, 0, 2, 0, 0]


def test_two_choices_takes_the_less_loaded_and_never_the_most_loaded() -> None:
    picked = chosen(ROUTERS["two-choices"](4, 0), [[1, 2, 3, 4]] * 600)
    # of the six pairs three have 0 as the less loaded, two 1, one 2: 300, 200, 100; sd at most 12.3,
    # so that 62 (five of them) away has less than one chance in a million
    counts = [picked.count(replica) for replica in range(4)]
    assert [abs(count - mean) < 62 for count, mean in zip(counts, (300, 200, 100, 0), strict=True)] == [
        True
    ] * 4
    assert counts[3] == 0


def test_affinity_takes_the_first_of_its_two_until_that_has_more() -> None:
    router = ROUTERS["prefix-affinity"](5, 0)
    asked = request("a", session="s")
    idle = [0.0] * 5
    first = router.choose(asked, idle)
    second = router.choose(asked, [float(replica == first) for replica in range(5)])
    assert first != second
    both_out = [math.inf if replica in (first, second) else 5.0 for replica in range(5)]
    both_out[3 if 3 not in (first, second) else 4] = 2.0
    assert both_out[router.choose(asked, both_out)] == 2.0
    assert router.choose(asked, [math.inf] * 5) == first


# --- what a prompt's beginning is ------------------------------------------------------------------

LONG = "You are a helpful assistant. " * 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # 8 blocks of 16 tokens, or one of 512, are the beginning
        ({"prefix_hashes": [*range(8), 9], "prefix_block_tokens": 16},
         {"prefix_hashes": [*range(8), 10], "prefix_block_tokens": 16}),
        ({"prefix_hashes": [7, 1], "prefix_block_tokens": 512},
         {"prefix_hashes": [7, 2], "prefix_block_tokens": 512}),
        ({"session": "s", "prompt": "a"}, {"session": "s", "prompt": "b"}),
        ({"prompt": LONG + "a"}, {"prompt": LONG + "b"}),
        ({"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "a"}]},
         {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "b"}]}),
    ],
)  # fmt: skip
def test_the_same_beginning(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert beginning(request("1", **one)) == beginning(request("2", **other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prefix_hashes": [1, 2], "prefix_block_tokens": 16},
         {"prefix_hashes": [1, 3], "prefix_block_tokens": 16}),
        ({"prefix_hashes": [1], "prefix_block_tokens": 16, "session": "s"}, {"session": "s"}),
        ({"session": "s", "prompt": "a"}, {"session": "t", "prompt": "a"}),
        ({"prompt": "a"}, {"prompt": "b"}),
        ({"messages": [{"role": "user", "content": "a"}]},
         {"messages": [{"role": "system", "content": "a"}]}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
         {"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]}),
        ({}, {}),  # nothing but the id
        ({"prompt": ""}, {"messages": []}),
    ],
)  # fmt: skip
def test_another_beginning(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert beginning(request("1", **one)) != beginning(request("2", **other))


# --- what holds of any loads -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUTERS)
@given(st.data())
def test_the_choice_is_in_service_if_any_is_and_the_seed_decides_it(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32))
    replicas = data.draw(st.integers(1, 6))
    load = st.integers(0, 3) | st.just(math.inf)
    loads = data.draw(st.lists(st.lists(load, min_size=replicas, max_size=replicas), max_size=8))
    picked = chosen(ROUTERS[name](replicas, seed), loads)
    assert all(0 <= replica < replicas for replica in picked)
    for replica, load_then in zip(picked, loads, strict=True):
        assert load_then[replica] < math.inf or set(load_then) == {math.inf}
    assert chosen(ROUTERS[name](replicas, seed), loads) == picked


@given(st.data(), st.text(min_size=1), st.integers(0, 2**32))
def test_a_beginning_goes_to_two_replicas_only(data: st.DataObject, session: str, seed: int) -> None:
    """Whatever their loads, and one of the two when the other is out of service."""
    replicas = data.draw(st.integers(2, 6))
    router = ROUTERS["prefix-affinity"](replicas, seed)
    finite = st.lists(st.integers(0, 3), min_size=replicas, max_size=replicas)
    seen = {router.choose(request(f"{n}", session=session), data.draw(finite)) for n in range(8)}
    idle = [0.0] * replicas
    first = router.choose(request("a", session=session), idle)
    idle[first] = math.inf
    assert seen <= {first, router.choose(request("b", session=session), idle)}


def test_another_seed_names_other_replicas() -> None:
    idle = [0.0] * 64
    first, second = (ROUTERS["prefix-affinity"](64, seed) for seed in (0, 1))
    asked = [request(f"{number}") for number in range(100)]
    assert [first.choose(one, idle) for one in asked] != [second.choose(one, idle) for one in asked]


# --- how even it gets ------------------------------------------------------------------------------


def excess(router: Router, replicas: int, requests: int) -> float:
    """By how many the fullest is above the mean when nothing ends and every prompt begins differently."""
    loads = [0.0] * replicas
    for number in range(requests):
        loads[router.choose(request(f"{number}"), loads)] += 1
    return max(loads) - requests / replicas


@pytest.mark.parametrize("name", ["two-choices", "prefix-affinity"])
def test_two_choices_are_far_more_even_than_one(name: str) -> None:
    """100 requests a replica: one choice is off by its standard deviations, about sqrt(2 * 100 * ln 50) = 28;
    two by ln ln 50 / ln 2 = 2 and a constant, however many come (Berenbrink et al. 2000)."""
    replicas, requests = 50, 5000
    at_random = [0] * replicas
    for u in rng.stream(0, "test").random(requests):
        at_random[int(u * replicas)] += 1
    assert max(at_random) - requests / replicas > 15
    assert excess(ROUTERS[name](replicas, 0), replicas, requests) <= 5


@pytest.mark.parametrize("name", ["round-robin", "least-loaded"])
def test_those_who_ask_all_are_even(name: str) -> None:
    assert excess(ROUTERS[name](7, 0), 7, 700) == 0
