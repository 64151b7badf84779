"""The servers that the HTTP client is tested against, seen by the client of the standard library."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from faulty_server import SPLIT_TEXT
from servers import Server, certificate, faulty, refusing_url, streaming

Connection = http.client.HTTPConnection


def connect(server: Server) -> Connection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)


def ask(connection: Connection, prompt: str, **fields: Any) -> http.client.HTTPResponse:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": "driftkit-test", "prompt": prompt, **usage, **fields}
    connection.request("POST", "/v1/completions", json.dumps(body))
    return connection.getresponse()


def events(body: bytes) -> list[dict[str, Any]]:
    *found, done = body.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in found]


def text(body: bytes) -> str:
    return "".join(choice["text"] for event in events(body) for choice in event["choices"])


def test_streams_the_tokens_asked_for_and_counts_them() -> None:
    with streaming(tokens=2) as server:
        connection = connect(server)
        for asked, got in (({"max_tokens": 9}, 2), ({"max_tokens": 9, "ignore_eos": True}, 9)):
            found = events(ask(connection, "three words here", **asked).read())
            assert [len(event["choices"]) for event in found] == [1] * got + [0]
            assert found[-2]["choices"][0]["finish_reason"] == "length"
            assert found[-1]["usage"] == {
                "prompt_tokens": 3,
                "completion_tokens": got,
                "total_tokens": 3 + got,
            }
        connection.request("GET", "/v1/models")
        assert json.load(connection.getresponse())["data"][0]["max_model_len"] == 131072


def test_streams_on_time() -> None:
    with streaming(ttft=0.2, tokens=3, gap=0.1) as server:
        connection = connect(server)
        start = time.monotonic()
        answer = ask(connection, "a")
        assert time.monotonic() - start < 0.2  # the headers do not wait for the first token
        seen = []
        while (line := answer.readline()) != b"data: [DONE]\n":
            if b'"text"' in line:
                seen.append(time.monotonic() - start)
        for at, due in zip(seen, (0.2, 0.3, 0.4), strict=True):
            assert due <= at < due + 0.15


def test_tells_who_runs_and_who_left() -> None:
    with streaming(ttft=0.05, tokens=100, gap=0.1) as server:
        running = connect(server)
        ask(running, "a b").readline()
        other = connect(server)
        ask(other, "a")
        pages = connect(server)
        assert metric(pages, "vllm:num_requests_running") + metric(pages, "vllm:num_requests_waiting") == 2
        assert metric(pages, "vllm:kv_cache_usage_perc") > 0
        assert metric(pages, "vllm:num_preemptions_total") == 0
        running.close()
        other.close()
        while metric(pages, "vllm:num_requests_running"):
            time.sleep(0.01)
        pages.request("GET", "/served")
        served = json.load(pages.getresponse())
        assert (served["served"], served["cut_off"], served["most_open"]) == (0, 2, 2)


def metric(connection: Connection, name: str) -> float:
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(values[f'{name}{{engine="0",model_name="driftkit-test"}}'])


def test_the_prompt_chooses_the_fault_and_how_often(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        connection = connect(server)
        assert text(ask(connection, "well").read()) == " t0 t1 t2 t3"
        first = ask(connection, "fault:too-many,times=1,retry-after=3")
        assert (first.status, first.headers["retry-after"]) == (429, "3")
        assert json.load(first)["error"]["code"] == 429
        assert ask(connection, "fault:too-many,times=1,retry-after=3").status == 200
        seen = [(request["try"], request["fault"]) for request in server.requests()]
        assert seen == [(1, "none"), (1, "too-many"), (2, "none")]
        assert server.requests()[0]["body"]["stream_options"] == {"include_usage": True}
    with faulty(tmp_path, "overloaded") as server:
        assert ask(connect(server), "any").status == 503


def test_bytes_that_are_cut_and_lines_that_are_odd_are_whole_answers(tmp_path: Path) -> None:
    with faulty(tmp_path) as server:
        connection = connect(server)
        assert text(ask(connection, "fault:split-utf8").read()) == SPLIT_TEXT
        odd = ask(connection, "fault:odd-lines").read()
        assert odd.startswith(b"\xef\xbb\xbf: a comment\r\n")
        assert b'\r\ndata:{\r\ndata: "id"' in odd
        assert ask(connection, "fault:drip").read().count(b"data: ") == 6


@pytest.mark.parametrize("fault", ["close", "reset", "close-mid-stream", "reset-mid-stream", "short-body"])
def test_connections_end_before_the_answer(tmp_path: Path, fault: str) -> None:
    with faulty(tmp_path) as server, pytest.raises((ConnectionError, http.client.IncompleteRead)):
        ask(connect(server), f"fault:{fault}").read()


def test_hangs_until_the_client_leaves(tmp_path: Path) -> None:
    with faulty(tmp_path, "hang-mid-stream") as server:
        connection = connect(server)
        answer = ask(connection, "any")
        assert [answer.readline() for _ in range(4)][1::2] == [b"\n"] * 2
        assert connection.sock
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            answer.readline()
        assert server.left() == []
        answer.close()
        connection.close()
        while not server.left():
            time.sleep(0.01)
        assert server.left() == [1]


def test_killed_and_started_again_on_its_port(tmp_path: Path) -> None:
    with faulty(tmp_path, "hang") as server:
        url, connection = server.url, connect(server)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a"}))
        while not server.requests():
            time.sleep(0.01)
        server.kill()
        with pytest.raises(ConnectionError):
            connection.getresponse()
        with pytest.raises(ConnectionRefusedError):
            connect(server).connect()
        server.start()
        assert server.url == url
        assert ask(connect(server), "fault:none").status == 200
        assert [request["prompt"] for request in server.requests()] == ["a", "fault:none"]


def test_over_https_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    with faulty(tmp_path, tls=certificate(tmp_path)) as server:
        assert server.url.startswith("https:")
        for trusted in (None, tmp_path / "certificate.pem"):
            context = ssl.create_default_context(cafile=trusted)
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context)
            if trusted:
                assert text(ask(connection, "a").read()) == " t0 t1 t2 t3"
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    connection.connect()


def test_nobody_listens_there() -> None:
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(refusing_url().removeprefix("http://")).connect()
