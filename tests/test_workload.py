"""Made and recorded workloads: the paper's figures with tolerances from theory, traces to the digit."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist, fmean, pstdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftkit import rng
from driftkit.errors import UsageError
from driftkit.workload import generate, presets, spec
from driftkit.workload.lengths import LengthModel, Lognormal, Mixture, Words

Record = dict[str, Any]
LARGE = 30_000  # a phase of 10,000 and one of 20,000: several chunks of random numbers each
CAPS = {"short_qa": 64, "summary": 256, "technical": 384, "report": 512}
MIXES = {
    "learning": {"short_qa": 0.40, "summary": 0.25, "technical": 0.25, "report": 0.10},
    "stress": {"short_qa": 0.10, "summary": 0.20, "technical": 0.40, "report": 0.30},
}
GAPS = {"learning": (0.05, 0.15), "stress": (0.005, 0.03)}


def driftsched(total: int, seed: int, lengths: str | None = None, scale: float = 1.0) -> list[Record]:
    return list(generate.requests(spec.read(presets.text("driftsched"), lengths, scale), seed, total))


def named(name: str) -> LengthModel:
    """The preset's length model of that name."""
    output = spec.read(presets.text("driftsched"), name).settings.output
    assert output is not None
    return output


@functools.cache
def workload(total: int = LARGE, seed: int = 0) -> tuple[Record, ...]:
    return tuple(driftsched(total, seed))


def phase(name: str) -> list[Record]:
    return [record for record in workload() if record["phase"] == name]


def assert_shares(found: Counter[str], expected: dict[str, float]) -> None:
    """Each count within four standard deviations of a binomial."""
    n = found.total()
    assert set(found) == set(expected)
    for name, share in expected.items():
        assert abs(found[name] - n * share) < 4 * math.sqrt(n * share * (1 - share))


# --- the paper's workload -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["learning", "stress"])
def test_categories_come_in_the_phases_mix(name: str) -> None:
    assert_shares(Counter(record["category"] for record in phase(name)), MIXES[name])


@pytest.mark.parametrize("name", ["learning", "stress"])
def test_gaps_are_uniform_between_the_phases_bounds(name: str) -> None:
    low, high = GAPS[name]
    arrivals = [record["arrival_s"] for record in phase(name)]
    gaps = [b - a for a, b in pairwise(arrivals)]
    rounding = 1.1e-6  # arrivals are written in whole microseconds
    assert low - rounding < min(gaps)
    assert max(gaps) < high + rounding
    # of a uniform: mean the middle, standard deviation (high - low) / sqrt(12), and no clipping at the ends
    sigma = (high - low) / math.sqrt(12)
    assert abs(fmean(gaps) - (low + high) / 2) < 4 * sigma / math.sqrt(len(gaps))
    assert pstdev(gaps) == pytest.approx(sigma, rel=0.02)
    lowest_tenth = sum(gap < low + (high - low) / 10 for gap in gaps) / len(gaps)
    assert abs(lowest_tenth - 0.1) < 4 * math.sqrt(0.1 * 0.9 / len(gaps))


def test_tenants_are_picked_alike_each_in_its_tier() -> None:
    counts = Counter(record["tenant"] for record in workload())
    assert_shares(counts, {"tenant-premium": 1 / 3, "tenant-standard": 1 / 3, "tenant-batch": 1 / 3})
    found = {(r["tenant"], r["tier"], r["tier_level"], r["weight"]) for r in workload()}
    assert found == {
        ("tenant-premium", "premium", 1, 5),
        ("tenant-standard", "standard", 2, 3),
        ("tenant-batch", "batch", 3, 2),
    }
    # and alike in every category: nothing couples who sends with what is sent
    cells = Counter(f"{record['tenant']} {record['category']}" for record in phase("stress"))
    assert_shares(cells, {f"{t} {c}": share / 3 for t in counts for c, share in MIXES["stress"].items()})


def test_every_request_carries_what_the_paper_sends() -> None:
    for number, record in enumerate(workload(), start=1):
        assert record["id"] == f"driftsched-0-{number:06d}"
        assert record["max_tokens"] == CAPS[record["category"]]
        assert 1 <= record["trace_output_tokens"] <= record["max_tokens"]
        assert record["trace_output_words"] >= 1
        assert record["temperature"] == 0.7
        prefix = f"Request ID {number}. Tenant {record['tenant']}. Job type {record['category']}. "
        assert record["prompt"].startswith(prefix)
        assert (record["kind"], record["schema"]) == ("request", 1)


def test_one_barrier_where_the_stress_phase_begins() -> None:
    barriers = [record for record in workload() if "barrier" in record]
    assert [(r["id"], r["phase"], r["barrier"]) for r in barriers] == [
        ("driftsched-0-010001", "stress", True)
    ]
    assert [record["phase"] for record in workload()] == ["learning"] * 10_000 + ["stress"] * 20_000


@pytest.mark.parametrize(
    ("total", "learning"),
    [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (10, 3), (100, 33), (1000, 333), (3000, 1000)],
)
def test_a_third_is_learning_to_the_nearest_request(total: int, learning: int) -> None:
    phases = Counter(record["phase"] for record in driftsched(total, 0))
    assert (phases["learning"], phases["stress"]) == (learning, total - learning)


@pytest.mark.parametrize("total", [1, 50, 300, 15_000])
def test_a_longer_workload_extends_each_phase(total: int) -> None:
    """The learning phase is the longer one's beginning, byte for byte; the stress phase too, but for its
    place in time and in the numbering."""
    short, learning = workload(total), round(total / 3)
    assert list(short[:learning]) == phase("learning")[:learning]
    longer = phase("stress")
    start = short[learning - 1]["arrival_s"] if learning else 0.0
    longer_start = phase("learning")[-1]["arrival_s"]
    for mine, theirs in zip(short[learning:], longer, strict=False):
        for name in ("tenant", "category", "max_tokens", "trace_output_tokens", "trace_output_words"):
            assert mine[name] == theirs[name]
        assert mine["arrival_s"] - start == pytest.approx(theirs["arrival_s"] - longer_start, abs=2.1e-6)
        # "Request ID n. Tenant ...": the same but for n
        assert mine["prompt"].split(". ", 1)[1] == theirs["prompt"].split(". ", 1)[1]


def test_another_seed_is_another_workload_and_the_same_seed_the_same() -> None:
    once = driftsched(300, 1)
    assert once == driftsched(300, 1)
    assert once != driftsched(300, 2)
    for name in ("arrival_s", "tenant", "category", "trace_output_tokens"):
        assert [record[name] for record in once] != [record[name] for record in workload(300)]


def test_another_length_model_changes_lengths_only() -> None:
    other = driftsched(300, 0, scale=0.5)
    lengths = ("trace_output_tokens", "trace_output_words")
    for mine, theirs in zip(workload(300), other, strict=True):
        assert {k: v for k, v in mine.items() if k not in lengths} == {
            k: v for k, v in theirs.items() if k not in lengths
        }
        assert mine["trace_output_tokens"] >= theirs["trace_output_tokens"]


def test_the_first_requests_to_the_digit() -> None:
    """A change of these bytes is a change of every published figure."""
    first = workload(3000)[0]
    # first draws of the streams: gap 0.73972..., so 0.05 + 0.1 * 0.73972 = 0.123972
    assert first["arrival_s"] == 0.123972
    fields = ("tenant", "category", "arrival_s", "max_tokens", "trace_output_tokens", "trace_output_words")
    text = "\n".join(" ".join(str(record[name]) for name in fields) for record in workload(3000))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "23b0d9a5b8a74df9"


# --- output lengths -------------------------------------------------------------------------------


def test_near_cap_is_cut_and_counted_as_the_model_states() -> None:
    """Uncut length / cap is lognormal with median 1.1 and sigma 0.2; words per token 0.765, CV 0.20.

    Cut: P(z >= ln(1 / 1.1) / 0.2 = -0.4766) = 0.6832. Of the others the mean is
    1.1 * exp(0.02) * P(z < -0.6766) / P(z < -0.4766) = 1.1222 * 0.2493 / 0.3168 = 0.8831 caps.
    """
    large = [record for record in workload() if record["max_tokens"] >= 256]  # so that rounding is small
    n = len(large)
    cut = [r for r in large if r["trace_output_tokens"] == r["max_tokens"]]
    assert abs(len(cut) / n - 0.6832) < 4 * math.sqrt(0.6832 * 0.3168 / n)
    shares = [
        (r["trace_output_tokens"] + 0.5) / r["max_tokens"]  # whole tokens: half a one is lost on average
        for r in large
        if r["trace_output_tokens"] < r["max_tokens"]
    ]
    assert fmean(shares) == pytest.approx(0.8831, abs=4 * pstdev(shares) / math.sqrt(len(shares)))
    ratios = [r["trace_output_words"] / r["trace_output_tokens"] for r in large]
    assert fmean(ratios) == pytest.approx(0.765, abs=4 * 0.765 * 0.20 / math.sqrt(n))
    assert pstdev(ratios) / fmean(ratios) == pytest.approx(0.20, rel=0.03)


@pytest.mark.parametrize(
    ("lengths", "cap", "u", "tokens"),
    [
        # the median, in caps and in tokens, below and above the cap
        (Mixture((Lognormal(1, 0.5, 0.3),), of_cap=True), 100, 0.5, 50),
        (Mixture((Lognormal(1, 30.0, 0.3),)), 100, 0.5, 30),
        (Mixture((Lognormal(1, 300.0, 0.3),)), 100, 0.5, 100),
        # one sigma above: 20 * exp(1) = 54.4
        (Mixture((Lognormal(1, 20.0, 1.0),)), 100, NormalDist().cdf(1.0), 54),
        # never none, never more than the cap, at the very ends of u too
        (Mixture((Lognormal(1, 20.0, 1.0),)), 100, 0.0, 1),
        (Mixture((Lognormal(1, 20.0, 1.0),)), 100, 1 - 2**-53, 100),
        # of two parts, the first takes u up to its share: the medians lie at 0.125 and 0.625
        (
            Mixture((Lognormal(0.25, 10.0, 1.0), Lognormal(0.75, 80.0, 1.0))),
            99,
            0.125,
            10,
        ),
        (
            Mixture((Lognormal(0.25, 10.0, 1.0), Lognormal(0.75, 80.0, 1.0))),
            99,
            0.625,
            80,
        ),
    ],
)
def test_lengths_by_hand(lengths: Mixture, cap: int, u: float, tokens: int) -> None:
    drawn = LengthModel(lengths).tokens(u, cap)
    assert drawn == pytest.approx(tokens, abs=1 if 1 < tokens < cap else 0)  # exp(log) may fall just below


@pytest.mark.parametrize(("tokens", "words"), [(1, 1), (50, 38), (100, 76)])
def test_words_by_hand(tokens: int, words: int) -> None:
    assert Words(0.76, 0.0).of(tokens, 0.5) == words


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["near-cap", "chat"]),
    st.integers(1, 2048),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.1, 10),
)
def test_lengths_are_within_the_cap_and_grow_with_the_scale(
    name: str, cap: int, length_u: float, words_u: float, factor: float
) -> None:
    model = named(name)
    tokens = model.tokens(length_u, cap)
    assert 1 <= tokens <= cap
    assert model.words is not None
    assert model.words.of(tokens, words_u) >= 1
    scaled = model.scaled(factor).tokens(length_u, cap)
    assert scaled >= tokens if factor >= 1 else scaled <= tokens
    assert model.scaled(1.0) == model


def test_an_unknown_length_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        spec.read(presets.text("driftsched"), "near-cup")
    assert "near-cup" in caught.value.message
    assert caught.value.hint is not None
    assert "near-cap" in caught.value.hint


# --- random streams -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "name", "first"),
    [
        (0, "driftsched/learning/gap", [0.7397239469705796, 0.8635457516073688, 0.5635150217161308]),
        (0, "trace/tenant", [0.2704881902691464, 0.45461045801559963, 0.9221487812520452]),
        (7, "x", [0.11948338498247235, 0.7422871046242268, 0.03349181332175222]),
    ],
)
def test_streams_give_the_same_numbers_for_ever(seed: int, name: str, first: list[float]) -> None:
    """On every platform and with every numpy: every published workload hangs on them."""
    assert rng.stream(seed, name).random(3).tolist() == first


def test_drawing_from_one_stream_shifts_no_other_and_chunks_do_not_matter() -> None:
    one, other = rng.stream(0, "a"), rng.stream(0, "b")
    one.random(1000)
    assert other.random(4).tolist() == rng.stream(0, "b").random(4).tolist()
    chunks = rng.stream(0, "c")
    assert [*chunks.random(3), *chunks.random(5)] == rng.stream(0, "c").random(8).tolist()


@pytest.mark.parametrize(
    "pair",
    [((0, "a"), (1, "a")), ((0, "a"), (0, "b")), ((0, "a"), (2**32, "a")), ((1, "ab"), (1, "a"))],
)
def test_streams_of_other_names_and_seeds_are_unrelated(
    pair: tuple[tuple[int, str], tuple[int, str]],
) -> None:
    x, y = (rng.stream(*which).random(4000) for which in pair)
    # correlation of independent uniforms: standard deviation 1 / sqrt(4000) = 0.0158
    cov = float(((x - x.mean()) * (y - y.mean())).mean()) / float(x.std() * y.std())
    assert abs(cov) < 4 * 0.0158


def test_keyed_draws_are_a_hash_of_seed_name_and_key() -> None:
    digest = hashlib.blake2b(b"0\x00policy/random\x00a", digest_size=8).digest()
    assert rng.keyed(0, "policy/random", "a") == int.from_bytes(digest, "little") >> 12 == 3712120977296719
    assert rng.keyed(1, "policy/random", "a") == 2832094450272366
    draws: list[Callable[[int], int]] = [
        lambda i: rng.keyed(i, "n", "k"),
        lambda i: rng.keyed(0, f"n{i}", "k"),
        lambda i: rng.keyed(0, "n", f"k{i}"),
    ]
    for draw in draws:
        values = [draw(i) / 2**52 for i in range(2000)]
        assert len(set(values)) == 2000
        # of a uniform: mean 0.5, standard error 0.289 / sqrt(2000) = 0.0065
        assert abs(fmean(values) - 0.5) < 4 * 0.0065
