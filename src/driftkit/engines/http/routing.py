"""Which of several replicas a request goes to, told only how many requests each has in flight.

A replica that is out of service has infinitely many in flight, and gets nothing while another is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from driftkit import rng
from driftkit.records.schema import Record

BEGINNING_TOKENS = 128  # how much of a prompt counts as its beginning
BEGINNING_CHARACTERS = 512  # about the same, in English


class Router(Protocol):
    """Made with the number of replicas and the seed."""

    def choose(self, record: Record, in_flight: Sequence[float]) -> int:
        """The replica that a request goes to now; `in_flight` has a number for each."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self, replicas: int, seed: int) -> None:
        self._next = 0

    def choose(self, record: Record, in_flight: Sequence[float]) -> int:
        replicas = len(in_flight)
        chosen = min(in_service(in_flight), key=lambda replica: (replica - self._next) % replicas)
        self._next = (chosen + 1) % replicas
        return chosen


class LeastLoaded:
    """Where the fewest are in flight; of those, where the fewest have been sent."""

    def __init__(self, replicas: int, seed: int) -> None:
        self._sent = [0] * replicas

    def choose(self, record: Record, in_flight: Sequence[float]) -> int:
        sent = self._sent
        chosen = min(in_service(in_flight), key=lambda replica: (in_flight[replica], sent[replica]))
        sent[chosen] += 1
        return chosen


class TwoChoices:
    """The less loaded of two drawn at random: nearly as even as asking all, and no herd runs to one.

    With n requests on n replicas the fullest has about log log n, where one choice gives log n / log log n
    (Azar et al., Balanced Allocations, 1999; Mitzenmacher 2001).
    """

    def __init__(self, replicas: int, seed: int) -> None:
        self._stream = rng.stream(seed, "routing")

    def choose(self, record: Record, in_flight: Sequence[float]) -> int:
        drawn = int(self._stream.random() * 2**53)  # all its bits
        return _less_loaded(_two_of(in_service(in_flight), drawn), in_flight)


class PrefixAffinity:
    """The less loaded of two that the hash of the prompt's beginning names (DualMap, arXiv 2602.06502).

    A beginning is in two caches, and a popular one is not one replica's burden alone. Equally loaded, the
    first of the two is taken. Where both are out of service, the least loaded of all.
    """

    def __init__(self, replicas: int, seed: int) -> None:
        self._seed = seed

    def choose(self, record: Record, in_flight: Sequence[float]) -> int:
        usable = in_service(in_flight)
        # of all replicas, so that one which leaves moves nobody else's prompts
        named = _two_of(range(len(in_flight)), rng.keyed(self._seed, "routing", beginning(record)))
        return _less_loaded([replica for replica in named if replica in usable] or usable, in_flight)


ROUTERS: dict[str, Callable[[int, int], Router]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "two-choices": TwoChoices,
    "prefix-affinity": PrefixAffinity,
}


def in_service(in_flight: Sequence[float]) -> Sequence[int]:
    """The replicas that may be sent to: all of them when none is in service, for one must be tried."""
    usable = [replica for replica, load in enumerate(in_flight) if load < math.inf]
    return usable or range(len(in_flight))


def beginning(record: Record) -> str:
    """What names the beginning of a prompt: its hashed blocks, its session, its text, else the id."""
    if hashes := record.get("prefix_hashes"):
        blocks = max(1, BEGINNING_TOKENS // record["prefix_block_tokens"])
        return str(hashes[:blocks][-1])  # a block's hash stands for all before it
    if (session := record.get("session")) is not None:
        return str(session)
    text = record.get("prompt") or _rendered(record.get("messages") or [])
    return text[:BEGINNING_CHARACTERS] or str(record["id"])


def _rendered(messages: list[Any]) -> str:
    """Roles and contents, as far as they are the beginning; not what a server's template makes of them."""
    text = ""
    for message in messages:
        text += str(message)
        if len(text) >= BEGINNING_CHARACTERS:
            break
    return text


def _two_of(replicas: Sequence[int], number: int) -> list[int]:
    """Two different replicas, in order, that a large uniform number picks; the only one if there is one."""
    others = len(replicas) - 1
    if not others:
        return [replicas[0]]
    first, second = divmod(number % (len(replicas) * others), others)
    return [replicas[first], replicas[second + (second >= first)]]


def _less_loaded(replicas: Sequence[int], in_flight: Sequence[float]) -> int:
    return min(replicas, key=in_flight.__getitem__)
