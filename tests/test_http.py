"""`run --engine http`: what is sent, to whom, when and in which order; and what nobody is told."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from cli import PATIENCE_S, Record, Stages, changed, jsonl, ok, on_terminal, records, run, said, without
from driftkit.engines.dispatcher import Arrivals, dispatch, dispatch_gangs
from driftkit.engines.http import connection
from driftkit.engines.http.connection import Origin
from driftkit.engines.http.engine import Http, Service
from driftkit.engines.live import Live
from driftkit.engines.real_time import RealTime
from driftkit.engines.warmup import warm_up
from driftkit.errors import DriftkitError
from driftkit.policies.fifo import Fifo
from driftkit.records.completion import job_of, outcome
from driftkit.records.job import Job
from driftkit.testing import check_engine
from faulty_server import MODEL
from servers import Server, certificate, faulty, refusing_url, streaming
from test_faults import end_of, ended, eventually, going, http, next_record, row, tell

KEY = "sk-4f9c0e6b7a21d835"


# --- what is sent ---------------------------------------------------------------------------------

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "seed": 3, "stop": ["\n"], "logit_bias": {"50": -100}}
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
STREAMED = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}}


def sent(server: Server) -> list[tuple[str, Record]]:
    return [(request["path"].removeprefix("/v1/"), request["body"]) for request in server.requests()]


def test_a_request_is_sent_as_its_record_has_it(tmp_path: Path) -> None:
    rows = [
        row("a", "in words", **SAMPLING, tenant="gold", user_field=1),
        changed(
            without(row("b"), "prompt", "max_tokens"), messages=MESSAGES, tools=TOOLS, tool_choice="auto"
        ),
        changed(without(row("c"), "prompt"), prompt_tokens=7, top_k=None),
        row("d", "nothing that is not there", trace_output_tokens=2),
    ]
    with faulty(tmp_path) as server:
        out = ok(http(server, "--dispatch", "client", "--max-concurrency", "1"), jsonl(rows))
        a, b, (path, c), d = sent(server)
    assert d == ("completions", {**STREAMED, "prompt": "nothing that is not there", "max_tokens": 4})
    assert a == ("completions", {**STREAMED, "prompt": "in words", "max_tokens": 4, **SAMPLING})
    assert b == (
        "chat/completions",
        {**STREAMED, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "auto"},
    )
    ids = c.pop("prompt")
    assert (path, c) == ("completions", {**STREAMED, "max_tokens": 4})
    assert len(ids) == 7
    assert {type(token) for token in ids} == {int}
    found = ended(out)
    assert {one["actual_output_tokens"] for one in found.values()} == {4}
    for given in rows:  # and the record is passed on as it came
        assert {name: found[given["id"]][name] for name in given} == given
    assert {one["replica"] for one in found.values()} == {f"{server.url}/v1"}
    assert {one["served_model"] for one in found.values()} == {MODEL}


def test_a_prompt_becomes_a_chat_and_lengths_are_replayed(tmp_path: Path) -> None:
    rows = [row("a", "why?", max_tokens=30, trace_output_tokens=9, priority=5, policy="sjf")]
    with faulty(tmp_path) as server:
        call = http(server, "--endpoint", "chat", "--replay-lengths", "--no-probe", "--save-output")
        (done,) = records(ok(call, jsonl(rows)))
        ((path, body),) = sent(server)
    lengths = {"max_tokens": 9, "min_tokens": 9, "ignore_eos": True}
    said_so = {"messages": [{"role": "user", "content": "why?"}]}
    assert (path, body) == ("chat/completions", {**STREAMED, **said_so, **lengths, "priority": 5})
    assert (done["actual_output_tokens"], done["finish_reason"]) == (9, "length")
    assert done["output_text"] == "".join(f" t{n}" for n in range(9))
    assert done["actual_output_words"] == 9


@pytest.mark.parametrize(
    ("options", "record", "field"),
    [
        ([], without(row("b"), "max_tokens"), "max_tokens"),
        ([], without(row("b"), "prompt"), "prompt"),
        (["--endpoint", "chat"], without(row("b", prompt_tokens=3), "prompt"), "messages"),
        (["--endpoint", "completions"], without(row("b", messages=MESSAGES), "prompt"), "prompt"),
        (["--replay-lengths"], row("b"), "trace_output_tokens"),
    ],
)
def test_what_a_request_lacks_is_told_before_anything_is_sent(
    options: list[str], record: Record, field: str
) -> None:
    result = run(http(refusing_url(), *options), jsonl([row("a", trace_output_tokens=1), record]))
    assert said(result, 1)[0].startswith(f"driftkit run: <stdin>:2: {field}: expected")


# --- priorities -----------------------------------------------------------------------------------

URGENT_LAST = [row(f"r{n}", f"r{n}", at=0.001 * n, priority=10 - n, policy="sjf") for n in range(6)]


def test_priorities_go_to_a_server_that_honours_them_and_to_no_other(tmp_path: Path) -> None:
    slow = "none,once=16,delay=0.03"  # the probe's 16 wait together, however slowly they come
    with faulty(tmp_path, slow, "--slots", "1") as server:
        first, hint = said(run(http(server), jsonl(URGENT_LAST)), 1)
        assert "whatever their priority" in first
        assert "--scheduling-policy priority" in hint
        assert "--dispatch client" in hint
        assert not [request for request in server.requests() if request["prompt"].startswith("r")]
        probes = len(server.requests())
        for options in (
            ["--no-probe"],  # they are sent all the same
            ["--dispatch", "client", "--max-concurrency", "1"],  # no need
        ):
            ok(http(server, *options), jsonl(URGENT_LAST))
        bodies = [body for _, body in sent(server)[probes:]]
        assert [body.get("priority") for body in bodies[:6]] == [10, 9, 8, 7, 6, 5]
        assert [body.get("priority") for body in bodies[6:]] == [None] * 6
        # the client's own queue: who is first is first, then the most urgent
        assert [body["prompt"] for body in bodies[6:]] == ["r0", "r5", "r4", "r3", "r2", "r1"]
    (tmp_path / "server.jsonl").unlink()
    with faulty(tmp_path, slow, "--slots", "1", "--by-priority") as server:
        prompts = [f"{n} fault:none,once=22" for n in range(6)]
        rows = [changed(one, prompt=prompt) for one, prompt in zip(URGENT_LAST, prompts, strict=True)]
        found = ended(ok(http(server), jsonl(rows)))
        assert sorted(one["prompt"] for one in found.values()) == prompts  # and no probe is among them
        taken = server.taken()[16:]
        assert taken[1:] == sorted(taken[1:], reverse=True)


@pytest.mark.parametrize("policy", ["sjf", "weighted"])
def test_the_clients_queue_is_the_simulators(tmp_path: Path, stages: Stages, policy: str) -> None:
    planned = ok(["schedule", "--policy", policy, "--no-plan"], stages.estimated.read_bytes())
    rows = jsonl(changed(one, arrival_s=0.0, barrier=None) for one in records(planned))
    one_by_one = ["--dispatch", "client", "--max-concurrency", "1"]
    simulated = sorted(records(ok(["run", *one_by_one], rows)), key=lambda one: one["dispatched_s"])
    with faulty(tmp_path) as server:
        ok(http(server, *one_by_one), rows)
        order = [request["prompt"] for request in server.requests()]
    assert len(order) == 48
    assert order == [one["prompt"] for one in simulated]


def test_an_online_policy_needs_to_know_how_many(tmp_path: Path) -> None:
    with streaming() as server:
        result = run(http(server), jsonl([row("a", policy="weighted", weight=1, est_output_tokens=3)]))
    assert "--dispatch client needs --max-concurrency" in said(result, 2)[0]


# --- replicas -------------------------------------------------------------------------------------


def test_every_route_uses_every_replica() -> None:
    rows = jsonl(row(f"r{n}", f"{n} is a prompt", at=n / 200) for n in range(24))
    with streaming(ttft=0.05) as one, streaming(ttft=0.05) as other:
        for route in ("round-robin", "least-loaded", "two-choices", "prefix-affinity"):
            call = http(one, "--base-url", other.url, "--route", route)
            to = [done["replica"] for done in records(ok(call, rows))]
            shares = sorted(to.count(f"{server.url}/v1") for server in (one, other))
            assert sum(shares) == 24
            assert shares[0] >= (12 if route == "round-robin" else 4)


def test_a_dead_replica_is_avoided(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with (
        faulty(tmp_path) as one,
        faulty(tmp_path / "other") as other,
        going(http(one, "--base-url", other.url, "--follow")) as process,
    ):
        for name, server in (("a", one), ("b", other)):
            tell(process, row(name))
            assert next_record(process)["replica"] == f"{server.url}/v1"
        one.kill()
        tell(process, row("lost"), row("well"))
        assert {next_record(process)["status"] for _ in range(2)} == {"error", "ok"}
        tell(process, *(row(f"r{n}") for n in range(4)))  # at once: it is tried again after a second
        assert {next_record(process)["replica"] for _ in range(4)} == {f"{other.url}/v1"}
        assert process.stdin
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 3


# --- when -----------------------------------------------------------------------------------------


def test_latencies_count_from_when_a_request_was_due(tmp_path: Path) -> None:
    rows = [
        row("a", "fault:none,delay=0.3", at=0.05),
        row("b", at=0.15, barrier=True),
        row("c", at=0.2),
    ]
    with faulty(tmp_path) as server:
        found = ended(ok(http(server, "--warmup", "3"), jsonl(rows)))
        prompts = [request["prompt"] for request in server.requests()]
    assert len(prompts) == 6  # those of the warm-up are no records
    assert prompts[3:] == ["fault:none,delay=0.3", "well", "well"]
    assert [one["arrival_s"] for one in found.values()] == [0.05, 0.15, 0.2]
    assert found["a"]["offered_s"] == 0.05
    assert found["b"]["offered_s"] == pytest.approx(found["a"]["finished_s"] + 0.1, abs=1e-9)
    assert found["c"]["offered_s"] == pytest.approx(found["b"]["offered_s"] + 0.05, abs=1e-9)
    for one in found.values():
        assert 0 <= one["client_lag_s"] == pytest.approx(one["dispatched_s"] - one["offered_s"], abs=1e-9)
        assert one["offered_s"] <= one["dispatched_s"] < one["first_token_s"] <= one["finished_s"]
        assert one["ttft_s"] == one["first_token_s"] - one["offered_s"]
        assert one["e2e_s"] == one["finished_s"] - one["offered_s"]


@pytest.mark.parametrize("engine", ["sim", "http"])
def test_limit_and_duration(engine: str) -> None:
    rows = jsonl(
        row(f"r{n}", at=at, prompt_tokens=9, trace_output_tokens=2) for n, at in enumerate((0, 0.1, 0.2, 50))
    )
    with streaming() as server:
        call = http(server) if engine == "http" else ["run"]
        assert len(records(ok([*call, "--limit", "2"], rows))) == 2
        assert len(records(ok([*call, "--duration", "0.2"], rows))) == 2
        assert len(records(ok([*call, "--duration", "0.3", *(["--follow"])], rows))) == 3


def test_a_run_that_follows_ends_with_its_duration_though_its_input_does_not() -> None:
    with streaming() as server, going(http(server, "--follow", "--duration", "1")) as process:
        tell(process, row("a"), row("b", at=2.0))
        assert next_record(process)["id"] == "a"
        assert process.wait(PATIENCE_S) == 0


def test_no_more_a_second_than_was_allowed(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        result = run(http(server, "--max-rps", "20"), jsonl(row(f"r{n}") for n in range(10)))
        at = [request["at"] for request in server.requests()]
    assert said(result, 0) == ["driftkit run: 9 requests were held back by --max-rps"]
    found = ended(result.stdout)
    for number, one in enumerate(sorted(found.values(), key=lambda one: one["dispatched_s"])):
        assert one["offered_s"] == 0.0
        assert one["dispatched_s"] >= number / 20
        assert one["e2e_s"] >= number / 20  # the wait is the request's
    assert at[-1] - at[0] > 0.4


def test_a_late_client_says_so_and_may_fail_for_it() -> None:
    with streaming() as server:
        call = ["run", "--engine", "http", "--base-url", server.url, "--max-client-lag", "0"]
        for options, code in (([], 0), (["--strict"], 3)):
            (line,) = said(run([*call, *options], jsonl([row("a")])), code)
            assert line.startswith("driftkit run: requests were sent late: the P99 of client_lag_s is ")
        ok([*call[:-1], "100", "--strict"], jsonl([row("a")]))


def test_gangs_end_together(tmp_path: Path) -> None:
    rows = [row(f"r{n}", f"fault:none,tokens={n + 1},gap=0.02", max_tokens=9) for n in range(7)]
    with faulty(tmp_path) as server:
        out = records(ok(http(server, "--batching", "static", "--batch-size", "3"), jsonl(rows)))
    assert [(one["batch_id"], one["batch_requests"]) for one in out] == [(0, 3)] * 3 + [(1, 3)] * 3 + [(2, 1)]
    starts = []
    for gang in (out[:3], out[3:6], out[6:]):
        assert len({one["finished_s"] for one in gang}) == 1
        assert len({one["started_s"] for one in gang}) <= len(gang)
        assert not any("ttft_s" in one for one in gang)
        starts.append(min(one["dispatched_s"] for one in gang))
    assert [one["actual_output_tokens"] for one in out] == [1, 2, 3, 4, 5, 6, 7]
    assert starts[1] >= out[0]["finished_s"]
    assert starts[2] >= out[3]["finished_s"]


# --- somebody's production server -----------------------------------------------------------------


def test_a_dry_run_sends_nothing() -> None:
    rows = [row(f"r{n}", at=n // 3, prompt_tokens=5, trace_output_tokens=2) for n in range(9)]
    for options, tokens in (([], 36), (["--replay-lengths"], 18)):
        (planned,) = records(ok(http(refusing_url(), "--dry-run", *options), jsonl(rows)))
        del planned["kind"], planned["schema"], planned["table"]
        assert planned == {
            "requests": 9,
            "seconds": 2.0,
            "peak_rps": 3,
            "prompt_tokens": 45,
            "max_output_tokens": tokens,
        }
    for options, requests, seconds, peak in (  # as a run with these would send them
        (["--duration", "2"], 6, 1.0, 3),
        (["--limit", "8", "--duration", "9"], 8, 2.0, 3),
        (["--max-rps", "2"], 9, 4.0, 2),
    ):
        (planned,) = records(ok(http(refusing_url(), "--dry-run", *options), jsonl(rows)))
        assert [planned[name] for name in ("requests", "seconds", "peak_rps")] == [requests, seconds, peak]


def test_failures_end_a_run_where_that_was_asked_for(tmp_path: Path) -> None:
    rows = jsonl(row(f"r{n}") for n in range(40))
    one_by_one = ["--dispatch", "client", "--max-concurrency", "1"]
    with faulty(tmp_path, "server-error") as server:
        for options, most, why in (
            (["--max-failed", "2"], 3, "3 requests have failed, more than --max-failed 2"),
            (
                ["--abort-error-ratio", "0.5"],
                20,
                "20 of 20 requests have failed: more than --abort-error-ratio 0.5",
            ),
        ):
            result = run(http(server, *one_by_one, *options), rows)
            assert f"driftkit run: {why}: no more was sent" in said(result, 3)
            assert most <= len(records(result.stdout)) <= most + 1  # the next was on its way
        allowed = run(http(server, "--max-failed", "40"), rows)
        assert said(allowed, 0)[-1] == "driftkit run: 40 of 40 requests were not served"
    with (
        faulty(tmp_path, "server-error") as server,
        going(http(server, "--follow", "--max-failed", "0")) as process,
    ):
        assert process.stdin
        process.stdin.write(jsonl([row("a")]) + b'{"id": "b", ')  # a line that is not over is not a bad one
        assert next_record(process)["status"] == "error"
        assert process.wait(PATIENCE_S) == 3  # its input is open yet


def test_on_a_terminal_a_warning_has_a_line_of_its_own(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(jsonl([row("hangs", "fault:hang"), row("waits"), row("a", at=1.2)]))
    with faulty(tmp_path) as server:
        one_by_one = ["--dispatch", "client", "--max-concurrency", "1"]
        call = http(server, "--timeout", "0.8", "--max-failed", "1", *one_by_one, requests)
        lines = on_terminal(call, stream="stderr").decode().split("\r\n")
    assert [line.split("\x1b[K")[-1] for line in lines if line] == [
        "driftkit run: request hangs was timeout: no byte for 0.8 s; see status, error",
        "driftkit run: 1 of 3 requests were not served",
    ]
    assert "\x1b[K0:00 0 of 3 done, 1 in flight" in lines[0]


# --- going on with an interrupted run -------------------------------------------------------------

NIGHT = [
    row("a"),
    row("b", 'with "quotes"'),
    row("hangs", "fault:hang,times=2"),
    row("c", "later", at=1.2),
    row("d", "at last", at=1.4),
]


def test_a_run_that_was_killed_goes_on_and_loses_and_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with faulty(tmp_path) as server:
        call = http(server, "-o", out, "--resume", "--label", "night")

        @contextmanager
        def begin() -> Iterator[Popen[bytes]]:
            with going(call) as process:
                tell(process, *NIGHT)
                assert process.stdin
                process.stdin.close()
                process.stdin = None
                yield process

        def tries(prompt: str) -> list[int]:
            return [request["try"] for request in server.requests() if request["prompt"] == prompt]

        with begin() as process:  # the first time there is nothing to go on with
            eventually(lambda: out.exists() and out.read_bytes().count(b"\n") == 2)
            eventually(lambda: tries(NIGHT[2]["prompt"]) == [1])
            process.send_signal(signal.SIGKILL)
        killed = records(out.read_bytes())
        assert {done["id"] for done in killed} == {"a", "b"}
        with out.open("ab") as stream:
            stream.write(b'{"id": "c", "arriv')  # torn by the kill
        with begin() as process:
            eventually(lambda: out.read_bytes().count(b"\n") == 4)
            eventually(lambda: tries(NIGHT[2]["prompt"]) == [1, 2])
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 143
        assert {done["id"]: done["status"] for done in records(out.read_bytes())} == {
            **dict.fromkeys("abcd", "ok"),
            "hangs": "cancelled",
        }
        assert ok(call, jsonl(NIGHT)) == b""
        assert ok(call, jsonl(NIGHT)) == b""  # it is done
        assert tries("well") == tries("later") == tries("at last") == [1]
        assert tries(NIGHT[2]["prompt"]) == [1, 2, 3]
        found = ended(b"".join(sorted(out.read_bytes().splitlines(keepends=True), key=finish)))
        assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(
            ("a", "b", "hangs", "c", "d"), "ok"
        )
        assert {one["run_id"] for one in found.values()} == {killed[0]["run_id"]}
        whole = out.read_bytes()
        other = run([*call[:-1], "day"], jsonl([*NIGHT, row("e")]))
        assert "--resume: label: the file has night, this run day" in said(other, 2)[0]
        assert out.read_bytes() == whole
        longer = jsonl([*NIGHT, row("e", at=2.0), row("f", at=3.0)])
        ok([*call, "--limit", "6"], longer)  # of the whole input, and not of what is left
        assert [done["id"] for done in records(out.read_bytes())][5:] == ["e"]
    assert "--resume" in said(run(["run", "-o", out, "--resume"], jsonl(NIGHT)), 2)[0]


def test_a_file_that_no_run_has_written_is_not_gone_on_with(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    for text in ("no line ends here", "a line\n"):
        notes.write_text(text)
        result = run(http(refusing_url(), "-o", notes, "--resume"), jsonl(NIGHT))
        assert said(result, 1)[0] == f"driftkit run: {notes}:1: not a completion of `run`"
        assert notes.read_text() == text


def test_what_is_no_request_is_passed_on_once(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    summary = {"kind": "summary", "schema": 1, "table": "mine"}
    with faulty(tmp_path) as server:
        for rows in ([summary, row("a")], [summary, row("a"), row("b")]):
            ok(http(server, "-o", out, "--resume"), jsonl(rows))
    assert [one.get("table", one.get("id")) for one in records(out.read_bytes())] == ["mine", "a", "b"]


def test_two_outputs_are_not_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    same = f"{tmp_path}/../{tmp_path.name}/out.jsonl"
    result = run(http(refusing_url(), "-o", out, "--telemetry", same), jsonl(NIGHT))
    assert "need a file each" in said(result, 2)[0]


def test_what_has_ended_is_written_whatever_else_fails(tmp_path: Path) -> None:
    """The telemetry's disk is full, and the reader so slow that completions wait for it."""
    rows = [row(f"r{n}", "word " * 2000) for n in range(40)]  # several times what a pipe holds
    with faulty(tmp_path) as server, going(http(server, "--telemetry", "/dev/full")) as process:
        tell(process, *rows)
        assert process.stdin
        process.stdin.close()
        process.stdin = None
        eventually(lambda: len(server.requests()) == len(rows))
        time.sleep(1.0)  # for all to end
        out, told, code = end_of(process)
    assert (code, told[-1]) == (1, "driftkit run: /dev/full: no space left on device")
    assert len(ended(out)) == len(rows)


# --- requests that come while it runs --------------------------------------------------------------


def test_a_run_that_is_over_does_not_wait_for_more(tmp_path: Path) -> None:
    """A pipe that keeps silent holds up neither the end of --duration nor an interrupted run."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with faulty(tmp_path) as server:
        for options, stop, status in (["--duration", "0.4"], None, 0), ([], signal.SIGINT, 130):
            with going(http(server, "--follow", *options, pipe)) as process, pipe.open("wb", 0) as writer:
                writer.write(jsonl([row("a")]))
                assert next_record(process)["id"] == "a"
                if stop is not None:
                    process.send_signal(stop)
                assert process.wait(PATIENCE_S) == status


def finish(line: bytes) -> float:
    (done,) = records(line)
    at: float = done["finished_s"]
    return at


# --- what nobody is told --------------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path: Path) -> None:
    key, manifest, out = tmp_path / "key", tmp_path / "manifest.json", tmp_path / "out.jsonl"
    key.write_text(f"{KEY}\n")
    (tmp_path / "elsewhere").mkdir()
    with faulty(tmp_path) as server, faulty(tmp_path / "elsewhere") as elsewhere:
        rows = [
            row("echo", "fault:echo-key"),
            row("away", f"fault:redirect,to={elsewhere.url}/v1/completions"),
            row("same", "fault:redirect-same"),
            row("cut", "fault:echo-key,after=160"),  # so that only the beginning of it would be kept
            row("fine"),
        ]
        for options, env in ((["--api-key-file", key], {}), ([], {"DRIFTKIT_API_KEY": KEY})):
            call = http(server, "-o", out, "--manifest", manifest, "--save-output", *options)
            result = run(call, jsonl(rows), env=env)
            said(result, 3)
            found = {one["id"]: one for one in records(out.read_bytes())}
            assert found["fine"]["status"] == "ok"
            assert found["echo"]["error"] == "HTTP 401: wrong key: Bearer (the API key)"
            assert found["cut"]["error"] == f"HTTP 401: {'x' * 160}wrong key: Bearer (the API key"
            assert found["away"]["error"] == (
                f"HTTP 307: redirected to {elsewhere.url}/v1/completions, which is not followed"
            )
            assert found["same"]["error"] == (
                "HTTP 307: redirected to /v1/completions, which is not followed"
            )
            for told in (result.stdout, result.stderr, manifest.read_bytes(), out.read_bytes()):
                assert KEY[:8].encode() not in told
        headers = [entry["headers"] for entry in server.entries()]
        assert {header.get("authorization") for header in headers} == {f"Bearer {KEY}"}
        assert len(headers) == 2 * (1 + len(rows))  # the list of models, and each request once
        assert elsewhere.entries() == []


def test_no_key_is_sent_where_there_is_none(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        ok(http(server), jsonl([row("a")]))
        assert [entry["headers"].get("authorization") for entry in server.entries()] == [None, None]
    empty = tmp_path / "empty"
    empty.touch()
    assert "it is empty" in said(run(http(server, "--api-key-file", empty), jsonl([row("a")])), 2)[0]
    two = tmp_path / "two"
    two.write_text("one\r\nX-Other: two")
    assert "not a key" in said(run(http(server, "--api-key-file", two), jsonl([row("a")])), 2)[0]


def test_a_servers_text_drives_no_terminal(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        result = run(http(server), jsonl([row("a", "fault:escapes")]))
    first, _ = said(result, 3)
    assert r"HTTP 400: \x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b1m second line \u202e" in first
    for told in (result.stdout, result.stderr):
        assert all(line.isprintable() for line in told.decode().splitlines())


def test_a_certificate_that_nobody_signed_is_refused_unless_told(tmp_path: Path) -> None:
    with faulty(tmp_path, tls=certificate(tmp_path)) as server:
        first, hint = said(run(http(server), jsonl([row("a")])), 1)
        assert first == f"driftkit run: {server.url}/v1: certificate not trusted: self-signed certificate"
        assert "--insecure" in hint
        assert server.entries() == []
        (done,) = records(ok(http(server, "--insecure"), jsonl([row("a")])))
        assert done["status"] == "ok"
        trusted = {"SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
        assert said(run(http(server), jsonl([row("a")]), env=trusted), 0) == []


@pytest.mark.parametrize(
    "url", ["http://me:hush-hush@host:8000", "https://me:hush-hush@host:99999/v1", "me:hush-hush@host"]
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    lines = said(run(http(url), jsonl([row("a")])), 2)
    assert "a URL with a user or password" in lines[0]
    assert "hush" not in "".join(lines)


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "host:8000", "http://host/v1?key=1", "http://ho\x1bst"]
)
def test_what_is_no_url_of_a_server(url: str) -> None:
    lines = said(run(http(url), jsonl([row("a")])), 2)
    assert lines[0].startswith("driftkit run: --base-url: ")
    assert all(line.isprintable() for line in lines)


def test_a_model_that_is_not_served(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        first, hint = said(run(http(server, "--model", "other"), jsonl([row("a")])), 1)
    assert "does not serve 'other'" in first
    assert MODEL in hint


# --- feedback -------------------------------------------------------------------------------------


def test_what_a_live_run_learned_is_what_calibrate_replays(stages: Stages) -> None:
    estimated = ok(["schedule", "--policy", "sjf", "--no-plan"], stages.estimated.read_bytes())
    rows = [changed(one, arrival_s=n / 50, barrier=None) for n, one in enumerate(records(estimated))]
    with streaming(ttft=0.02, tokens=40, gap=0.002) as server:
        call = http(server, "--feedback", "--dispatch", "client", "--max-concurrency", "4")
        out = ok(call, jsonl(rows))
    assert ok(["calibrate"], out) == out
    found = records(out)
    assert len({one["cal_bias_ratio"] for one in found}) > 3


# --- the parts, in this process -------------------------------------------------------------------


class Sleeper(RealTime):
    """Answers each request, token by token, with nothing: a millisecond a token."""

    name = "sleeper"
    max_num_seqs = 8
    step_s = 0.001

    def _send(self, job: Job) -> None:
        job.started_s = self.now()
        self.loop.call_later(self.step_s, self._first, job)

    def _first(self, job: Job) -> None:
        job.first_token_s = self.now()
        self.loop.call_later(self.step_s * (job.output_tokens - 1), self.end, job)

    def _abort(self, job: Job) -> None: ...


def job(name: str, at: float = 0.0, tokens: int = 5) -> Job:
    return job_of(row(name, at=at), tokens)


def test_an_engine_on_the_walls_clock_passes_the_check_of_engines() -> None:
    check_engine(Sleeper)


def test_a_live_source_is_waited_for_and_nothing_is_sent_early() -> None:
    """What comes wakes the loop; that is no reason to send what is not due."""
    engine = Sleeper()
    engine.start()
    pipe, to_pipe = os.pipe()

    def source() -> Any:
        yield from (job("now"), job("soon", 0.15), job("then", 0.3))
        os.read(pipe, 1)
        yield job("late", 0.3)

    live = Live(source(), engine.wake)
    arrivals = Arrivals(live, None)
    seen: dict[str, Job] = {}
    for together in dispatch(arrivals, engine, None, 1):
        for done in together:
            seen[done.record["id"]] = done
            if done.record["id"] == "soon":
                os.write(to_pipe, b".")
    live.check()
    engine.close()
    assert list(seen) == ["now", "soon", "then", "late"]
    for done in seen.values():
        assert done.offered_s == done.record["arrival_s"] <= (done.dispatched_s or -1)
    engine.wake()  # of a loop that is closed: nothing


def test_what_a_live_source_raises_is_raised_when_all_have_ended() -> None:
    engine = Sleeper()
    engine.start()

    def source() -> Any:
        yield job("a")
        raise DriftkitError("a bad line")

    live = Live(source(), engine.wake)
    (together,) = dispatch(Arrivals(live, None), engine, None, 1)
    assert [done.status for done in together] == ["ok"]
    with pytest.raises(DriftkitError, match="a bad line"):
        live.check()
    engine.close()


@pytest.mark.parametrize("gangs", [False, True])
def test_a_stopped_run_waits_for_those_in_flight_alone(gangs: bool) -> None:
    engine = Sleeper()
    engine.start()
    arrivals = Arrivals([job(f"r{n}", n / 100, tokens=100) for n in range(10)], None)
    engine.loop.call_later(0.05, arrivals.stop)
    engine.loop.call_later(0.05, engine.wake)
    queue = Fifo().queue()
    run_ = dispatch_gangs(arrivals, engine, queue, 2, 0.0) if gangs else dispatch(arrivals, engine, queue, 2)
    done = [one.record["id"] for together in run_ for one in together]
    engine.close()
    assert done == (["r0"] if gangs else ["r0", "r1"])
    assert not arrivals.more


def test_a_gang_from_a_live_source_waits_to_fill() -> None:
    engine = Sleeper()
    engine.start()
    live = Live(iter([job("a"), job("b", 0.05), job("c", 0.2)]), engine.wake)
    gangs = list(dispatch_gangs(Arrivals(live, None), engine, Fifo().queue(), 2, 0.1))
    engine.close()
    assert [[done.record["id"] for done in gang] for gang in gangs] == [["a", "b"], ["c"]]
    assert gangs[0][0].dispatched_s >= 0.05
    assert gangs[1][0].dispatched_s >= 0.3  # it waited for another


def test_cancelling_ends_each_once_and_what_was_held_back_too() -> None:
    engine = Sleeper(max_rps=10)
    engine.start()
    jobs = [job(f"r{n}", tokens=1000) for n in range(3)]
    for order, one in enumerate(jobs):
        one.order = order
        one.dispatched_s = 0.0
        engine.submit(one)
    engine.cancel("enough")
    engine.cancel("enough")
    assert engine.advance(1.0) == jobs
    assert {(one.status, one.error) for one in jobs} == {("cancelled", "enough")}
    assert engine.advance(engine.now() + 0.25) == []  # what was held back is not sent after all
    assert engine.held_back == 2
    assert [one.dispatched_s is None for one in jobs] == [False, True, True]
    engine.close()


def test_of_what_was_cancelled_it_is_known_how_much_had_come(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        engine = Http(Service([Origin.of(server.url)], MODEL))
        engine.start()
        one = job_of(row("r", "fault:none,gap=0.1,tokens=1000"), 5)
        engine.submit(one)
        until_s = engine.now() + PATIENCE_S
        while one.first_token_s is None and engine.now() < until_s:
            engine.advance(engine.now() + 0.05)
        engine.advance(engine.now() + 0.35)
        engine.cancel("enough")
        assert engine.advance(math.inf) == [one]
        engine.close()
    record = outcome(one)
    assert 2 <= record["received_output_tokens"] < 900
    assert "actual_output_tokens" not in record


@pytest.mark.parametrize("idle_s", [0.0, 60.0])
def test_a_connection_is_used_again_unless_it_was_idle_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_s: float
) -> None:
    monkeypatch.setattr(connection, "LONGEST_IDLE_S", idle_s)
    with faulty(tmp_path) as server:
        engine = Http(Service([Origin.of(server.url)], MODEL))
        engine.start()
        for name in "ab":
            warm_up(engine, 1, 0, row(name))
            time.sleep(0.01)
        engine.close()
        connections = [request["connection"] for request in server.requests()]
    assert len(set(connections)) == (1 if idle_s else 2)


def test_a_warm_up_that_fails_is_told_of(tmp_path: Path) -> None:
    with faulty(tmp_path, "server-error") as server:
        first = said(run(http(server, "--warmup", "1"), jsonl([row("a")])), 1)[0]
    assert "warm-up: a request was error: HTTP 500: EngineCore encountered an issue" in first


def test_a_run_that_cannot_begin_leaves_its_file_as_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes(b'{"kind":"completion"}\n')
    said(run(http(refusing_url(), "-o", kept), jsonl([row("a")])), 1)
    assert kept.read_bytes() == b'{"kind":"completion"}\n'
