"""`run --engine http` against servers that fail: every request is one record, and the run ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import Any

import pytest

from cli import PATIENCE_S, Record, jsonl, ok, read_line, records, run, said, start
from faulty_server import SPLIT_TEXT
from servers import Server, certificate, faulty, refusing_url, streaming

KEY = "sk-4f9c0e6b7a21d835"
WHOLE = " t0 t1 t2 t3"


def row(name: str, prompt: str = "well", at: float = 0.0, **fields: Any) -> Record:
    return {"id": name, "arrival_s": at, "prompt": prompt, "max_tokens": 4, **fields}


def http(server: Server | str, *options: str | Path) -> list[str | Path]:
    """The call of a run against a server; late requests are not what these tests are about."""
    url = server if isinstance(server, str) else server.url
    return ["run", "--engine", "http", "--base-url", url, "--max-client-lag", "100", *options]


@contextmanager
def going(args: list[str | Path]) -> Iterator[Popen[bytes]]:
    """The command, running; a test that fails does not wait for it."""
    with start(args) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(data: bytes) -> dict[str, Record]:
    """The completions by id; each once, in order of their ends."""
    rows = records(data)
    assert [row["finished_s"] for row in rows] == sorted(row["finished_s"] for row in rows)
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def eventually(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def next_record(process: Popen[bytes]) -> Record:
    assert process.stdout
    found: Record = json.loads(read_line(process.stdout.fileno()))
    return found


def tell(process: Popen[bytes], *rows: Record) -> None:
    assert process.stdin
    process.stdin.write(jsonl(rows))


def end_of(process: Popen[bytes]) -> tuple[bytes, list[str], int]:
    """What is left of its output, what it said, and its exit status."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err
    return out, err.decode().splitlines(), process.returncode


# --- what a server may do to one request ----------------------------------------------------------

#: a fault: the record's status, its error, and the text that was kept
FAULTS: dict[str, tuple[str, str | None, str]] = {
    "none": ("ok", None, WHOLE),
    # connections
    "close": ("error", "the server closed the connection", ""),
    "reset": ("error", "connection lost: connection reset by peer", ""),
    "close-mid-stream": ("error", "the server closed the connection in mid-answer", " t0 t1"),
    "reset-mid-stream": ("error", "connection lost: connection reset by peer in mid-answer", " t0 t1"),
    "hang": ("timeout", "no byte for 0.5 s", ""),
    "hang-after-headers": ("timeout", "no byte for 0.5 s", ""),
    "hang-mid-stream": ("timeout", "no byte for 0.5 s", " t0 t1"),
    "drip": ("ok", None, WHOLE),
    # statuses
    "bad-request": (
        "rejected",
        "HTTP 400: 4093 tokens of prompt and 4 of output are over 4096 (parameter=input_tokens)",
        "",
    ),
    "too-many": ("rejected", "HTTP 429: slow down", ""),
    "too-many,retry-after=1": ("rejected", "HTTP 429: slow down", ""),
    "overloaded": ("rejected", "HTTP 503: the queue is full", ""),
    "overloaded,retry-after=date": ("rejected", "HTTP 503: the queue is full", ""),
    "unauthorized": ("error", "HTTP 401: Unauthorized", ""),
    "server-error": ("error", "HTTP 500: EngineCore encountered an issue", ""),
    "status,code=418": ("error", "HTTP 418: as asked", ""),
    "gateway": ("error", "HTTP 502: <html><h1>502</h1> <p>bad gateway</p></html>", ""),
    "long-error": ("error", "HTTP 500 with an endless body", ""),
    "long-error,bytes=9000": ("error", "HTTP 500: " + 190 * "x", ""),
    # HTTP
    "not-http": ("error", "not an HTTP response: Expected HTTP/, RTSP/ or ICE/", ""),
    "huge-header": ("error", "not an HTTP response: more than 65536 bytes of headers", ""),
    "bad-chunk": ("error", "not an HTTP response: Invalid character in chunk size in mid-answer", " t0 t1"),
    "content-length": ("ok", None, WHOLE),
    "until-close": ("ok", None, WHOLE),
    "until-close,done=no": ("ok", None, WHOLE),
    "short-body": ("ok", None, WHOLE),  # [DONE] was there: what is missing would have added nothing
    "empty": ("error", "the answer broke off: neither [DONE] nor finish_reason", ""),
    "json-answer": ("ok", None, WHOLE),
    # server-sent events
    "truncated": ("error", "the answer broke off: neither [DONE] nor finish_reason", " t0 t1"),
    "no-done": ("ok", None, WHOLE),
    "no-usage": ("ok", None, WHOLE),
    "zero-tokens": ("ok", None, ""),
    "pairs": ("ok", None, " t t t t"),
    "bad-json": ("error", 'an event that is not JSON: {"id": "cmpl-1", "choices": [{"ind', " t0 t1"),
    "wrong-shape": ("error", "an event that is not an object", " t0 t1"),
    "wrong-shape,value=choices": (
        "error",
        "the answer broke off: neither [DONE] nor finish_reason",
        " t0 t1",
    ),
    "error-event": ("error", "EngineCore encountered an issue", " t0 t1"),
    "endless": ("error", "HTTP 200 with an endless body", ""),
    "huge-event": ("error", "more than 1048576 bytes without the end of an event", " t0 t1"),
    "split-utf8": ("ok", None, SPLIT_TEXT),
    "odd-lines": ("ok", None, WHOLE),
    "odd-lines,end=cr": ("ok", None, WHOLE),
}


def test_every_fault_is_one_record_that_says_what_it_was(tmp_path: Path) -> None:
    rows = [row(fault, f"fault:{fault}") for fault in FAULTS]
    with faulty(tmp_path) as server:
        result = run(http(server, "--timeout", "0.5", "--save-output"), jsonl(rows))
        assert {request["try"] for request in server.requests()} == {1}  # nothing was sent twice
        assert len(server.requests()) == len(rows)
        eventually(lambda: len(server.left()) >= 3)  # those that hung were let go
    found = ended(result.stdout)
    endless = found["endless"]
    assert 200_000 < len(endless["output_text"].split()) < 1_000_000
    endless["output_text"] = ""
    assert {
        fault: (one["status"], one.get("error"), one["output_text"]) for fault, one in found.items()
    } == FAULTS
    bad = sum(status != "ok" for status, _, _ in FAULTS.values())
    first, counted, lengths = said(result, 3)
    assert first.startswith("driftkit run: request ")
    assert counted == f"driftkit run: {bad} of {len(rows)} requests were not served"
    assert lengths.startswith("driftkit run: the lengths of 1 answers are not known: ")
    tokens = {fault: one.get("actual_output_tokens") for fault, one in found.items() if one["status"] == "ok"}
    assert tokens == {
        **dict.fromkeys(tokens, 4),
        **{"no-usage": None, "zero-tokens": 0, "split-utf8": 1},
    }
    for fault, one in found.items():
        # a first token is told of where it was seen: not in a whole answer, nor where there was none
        seen = one["status"] == "ok" and fault not in ("json-answer", "zero-tokens")
        assert ("ttft_s" in one) == seen
        assert ("actual_output_tokens" in one) <= (one["status"] == "ok")
        assert one["offered_s"] == 0.0 <= one["dispatched_s"] <= one["finished_s"] == one["e2e_s"]
        assert one["client_lag_s"] >= 0.0
        assert "retries" not in one
        assert one["status"] != "timeout" or 0.5 <= one["e2e_s"] < 5


def test_what_is_busy_is_tried_again_as_often_as_was_asked_for(tmp_path: Path) -> None:
    again = {  # tries, then status
        "too-many,times=1,retry-after=0.4": (2, "ok"),
        "overloaded,times=2,retry-after=0.1": (3, "ok"),
        "too-many,times=1,retry-after=date": (2, "ok"),
        "overloaded,times=1": (2, "ok"),
        "too-many,retry-after=0.1": (3, "rejected"),
        "close,times=1": (2, "ok"),  # not a byte came
        "close-mid-stream,times=1": (1, "error"),
        "server-error,times=1": (1, "error"),
        "bad-request,times=1": (1, "rejected"),
    }
    with faulty(tmp_path) as server:
        result = run(http(server, "--retries", "2"), jsonl(row(fault, f"fault:{fault}") for fault in again))
        requests = server.requests()
    said(result, 3)
    found = ended(result.stdout)
    seen = {fault: (one.get("retries", 0) + 1, one["status"]) for fault, one in found.items()}
    assert seen == again
    for fault, (tries, _) in again.items():
        at = [request["at"] for request in requests if request["prompt"] == f"fault:{fault}"]
        assert len(at) == tries
        if fault.endswith("retry-after=0.4"):
            assert 0.4 <= at[1] - at[0] < 2
        elif tries == 2:
            assert 0.2 < at[1] - at[0] < 2  # 0.25 to 0.75 s, drawn
        assert found[fault]["e2e_s"] >= at[-1] - at[0]  # waiting counts


# --- servers that are not there -------------------------------------------------------------------


@contextmanager
def silent() -> Iterator[int]:
    """The port of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_no_server_at_the_start_is_told_of_at_once() -> None:
    call = (jsonl([row("a")]),)
    url = refusing_url()
    assert said(run(http(url), *call), 1) == [
        f"driftkit run: {url}/v1: connection refused",
        "  is the server up?",
    ]
    with silent() as port:
        for scheme in "http", "https":
            (first, _) = said(run(http(f"{scheme}://127.0.0.1:{port}", "--timeout", "0.2"), *call), 1)
            assert "timed out" in first


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    with faulty(tmp_path) as server, going(http(server, "--follow")) as process:
        tell(process, row("hit", "fault:hang-mid-stream"))
        eventually(server.requests)
        time.sleep(0.1)
        server.kill()
        hit = next_record(process)
        assert (hit["status"], hit["error"]) == (
            "error",
            "the server closed the connection in mid-answer",
        )
        tell(process, row("down"))
        down = next_record(process)
        assert (down["status"], down["error"]) == ("error", "cannot connect: connection refused")
        server.start()
        tell(process, row("up"))
        assert next_record(process)["status"] == "ok"
        out, told, code = end_of(process)
    assert (out, code) == (b"", 3)
    assert told[-1] == "driftkit run: 2 of 3 requests were not served"


def test_a_server_that_freezes_answers_neither_requests_nor_handshakes(tmp_path: Path) -> None:
    with (
        faulty(tmp_path, tls=certificate(tmp_path)) as server,
        going(http(server, "--follow", "--insecure", "--timeout", "0.4")) as process,
    ):
        tell(process, row("before"))
        assert next_record(process)["status"] == "ok"
        server.freeze()
        tell(process, row("old connection"), row("new connection"))
        for _ in range(2):
            assert next_record(process)["error"] == "no byte for 0.4 s"
        server.thaw()
        tell(process, row("after"))
        assert next_record(process)["status"] == "ok"
        assert end_of(process)[2] == 3
        assert [request["prompt"] for request in server.requests()].count("well") >= 2


# --- those who are slow, and many -----------------------------------------------------------------


def test_who_reads_slowly_delays_no_request(tmp_path: Path) -> None:
    rows = [row(f"r{n}", "word " * 1000, at=n / 100) for n in range(100)]  # 500 kB of output
    with faulty(tmp_path) as server, going(http(server)) as process:
        assert process.stdin
        process.stdin.write(jsonl(rows))
        process.stdin.close()
        eventually(lambda: len(server.requests()) == len(rows))  # and nobody has read a byte
        assert process.stdout
        found = ended(process.stdout.read())
        assert process.wait(PATIENCE_S) == 0
    assert len(found) == len(rows)
    late = sorted(one["dispatched_s"] - one["offered_s"] for one in found.values())
    assert late[0] >= 0
    assert late[90] < 0.1


def read_slowly(listening: socket.socket) -> None:
    """Answers small requests at once, and reads large ones a piece at a time."""

    def serve(connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(4096)
            head, _, body = data.partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                return
            left = int(head.rpartition(b"ength: ")[2].split()[0]) - len(body)
            while left > 0:
                time.sleep(0.05 if left > 10_000 else 0)
                left -= len(connection.recv(1 << 16))
            answer = (
                b'{"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}'
            )
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer
            )

    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        Thread(target=serve, args=(connection,), daemon=True).start()


def test_a_server_that_reads_slowly_delays_no_other_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        Thread(target=read_slowly, args=(listening,), daemon=True).start()
        rows = [row("long", "word " * 200_000), *(row(f"r{n}", at=n / 20) for n in range(10))]
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        found = ended(ok(http(url, "--model", "any"), jsonl(rows)))
        listening.shutdown(socket.SHUT_RDWR)
    assert {one["status"] for one in found.values()} == {"ok"}
    long = found.pop("long")
    assert long["e2e_s"] > 0.5
    short = sorted(one["e2e_s"] for one in found.values())
    assert short[-1] < long["e2e_s"]
    assert short[5] < 0.2


def test_ten_thousand_open_requests() -> None:
    many = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < many + 100:
        pytest.skip("the system allows too few open files")
    with streaming(ttft=0.1, tokens=2, hold=many) as server:  # answers nobody before all of them wait
        result = run(http(server), jsonl(row(f"r{n}", "a", at=n * 2.5 / many) for n in range(many)))
        with urllib.request.urlopen(f"{server.url}/served") as page:
            served = json.load(page)
    assert said(result, 0) == []
    found = ended(result.stdout)
    assert {(one["status"], one["actual_output_tokens"]) for one in found.values()} == {("ok", 2)}
    assert (len(found), served["most_open"], served["served"]) == (many, many, many)


# --- the output -----------------------------------------------------------------------------------


def test_a_full_disk_ends_the_run_though_a_request_is_in_flight(tmp_path: Path) -> None:
    rows = jsonl([row("hangs", "fault:hang"), row("a"), row("b", at=0.1)])
    with faulty(tmp_path) as server:
        assert said(run(http(server, "-o", "/dev/full"), rows), 1) == [
            "driftkit run: /dev/full: no space left on device"
        ]
        full = os.open("/dev/full", os.O_WRONLY)
        result = run(http(server), rows, stdout=full)
        os.close(full)
        assert said(result, 1) == ["driftkit run: standard output: no space left on device"]


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_closed_output_ends_the_run(tmp_path: Path, follow: list[str]) -> None:
    rows = [row("hangs", "fault:hang"), row("a"), row("b", "fault:none,delay=0.3"), row("late", at=100)]
    with faulty(tmp_path) as server, going(http(server, *follow)) as process:
        tell(process, *rows)
        if not follow:
            assert process.stdin
            process.stdin.close()
        assert next_record(process)["id"] == "a"
        assert process.stdout
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 141
        assert process.stderr
        assert process.stderr.read() == b""


# --- signals --------------------------------------------------------------------------------------

STOPPED = [
    row("done"),
    row("hangs", "fault:hang"),
    row("goes on", "fault:none,delay=0.7"),
    row("later", at=100.0),
]


@contextmanager
def under_way(tmp_path: Path, *options: str) -> Iterator[tuple[Popen[bytes], Server]]:
    """A run of which the first request is done and two are in flight; its input is still open under
    --follow."""
    with faulty(tmp_path) as server, going(http(server, *options)) as process:
        tell(process, *STOPPED)
        if "--follow" not in options:
            assert process.stdin
            process.stdin.close()
            process.stdin = None
        assert next_record(process)["id"] == "done"
        eventually(lambda: len(server.requests()) == 3)
        yield process, server


@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_a_terminated_run_records_what_was_in_flight(tmp_path: Path, options: list[str]) -> None:
    with under_way(tmp_path, *options) as (process, server):
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read() if process.stdout else b""  # its input stays open
        assert process.wait(PATIENCE_S) == 143
        _, told, _ = end_of(process)
        eventually(lambda: len(server.left()) >= 1)
    found = ended(out)
    assert {name: (one["status"], one["error"]) for name, one in found.items()} == {
        "hangs": ("cancelled", "terminated"),
        "goes on": ("cancelled", "terminated"),
    }
    assert told[-1] == "driftkit run: terminated"


@pytest.mark.parametrize("options", [["--timeout", "1.5"], ["--timeout", "1.5", "--follow"]])
def test_an_interrupted_run_waits_for_what_is_in_flight(tmp_path: Path, options: list[str]) -> None:
    with under_way(tmp_path, *options) as (process, _):
        process.send_signal(signal.SIGINT)
        out = process.stdout.read() if process.stdout else b""
        assert process.wait(PATIENCE_S) == 130
        _, told, _ = end_of(process)
    found = ended(out)
    assert {name: one["status"] for name, one in found.items()} == {"goes on": "ok", "hangs": "timeout"}
    assert told[0].startswith("driftkit run: interrupted: no more is sent, 2 in flight are waited for")
    assert told[-1] == "driftkit run: interrupted"


def test_a_run_that_is_interrupted_twice_waits_for_nothing(tmp_path: Path) -> None:
    with under_way(tmp_path, "--max-failed", "0") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.stderr
        assert b"once more to stop at once" in read_line(process.stderr.fileno())
        start_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, told, code = end_of(process)
        assert time.monotonic() - start_s < 5
    assert code == 130
    assert not any("--max-failed" in line for line in told)  # what was cancelled has not failed
    assert {name: one["status"] for name, one in ended(out).items()} == {
        "hangs": "cancelled",
        "goes on": "cancelled",
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_that_waits_for_a_silent_pipe(tmp_path: Path, number: int, code: int) -> None:
    with faulty(tmp_path) as server, going(http(server, "--follow")) as process:
        tell(process, row("a"))
        assert next_record(process)["status"] == "ok"
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == code
        assert end_of(process)[0] == b""


def test_a_bad_line_ends_the_input_and_not_what_is_in_flight(tmp_path: Path) -> None:
    with faulty(tmp_path) as server, going(http(server, "--follow")) as process:
        tell(process, row("a", "fault:none,delay=0.4"))
        eventually(server.requests)
        assert process.stdin
        process.stdin.write(b'{"id": "b", "arrival_s": "soon"}\n')
        assert next_record(process)["status"] == "ok"
        assert process.wait(PATIENCE_S) == 1  # its input is open yet
        out, told, _ = end_of(process)
    assert out == b""
    assert told[0].startswith("driftkit run: <stdin>:2: arrival_s: ")
