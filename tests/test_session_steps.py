"""Conversations on the grouped scheduler and on the plain one, step by step, a turn at a time."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

from driftkit.engines.sim.kv_cache import KVCache
from driftkit.engines.sim.scheduler import Limits, Scheduler, Sequence
from driftkit.records.job import Job
from reference_scheduler import Reference, Request, Step


class Talk:
    """What a session has said, as `Contents` takes it: a prompt shorter than that begins anew."""

    def __init__(self) -> None:
        self.started = 0
        self.tokens = 0
        self.turn: str | None = None

    def ask(self, prompt: int) -> int:
        if prompt < self.tokens:
            self.started += 1
        self.tokens = prompt
        return self.started


# in the first few of these a request was preempted with its last token in flight, at the end of a block
@pytest.mark.parametrize("seed", [1727, 3222, 9651, 22214, 22502, *range(60)])
def test_turns_find_what_the_turns_before_left(seed: int) -> None:
    draw = random.Random(seed)
    limits = Limits(
        *(draw.choice([12, 40, 100]), draw.randint(2, 6), draw.choice([17, 20, 26, 40]), 4, 64),
        *(draw.choice([0, 0, 7]), True, draw.random() < 0.5, draw.choice([0, 0.07]), draw.random() < 0.5),
    )
    by_priority = draw.random() < 0.5
    grouped, plain = Scheduler(limits, by_priority=by_priority), Reference(limits, by_priority)
    talks = {name: Talk() for name in "abc"}
    sequences: dict[str, Sequence] = {}
    in_flight: list[Step] = []
    depth = 2 if limits.async_scheduling else 1
    asked, turns = 0, draw.randint(5, 25)
    while asked < turns or grouped.busy or in_flight:
        while asked < turns and draw.random() < 0.4:
            name = draw.choice("abc")
            talk = talks[name]
            if talk.turn is not None:
                break
            prompt = min(50, talk.tokens + draw.randint(0, 8)) if draw.random() < 0.8 else draw.randint(1, 40)
            prompt = max(1, prompt)
            output = min(draw.randint(1, 20), limits.max_model_len - prompt)
            stops_by = (
                "length" if prompt + output == limits.max_model_len else draw.choice(["stop", "length"])
            )
            talk.turn = turn = f"r{asked}"
            said: Hashable = (name, talk.ask(prompt))
            priority = draw.randint(0, 2) if by_priority else 0
            job = Job({"id": turn, "session": name}, asked, float(asked), prompt, output, priority)
            job.finish_reason = stops_by
            sequences[turn] = Sequence(job, float(asked))
            grouped.submit(sequences[turn])
            content = [(said, block) for block in range(limits.max_model_len // 4 + 1)]
            plain.add(Request(turn, prompt, output, priority, float(asked), asked, stops_by, content))
            asked += 1
        if plain.running or plain.waiting:
            load, step = grouped.schedule(0.0), plain.plan()
            assert load.tokens == sum(step.scheduled.values())
            assert load.sequences == len(step.scheduled)
            assert [s.job.record["id"] for s in grouped.running.values()] == [r.name for r in plain.running]
            assert [grouped.computed(s) for s in grouped.running.values()] == [
                r.computed for r in plain.running
            ]
            assert (grouped.cache.free, len(grouped.queue)) == (plain.free, len(plain.waiting))
            if step.scheduled:
                in_flight.append(step)
                if len(in_flight) < depth:
                    continue
        if in_flight:
            ended = [request.name for request in plain.update(in_flight.pop(0))]
            assert [s.job.record["id"] for s in grouped.update()] == ended
            for talk in talks.values():
                if talk.turn in ended:
                    talk.tokens = max(talk.tokens, sequences[talk.turn].last)
                    talk.turn = None


def test_what_is_kept_of_free_blocks_does_not_grow_with_the_requests() -> None:
    """A prefix that is hit for ever, on a cache that never runs short: nothing is taken from the list."""
    cache = KVCache(100)
    cache.free -= 20
    blocks = [cache.add(place) for place in range(20)]
    for _ in range(1000):
        cache.release_shared(blocks)
        assert cache.free == 100
        assert cache.find(range(20), None) == blocks
        cache.hold(blocks)
        assert cache.free == 80
    assert len(cache._holes) + len(cache._shared_free) < 600
    cache.release_shared(blocks)
    cache.free -= 90  # the others first, then ten of the prefix, from its end
    assert cache.find(range(20), None) == blocks[:10]
