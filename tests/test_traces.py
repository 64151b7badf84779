"""Recorded workloads, to the digit; what every format says of a bad row; slices; exports."""

from __future__ import annotations

import gzip
import io
import json
import math
import tarfile
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import jsonl, ok, records, run, said
from driftkit.errors import DriftkitError, LineError, UsageError
from driftkit.records.io import Reader
from driftkit.registry import load, names
from driftkit.workload.exports.mooncake import Mooncake as ToMooncake
from driftkit.workload.exports.openai_batch import OpenAiBatch as ToOpenAiBatch
from driftkit.workload.traces import Options, Trace, tenant_assigner
from driftkit.workload.traces.azure import Azure
from driftkit.workload.traces.cells import instant
from driftkit.workload.traces.jsonl import Jsonl
from driftkit.workload.traces.mapping import Mapping
from driftkit.workload.traces.openai_batch import OpenAiBatch
from driftkit.workload.traces.recognition import recognise
from driftkit.workload.traces.servegen import WINDOW_S, Gaps
from driftkit.workload.traces.slicing import Slice, in_order, parse_window
from driftkit.workload.traces.timings import as_request, completion

Record = dict[str, Any]


def read(name: str, data: bytes, *, sort: bool = False, **options: Any) -> list[Record]:
    """What the format makes of a file called log.x."""
    trace: Trace = load("traces", name)(Options(**options))
    return list(trace.records(Reader([("log.x", io.BytesIO(data))]), any_order=sort))


def refusal(name: str, data: bytes, **options: Any) -> str:
    with pytest.raises(DriftkitError) as caught:
        read(name, data, **options)
    return caught.value.message


# --- the Azure traces -----------------------------------------------------------------------------

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens"


def azure(*lines: bytes) -> list[Record]:
    trace = Azure()
    return [record for line in lines for record in trace.parse(line)]


def test_azure_to_the_seventh_digit() -> None:
    """The rows are 0, 0.0000001, 59.9999999 and 86400.5 s after the first."""
    records = azure(
        HEADER + b"\r\n",
        b"2023-11-16 18:17:03.9799600,4808,10\r\n",
        b"2023-11-16 18:17:03.9799601,3180,8\r\n",
        b"2023-11-16 18:18:03.9799599,110,27\r\n",
        b"2023-11-17 18:17:04.4799600,1,1",  # the last line may end without a newline
    )
    assert [record["arrival_s"] for record in records] == [0.0, 0.0000001, 59.9999999, 86400.5]
    assert records[0] == {
        "kind": "request",
        "schema": 1,
        "id": "azure-000001",
        "arrival_s": 0.0,
        "prompt_tokens": 4808,
        "trace_output_tokens": 10,
    }
    assert [record["id"] for record in records] == [f"azure-{n:06d}" for n in (1, 2, 3, 4)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 86400 * 10_000_000 - 1), min_size=1, max_size=10).map(sorted))
def test_azure_arrivals_are_exact_whatever_the_digits(ticks: list[int]) -> None:
    def row(tick: int) -> bytes:
        seconds, fraction = divmod(tick, 10_000_000)
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return f"2023-11-16 {clock}.{fraction:07d},5,5\n".encode()

    records = azure(*map(row, ticks))
    # the double nearest to the decimal number
    assert [r["arrival_s"] for r in records] == [(tick - ticks[0]) / 10_000_000 for tick in ticks]


@pytest.mark.parametrize(
    ("fraction", "seconds"),
    [("", 0.0), (".5", 0.5), (".1234567", 0.1234567), (".12345678", 0.1234567), (".0000000", 0.0)],
)
def test_azure_with_other_numbers_of_digits(fraction: str, seconds: float) -> None:
    rows = azure(b"2023-11-16 18:17:03,5,5\n", f"2023-11-16 18:17:03{fraction},5,5\n".encode())
    assert rows[1]["arrival_s"] == seconds


def test_azure_without_header_with_blank_lines_and_a_byte_order_mark() -> None:
    row = b"2023-11-16 18:17:03.9799600,7,9\n"
    for lines in ([row], [b"\xef\xbb\xbf" + HEADER + b"\n", b"\n", row, b"\r\n"], [b"\xef\xbb\xbf" + row]):
        assert [(r["prompt_tokens"], r["trace_output_tokens"]) for r in azure(*lines)] == [(7, 9)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"2023-11-16 18:17:03.9799600,7", "got 2 columns"),
        (b"2023-11-16 18:17:03.9799600,7,9,1", "got 4 columns"),
        (b"hello", "got 1 columns"),
        (b"yesterday,7,9", "TIMESTAMP: expected YYYY-MM-DD HH:MM:SS.fffffff, got 'yesterday'"),
        (b"2023-13-16 18:17:03.9799600,7,9", "TIMESTAMP"),
        (b"2023-11-16 18:17:03.97x,7,9", "TIMESTAMP"),
        (b"2023-11-16 18:17:03.-5,7,9", "TIMESTAMP"),
        (b"2023-11-16 18:17:03.1_2,7,9", "TIMESTAMP"),
        (b"2023-11-16 18:17:03.9799600,,9", "ContextTokens: expected an integer >= 1, got ''"),
        (b"2023-11-16 18:17:03.9799600,7.5,9", "ContextTokens"),
        (b"2023-11-16 18:17:03.9799600,-7,9", "ContextTokens"),
        (b"2023-11-16 18:17:03.9799600,7,0", "GeneratedTokens: expected an integer >= 1, got '0'"),
        (b"2023-11-16 18:17:03.9799600,7,many", "GeneratedTokens"),
        (b"2023-11-16 18:17:03.9799600,7,1_000", "GeneratedTokens"),
        (b"2023-11-16 18:17:03.9799600,7,\xff", "GeneratedTokens"),
    ],
)
def test_azure_says_which_cell_is_bad(line: bytes, says: str) -> None:
    trace = Azure()
    assert trace.parse(b"2023-11-16 18:17:03.0000000,1,1")
    with pytest.raises(LineError) as caught:
        trace.parse(line)
    assert says in caught.value.message


@pytest.mark.parametrize("bad", [b"2023-11-16 18:17:04,7,none\n", b"soon,7,9\n", b"2023-11-16 18:17:04,7\n"])
def test_azure_ids_are_row_numbers_though_bad_rows_are_left_out(bad: bytes) -> None:
    """Left out or not, a row keeps its number: ids do not depend on what was wrong with another row."""
    lines = [HEADER + b"\n", b"2023-11-16 18:17:03,1,1\n", bad, b"2023-11-16 18:17:05,3,3\n"]
    reader = Reader([("trace.csv", lines)], on_error="skip")
    records = list(Azure().records(reader))
    assert reader.skipped == 1
    assert [(record["id"], record["prompt_tokens"]) for record in records] == [
        ("azure-000001", 1),
        ("azure-000003", 3),
    ]


# --- JSON lines as a trace ------------------------------------------------------------------------


def test_jsonl_names_the_nameless_and_keeps_everything_else() -> None:
    trace = Jsonl()
    lines = [
        b'{"arrival_s": 0, "prompt": "hi", "mine": [1, {"x": null}]}\n',
        b"\n",
        b'{"arrival_s": 1.5, "id": "own", "prompt_tokens": 3}\r\n',
        b'{"arrival_s": 2, "id": null, "messages": [{"content": "hi"}]}',
    ]
    (first,), blank, (second,), (third,) = map(trace.parse, lines)
    assert first == {
        "kind": "request",
        "schema": 1,
        "arrival_s": 0,
        "prompt": "hi",
        "mine": [1, {"x": None}],
        "id": "trace-000001",
    }
    assert blank == []
    assert (second["id"], third["id"]) == ("own", "trace-000003")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object, got an array"),
        (b'{"prompt": "hi"}', "arrival_s: expected a number >= 0, got nothing"),
        (b'{"arrival_s": -1, "prompt": "hi"}', "arrival_s: expected a number >= 0, got -1"),
        (b'{"arrival_s": "0", "prompt": "hi"}', "arrival_s: expected a number >= 0, got '0'"),
        (b'{"arrival_s": 0}', "expected prompt, messages or prompt_tokens"),
        (b'{"arrival_s": 0, "prompt_tokens": 0}', "prompt_tokens: expected an integer >= 1, got 0"),
        (b'{"arrival_s": 0, "prompt_tokens": 1.5}', "prompt_tokens"),
        (b'{"arrival_s": 0, "prompt": "hi", "id": 7}', "id: expected a string, got 7"),
        (b'{"arrival_s": NaN, "prompt": "hi"}', "not JSON"),
    ],
)
def test_jsonl_says_what_is_wrong(line: bytes, says: str) -> None:
    with pytest.raises(LineError) as caught:
        Jsonl().parse(line)
    assert says in caught.value.message


# --- tenants for traces that have none ------------------------------------------------------------


def assigned(records: list[Record], seed: int = 0) -> list[Record]:
    assign = tenant_assigner(seed)
    records = [dict(record) for record in records]
    for record in records:
        assign(record)
    return records


def test_tenants_are_drawn_alike_and_with_their_tiers() -> None:
    records = assigned([{} for _ in range(9000)])
    counts = Counter(record["tenant"] for record in records)
    assert set(counts) == {"tenant-premium", "tenant-standard", "tenant-batch"}
    # binomial of 9,000 and 1/3: standard deviation 44.7
    assert all(abs(count - 3000) < 4 * 44.8 for count in counts.values())
    for record in records:
        assert record["tenant"] == f"tenant-{record['tier']}"
        assert record["tier_level"] == {"premium": 1, "standard": 2, "batch": 3}[record["tier"]]


def test_a_tier_that_is_there_is_kept_as_it_is() -> None:
    assert assigned([{"tier": "gold"}, {"tenant": "acme"}]) == [{"tier": "gold"}, {"tenant": "acme"}]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.sampled_from([None, "acme"])), min_size=1, max_size=30))
def test_a_tenant_depends_on_the_place_in_the_trace_only(plan: list[tuple[int, str | None]]) -> None:
    """Not on the request's values, and not on whether others before it had a tenant of their own."""
    records = assigned([{"prompt_tokens": tokens, "tenant": tenant} for tokens, tenant in plan])
    bare = assigned([{} for _ in plan])
    for record, blank, (tokens, tenant) in zip(records, bare, plan, strict=True):
        assert record["prompt_tokens"] == tokens
        assert record["tenant"] == (tenant or blank["tenant"])
        assert ("tier" in record) == (tenant is None)


def test_another_seed_assigns_otherwise() -> None:
    one, two = (assigned([{} for _ in range(50)], seed) for seed in (1, 2))
    assert one != two
    assert one == assigned([{} for _ in range(50)], 1)


# --- recognition ----------------------------------------------------------------------------------

BURST = b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
MOONCAKE = {"timestamp": 27, "input_length": 700, "output_length": 52, "hash_ids": [46, 47]}
BATCH = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
BENCH = {
    "date": "20260101-120000",
    "backend": "openai",
    "label": None,
    "model_id": "Qwen/Qwen3-0.6B",
    "duration": 3.0,
    "input_lens": [10, 20, 30],
    "output_lens": [3, 1, 0],
    "ttfts": [0.5, 0.25, 0.0],
    "itls": [[0.1, 0.2], [], []],
    "start_times": [1000.5, 1001.0, 1001.25],
    "generated_texts": ["a", "b", ""],
    "errors": ["", "", "connection reset"],
}
SHAREGPT = [
    {
        "id": "c1",
        "conversations": [
            {"from": "human", "value": "Who are you?"},
            {"from": "gpt", "value": "A model of language."},
            {"from": "human", "value": "Thanks"},
            {"from": "gpt", "value": "Gladly."},
        ],
    },
    {"id": "c2", "conversations": [{"from": "gpt", "value": "an answer to nothing"}]},
    {
        "id": 3,
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "user", "value": "Hm"},
            {"from": "assistant", "value": "Yes"},
        ],
    },
]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b'{"arrival_s": 0}\n', "jsonl"),
        (b'  {"arrival_s": 0}\n', "jsonl"),
        (b'{"arrival_s": 0, "prompt', "jsonl"),
        (HEADER + b"\r\n", "azure"),
        (b"\xef\xbb\xbf" + HEADER, "azure"),
        (BURST, "burstgpt"),
        (
            b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
            "burstgpt",
        ),
        (json.dumps(MOONCAKE).encode(), "mooncake"),
        (json.dumps(BATCH).encode(), "openai-batch"),
        (json.dumps(BENCH).encode(), "vllm-bench"),
        (b"{\n", "vllm-bench"),
        (b"[\n", "sharegpt"),
        (json.dumps(SHAREGPT).encode(), "sharegpt"),
        (json.dumps(SHAREGPT[0]).encode(), "sharegpt"),
        (b"id;arrival_s;prompt_tokens", "csv"),
    ],
)
def test_a_format_shows_in_the_first_line(line: bytes, name: str) -> None:
    assert recognise(line, mapped=False) == name


@pytest.mark.parametrize(
    ("line", "name"), [(b'{"timestamp": 1, "input_length": 2}', "jsonl"), (BURST, "csv")]
)
def test_with_a_map_rows_are_taken_as_they_are(line: bytes, name: str) -> None:
    assert recognise(line, mapped=True) == name


@pytest.mark.parametrize("line", [b"", b"\n", b"Timestamp,Model", b"\x00\xff", b"TIMESTAMP"])
def test_a_first_line_that_shows_no_format(line: bytes) -> None:
    with pytest.raises(DriftkitError) as caught:
        recognise(line, mapped=False)
    assert "--trace-format" in str(caught.value.hint)


# --- the other formats ----------------------------------------------------------------------------


def test_azure_of_2024_has_zones() -> None:
    rows = azure(b"2024-05-10 00:00:00.009930+00:00,5,5\n", b"2024-05-10 00:00:01.009931+00:00,6,6\n")
    assert [row["arrival_s"] for row in rows] == [0.0, 1.000001]


def test_burstgpt_counts_from_its_first_row_and_leaves_out_what_failed() -> None:
    data = (
        BURST
        + b"5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,9,0,9,API log\n\n118,GPT-4,417,276,693,API log"
    )
    trace: Trace = load("traces", "burstgpt")()
    first, second = trace.records(Reader([("b.csv", io.BytesIO(data))]))
    assert first == {
        "kind": "request",
        "schema": 1,
        "id": "burstgpt-0000001",
        "arrival_s": 0.0,
        "prompt_tokens": 472,
        "trace_output_tokens": 18,
        "model": "ChatGPT",
        "log_type": "Conversation log",
    }
    assert (second["id"], second["arrival_s"], second["prompt_tokens"]) == ("burstgpt-0000003", 113.0, 417)
    assert trace.left_out == {"requests that failed (Response tokens 0)": 1}


def test_burstgpt_finds_its_columns_by_name() -> None:
    header = b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    (row,) = read("burstgpt", header + b"7,s-1,3.5,GPT-4,20,30,50,API log\n")
    assert (row["session"], row["prompt_tokens"], row["trace_output_tokens"]) == ("s-1", 20, 30)


def test_mooncake_keeps_its_clock_and_its_hashes() -> None:
    (row,) = read("mooncake", jsonl([MOONCAKE]))
    assert row == {
        "kind": "request",
        "schema": 1,
        "id": "mooncake-000001",
        "arrival_s": 0.027,
        "prompt_tokens": 700,
        "trace_output_tokens": 52,
        "prefix_hashes": [46, 47],
        "prefix_block_tokens": 512,
    }


def test_mooncake_with_text_as_aiperf_has_it() -> None:
    (row,) = read("mooncake", jsonl([{"timestamp": 0.5, "text_input": "hi", "session_id": "s"}]))
    assert (row["arrival_s"], row["prompt"], row["session"]) == (0.0005, "hi", "s")
    assert "prompt_tokens" not in row


def test_openai_batch() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    bodies = [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 1,
        },
        {"messages": chat, "max_completion_tokens": 8},
        {"prompt": "once", "max_tokens": 9},
        {"prompt": [1, 2, 3]},
        {"input": "again", "max_output_tokens": 10},
    ]
    trace = OpenAiBatch()
    lines = jsonl({"custom_id": f"r{n}", "body": body} for n, body in enumerate(bodies))
    rows = list(trace.records(Reader([("b", io.BytesIO(lines))])))
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3", "r4"]
    assert {row["arrival_s"] for row in rows} == {0.0}
    assert [row.get("max_tokens") for row in rows] == [7, 8, 9, None, 10]
    assert [row.get("prompt") for row in rows] == ["hi", None, "once", None, "again"]
    assert (rows[1]["messages"], rows[3]["prompt_tokens"]) == (chat, 3)
    assert (rows[0]["model"], rows[0]["temperature"]) == ("m", 0.5)
    assert list(trace.remarks) == [
        "body.top_p is left out",
        "the format has no arrivals: every request arrives at 0",
    ]


@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
def test_sharegpt_makes_a_turn_of_each_answer(lines: bool) -> None:
    data = jsonl(SHAREGPT) if lines else json.dumps(SHAREGPT, indent=1).encode()
    one, two, three = read("sharegpt", data, tokenizer="whitespace")
    assert (one["session"], one["turn"], one["prompt"], one["trace_output_tokens"]) == (
        "c1",
        1,
        "Who are you?",
        4,
    )
    assert (two["session"], two["turn"], two["trace_output_words"]) == ("c1", 2, 1)
    assert two["messages"] == [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model of language."},
        {"role": "user", "content": "Thanks"},
    ]
    assert (three["session"], three["turn"]) == ("3", 1)
    assert [message["role"] for message in three["messages"]] == ["system", "user"]
    assert len({one["id"], two["id"], three["id"]}) == 3


def test_the_turns_of_a_session_have_one_tenant() -> None:
    rows = assigned([{"session": f"s{n % 40}"} for n in range(200)])
    tenants = {row["session"]: row["tenant"] for row in rows}
    assert all(row["tenant"] == tenants[row["session"]] for row in rows)
    assert len(set(tenants.values())) == 3


@pytest.mark.parametrize("layout", ["one line", "indented", "two runs"])
def test_a_vllm_bench_result_is_a_run_of_completions(layout: str) -> None:
    other = {**BENCH, "label": "second", "start_times": [7.0, 8.0, 9.0]}
    data = {
        "one line": json.dumps(BENCH).encode(),
        "indented": json.dumps(BENCH, indent=2).encode(),
        "two runs": jsonl([BENCH, other]),
    }[layout]
    rows = read("vllm-bench", data)
    assert rows[0] == {
        "id": "vllm-bench-000001",
        "arrival_s": 0.0,
        "prompt_tokens": 10,
        "engine": "openai",
        "served_model": "Qwen/Qwen3-0.6B",
        "actual_output_tokens": 3,
        "ttft_s": 0.5,
        "e2e_s": 0.8,
        "kind": "completion",
        "schema": 1,
        "run_id": rows[0]["run_id"],
        "label": "log",
        "offered_s": 0.0,
        "status": "ok",
        "first_token_s": 0.5,
        "finished_s": 0.8,
        "trace_output_tokens": 3,
        "tpot_s": 0.15,
    }
    assert (rows[1]["offered_s"], rows[1]["finished_s"], "tpot_s" in rows[1]) == (0.5, 0.75, False)
    assert (rows[2]["status"], rows[2]["error"], rows[2]["finished_s"]) == ("error", "connection reset", 0.75)
    assert "actual_output_tokens" not in rows[2]
    assert [row["label"] for row in rows[3:]] == (["second"] * 3 if layout == "two runs" else [])
    assert len({row["run_id"] for row in rows}) == (2 if layout == "two runs" else 1)


def test_a_vllm_bench_result_without_starts_says_so() -> None:
    trace: Trace = load("traces", "vllm-bench")()
    old = {name: value for name, value in BENCH.items() if name != "start_times"}
    rows = list(trace.records(Reader([("b.json", [json.dumps(old).encode()])])))
    assert {row["arrival_s"] for row in rows} == {0.0}
    assert ["no start_times" in remark for remark in trace.remarks] == [True]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("burstgpt", BURST + b"5,m,1\n", "log.x:2: expected 6 columns, got 3"),
        ("burstgpt", BURST + b"soon,m,1,2,3,l\n", "log.x:2: Timestamp: expected a number or an ISO 8601"),
        (
            "burstgpt",
            BURST + b"nan,m,1,2,3,l\n",
            "log.x:2: Timestamp: expected a number or an ISO 8601 timestamp, got 'nan'",
        ),
        ("burstgpt", BURST + b"5,m,0,2,3,l\n", "log.x:2: Request tokens: expected an integer >= 1, got '0'"),
        ("burstgpt", BURST + b"5,m,1,2.5,3,l\n", "log.x:2: Response tokens: expected an integer"),
        (
            "burstgpt",
            BURST + b"5,m,1,2,3,l\n4,m,1,2,3,l",
            "log.x:3: arrival_s: 1 s before the trace's first row",
        ),
        ("mooncake", b"[]", "log.x:1: expected a JSON object, got an array"),
        (
            "mooncake",
            jsonl([{**MOONCAKE, "timestamp": -1}]),
            "log.x:1: timestamp: expected milliseconds >= 0, got -1",
        ),
        (
            "mooncake",
            jsonl([{**MOONCAKE, "timestamp": "x"}]),
            "log.x:1: timestamp: expected a number, got 'x'",
        ),
        (
            "mooncake",
            jsonl([{**MOONCAKE, "input_length": 1.5}]),
            "log.x:1: input_length: expected an integer >= 1",
        ),
        (
            "mooncake",
            jsonl([{**MOONCAKE, "output_length": 0}]),
            "log.x:1: output_length: expected an integer >= 1",
        ),
        (
            "mooncake",
            jsonl([{**MOONCAKE, "hash_ids": ["a"]}]),
            "log.x:1: hash_ids: expected an array of integers",
        ),
        (
            "mooncake",
            jsonl([{"timestamp": 1, "text_input": 7}]),
            "log.x:1: prompt: expected a string, got a number",
        ),
        ("mooncake", jsonl([{"delay": 1, "input_length": 7}]), "log.x:1: timestamp: "),
        ("openai-batch", jsonl([{"body": 1}]), "log.x:1: body: expected an object, got a number"),
        ("openai-batch", jsonl([{"body": {}}]), "log.x:1: body: expected messages, prompt or input"),
        ("openai-batch", jsonl([{"body": {"messages": []}}]), "log.x:1: body.messages: expected an array"),
        ("openai-batch", jsonl([{"body": {"messages": ["hi"]}}]), "log.x:1: body.messages: expected objects"),
        (
            "openai-batch",
            jsonl([{"custom_id": 1, "body": {"prompt": "a"}}]),
            "log.x:1: id: expected a string, got 1",
        ),
        ("openai-batch", jsonl([{"body": {"prompt": ["a"]}}]), "log.x:1: body.prompt: expected a string"),
        ("sharegpt", b"[\n{]", "log.x:2: not JSON"),
        ("sharegpt", b"[3]", "log.x:conversation 1: expected a JSON object, got a number"),
        (
            "sharegpt",
            b'[{"conversations": 3}]',
            "log.x:conversation 1: conversations: expected an array, got a number",
        ),
        (
            "sharegpt",
            b'[{"conversations": []}, {"conversations": [{"from": "me", "value": ""}]}]',
            "log.x:conversation 2: conversations[1].from: expected one of human",
        ),
        (
            "sharegpt",
            b'[{"conversations": [{"from": "human", "value": 1}]}]',
            "log.x:conversation 1: conversations[1].value: expected a string, got a number",
        ),
        ("vllm-bench", b"{\n]", "log.x:2: not JSON"),
        ("vllm-bench", b"[1]", "log.x: expected an object, got [1]"),
        ("vllm-bench", b'{"duration": 1}', "log.x: input_lens: expected an array, got nothing"),
        (
            "vllm-bench",
            jsonl([{**BENCH, "ttfts": [1]}]),
            "log.x: ttfts: expected an array as long as input_lens",
        ),
        (
            "vllm-bench",
            jsonl([{**BENCH, "itls": [[0.1], ["x"], []]}]),
            "log.x:request 2: itls: expected an array of seconds",
        ),
        (
            "vllm-bench",
            jsonl([{**BENCH, "input_lens": [1, 2, None]}]),
            "log.x:request 3: input_lens: expected an",
        ),
        (
            "vllm-bench",
            jsonl([{**BENCH, "start_times": [1, "x", 2]}]),
            "log.x: request 2: start_times: expected",
        ),
        ("vllm-bench", jsonl([BENCH]) + b"{\n", "log.x: result 2: not JSON"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name: str, data: bytes, says: str) -> None:
    assert refusal(name, data).startswith(says)


def test_a_row_before_the_first_is_in_order_under_sort() -> None:
    data = HEADER + b"\n2023-11-16 18:17:03,1,1\n2023-11-16 18:17:02.5,2,2\n2023-11-16 18:17:04,3,3\n"
    assert "log.x:3: arrival_s: 0.5 s before the trace's first row" in refusal("azure", data)
    rows = in_order(read("azure", data, sort=True))
    assert [(row["arrival_s"], row["prompt_tokens"]) for row in rows] == [(0.0, 2), (0.5, 1), (1.5, 3)]


# --- any log, with --map --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "divisor", "seconds"),
    [
        ("12.5", 1, 12.5),
        (1500, 1000, 1.5),
        ("2023-11-16T18:17:03Z", 1, 1700158623.0),
        ("2023-11-16 18:17:03.25", 1, 1700158623.25),
        ("2023-11-16T19:17:03+01:00", 1, 1700158623.0),
        ("1e3", 1, 1000.0),
    ],
)
def test_instants(value: Any, divisor: float, seconds: float) -> None:
    assert instant("t", value, divisor) == seconds


def test_a_csv_log_becomes_a_workload() -> None:
    data = b'when,who,in,out,note\n2024-01-01T00:00:00Z,"a, b",10,5,x\n2024-01-01T00:00:01.5Z,c,20,,"y"\n'
    maps = ("arrival_s=when", "tenant=who", "prompt_tokens=in", "trace_output_tokens=out")
    assert read("csv", data, maps=maps) == [
        {
            "kind": "request",
            "schema": 1,
            "id": "trace-000001",
            "arrival_s": 0.0,
            "tenant": "a, b",
            "prompt_tokens": 10,
            "trace_output_tokens": 5,
        },
        {
            "kind": "request",
            "schema": 1,
            "id": "trace-000002",
            "arrival_s": 1.5,
            "tenant": "c",
            "prompt_tokens": 20,
        },
    ]


GATEWAY = [
    {
        "ts_ms": 1700000000100,
        "took_ms": 1500,
        "usage": {"in": 10, "out": 6},
        "ttft": 0.5,
        "status": 200,
        "a.b": "x",
    },
    {
        "ts_ms": 1700000001100,
        "took_ms": 30,
        "usage": {"in": 20, "out": 0},
        "ttft": None,
        "status": 429,
        "a.b": "y",
    },
    {"ts_ms": 1700000002100, "took_ms": None, "usage": {"in": 30}, "status": "timeout", "a.b": "z"},
]
MAPS = (
    "arrival_s=ts_ms/1000",
    "e2e_s=took_ms/1000",
    "prompt_tokens=usage.in",
    "actual_output_tokens=usage.out",
    "ttft_s=ttft",
    "tenant=a.b",
)


def test_a_json_log_with_timings_becomes_completions() -> None:
    one, two, three = read("jsonl", jsonl(GATEWAY), maps=MAPS)
    assert one == {
        "kind": "completion",
        "schema": 1,
        "id": "trace-000001",
        "arrival_s": 0.0,
        "e2e_s": 1.5,
        "prompt_tokens": 10,
        "actual_output_tokens": 6,
        "ttft_s": 0.5,
        "tenant": "x",
        "status": "ok",
        "run_id": one["run_id"],
        "label": "log",
        "run_started_at": "2023-11-14T22:13:20.100000Z",
        "offered_s": 0.0,
        "first_token_s": 0.5,
        "finished_s": 1.5,
        "trace_output_tokens": 6,
        "tpot_s": 0.2,
    }
    assert (two["status"], two["finished_s"], two["offered_s"]) == ("rejected", 1.03, 1.0)
    assert (three["status"], three["finished_s"], three["e2e_s"]) == ("timeout", 2.0, 0.0)
    assert {row["run_id"] for row in (one, two, three)} == {one["run_id"]}
    assert as_request(one).keys() == {
        "kind",
        "schema",
        "id",
        "arrival_s",
        "prompt_tokens",
        "tenant",
        "trace_output_tokens",
    }


def test_a_log_written_at_the_end_says_when_a_request_began() -> None:
    data = b"end,dur,prompt_tokens\n100.5,0.5,1\n102,1,1\n"
    rows = read("csv", data, maps=("finished_s=end", "e2e_s=dur"))
    assert [(row["arrival_s"], row["finished_s"], row["e2e_s"]) for row in rows] == [(0, 0.5, 0.5), (1, 2, 1)]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 1e6),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.integers(1, 10**6),
    st.booleans(),
)
def test_derived_fields_agree_whichever_was_recorded(
    arrival: float, wait: float, first: float, rest: float, tokens: int, instants: bool
) -> None:
    times = {"queue_wait_s": wait, "ttft_s": wait + first, "e2e_s": wait + first + rest}
    if instants:
        names = ("started_s", "first_token_s", "finished_s")
        times = {name: arrival + value for name, value in zip(names, times.values(), strict=True)}
    done = completion({"arrival_s": arrival, "actual_output_tokens": tokens, **times}, "r", "l")
    near = {"abs": 1e-8, "rel": 1e-9}
    assert done["e2e_s"] == pytest.approx(wait + first + rest, **near)
    assert done["finished_s"] - done["started_s"] == pytest.approx(done["inference_s"], **near)
    assert done["first_token_s"] - done["offered_s"] == pytest.approx(done["ttft_s"], **near)
    if tokens > 1:
        assert done["tpot_s"] * (tokens - 1) == pytest.approx(rest, abs=1e-8 * tokens, rel=1e-9)


@pytest.mark.parametrize(
    ("maps", "row", "says"),
    [
        (("arrival_s=t",), {}, "t (as arrival_s): expected a number or an ISO 8601 timestamp, got nothing"),
        ((), {"t": 1}, "arrival_s: expected a number or an ISO 8601"),
        (
            ("arrival_s=t",),
            {"t": "soon"},
            "t (as arrival_s): expected a number or an ISO 8601 timestamp, got 'soon'",
        ),
        (("arrival_s=t",), {"t": 1700000000000}, "t (as arrival_s): expected seconds, at most 9e+09"),
        (("arrival_s=t",), {"t": 1}, "prompt: expected prompt, messages or prompt_tokens"),
        (
            ("arrival_s=t", "prompt_tokens=n"),
            {"t": 1, "n": 1.5},
            "n (as prompt_tokens): expected an integer >= 1",
        ),
        (
            ("arrival_s=t", "prompt_tokens=n"),
            {"t": 1, "n": 0},
            "n (as prompt_tokens): expected an integer >= 1, got 0",
        ),
        (
            ("arrival_s=t", "prompt_tokens=n"),
            {"t": 1, "n": []},
            "n (as prompt_tokens): expected a number, got []",
        ),
        (("arrival_s=t", "tenant=n"), {"t": 1, "n": {}}, "n (as tenant): expected a string, got {}"),
        (
            ("arrival_s=t", "e2e_s=d"),
            {"t": 1, "prompt_tokens": 1, "d": -1},
            "d (as e2e_s): expected a number >= 0, got -1",
        ),
        (
            ("arrival_s=t", "finished_s=d"),
            {"t": 5, "prompt_tokens": 1, "d": 4},
            "finished_s: -1 s is before its arrival, 0 s",
        ),
        (
            ("arrival_s=t", "finished_s=d"),
            {"t": 5, "prompt_tokens": 1},
            "finished_s: expected when it ended, or e2e_s",
        ),
        (
            ("arrival_s=t", "e2e_s=d"),
            {"t": 5, "prompt_tokens": 1, "d": 1, "status": "odd"},
            "status: expected one of ok",
        ),
    ],
)
def test_a_mapped_row_says_what_is_wrong(maps: tuple[str, ...], row: Record, says: str) -> None:
    assert refusal("jsonl", jsonl([row]), maps=maps or ("tenant=who",)).startswith("log.x:1: " + says)


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        (("arrival_s",), "expected FIELD=THEIRS"),
        (("=x",), "expected FIELD=THEIRS"),
        (("arival_s=t",), "no field named 'arival_s'"),
        (("arrival_s=t", "arrival_s=u"), "arrival_s is mapped twice"),
        (("arrival_s=t/0",), "a number > 0 after the slash"),
        (("tenant=t/10",), "tenant is no number"),
        (("kind=t",), "kind is driftkit's own"),
    ],
)
def test_a_bad_map_is_a_bad_call(maps: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Mapping(maps)


def test_a_csv_without_the_mapped_column_names_those_it_has() -> None:
    with pytest.raises(UsageError, match="no column named when") as caught:
        read("csv", b"a,b\n1,2\n", maps=("arrival_s=when",))
    assert caught.value.hint == "the header has a, b"


# --- slices ---------------------------------------------------------------------------------------


def steady(count: int, gap: float = 1.0) -> list[Record]:
    return [{"kind": "request", "id": str(n), "arrival_s": n * gap} for n in range(count)]


def sliced(rows: list[Record], window: str = ":", limit: int | None = None, scale: float = 1.0) -> Any:
    part = Slice(parse_window(window), limit, scale, Trace())
    return [(row["id"], row["arrival_s"]) for row in part.of(rows)], part.warning()


@pytest.mark.parametrize(
    ("window", "limit", "scale", "expected"),
    [
        ("3:6", None, 1, [("3", 0), ("4", 1), ("5", 2)]),
        ("7:", None, 1, [("7", 0), ("8", 1), ("9", 2)]),
        (":2", None, 4, [("0", 0), ("1", 0.25)]),
        ("2.5:9", 2, 2, [("3", 0.25), ("4", 0.75)]),
        ("20:30", None, 1, []),
    ],
)
def test_a_slice_counts_from_its_window(
    window: str, limit: int | None, scale: float, expected: list[Any]
) -> None:
    assert sliced(steady(10), window, limit, scale) == (expected, None)


@pytest.mark.parametrize(
    ("window", "far"), [("0:100", False), ("100:110", True), ("50:110", False), (":", False)]
)
def test_a_slice_at_another_rate_is_said(window: str, far: bool) -> None:
    burst = [{**row, "id": "b", "arrival_s": 100 + row["arrival_s"]} for row in steady(100, 0.1)]
    _, warning = sliced(
        [*steady(100), *burst, *({**row, "arrival_s": row["arrival_s"] + 110} for row in steady(90))], window
    )
    assert (warning is not None) == far
    if window == "100:110":
        assert warning.startswith("the slice's rate is 10 requests/s, the whole trace's 1.45: ")


def test_what_was_measured_is_not_scaled() -> None:
    rows = [{"kind": "completion", "id": "a", "arrival_s": 1.0}]
    with pytest.raises(UsageError, match="--rate-scale"):
        sliced(rows, scale=2)


@pytest.mark.parametrize("text", ["5", "5:3", "3:3", "a:b", "-1:5", "nan:", "1:2:3"])
def test_a_bad_window(text: str) -> None:
    with pytest.raises(UsageError, match="--window: expected START:END"):
        parse_window(text)


# --- ServeGen -------------------------------------------------------------------------------------


def servegen(folder: Path) -> Path:
    folder.mkdir()
    for client, rates in {0: (0.5, 0.0), 7: (0.1, 0.2), 9: (1.0, 1.0)}.items():
        rows = [
            f"{600 * n},{rate},1.5,{'Gamma' if client else 'Weibull'},0.5,9\r\n"
            if rate
            else f"{600 * n},0,0,,0,0\r\n"
            for n, rate in enumerate(rates)
        ]
        (folder / f"chunk-{client}-trace.csv").write_text("".join(rows))
        if client != 9:
            lengths = {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{0: 0.5, 3: 0.5}"}
            (folder / f"chunk-{client}-dataset.json").write_text(json.dumps({"0": lengths}))
    return folder


def test_servegen_from_a_folder_and_from_its_tar(tmp_path: Path) -> None:
    folder = servegen(tmp_path / "mini")
    for mode in ("w", "w:gz"):
        with tarfile.open(tmp_path / "mini.tar", mode) as tar:  # type: ignore[call-overload]
            tar.add(folder, "mini")
        from_folder, from_tar = (run(["gen", "--trace", path]) for path in (folder, tmp_path / "mini.tar"))
        assert from_folder.stdout == from_tar.stdout
    assert said(from_folder, 0) == [f"driftkit gen: {folder}: clients without a dataset.json are left out: 9"]
    rows = records(from_folder.stdout)
    assert {row["tenant"] for row in rows} == {"client-0", "client-7"}
    assert {row["prompt_tokens"] for row in rows} == {10, 20}
    assert {row["trace_output_tokens"] for row in rows} == {1, 3}
    arrivals = [row["arrival_s"] for row in rows]
    assert arrivals == sorted(arrivals)
    assert len({row["id"] for row in rows}) == len(rows)
    cut = run(["gen", "--trace", folder, "--window", "700:900"])
    shifted = [
        {**row, "arrival_s": round(row["arrival_s"] - 700, 9)}
        for row in rows
        if 700 <= row["arrival_s"] < 900
    ]
    assert records(cut.stdout) == shifted  # what is chosen does not change what is drawn


@pytest.mark.parametrize(
    ("pattern", "shape"), [("gamma", 0.2), ("gamma", 4.0), ("weibull", 0.5), ("weibull", 2.0)]
)
def test_a_window_has_rate_times_its_length_requests_on_average(pattern: str, shape: float) -> None:
    """Whatever the shape. A fresh gap at the start would add (CV^2 - 1)/2: 2.0, -0.4, 2.0, -0.4 requests."""
    rate, windows = 0.1, 4000
    process = Gaps(0.0, rate, pattern, shape)
    counts = [len(process.arrivals(seed, "test")) for seed in range(windows)]
    error = float(np.std(counts)) / math.sqrt(windows)
    assert abs(fmean(counts) - rate * WINDOW_S) < 4 * error  # one in 16,000 by chance
    assert error < 0.4


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("0,1,1,Gamma,1", "expected start,rate,cv,pattern,shape,scale, got 5 columns"),
        ("0,1,1,Pareto,1,1", "pattern: expected Gamma or Weibull, got 'Pareto'"),
        ("0,-1,1,Gamma,1,1", "rate: expected requests/s >= 0, got '-1'"),
        ("0,1,1,Gamma,0,1", "shape: expected a number from 0.0001 to 1e+06, got '0'"),
        ("x,1,1,Gamma,1,1", "start: expected a number, got 'x'"),
    ],
)
def test_servegen_names_file_and_line(tmp_path: Path, row: str, says: str) -> None:
    (servegen(tmp_path / "mini") / "chunk-7-trace.csv").write_text("0,0,0,,0,0\n" + row)
    path = tmp_path / "mini" / "chunk-7-trace.csv"
    assert refusal_of(tmp_path / "mini") == f"{path}:2: {says}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "chunk-0-dataset.json:1: not JSON"),
        ("[]", "chunk-0-dataset.json: expected an object, got []"),
        (
            '{"0": {"input_tokens": "{}", "output_tokens": "{}"}}',
            "chunk-0-dataset.json: 0: input_tokens: expected lengths",
        ),
        (
            '{"0": {"input_tokens": "{a: 1}"}}',
            "chunk-0-dataset.json: 0: input_tokens: expected length: probability",
        ),
    ],
)
def test_servegen_names_the_window_of_a_bad_histogram(tmp_path: Path, text: str, says: str) -> None:
    (servegen(tmp_path / "mini") / "chunk-0-dataset.json").write_text(text)
    assert says in refusal_of(tmp_path / "mini")


def refusal_of(folder: Path) -> str:
    with pytest.raises(DriftkitError) as caught:
        list(load("traces", "servegen")().records(Reader([(str(folder), ())])))
    return caught.value.message


# --- on the command line --------------------------------------------------------------------------


def test_every_format_is_recognised_and_unpacked(tmp_path: Path) -> None:
    samples = {
        "azure": HEADER + b"\n2023-11-16 18:17:03,1,1\n",
        "burstgpt": BURST + b"5,ChatGPT,472,18,490,Conversation log\n",
        "mooncake": jsonl([MOONCAKE]),
        "sharegpt": json.dumps(SHAREGPT[:1]).encode(),
        "openai-batch": jsonl([{"custom_id": "a", "body": {"prompt": "hi"}}]),
        "vllm-bench": json.dumps(BENCH).encode(),
        "csv": b"arrival_s,prompt_tokens\n0,5\n",
        "jsonl": jsonl([{"arrival_s": 0, "prompt_tokens": 5}]),
    }
    assert {*samples, "servegen"} == set(names("traces"))
    for name, data in samples.items():
        (tmp_path / "log.gz").write_bytes(gzip.compress(data))
        guessed = run(["gen", "--trace", tmp_path / "log.gz"])
        named = run(["gen", "--trace", tmp_path / "log.gz", "--trace-format", name])
        assert guessed.returncode == 0, guessed.stderr
        assert guessed.stdout == named.stdout
        (first, *_) = records(guessed.stdout)
        assert first.get("tenant", "").startswith("tenant-") == (first["kind"] == "request")


def test_bad_elements_are_left_out_and_kept(tmp_path: Path) -> None:
    data = json.dumps([SHAREGPT[0], {"conversations": 7}, SHAREGPT[2]]).encode()
    rejects = tmp_path / "rejects"
    result = run(["gen", "--trace", "-", "--on-error", "skip", "--rejects", rejects], data)
    assert "<stdin>:conversation 2: conversations: expected an array, got a number" in said(result, 3)[0]
    assert [row["id"] for row in records(result.stdout)] == [
        "sharegpt-000001-1",
        "sharegpt-000001-2",
        "sharegpt-000003-1",
    ]
    assert records(rejects.read_bytes()) == [{"conversations": 7}]


def test_a_gateway_log_goes_to_the_report(tmp_path: Path) -> None:
    log = tmp_path / "monday.jsonl"
    log.write_bytes(jsonl(GATEWAY))
    maps = [word for item in MAPS for word in ("--map", item)]
    completions = ok(["gen", "--trace", log, *maps])
    calibrated = ok(["calibrate", "--sort"], run(["estimate"], completions).stdout)
    assert all("cal_output_tokens" in row for row in records(calibrated))
    report = run(["report", "--format", "jsonl"], calibrated).stdout
    assert {row["label"] for row in records(report) if "label" in row} == {"monday"}
    again = records(ok(["gen", "--trace", log, "--as", "requests", "--rate-scale", "2", *maps]))
    assert [(row["kind"], row["arrival_s"]) for row in again] == [
        ("request", 0),
        ("request", 0.5),
        ("request", 1),
    ]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("--preset driftsched --window 0:1", "--window goes with --trace, not with --preset"),
        ("--preset driftsched --map a=b", "--map goes with --trace, not with --preset"),
        ("--preset driftsched --sort", "--sort goes with --trace, not with --preset"),
        ("--trace - --requests 3", "--requests goes with --preset and --spec, not with --trace"),
        ("--trace - --trace-format azure --map a=b", "--map goes with csv and jsonl, not with azure"),
        ("--trace - --window 3", "--window: expected START:END in seconds, got '3'"),
        ("--preset driftsched --to moncake", "no export format named 'moncake'"),
    ],
)
def test_options_that_do_not_go_together(call: str, says: str) -> None:
    assert says in said(run(["gen", *call.split()], b'{"arrival_s": 0, "prompt": "a"}\n'), 2)[0]


# --- exports --------------------------------------------------------------------------------------


def test_through_mooncake_and_back() -> None:
    made = records(ok(["gen", "--preset", "driftsched", "--requests", "60"]))
    there = run(["gen", "--preset", "driftsched", "--requests", "60", "--to", "mooncake"])
    (lost,) = said(there, 0)
    assert lost.startswith(
        "driftkit gen: mooncake has no place for id, tenant, tier, tier_level, weight, category"
    )
    back = records(ok(["gen", "--trace", "-"], there.stdout))
    assert [round(row["arrival_s"] * 1000) for row in made] == [
        round(row["arrival_s"] * 1000) for row in back
    ]
    assert [row["trace_output_tokens"] for row in made] == [row["trace_output_tokens"] for row in back]
    counted = records(ok(["estimate"], jsonl(made)))
    assert [row["prompt_tokens"] for row in counted] == [row["prompt_tokens"] for row in back]
    again = run(["gen", "--trace", "-", "--to", "mooncake"], there.stdout)
    assert again.stdout == there.stdout


def test_through_openai_batch_and_back() -> None:
    made = records(ok(["gen", "--preset", "driftsched", "--requests", "30"]))
    there = run(["gen", "--preset", "driftsched", "--requests", "30", "--to", "openai-batch"])
    assert "arrival_s" in said(there, 0)[0]
    result = run(["gen", "--trace", "-"], there.stdout)
    assert said(result, 0) == ["driftkit gen: -: the format has no arrivals: every request arrives at 0"]
    kept = ("id", "prompt", "max_tokens", "temperature")
    assert [[row[name] for name in kept] for row in records(result.stdout)] == [
        [row[name] for name in kept] for row in made
    ]
    assert {row["arrival_s"] for row in records(result.stdout)} == {0}


def test_hashes_go_through_mooncake() -> None:
    (row,) = read("mooncake", jsonl([MOONCAKE]))
    assert ToMooncake("builtin").row(row) == MOONCAKE


@pytest.mark.parametrize("export", [ToMooncake, ToOpenAiBatch])
def test_what_the_format_needs_and_a_request_lacks(export: Any) -> None:
    with pytest.raises(LineError, match="expected"):
        export("builtin").row({"id": "a", "arrival_s": 0.0, "prompt_tokens": 5})


def test_a_length_alone_cannot_be_a_batch() -> None:
    result = run(["gen", "--trace", "-", "--to", "openai-batch"], jsonl([MOONCAKE]))
    assert "mooncake-000001: prompt: expected text, got none" in said(result, 1)[0]


def test_mooncake_has_a_hash_for_every_block_begun() -> None:
    """0 < input_length - (hashes - 1) * block <= block, as replayers check; what is shared stays shared."""
    export = ToMooncake("whitespace")
    rows = [
        export.row(
            {
                "id": f"r{n}",
                "arrival_s": 0,
                "prompt_tokens": tokens,
                "max_tokens": 1,
                "prefix_hashes": [7, 8],
                "prefix_block_tokens": 64,
            }
        )
        for n, tokens in enumerate([129, 192, 193, 128, 100])
    ]
    for row in rows:
        assert 0 < row["input_length"] - (len(row["hash_ids"]) - 1) * 64 <= 64
        assert row["hash_ids"][:2] == [7, 8]
    tails = [block for row in rows for block in row["hash_ids"][2:]]
    assert len(set(tails)) == len(tails) == 1 + 1 + 2
    assert list(export.remarks) == ["hash_ids are blocks of 64 tokens, not 512: tell the replayer"]


@pytest.mark.parametrize(
    ("error", "status"), [("false", "ok"), ("0", "ok"), ("", "ok"), ("None", "ok"), ("boom", "error")]
)
def test_an_error_column_that_says_there_was_none(error: str, status: str) -> None:
    data = f"arrival_s,e2e_s,prompt_tokens,error\n0,1,5,{error}\n".encode()
    (row,) = records(ok(["gen", "--trace", "-", "--trace-format", "csv"], data))
    assert (row["status"], "error" in row) == (status, status == "error")


def test_a_failed_request_has_no_length() -> None:
    data = b"arrival_s,status,e2e_s,prompt_tokens,out\n0,429,0,5,0\n1,200,2,5,9\n"
    failed, served = records(ok(["gen", "--trace", "-", "--map", "trace_output_tokens=out"], data))
    assert (failed["status"], served["actual_output_tokens"]) == ("rejected", 9)
    assert "trace_output_tokens" not in failed


def test_timings_that_contradict_one_another_are_refused() -> None:
    data = b"arrival_s,finished_s,e2e_s,prompt_tokens\n0,10,3,5\n"
    (line, hint) = said(run(["gen", "--trace", "-", "--trace-format", "csv"], data), 1)
    assert "e2e_s: 3 s, but by finished_s it took 10 s" in line
    assert "map one of the two" in hint
