"""`run --engine http --workers N`: several processes are to be one engine, and to end with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from cli import PATIENCE_S, Record, jsonl, ok, records, run, said, start, without
from driftkit.engines.dispatcher import Arrivals, dispatch
from driftkit.engines.http.channel import Channel, line
from driftkit.engines.http.connection import Origin
from driftkit.engines.http.engine import Service
from driftkit.engines.http.workers import Workers
from driftkit.errors import DriftkitError
from driftkit.records.completion import job_of, outcome
from driftkit.records.job import Job
from faulty_server import MODEL
from servers import Server, faulty, refusing_url, streaming
from test_faults import FAULTS, end_of, ended, eventually, http, next_record, row, tell, under_way

KEY = "sk-4f9c0e6b7a21d835"
DIED = ("error", "the worker process that had it died")
#: what two runs of the same requests do not have in common
INSTANTS = ("offered_s", "dispatched_s", "client_lag_s", "first_token_s", "finished_s")
OWN = (*INSTANTS, "ttft_s", "tpot_s", "e2e_s", "run_id", "run_started_at")


def outcomes(found: dict[str, Record]) -> dict[str, tuple[str, str | None]]:
    return {name: (one["status"], one.get("error")) for name, one in found.items()}


def workers_of(process: Popen[bytes]) -> list[int]:
    """The processes that a run has begun, once all of `--workers 3` are there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    eventually(lambda: len(children.read_text().split()) == 3)
    return [int(pid) for pid in children.read_text().split()]


def running(pid: int) -> bool:
    """Whether there is such a process, other than one that nobody has asked for its exit status."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


# --- as in one process ----------------------------------------------------------------------------


def test_whoever_sends_finds_the_same(tmp_path: Path) -> None:
    rows = [row(fault, f"fault:{fault}") for fault in FAULTS]
    rows += [row(f"{n}", f"prompt {n}", 0.002 * n, trace_output_tokens=n % 4 + 1) for n in range(60)]
    options = ["--timeout", "0.5", "--retries", "1", "--save-output"]
    facts: list[dict[str, Record]] = []
    with faulty(tmp_path) as server:
        for workers in ("1", "3"):
            result = run(http(server, *options, "--workers", workers), jsonl(rows))
            assert result.returncode == 3
            found = ended(result.stdout)
            for one in found.values():
                assert one["offered_s"] <= one["dispatched_s"] <= one["finished_s"]
                assert one["dispatched_s"] <= one.get("first_token_s", one["finished_s"]) <= one["finished_s"]
                assert one["dispatched_s"] - one["offered_s"] == pytest.approx(one["client_lag_s"], abs=1e-6)
            # where it is cut is a matter of time
            assert len(found["endless"].pop("output_text")) > 300_000
            assert found["endless"].pop("received_output_tokens") > 10_000
            facts.append({name: without(one, *OWN) for name, one in found.items()})
        assert len(server.requests()) % 2 == 0
    assert facts[0] == facts[1]
    assert facts[0].keys() == {one["id"] for one in rows}
    assert {one.get("retries") for one in facts[0].values()} == {None, 1}


def test_the_queue_stays_in_driftkit_and_the_order_with_it(tmp_path: Path) -> None:
    rows = [row(f"r{n}", f"r{n}", at=0.001 * n, priority=10 - n, policy="sjf") for n in range(6)]
    with faulty(tmp_path, "none,delay=0.03") as server:
        call = http(server, "--workers", "3", "--dispatch", "client", "--max-concurrency", "1")
        ok([*call, "--warmup", "3"], jsonl(rows))
        prompts = [request["prompt"] for request in server.requests()]
    assert prompts[3:] == ["r0", "r5", "r4", "r3", "r2", "r1"]
    assert len(set(prompts[:3])) == 3  # the warm-up


@pytest.mark.parametrize("by_priority", [True, False])
def test_whether_priorities_count_is_seen_through_workers(tmp_path: Path, by_priority: bool) -> None:
    """Whoever comes first is answered once all have come: the 16 of the probe, then the 6 of the run."""
    prompts = [f"{n} fault:none,once=22" for n in range(6)]
    rows = [row(f"r{n}", prompt, priority=10 - n, policy="sjf") for n, prompt in enumerate(prompts)]
    kind = ["--by-priority"] if by_priority else []
    with faulty(tmp_path, "none,once=16,delay=0.03", "--slots", "1", *kind) as server:
        result = run(http(server, "--workers", "3"), jsonl(rows))
        taken = server.taken()[16:]
    if by_priority:
        assert said(result, 0) == []
        assert sorted(taken) == prompts
        assert taken[1:] == sorted(taken[1:], reverse=True)
    else:
        assert "whatever their priority" in said(result, 1)[0]


def test_a_bound_on_the_rate_is_one_bound(tmp_path: Path) -> None:
    with streaming() as server:
        result = run(http(server, "--workers", "3", "--max-rps", "50"), jsonl(row(str(n)) for n in range(11)))
    assert said(result, 0) == ["driftkit run: 10 requests were held back by --max-rps"]
    sent = sorted(one["dispatched_s"] for one in records(result.stdout))
    assert sent[-1] - sent[0] > 0.19


# --- instants -------------------------------------------------------------------------------------


class Diary:
    """A Feedback that notes what it knew when a request came."""

    def __init__(self) -> None:
        self.learned: list[Job] = []
        self.known: list[tuple[float, int]] = []  # the instant, and how many had ended

    def admit(self, job: Job) -> None:
        self.known.append((job.offered_s, len(self.learned)))

    def learn(self, job: Job) -> None:
        self.learned.append(job)


def test_what_ended_first_is_learned_first_and_before_what_comes_later() -> None:
    """Else `calibrate`, which has only the instants, would find other estimates than `run --feedback` did."""
    diary = Diary()
    records = [row(str(n), "a few words", at=0.0005 * n) for n in range(800)]
    jobs = [job_of(record, 0) for record in records]
    for order, job in enumerate(jobs):
        job.order = order
    with streaming(tokens=4, gap=0.001) as server:
        engine = Workers(Service([Origin.of(server.url)], MODEL), 3, os.environ)
        try:
            engine.start()
            for together in dispatch(Arrivals(jobs, diary), engine, None, 0):
                assert {job.status for job in together} == {"ok"}
        finally:
            engine.close()
    ends = [(job.finished_s, job.offered_s, job.record["id"]) for job in diary.learned]
    assert len(ends) == len(jobs)
    assert ends == sorted(ends)
    for instant, known in diary.known:
        assert known == sum(finished_s < instant for finished_s, _, _ in ends)


@pytest.mark.parametrize("late", ["driftkit", "workers"])
def test_the_way_to_the_worker_is_lateness(tmp_path: Path, late: str) -> None:
    with (
        faulty(tmp_path) as server,
        start(http(server, "--workers", "3", "--max-client-lag", "0.3")) as process,
    ):
        tell(process, row("soon"), *(row(f"late {n}", at=0.3) for n in range(3)))
        assert process.stdin
        process.stdin.close()
        process.stdin = None
        pids = workers_of(process) if late == "workers" else [process.pid]
        assert next_record(process)["id"] == "soon"
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.8)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        out, told, code = end_of(process)
    assert code == 0
    assert "requests were sent late" in told[0]
    for one in records(out):
        assert one["ttft_s"] > one["client_lag_s"] > 0.3
        assert one["ttft_s"] - one["client_lag_s"] < 0.3


# --- the end --------------------------------------------------------------------------------------


@contextmanager
def busy(tmp_path: Path) -> Iterator[tuple[Popen[bytes], Server, list[int]]]:
    """A run of three workers with two requests each, and three to come a little later."""
    rows = [row(f"{n}", f"fault:none,delay=0.6 {n}") for n in range(6)]
    rows += [row(f"later {n}", at=0.7) for n in range(3)]
    with faulty(tmp_path) as server, start(http(server, "--workers", "3")) as process:
        tell(process, *rows)
        assert process.stdin
        process.stdin.close()
        process.stdin = None
        pids = workers_of(process)
        eventually(lambda: len(server.requests()) == 6)
        yield process, server, pids
        if process.poll() is None:
            process.kill()
        eventually(lambda: not any(running(pid) for pid in pids))


@pytest.mark.parametrize("killed", [1, 3])
def test_the_requests_of_a_worker_that_is_killed_are_records(tmp_path: Path, killed: int) -> None:
    with busy(tmp_path) as (process, _, pids):
        for pid in pids[:killed]:
            os.kill(pid, signal.SIGKILL)
        out, told, code = end_of(process)
    found = ended(out)
    assert code == 3
    assert len(found) == 9
    assert "the worker process that had it died" in told[0]
    first = [outcome for name, outcome in outcomes(found).items() if "later" not in name]
    later = [outcome for name, outcome in outcomes(found).items() if "later" in name]
    assert sorted(map(str, first)) == sorted(
        map(str, [DIED] * (2 * killed) + [("ok", None)] * (6 - 2 * killed))
    )
    assert set(later) == {("ok", None) if killed < 3 else ("error", "no worker process is left")}
    assert told[-1] == f"driftkit run: {2 if killed < 3 else 9} of 9 requests were not served"


def test_no_worker_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    with busy(tmp_path) as (process, server, pids):
        process.kill()
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        eventually(lambda: not any(running(pid) for pid in pids))
        eventually(lambda: len(server.left()) == 6)


SIGNALS = [
    ([signal.SIGINT], 130, {"goes on": "ok", "hangs": "timeout"}),
    ([signal.SIGINT, signal.SIGINT], 130, {"goes on": "cancelled", "hangs": "cancelled"}),
    ([signal.SIGTERM], 143, {"goes on": "cancelled", "hangs": "cancelled"}),
]


@pytest.mark.parametrize(("signals", "code", "statuses"), SIGNALS)
def test_a_signal_to_all_processes_is_the_runs_affair(
    tmp_path: Path, signals: list[signal.Signals], code: int, statuses: dict[str, str]
) -> None:
    """As Ctrl-C in a terminal comes to all of them."""
    with under_way(tmp_path, "--workers", "3", "--timeout", "1.2") as (process, server):
        pids = workers_of(process)
        for number in signals:
            for pid in [*pids, process.pid]:
                os.kill(pid, number)
            time.sleep(0.1)
        out, told, returned = end_of(process)
        eventually(lambda: not any(running(pid) for pid in pids))
        eventually(lambda: len(server.left()) >= 1)
    assert returned == code
    assert {name: status for name, (status, _) in outcomes(ended(out)).items()} == statuses
    assert told[-1] == f"driftkit run: {'interrupted' if code == 130 else 'terminated'}"


@pytest.mark.parametrize("stopped", [False, True])
def test_of_what_was_cancelled_its_worker_says_how_much_had_come(tmp_path: Path, stopped: bool) -> None:
    """A worker that does not answer is not waited for, for long."""
    with faulty(tmp_path) as server:
        engine = Workers(Service([Origin.of(server.url)], MODEL), 1, os.environ)
        (process,) = engine._processes
        engine.start()
        one = job_of(row("r", "fault:none,gap=0.1,tokens=1000"), 5)
        engine.submit(one)
        engine.advance(engine.now() + 1.0)
        os.kill(process._process.pid, signal.SIGSTOP if stopped else signal.SIGCONT)
        engine.cancel("enough")
        assert engine.advance(engine.now() + PATIENCE_S) == [one]
        os.kill(process._process.pid, signal.SIGCONT)
        engine.close()
    assert (one.status, one.error) == ("cancelled", "enough")
    record = outcome(one)
    assert "actual_output_tokens" not in record
    assert 2 <= record.get("received_output_tokens", 0) < 900 or stopped


def test_a_run_that_is_ended_as_it_begins_says_only_that() -> None:
    with streaming() as server, start(http(server, "--workers", "3")) as process:
        tell(process, row("never sent"))
        assert process.stdin
        process.stdin.close()
        process.stdin = None
        pids = workers_of(process)  # which are not ready yet
        process.send_signal(signal.SIGTERM)
        assert end_of(process) == (b"", ["driftkit run: terminated"], 143)
        eventually(lambda: not any(running(pid) for pid in pids))


def test_workers_that_cannot_start_are_told_of() -> None:
    service = Service([Origin.of(refusing_url())], MODEL)
    with pytest.raises(DriftkitError, match="--workers: a worker process ended as it began"):
        Workers(service, 2, {"PYTHONHOME": "/nowhere"})


def test_the_api_key_goes_to_the_server_and_is_seen_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTKIT_API_KEY", KEY)
    with under_way(tmp_path, "--workers", "3", "--timeout", "0.8") as (process, server):
        for pid in workers_of(process):
            for name in ("cmdline", "environ"):
                shown = Path(f"/proc/{pid}/{name}").read_bytes()
                assert len(shown) > 20
                assert KEY.encode() not in shown
        assert {request["headers"].get("authorization") for request in server.requests()} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_a_line_may_come_in_any_pieces(size: int) -> None:
    values = [[1, "a\nb", {"c": None}], [], [2, "é" * 50], None]
    sent = b"".join(map(line, values)) + b'["begun'
    came: list[Any] = []
    channel = Channel(came.append, lambda: None)
    for at in range(0, len(sent), size):
        channel.data_received(sent[at : at + size])
    assert came == values
