"""`gen --spec`: what a file describes comes out, the paper's preset included, and its mistakes are told.

Statistics must lie within four of their standard errors (one failure in 16,000, if draws were not fixed).
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
import tracemalloc
from collections import Counter, defaultdict
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cli import bash, ok, run, said
from driftkit.errors import LineError
from driftkit.records.schema import FIELDS, checker
from driftkit.workload import generate, presets, spec

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "tenants.toml"

CHAT = """
[[tenants]]
name = "chat"
arrivals = { process = "poisson", rate_rps = 3 }
"""
CRON = """
[[tenants]]
name = "cron"
arrivals = { process = "constant", rate_rps = 2 }
"""
PLAIN = "duration_s = 100\ninput = 50\noutput = 20\n"


def made(text: str, seed: int = 0, total: int | None = None) -> list[Record]:
    return list(generate.requests(spec.read(text.encode()), seed, total))


def of(tenant: str, records: list[Record]) -> list[Record]:
    return [record for record in records if record["tenant"] == tenant]


def assert_share(found: int, of_all: int, share: float) -> None:
    assert abs(found - of_all * share) < 4 * math.sqrt(of_all * share * (1 - share))


# --- the paper's preset ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sha256"),
    [
        ("--requests 50", "38b31cf7ea448073"),
        ("--seed 7 --requests 5000", "40e7ffc203cb0f96"),
        ("--requests 4100 --lengths chat --seed 1", "ea00d67e8a3c80ff"),
        ("--length-scale 0.8 --seed 2", "bff2443e02b9162a"),
        ("--requests 9000 --lengths chat --length-scale 1.2 --seed 123456789012", "ab34fa38ed162f4c"),
    ],
)
def test_the_preset_and_its_file_give_the_bytes_that_the_papers_figures_hang_on(
    options: str, sha256: str
) -> None:
    """The digests are of what driftkit printed before there were specs; docs/paper.txt was made from that."""
    preset = ok(["gen", "--preset", "driftsched", *options.split()])
    assert hashlib.sha256(preset).hexdigest()[:16] == sha256
    again = bash(f"driftkit gen {options} --spec <(driftkit gen --print-spec driftsched)")
    assert (again.returncode, again.stderr) == (0, b"")
    assert again.stdout == preset


def test_the_printed_preset_says_where_its_constants_come_from() -> None:
    text = ok(["gen", "--print-spec", "driftsched"])
    assert b"arXiv 2606.02982" in text
    assert text == presets.text("driftsched")
    assert [t["tier"] for t in tomllib.loads(text.decode())["tenants"]] == ["premium", "standard", "batch"]


def test_names_are_the_users_own() -> None:
    """No code knows a tier of the paper's, but for the paper's own table of estimates."""
    files = (path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".toml"))
    knowing = {path.name for path in files if "premium" in path.read_text()}
    assert knowing == {"driftsched.toml", "table.py"}


# --- who and when ---------------------------------------------------------------------------------


def test_another_tenant_changes_nobody_elses_requests() -> None:
    alone = made(PLAIN + CHAT)
    for other in (made(PLAIN + CHAT + CRON), made(PLAIN + CRON + CHAT)):
        assert of("chat", other) == alone
        assert len(other) > len(alone)


def test_more_tenants_of_a_kind_leave_the_first_as_they_were() -> None:
    few, many = (made(f"{PLAIN}{CHAT}count = {n}") for n in (3, 12))
    assert {record["tenant"] for record in many} == {f"chat-{n}" for n in range(1, 13)}
    for name in ("chat-1", "chat-3"):
        assert of(name, few) == of(name, many) != []
    assert of("chat-1", few)[0]["arrival_s"] != of("chat-2", few)[0]["arrival_s"]


def test_a_longer_workload_begins_as_the_shorter() -> None:
    text = PLAIN + CHAT + "sessions = { turns_mean = 3, think_median_s = 0.1 }\n" + CRON
    short, long = made(text), made(text.replace("100", "250"))
    by_id = {record["id"]: record for record in long}
    assert all(by_id[record["id"]] == record for record in short)
    assert made(text, total=77) == short[:77]


def test_shares_are_of_the_common_arrivals() -> None:
    shares = {"a": 1, "b": 3}
    text = "requests = 20_000\ninput = 5\noutput = 5\narrivals = { process = 'poisson', rate_rps = 50 }\n"
    text += "".join(f"[[tenants]]\nname = '{name}'\nshare = {share}\n" for name, share in shares.items())
    text += "[[tenants]]\nname = 'c'\nshare = 2\ncount = 3\n"
    counts = Counter(record["tenant"] for record in made(text))
    assert set(counts) == {"a", "b", "c-1", "c-2", "c-3"}
    for name, share in {**shares, "c-1": 2, "c-2": 2, "c-3": 2}.items():
        assert_share(counts[name], 20_000, share / 10)


def test_tenants_with_a_share_and_with_arrivals_of_their_own_are_merged_in_time() -> None:
    shared = "arrivals = { process = 'poisson', rate_rps = 5 }\n"
    both = made(PLAIN + shared + CHAT + "[[tenants]]\nname = 'rest'\nshare = 1\n")
    assert of("chat", both) == made(PLAIN + CHAT)
    assert len(of("rest", both)) > 400
    assert [r["arrival_s"] for r in both] == sorted(r["arrival_s"] for r in both)


def test_phases_follow_each_other_and_may_wait() -> None:
    text = """
    input = 5
    output = 5
    [[phases]]
    name = "calm"
    duration_s = 10
    [[phases]]
    name = "rush"
    duration_s = 5
    rate_ratio = 4
    [[phases]]
    name = "end"
    requests = 30
    barrier = true
    """
    records = made(text + CRON)
    counts = Counter(record["phase"] for record in records)
    assert counts == {"calm": 20, "rush": 40, "end": 30}
    for name, start, end in (("calm", 0, 10), ("rush", 10, 15), ("end", 15, 30)):
        times = [record["arrival_s"] for record in records if record["phase"] == name]
        assert start <= min(times)
        assert max(times) < end
    assert [r["id"] for r in records if "barrier" in r] == ["spec-0-3-cron-000001"]
    assert list(records[60])[:8] == [
        *("kind", "schema", "id", "tenant", "phase", "arrival_s", "barrier", "prompt_tokens")
    ]


# --- what they send -------------------------------------------------------------------------------


def test_the_nearest_setting_wins() -> None:
    text = """
    requests = 400
    input = 5
    output = 50
    max_tokens = 40
    temperature = 1
    slo_e2e_s = 9
    mix = { one = 1, two = 1 }
    [categories.one]
    max_tokens = 30
    slo_ttft_s = 2.5
    [categories.two]
    output = 7
    [[tenants]]
    name = "a"
    tier = "gold"
    tier_level = -1
    weight = 2
    arrivals = { process = "poisson", rate_rps = 3 }
    [[tenants]]
    name = "b"
    slo_ttft_s = 0.5
    mix = { one = 1 }
    arrivals = { process = "poisson", rate_rps = 3 }
    """
    common = {"kind", "schema", "id", "arrival_s", "prompt_tokens"}
    found = {
        tuple((name, value) for name, value in record.items() if name not in common) for record in made(text)
    }
    tier = (("tier", "gold"), ("tier_level", -1), ("weight", 2))
    assert found == {
        (
            *(("tenant", "a"), *tier, ("category", "one"), ("max_tokens", 30), ("temperature", 1.0)),
            *(("slo_ttft_s", 2.5), ("slo_e2e_s", 9.0), ("trace_output_tokens", 30)),
        ),
        (
            *(("tenant", "a"), *tier, ("category", "two"), ("max_tokens", 40), ("temperature", 1.0)),
            *(("slo_e2e_s", 9.0), ("trace_output_tokens", 7)),
        ),
        (
            *(("tenant", "b"), ("category", "one"), ("max_tokens", 30), ("temperature", 1.0)),
            *(("slo_ttft_s", 0.5), ("slo_e2e_s", 9.0), ("trace_output_tokens", 30)),
        ),
    }


INPUTS = {
    "lognormal": "{ model = 'lognormal', median = 300, sigma = 1 }",
    "mixture": "{ model = 'mixture', parts = [{ share = 1, median = 50, sigma = 0.5 },"
    " { share = 3, median = 900, sigma = 0.3 }] }",
    "histogram": "{ model = 'histogram', edges = [100, 200, 1000, 1100], weights = [30, 0, 10] }",
}


def lengths(entry: str, total: int, more: str = "") -> list[tuple[int, int]]:
    text = f"requests = {total}\ninput = {entry}\noutput = {INPUTS['lognormal']}\n{more}{CHAT}"
    return [(record["prompt_tokens"], record["trace_output_tokens"]) for record in made(text)]


def test_lengths_are_distributed_as_stated() -> None:
    """Quartiles within four standard errors: sqrt(p (1 - p) / n) in probability."""
    n = 8000
    drawn = [pair[0] for pair in lengths(INPUTS["lognormal"], n)]
    for p, z in ((0.25, -0.67449), (0.5, 0.0), (0.75, 0.67449)):
        below = sum(tokens < 300 * math.exp(z) for tokens in drawn)
        assert_share(below, n, p)
    drawn = [pair[0] for pair in lengths(INPUTS["mixture"], n)]
    assert_share(sum(tokens < 200 for tokens in drawn), n, 0.25)  # 50 * exp(4 * 0.69 * 0.5): between the two
    drawn = [pair[0] for pair in lengths(INPUTS["histogram"], n)]
    assert min(drawn) >= 100
    assert max(drawn) < 1100
    assert_share(sum(tokens < 200 for tokens in drawn), n, 0.75)
    assert_share(sum(tokens < 120 for tokens in drawn), n, 0.15)
    assert not [tokens for tokens in drawn if 200 <= tokens < 1000]


def test_lengths_are_cut_where_stated() -> None:
    entry = "{ model = 'lognormal', median = 300, sigma = 1, shortest = 250, longest = 350 }"
    drawn = [pair[0] for pair in lengths(entry, 2000)]
    assert (min(drawn), max(drawn)) == (250, 350)
    assert_share(drawn.count(350), 2000, 1 - 0.56125)  # P(z < ln(350 / 300) = 0.15415)


@pytest.mark.parametrize("entry", INPUTS)
@pytest.mark.parametrize("rank", [-0.7, 0.3, 0.9])
def test_input_and_output_have_the_stated_rank_correlation(entry: str, rank: float) -> None:
    pairs = lengths(INPUTS[entry], 4000, f"dependence = {{ rank = {rank} }}\n")
    # of a bivariate normal the standard error of Spearman's is below 1 / sqrt(n)
    assert spearmanr(pairs).statistic == pytest.approx(rank, abs=4 / math.sqrt(4000))
    assert spearmanr(lengths(INPUTS[entry], 4000)).statistic == pytest.approx(0, abs=4 / math.sqrt(4000))


def test_a_normal_correlation_is_that_of_the_logarithms_of_two_lognormals() -> None:
    pairs = lengths(INPUTS["lognormal"], 4000, "dependence = { normal = 0.6 }\n")
    x, y = ([math.log(pair[i]) for pair in pairs] for i in (0, 1))
    cov = fmean(a * b for a, b in zip(x, y, strict=True)) - fmean(x) * fmean(y)
    spread = [math.sqrt(fmean(a * a for a in values) - fmean(values) ** 2) for values in (x, y)]
    assert cov / spread[0] / spread[1] == pytest.approx(0.6, abs=4 * 0.64 / math.sqrt(4000))


@pytest.mark.parametrize("entry", INPUTS)
def test_dependence_leaves_each_length_as_it_was_distributed(entry: str) -> None:
    free = sorted(pair[0] for pair in lengths(INPUTS[entry], 4000))
    tied = lengths(INPUTS[entry], 4000, "dependence = { rank = 0.8 }\n")
    for values in (sorted(pair[0] for pair in tied),):
        for place in (400, 1000, 2000, 3000, 3600):
            # the same law by two ways of drawing: each way's share below the other's quantile
            below = sum(tokens < free[place] for tokens in values)
            assert abs(below - place) < 4 * math.sqrt(2 * place * (4000 - place) / 4000)
    outputs = median(pair[1] for pair in tied)
    assert outputs == pytest.approx(300, abs=4 * 300 * 1.2533 / math.sqrt(4000))


# --- sessions and prefixes ------------------------------------------------------------------------

TALK = """
prefix_block_tokens = 8
[prefixes.house]
tokens = 100
variants = 2
[[tenants]]
name = "talk"
count = 4
prefix = "house"
arrivals = { process = "poisson", rate_rps = 0.5 }
sessions = { turns_mean = 3, turns_most = 6, think_median_s = 2, think_sigma = 0.5 }
input = { model = "lognormal", median = 30, sigma = 1 }
[[tenants]]
name = "once"
prefix = "house"
arrivals = { process = "poisson", rate_rps = 0.5 }
"""


def talks() -> dict[str, list[Record]]:
    sessions = defaultdict(list)
    for record in made(PLAIN + TALK):
        if "session" in record:
            sessions[record["session"]].append(record)
    return sessions


def test_a_later_turn_contains_the_earlier_ones() -> None:
    sessions = talks()
    assert len(sessions) > 50
    assert max(map(len, sessions.values())) == 6
    for turns in sessions.values():
        assert [record["turn"] for record in turns] == list(range(1, len(turns) + 1))
        assert len({(record["tenant"]) for record in turns}) == 1
        assert turns[0]["prompt_tokens"] > 100
        for earlier, later in pairwise(turns):
            assert later["arrival_s"] > earlier["arrival_s"]
            context = earlier["prompt_tokens"] + earlier["trace_output_tokens"]
            assert later["prompt_tokens"] > context
            hashes = earlier["prefix_hashes"]
            assert later["prefix_hashes"][: len(hashes)] == hashes
    thinking = [b["arrival_s"] - a["arrival_s"] for turns in sessions.values() for a, b in pairwise(turns)]
    assert median(thinking) == pytest.approx(2, abs=4 * 0.5 * 1.2533 * 2 / math.sqrt(len(thinking)))


def test_blocks_are_equal_exactly_where_prompts_begin_alike() -> None:
    records = made(PLAIN + TALK)
    for record in records:
        shared = record["prompt_tokens"] if "session" in record else 100
        assert len(record["prefix_hashes"]) == shared // 8
    openings = Counter(
        tuple(record["prefix_hashes"][:12]) for record in records if record.get("turn", 1) == 1
    )
    assert len(openings) == 2  # the variants, across tenants
    for count in openings.values():
        assert_share(count, openings.total(), 0.5)
    owners = defaultdict(set)
    for record in records:
        for place, block in enumerate(record["prefix_hashes"]):
            owners[place, block].add(record.get("session") if place >= 12 else "house")
    assert all(len(owner) == 1 for owner in owners.values())


# --- whatever the file ----------------------------------------------------------------------------

arrival_tables = st.one_of(
    st.fixed_dictionaries({"process": st.just("constant"), "rate_rps": st.floats(0.01, 20)}),
    st.fixed_dictionaries({"process": st.just("poisson"), "rate_rps": st.floats(0.01, 20)}),
    st.fixed_dictionaries(
        {
            "process": st.sampled_from(["gamma", "weibull"]),
            "rate_rps": st.floats(0.01, 20),
            "cv": st.floats(0.01, 10),
        }
    ),
    st.fixed_dictionaries(
        {
            "process": st.just("on-off"),
            "rate_rps": st.floats(0.01, 20),
            "on_s": st.floats(0.01, 50),
            "off_s": st.floats(0.01, 50),
        }
    ),
    st.fixed_dictionaries(
        {
            "process": st.just("ramp"),
            "start_rps": st.floats(0.01, 20),
            "end_rps": st.just(0.0) | st.floats(0.01, 20),
            "over_s": st.floats(0.1, 50),
        }
    ),
    st.fixed_dictionaries(
        {
            "process": st.just("diurnal"),
            "rate_rps": st.floats(0.01, 20),
            "amplitude": st.floats(0, 1),
            "period_s": st.floats(0.1, 50),
        }
    ),
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else repr(value)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(arrival_tables, st.integers(1, 5), st.booleans()), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 5), st.booleans()), max_size=3),
    st.integers(0, 2**40),
)
def test_any_workload_is_valid_in_order_and_names_each_request_once(
    tenants: list[tuple[dict[str, Any], int, bool]],
    phases: list[tuple[int, float, bool]],
    seed: int,
) -> None:
    text = "requests = 150\ninput = { model = 'lognormal', median = 100, sigma = 2 }\noutput = 30\n"
    text += "max_tokens = 25\n"
    for place, (count, ratio, barrier) in enumerate(phases):
        text += f"[[phases]]\nname = 'p{place}'\nrequests = {count}\nduration_s = 20\n"
        text += f"rate_ratio = {ratio!r}\nbarrier = {str(barrier).lower()}\n"
    for place, (table, count, talk) in enumerate(tenants):
        text += f"[[tenants]]\nname = 't{place}'\ncount = {count}\narrivals = {toml(table)}\n"
        if talk:
            text += "sessions = { turns_mean = 2.5, turns_most = 9, think_median_s = 3, think_sigma = 1 }\n"
    records = list(islice(generate.requests(spec.read(text.encode()), seed), 500))
    assert len(records) <= 150
    check = checker(("id", "tenant", "arrival_s", "prompt_tokens", "trace_output_tokens"), FIELDS)
    for record in records:
        check(record)
        assert record["trace_output_tokens"] == 25
    assert len({record["id"] for record in records}) == len(records)
    times = [record["arrival_s"] for record in records]
    assert times == sorted(times)
    assert records == list(generate.requests(spec.read(text.encode()), seed))


def test_memory_does_not_grow_with_the_requests() -> None:
    def peak(total: int) -> int:
        workload = spec.read((PLAIN.replace("duration_s = 100", "requests = 9") + CHAT + CRON).encode())
        tracemalloc.start()
        for _ in generate.requests(workload, 0, total):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)  # what is loaded once
    assert peak(6000) < peak(600) + 20_000


# --- the command ----------------------------------------------------------------------------------


def test_the_example_from_the_command_line() -> None:
    text = EXAMPLE.read_bytes()
    piped = ok(["gen", "--spec", "-"], text)
    assert piped == ok(["gen", "--spec", EXAMPLE])
    assert piped.count(b"\n") > 500
    assert ok(["gen", "--spec", EXAMPLE, "--requests", "20"]) == b"".join(piped.splitlines(True)[:20])
    assert ok(["gen", "--spec", EXAMPLE, "--seed", "1"]) != piped


def test_lengths_of_the_file_by_name_and_scaled() -> None:
    workload = spec.read(EXAMPLE.read_bytes(), "answer", 2.0)
    for tenant in workload.tenants:
        for category in workload.mix_of(tenant, workload.phases[0]) or [None]:
            output = workload.settings_of(tenant, category).output
            assert output is not None
            assert output.tokens(0.1, 10**6) == 50  # the median of the first fifth, doubled
    assert said(run(["gen", "--spec", EXAMPLE, "--lengths", "anser"]), 2) == [
        "driftkit gen: --lengths: no model named 'anser'",
        "  did you mean answer?",
    ]


GOOD = """requests = 9
mix = { talk = 1 }
[categories.talk]
input = 5
output = { model = "lognormal", median = 3, sigma = 1 }
[lengths.long]
model = "histogram"
edges = [1, 2, 4]
weights = [1, 2]
[prefixes.house]
tokens = 100
[[tenants]]
name = "a"
tier_level = 1
weight = 2.5
prefix = "house"
arrivals = { process = "gamma", rate_rps = 1, cv = 2 }
sessions = { turns_mean = 2, think_median_s = 3 }
[[tenants]]
name = "b"
count = 3
arrivals = { process = "poisson", rate_rps = 1 }
"""


@pytest.mark.parametrize(
    ("old", "new", "says", "hint"),
    [
        (
            '"poisson"',
            '"poison"',
            "tenants[1].arrivals.process: expected one of constant, uniform, poisson, gamma, weibull, "
            "on-off, ramp, diurnal, got 'poison'",
            "did you mean poisson?",
        ),
        ("rate_rps = 1,", "rate_rsp = 1,", "tenants[0].arrivals.rate_rsp: no such key", "mean rate_rps?"),
        ("tier_level", "tier_levl", "tenants[0].tier_levl: no such key here", "mean tier_level?"),
        ("[[tenants]]", "[[tenant]]", "tenant: no such key here", "did you mean tenants?"),
        ("requests = 9", "request = 9", "request: no such key here", "did you mean requests?"),
        ("requests = 9", "", "requests: expected requests or duration_s, got neither", None),
        ("requests = 9", "requests = 0", "requests: expected an integer from 1 to 1000000000, got 0", None),
        (
            "requests = 9",
            "duration_s = inf",
            "duration_s: expected a number from 1e-06 to 9e+09, got inf",
            None,
        ),
        ("cv = 2", "cv = nan", "tenants[0].arrivals.cv: expected a number from 0.01 to 30, got nan", None),
        ("cv = 2", 'cv = "2"', "tenants[0].arrivals.cv: expected a number from 0.01 to 30, got '2'", None),
        ("cv = 2", "cv = true", "tenants[0].arrivals.cv: expected a number from 0.01 to 30, got true", None),
        (", cv = 2", "", "tenants[0].arrivals.cv: expected a number from 0.01 to 30, got nothing", None),
        ("weight = 2.5", "weight = 0", "tenants[0].weight: expected a number > 0, got 0", None),
        ("tier_level = 1", "tier_level = 1.5", "tenants[0].tier_level: expected an integer", None),
        ('prefix = "house"', 'prefix = "hose"', "tenants[0].prefix: expected one of house", "mean house?"),
        ("tier_level = 1", "share = 1", "tenants[0]: expected share or arrivals, got both", None),
        ("tier_level = 1", "mix = { tlk = 1 }", "tenants[0].mix.tlk: not declared", "did you mean talk?"),
        ("{ talk = 1 }", "{ talk = 0 }", "mix: expected a share above 0, got none", None),
        ("{ talk = 1 }", "{ talk = -1 }", "mix.talk: expected a number from 0 to 1e+09, got -1", None),
        ("turns_mean = 2", "turns_mean = 0.5", "tenants[0].sessions.turns_mean: expected a number", None),
        ("input = 5", 'input = "lng"', "categories.talk.input: no length model named 'lng'", "mean long?"),
        (
            "input = 5",
            "input = 5.5",
            "categories.talk.input: expected a whole number of tokens, the name",
            None,
        ),
        ("input = 5", "", "tenants[0].input: expected a length, got nothing", "say it for the tenant"),
        ("sigma = 1", "sigma = -1", "categories.talk.output.sigma: expected a number from 0 to 10", None),
        ("sigma = 1", "sigma = 1, of_cap = true", "tenants[0].max_tokens: expected an integer", "say it"),
        (
            "sigma = 1",
            "sigma = 1, shortest = 5, longest = 4",
            "categories.talk.output.longest: expected an integer >= shortest (5), got 4",
            None,
        ),
        (
            "input = 5",
            "input = 5\ndependence = {}",
            "categories.talk.dependence: expected rank or normal, got neither",
            None,
        ),
        ("[1, 2, 4]", "[1, 2, 2]", "lengths.long.edges[2]: expected more than the edge before, got 2", None),
        ("[1, 2]", "[1, 2, 3]", "lengths.long.weights: expected one a bin, 2 in all, got 3", None),
        ("[1, 2]", "[0, 0]", "lengths.long.weights: expected a weight above 0, got none", None),
        ('name = "b"', 'name = "a"\nshare = 1', "tenants[1]: expected share or arrivals, got both", None),
        ('name = "a"', 'name = "b-3"', "tenants[0].name: 'b-3' is another's name too", None),
        ('name = "a"', 'name = "a\\n"', "tenants[0].name: expected a string, printable and not empty", None),
        ("count = 3", "count = 10_000_001", "tenants[1].count: expected an integer from 1 to 10000000", None),
        ("requests = 9", "requests = 9\ntext = 'templates'", "text: templates need categories", "short_qa"),
        (
            "requests = 9",
            "requests = 9\narrivals = { process = 'poisson', rate_rps = 1 }",
            "arrivals: no tenant has a share of these",
            None,
        ),
        (
            "requests = 9",
            "requests = 9\n[[phases]]\nname = 'p'",
            "phases[0]: expected share, requests or",
            None,
        ),
        (
            "requests = 9",
            "duration_s = 9\n[[phases]]\nname = 'p'\nrequests = 3",
            "duration_s: goes into",
            None,
        ),
        ("requests = 9", "[[phases]]\nname = 'p'\nshare = 3", "requests: expected an integer that", None),
        ("requests = 9", "requests = ", "not TOML: invalid value (at line 1, column 12)", None),
        ("requests = 9", "requests = 9\nrequests = 9", "not TOML: cannot overwrite a value", None),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_says_where(
    old: str, new: str, says: str, hint: str | None
) -> None:
    assert old in GOOD
    with pytest.raises(LineError) as caught:
        spec.read(GOOD.replace(old, new).encode())
    assert caught.value.message.startswith(says)
    assert "\n" not in caught.value.message
    assert (caught.value.hint is None) == (hint is None)
    assert (hint or "") in (caught.value.hint or "")


def test_the_good_file_is_good() -> None:
    assert len(made(GOOD)) == 9


def test_the_command_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace("poisson", "poison"))
    first, hint = said(run(["gen", "--spec", path]), 1)
    assert re.fullmatch(
        rf"driftkit gen: {path}: tenants\[1\].arrivals.process: expected one of .*, got 'poison'", first
    )
    assert hint == "  did you mean poisson?"
    path.write_bytes(b"name = '\xff'")
    assert said(run(["gen", "--spec", path]), 1)[0] == f"driftkit gen: {path}: not UTF-8 (line 1)"
    path.write_text("a = " + "[" * 5000)
    assert said(run(["gen", "--spec", path]), 1)[0].startswith(f"driftkit gen: {path}: not TOML: ")
    assert said(run(["gen", "--spec", tmp_path / "none"]), 1) == [
        f"driftkit gen: {tmp_path / 'none'}: no such file or directory"
    ]
    assert said(run(["gen", "--spec", "-"], b"tenants = 3"), 1)[0].startswith(
        "driftkit gen: <stdin>: tenants: expected an array of tables"
    )


def test_arrivals_beyond_what_a_record_can_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.toml"
    path.write_text(GOOD.replace("rate_rps = 1", "rate_rps = 1e-9").replace("requests = 9", "requests = 99"))
    result = run(["gen", "--spec", path])
    assert said(result, 1)[0] == "driftkit gen: arrivals go on past 9e+09 s"
