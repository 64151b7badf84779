"""Which completions were learned, so that none is learned twice and the rest of a run still may be.

A run may come in parts, each in a call of its own: its log was rotated, or it was resumed. Of the LATEST
completions the ids are kept, whichever runs they are of. What ended no later than one whose id is not kept
counts as learned: parts come in order of `finished_s`, as `run` writes them, but for LATEST completions. So
what is kept is bounded, nothing that has a run_id is learned twice, and what comes later still is lost.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

LATEST = 1000  # ids that are kept
IN_HAND = 100_000  # that are known while a call goes on: `tail -F` begins a file that was replaced again


class KnownRuns:
    """Runs by name, and how many completions of each were learned; of one without a name nothing is known.

    A run of which only the number is known, as an older driftkit has left it, is known to its end.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts = dict(counts or {})
        self._past_s = dict.fromkeys(self.counts, math.inf)  # what is known by time alone
        self._until_s: dict[str, float] = {}  # the same, and what the next call will know so
        self._latest: OrderedDict[tuple[str, str], float] = OrderedDict()  # and when each ended
        self._in_hand: OrderedDict[tuple[str, str], float] = OrderedDict()

    def remembers(self, run: str, name: str) -> bool:
        """Whether the completion of that id was learned."""
        return (run, name) in self._latest or (run, name) in self._in_hand

    def is_past(self, run: str, ended_s: float) -> bool:
        """Whether what ended then counts as learned: no later than what is no longer known by its id."""
        return run in self._past_s and ended_s <= self._past_s[run]

    def add(self, run: str, name: str, ended_s: float) -> None:
        """Note that a completion was learned."""
        if not run:
            return
        self.counts[run] = self.counts.get(run, 0) + 1
        self._latest[run, name] = ended_s
        if self._past_s.get(run) == math.inf:
            self._pass(run, ended_s)
        if len(self._latest) > LATEST:
            key, passed_s = self._latest.popitem(last=False)
            self._pass(key[0], passed_s)
            self._in_hand[key] = passed_s
            if len(self._in_hand) > IN_HAND:
                (run, _), passed_s = self._in_hand.popitem(last=False)
                self._past_s[run] = max(passed_s, self._past_s.get(run, passed_s))

    def _pass(self, run: str, ended_s: float) -> None:
        self._until_s[run] = max(ended_s, self._until_s.get(run, ended_s))

    def to_json(self) -> dict[str, Any]:
        latest = [[run, name, ended_s] for (run, name), ended_s in self._latest.items()]
        return {"runs": self.counts, "learned_until_s": self._until_s, "latest": latest}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> KnownRuns:
        """Restore what `to_json` gave; KeyError, ValueError, TypeError or AttributeError when it is something
        else."""
        known = cls({str(run): int(count) for run, count in state["runs"].items()})
        for run, name, ended_s in state.get("latest", []):
            known._latest[run, name] = float(ended_s)
            known._past_s.pop(run, None)
        for run, ended_s in state.get("learned_until_s", {}).items():
            known._past_s[run] = known._until_s[run] = float(ended_s)
        for run, count in Counter(run for run, _ in known._latest).items():
            if count > known.counts[run]:
                raise ValueError(f"more ids of run {run} than were learned")
        return known
