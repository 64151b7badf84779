"""`run --engine http` against `vllm serve`: what a real server makes of requests, and we of its answers."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

from scipy.stats import kendalltau

from cli import Record, jsonl, ok, records, run, said, start
from vllm_server import SMALL, VllmServer, serve

LONGEST = int(SMALL["max_model_len"])


def request(number: int, **fields: object) -> Record:
    return {"id": f"r{number}", "arrival_s": 0.0, "prompt_tokens": 40, "max_tokens": 24, **fields}


def http(server: VllmServer, *options: str) -> list[str]:
    """The call; how late a busy machine sends is not what is asked here."""
    return ["run", "--engine", "http", "--base-url", server.url, "--max-client-lag", "60", *options]


def sent(server: VllmServer, rows: list[Record], *options: str) -> list[Record]:
    """Completions of a run that has nothing to say."""
    return records(ok(http(server, *options), jsonl(rows)))


def test_text_chats_and_lengths_are_served_and_counted(server: VllmServer) -> None:
    rows = [
        request(0, prompt="What is a KV block?", prompt_tokens=None),
        request(1, messages=[{"role": "user", "content": "What is preemption?"}], prompt_tokens=None),
        request(2),
        request(3, prompt_tokens=300, max_tokens=1),
        request(4, prompt="naïve café 中文 🦜", prompt_tokens=None, temperature=0.0, seed=7),
    ]
    done = {row["id"]: row for row in sent(server, rows, "--save-output")}
    assert {row["status"] for row in done.values()} == {"ok"}
    assert {row["served_model"] for row in done.values()} == {server.model}
    for name, row in done.items():
        assert 1 <= row["actual_output_tokens"] <= row["max_tokens"], name
        assert row["finish_reason"] == "length" or row["actual_output_tokens"] < row["max_tokens"], name
        assert row["offered_s"] <= row["dispatched_s"] < row["first_token_s"] <= row["finished_s"], name
        assert "started_s" not in row, "a server does not tell when it began"
        assert isinstance(row["output_text"], str)


def test_lengths_are_replayed_to_the_token(server: VllmServer) -> None:
    rows = [request(n, trace_output_tokens=1 + 7 * n, max_tokens=200) for n in range(12)]
    done = sent(server, rows, "--replay-lengths")
    assert {row["id"]: row["actual_output_tokens"] for row in done} == {
        row["id"]: row["trace_output_tokens"] for row in rows
    }


def test_what_cannot_be_served_is_rejected_in_the_servers_words(server: VllmServer) -> None:
    rows = [request(0), request(1, prompt_tokens=LONGEST + 50), request(2, temperature=-1.0), request(3)]
    call = http(server)
    result = run(call, jsonl(rows[:2] + rows[3:]))
    said(result, 3)
    done = {row["id"]: row for row in records(result.stdout)}
    assert [done[name]["status"] for name in ("r0", "r1", "r3")] == ["ok", "rejected", "ok"]
    assert "HTTP 400" in done["r1"]["error"]
    assert str(LONGEST) in done["r1"]["error"]
    assert "ttft_s" not in done["r1"]


def test_a_full_queue_is_a_rejection_and_a_retry_gets_in(server: VllmServer) -> None:
    """The server refuses whoever comes while 100 are in it."""
    rows = [request(n, trace_output_tokens=40, max_tokens=40) for n in range(160)]
    call = http(server, "--replay-lengths")
    result = run(call, jsonl(rows))
    lines = said(result, 3)
    done = records(result.stdout)
    statuses = Counter(row["status"] for row in done)
    assert len(done) == 160
    assert set(statuses) == {"ok", "rejected"}
    assert statuses["ok"] >= 100
    assert all("HTTP 503" in row["error"] for row in done if row["status"] == "rejected")
    assert f"{statuses['rejected']} of 160 requests were not served" in lines[-1]
    again = records(ok([*call, "--retries", "20"], jsonl(rows)))
    assert Counter(row["status"] for row in again) == {"ok": 160}
    assert any(row.get("retries") for row in again)


def test_the_probe_and_priorities(server: VllmServer) -> None:
    """More than the server has slots, all at once, the most urgent last: they overtake those before them.

    Who comes first of all is taken in as it comes, and connections need not arrive in the order of sending.
    """
    rows = [
        request(n, trace_output_tokens=40, max_tokens=40, policy="priority", priority=60 - n)
        for n in range(60)
    ]
    # vLLM's processes spin, and may keep driftkit from both cores for seconds: then it was no burst
    for _ in range(6):
        done = {row["id"]: row for row in sent(server, rows, "--replay-lengths")}
        if max(row["dispatched_s"] for row in done.values()) < 0.1:
            break
    firsts = [done[f"r{n}"]["first_token_s"] for n in range(60)]
    slots = int(SMALL["max_num_seqs"])
    early = sorted(range(60), key=firsts.__getitem__)[:slots]
    later = [n for n in range(60) if n not in early]
    assert kendalltau(later, [firsts[n] for n in later]).statistic < -0.6


def test_a_server_that_ignores_priorities_is_found_out(model: Path, tmp_path: Path) -> None:
    with serve(model, tmp_path / "vllm.log") as fcfs:
        rows = [request(n, policy="priority", priority=n) for n in range(3)]
        call = http(fcfs)
        lines = said(run(call, jsonl(rows)), 1)
        assert "the engine takes requests as they come" in lines[0]
        assert len(records(ok([*call, "--no-probe"], jsonl(rows)))) == 3

        # and when it is killed in the midst of a run, every request is one record
        long = [request(n, trace_output_tokens=400, max_tokens=400, arrival_s=n * 0.2) for n in range(30)]
        process = start([*call, "--replay-lengths"])
        assert process.stdin is not None
        process.stdin.write(jsonl(long))
        process.stdin.close()
        time.sleep(3.0)
        os.killpg(fcfs.process.pid, signal.SIGKILL)
        assert process.stdout is not None
        done = records(process.stdout.read())
        assert process.wait(60) == 3
        assert sorted(row["id"] for row in done) == sorted(row["id"] for row in long)
        assert {row["status"] for row in done} <= {"ok", "error"}
        assert "error" in {row["status"] for row in done}


def test_telemetry_and_feedback(server: VllmServer, tmp_path: Path) -> None:
    rows = [
        request(
            n,
            arrival_s=0.05 * n,
            trace_output_tokens=30,
            max_tokens=30,
            est_output_tokens=15,
            est_total_tokens=55,
        )
        for n in range(40)
    ]
    telemetry = tmp_path / "telemetry.jsonl"
    done = sent(server, rows, "--replay-lengths", "--feedback", "--telemetry", str(telemetry))
    (tmp_path / "done.jsonl").write_bytes(jsonl(done))
    samples = records(telemetry.read_bytes())
    assert {"running_requests", "waiting_requests", "kv_ratio"} <= {name for row in samples for name in row}
    assert any(row.get("running_requests") for row in samples)
    last = max(done, key=lambda row: float(row["arrival_s"]))
    assert last["cal_bias_ratio"] > 1.2, "it has seen that outputs are twice as long"
    bare = [{k: v for k, v in row.items() if not k.startswith("cal_")} for row in done]
    assert records(ok(["calibrate"], jsonl(bare))) == done, "calibrate is a replay of it"
    report = ok(["report", "--telemetry", str(telemetry), "--format", "jsonl", str(tmp_path / "done.jsonl")])
    tables = {row["table"] for row in records(report)}
    assert "telemetry" in tables
