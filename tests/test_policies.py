"""Each policy by cases that can be checked by hand, and against the paper's own words by random ones."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftkit.errors import UsageError
from driftkit.policies.aging import Aging
from driftkit.policies.base import Policy, StaticPolicy, build, describe, parse, split_knobs
from driftkit.policies.fifo import Fifo
from driftkit.policies.oracle_sjf import OracleSjf
from driftkit.policies.priority import Priority
from driftkit.policies.random import Random
from driftkit.policies.sjf import Sjf
from driftkit.policies.weighted import Weighted
from driftkit.records.job import Job
from driftkit.registry import names

TIERS = {"premium": (1, 5), "standard": (2, 3), "batch": (3, 2)}  # level, picks per cycle (the paper's)


def request(name: str, arrival: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"id": name, "arrival_s": arrival, **fields}


def of_tier(name: str, tier: str, arrival: float = 0.0) -> dict[str, Any]:
    level, weight = TIERS[tier]
    return request(name, arrival, tier=tier, tier_level=level, weight=weight)


def jobs_of(policy: Policy, records: list[dict[str, Any]]) -> list[Job]:
    """The records, in order of arrival, as jobs with the priority that `schedule` would give them."""
    jobs = []
    for order, record in enumerate(records):
        priority = policy.key(record) if isinstance(policy, StaticPolicy) else 0
        job = Job(record, order, record["arrival_s"], prompt_tokens=1, priority=priority)
        job.offered_s = job.arrival_s
        jobs.append(job)
    return jobs


def served(policy: Policy, records: list[dict[str, Any]]) -> str:
    """The ids in the order in which a queue that holds all of them gives them out."""
    queue = policy.queue()
    for job in jobs_of(policy, records):
        queue.push(job, job.offered_s)
    order = [queue.pop(100.0).record["id"] for _ in records]
    assert len(queue) == 0
    return " ".join(order)


# --- the order that each policy gives -------------------------------------------------------------

MIXED = [
    of_tier("b0", "batch", 0.0),
    of_tier("s1", "standard", 1.0),
    of_tier("p2", "premium", 2.0),
    of_tier("b3", "batch", 3.0),
    of_tier("p4", "premium", 4.0),
]


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        (Fifo(), "b0 s1 p2 b3 p4"),
        (Priority(), "p2 p4 s1 b0 b3"),
        # level - 0.01 * waited at t = 100: b0 2.00, s1 1.01, p2 0.02, b3 2.03, p4 0.04
        (Aging(rate=0.01), "p2 p4 s1 b0 b3"),
        # a tier is worth 1 s; level + arrival: b0 3, s1 3, p2 3, p4 5, b3 6; ties by arrival
        (Aging(rate=1.0), "b0 s1 p2 p4 b3"),
        # a tier is worth 10 ms: as good as fifo
        (Aging(rate=100.0), "b0 s1 p2 b3 p4"),
    ],
)
def test_tiers_and_arrivals(policy: Policy, order: str) -> None:
    assert served(policy, MIXED) == order


@pytest.mark.parametrize(
    ("policy", "record", "key"),
    [
        (Fifo(), request("r", 12.5, tier_level=3), 0),
        (Priority(), request("r", 12.5, tier_level=3), 3),
        (Sjf(), request("r", est_total_tokens=321), 321),
        # 2 levels / 0.01 per second = 200 s, + 12.5 s, in microseconds
        (Aging(), request("r", 12.5, tier_level=2), 212_500_000),
        (Aging(rate=0.5), request("r", 0.000001, tier_level=1), 2_000_001),
        # prompt + min(true output, cap)
        (OracleSjf(), request("r", prompt_tokens=10, trace_output_tokens=300, max_tokens=64), 74),
        (OracleSjf(), request("r", prompt_tokens=10, trace_output_tokens=30, max_tokens=64), 40),
        (OracleSjf(), request("r", prompt_tokens=10, trace_output_tokens=300), 310),
        (OracleSjf(), request("r", prompt_tokens=10, trace_output_tokens=300, max_tokens=None), 310),
    ],
)
def test_keys(policy: StaticPolicy, record: dict[str, Any], key: int) -> None:
    assert policy.key(record) == key
    assert type(policy.key(record)) is int  # a float priority kills vLLM's input thread


def test_sjf_takes_the_smallest_budget_over_all_tiers_and_ties_by_arrival() -> None:
    budgets = {"a": 300, "b": 100, "c": 300, "d": 200, "e": 100}
    records = [request(name, t, est_total_tokens=n) for t, (name, n) in enumerate(budgets.items())]
    assert served(Sjf(), records) == "b e d a c"


def test_equal_keys_at_one_instant_keep_the_order_of_input() -> None:
    records = [request(f"r{i}", 1.0, est_total_tokens=7) for i in range(20)]
    assert served(Sjf(), records) == " ".join(f"r{i}" for i in range(20))


@pytest.mark.parametrize("policy", [Fifo(), Priority(), Sjf(), Aging(), Random(seed=3)])
def test_only_oracles_read_the_true_length(policy: StaticPolicy) -> None:
    record = of_tier("r", "standard", 5.0) | {"prompt_tokens": 3, "est_total_tokens": 9}
    keys = {policy.key({**record, "trace_output_tokens": true}) for true in (1, 500)}
    assert keys == {policy.key(record)}


def test_every_field_that_a_key_needs_is_in_reads() -> None:
    full = of_tier("r", "standard", 5.0)
    full |= {"prompt_tokens": 3, "est_total_tokens": 9, "trace_output_tokens": 4}
    for name in names("policies"):
        policy = parse(name)
        if isinstance(policy, StaticPolicy):
            assert policy.key({field: full[field] for field in policy.reads}) == policy.key(full)


# --- aging: one key for ever is the paper's argmin at every pick ----------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["0.001", "0.01", "0.05", "0.5", "2"]),
    st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(0, 4), st.booleans()), min_size=1, max_size=25),
)
def test_aging_is_the_smallest_level_less_rate_times_waited(
    rate: str, plan: list[tuple[int, int, bool]]
) -> None:
    """Gaps in microseconds; after an arrival marked True somebody is picked."""
    policy = Aging(rate=float(rate))
    queue = policy.queue()
    micros = 0
    records: list[dict[str, Any]] = []
    waiting: list[tuple[Job, int, int]] = []
    for gap, level, _ in plan:
        micros += gap
        records.append(request(f"r{len(records)}", micros / 1e6, tier_level=level))
    for job, (_, level, pick) in zip(jobs_of(policy, records), plan, strict=True):
        now = job.arrival_s
        queue.push(job, now)
        waiting.append((job, level, round(job.arrival_s * 1e6)))
        if pick:
            instant = round(now * 1e6)

            def paper(entry: tuple[Job, int, int], instant: int = instant) -> tuple[Fraction, int]:
                job, level, arrived = entry
                waited = Fraction(instant - arrived, 1_000_000)
                return level - Fraction(rate) * waited, job.order

            best = min(waiting, key=paper)
            waiting.remove(best)
            assert queue.pop(now) is best[0]
    assert len(queue) == len(waiting)


# --- weighted: the paper's cycle ------------------------------------------------------------------


class Cycle:
    """The paper's weighted policy, word by word: a list of turns and a place in it."""

    def __init__(self, weights: dict[str, int]) -> None:
        self.turns = [tier for tier, weight in weights.items() for _ in range(weight)]
        self.place = 0
        self.waiting: dict[str, deque[str]] = {tier: deque() for tier in weights}

    def pop(self) -> str:
        while True:
            tier = self.turns[self.place % len(self.turns)]
            self.place += 1
            if self.waiting[tier]:
                return self.waiting[tier].popleft()


def test_five_three_two_while_everybody_waits() -> None:
    records = [of_tier(f"{tier[0]}{i}", tier, float(i)) for i in range(10) for tier in TIERS]
    picks = served(Weighted(), records).split()
    assert "".join(name[0] for name in picks[:20]) == "pppppsssbb" * 2
    assert picks[:10] == ["p0", "p1", "p2", "p3", "p4", "s0", "s1", "s2", "b0", "b1"]
    # premium's ten are gone after two cycles, then its turn goes to standard: 3 and 2 until s6-s9 are gone
    assert "".join(name[0] for name in picks[20:]) == "sssbb" + "sbb" + "bb"


def test_an_empty_tiers_turn_goes_to_the_next_and_is_not_kept() -> None:
    queue = Weighted().queue()
    records = [of_tier(f"p{i}", "premium") for i in range(2)] + [of_tier(f"b{i}", "batch") for i in range(3)]
    records += [of_tier(f"p{i}", "premium") for i in range(2, 9)]
    jobs = jobs_of(Weighted(), records)
    for job in jobs[:5]:
        queue.push(job, 0.0)
    # premium has two of five picks' worth, nobody is standard, so batch's turn comes third
    assert [queue.pop(0.0).record["id"] for _ in range(3)] == ["p0", "p1", "b0"]
    for job in jobs[5:]:
        queue.push(job, 0.0)
    # the cycle stands in batch's turn: its second pick, then premium's five from the start of the cycle
    order = [queue.pop(0.0).record["id"] for _ in range(9)]
    assert order == ["b1", "p2", "p3", "p4", "p5", "p6", "b2", "p7", "p8"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=120),
)
def test_weighted_is_the_cycle_for_any_weights(weights: list[int], plan: list[int | None]) -> None:
    """A plan's number is an arrival in that tier, None a pick."""
    tiers = {f"tier{i}": weight for i, weight in enumerate(weights)}
    cycle, queue = Cycle(tiers), Weighted().queue()
    size = 0
    for number, step in enumerate(plan):
        if step is not None:
            tier = step % len(weights)
            record = request(f"r{number}", tier=f"tier{tier}", tier_level=tier, weight=weights[tier])
            cycle.waiting[f"tier{tier}"].append(record["id"])
            queue.push(Job(record, number, 0.0, prompt_tokens=1), 0.0)
            size += 1
        elif size:
            assert queue.pop(0.0).record["id"] == cycle.pop()
            size -= 1
        assert len(queue) == size


def test_weights_below_one_are_shares() -> None:
    """A half, three tenths, a fifth: multiples of the smallest, fractions carried over, in the end 5:3:2."""
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    records = [
        request(f"{tenant}{i}", tenant=tenant, weight=weight)
        for tenant, weight in weights.items()
        for i in range(100)
    ]
    picks = "".join(name[0] for name in served(Weighted(), records).split())
    for cycles in (10, 20, 40):
        counts = [picks[: 5 * cycles].count(tenant) for tenant in weights]
        expected = [5 * cycles * weight for weight in weights.values()]
        assert all(abs(n - m) <= 2.5 for n, m in zip(counts, expected, strict=True)), counts


def test_without_tiers_tenants_take_turns() -> None:
    records = [request(f"a{i}", tenant="a") for i in range(3)] + [request("b0", tenant="b", weight=None)]
    assert served(Weighted(), records) == "a0 b0 a1 a2"


# --- random ---------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 2**32))
def test_random_does_not_depend_on_what_else_is_there(order: list[int], seed: int) -> None:
    def picks(numbers: list[int]) -> list[str]:
        return served(Random(seed), [request(f"r{i}") for i in numbers]).split()

    assert picks(order) == picks(list(range(8)))
    without = [i for i in range(8) if i != order[0]]
    assert picks(without) == [name for name in picks(list(range(8))) if name != f"r{order[0]}"]


def test_random_depends_on_the_seed_and_favours_nobody() -> None:
    firsts = [served(Random(seed), [request("a"), request("b"), request("c")])[0] for seed in range(900)]
    # 900 draws of 1/3: 300 each, standard deviation sqrt(900 * 1/3 * 2/3) = 14; four of them
    assert all(abs(firsts.count(name) - 300) < 57 for name in "abc")


@pytest.mark.parametrize("name", ["", "r", "driftsched-0-000001", "ü" * 100])
def test_random_keys_are_integers_that_jq_can_hold(name: str) -> None:
    assert 0 <= Random(1).key(request(name)) < 2**53


# --- names and knobs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "described"),
    [
        ("fifo", "fifo"),
        ("priority", "priority"),
        ("weighted", "weighted"),
        ("sjf", "sjf"),
        ("oracle-sjf", "oracle-sjf"),
        ("aging", "aging:rate=0.01"),
        ("aging:rate=2", "aging:rate=2.0"),
        ("aging:rate=1e-6", "aging:rate=1e-06"),
        ("random", "random:seed=0"),
        ("random:seed=42", "random:seed=42"),
    ],
)
def test_a_spec_says_the_policy_with_its_knobs(spec: str, described: str) -> None:
    assert describe(parse(spec)) == described
    assert describe(parse(described)) == described


@pytest.mark.parametrize("name", names("policies"))
def test_every_policy_that_is_listed_can_be_built_by_its_name(name: str) -> None:
    policy = parse(name)
    assert policy.name == name
    assert policy.static == isinstance(policy, StaticPolicy)
    assert len(policy.queue()) == 0


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1e12), st.integers())
def test_knobs_survive_the_round_trip_exactly(rate: float, seed: int) -> None:
    aging, shuffled = parse(describe(Aging(rate))), parse(describe(Random(seed)))
    assert isinstance(aging, Aging)
    assert isinstance(shuffled, Random)
    assert (aging.rate, shuffled.seed) == (rate, seed)


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("sfj", "no policy named 'sfj'", "did you mean sjf?"),
        ("lottery", "no policy named 'lottery'", "known: fifo, priority"),
        ("fifo:rate=1", "policy fifo: no knob 'rate'", "it has none"),
        ("aging:rat=1", "policy aging: no knob 'rat'", "its knobs are rate"),
        ("aging:rate=soon", "rate: expected a number, got 'soon'", None),
        ("aging:rate=0", "rate: expected a number >= 0.000001, got 0", None),
        ("aging:rate=-1", "rate: expected a number >= 0.000001, got -1", None),
        ("aging:rate=nan", "rate: expected a number >= 0.000001, got nan", None),
        ("aging:rate=inf", "rate: expected a number >= 0.000001, got inf", None),
        ("aging:rate", "expected KNOB=VALUE, got 'rate'", None),
        ("aging:=1", "expected KNOB=VALUE, got '=1'", None),
        ("random:seed=1.5", "seed: expected an integer, got '1.5'", None),
    ],
)
def test_a_bad_spec_is_a_usage_error_that_names_it(spec: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse(spec)
    assert message in caught.value.message
    assert hint is None or (caught.value.hint is not None and hint in caught.value.hint)
    assert caught.value.exit_code == 2


def test_knobs_come_as_the_command_line_gives_them() -> None:
    assert split_knobs(["rate=0.5", "name=a=b"]) == {"rate": "0.5", "name": "a=b"}
    assert describe(build("aging", {"rate": "0.5"})) == "aging:rate=0.5"
