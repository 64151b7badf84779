"""State that is shared while it changes: `estimate --follow` beside `run --learn` or `calibrate --live`."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import PATIENCE_S, Record, Stages, changed, jsonl, ok, read_line, records, run, said, start
from servers import streaming

FILE = "table.builtin.qwen1%2E5-1%2E8b.json"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


class Talk:
    """A filter that is given one record after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def tell(self, *rows: Record) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(jsonl(rows))

    def hear(self) -> Record:
        assert self.process.stdout is not None
        record: Record = json.loads(read_line(self.process.stdout.fileno()))
        return record

    def ask(self, row: Record) -> Record:
        self.tell(row)
        return self.hear()

    def end(self, code: int = 0) -> list[str]:
        """Close its input; what it has said, by line."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        text = self.process.stderr.read().decode()
        assert self.process.wait() == code, text
        return text.splitlines()


def replace(state: Path, content: bytes) -> None:
    """As another process does it: whole or not at all."""
    (state / "new").write_bytes(content)
    (state / "new").replace(state / FILE)


def learned_runs(state: Path, name: str = FILE) -> dict[str, int]:
    try:
        runs: dict[str, int] = json.loads((state / name).read_bytes())["runs"]
    except FileNotFoundError:
        return {}
    return runs


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def estimated(state: Path, row: Record) -> Record:
    (record,) = records(ok(["estimate", "--state", state], jsonl([row])))
    return record


class TestFollowing:
    def test_each_record_gets_the_newest_good_state(self, stages: Stages, state: Path) -> None:
        asked = stages.read("requests")[0]
        with start(["estimate", "--follow", "--state", state]) as process:
            talk = Talk(process)
            assert talk.ask(asked)["est_bias_ratio"] == 1
            ok(["calibrate", "--state", state, stages.completions])
            first = talk.ask(asked)
            assert first["est_bias_ratio"] != 1
            assert first == estimated(state, asked) == talk.ask(asked)

            good = (state / FILE).read_bytes()
            replace(state, good[:-9])
            assert talk.ask(asked) == talk.ask(asked) == first
            (state / FILE).unlink()
            assert talk.ask(asked) == first
            ok(["calibrate", "--method", "ema", "--state", state, stages.completions])
            second = talk.ask(asked)
            assert second != first
            assert second == estimated(state, asked)
            (state / FILE).unlink()
            assert talk.ask(asked) == second
            replace(state, good)
            assert talk.ask(asked) == first
            lines = talk.end()
        nothing, damaged, gone = lines
        assert nothing.startswith(f"driftkit estimate: {state}: nothing learned yet for table/builtin/")
        assert nothing.endswith("; estimates stay as they are until something is")
        assert damaged.startswith(f"driftkit estimate: {state / FILE}:")
        assert ": damaged state: " in damaged
        assert gone.startswith(f"driftkit estimate: {state}: what was learned for table/builtin/")
        assert all(line.endswith("; going on with what was known before") for line in (damaged, gone))

    def test_damage_before_anything_was_learned_leaves_estimates_as_they_are(
        self, stages: Stages, state: Path
    ) -> None:
        asked = stages.read("requests")[0]
        state.mkdir()
        with start(["estimate", "--follow", "--state", state]) as process:
            talk = Talk(process)
            first = talk.ask(asked)
            replace(state, b"{}")
            assert talk.ask(asked) == first
            assert len(talk.end()) == 2

    def test_a_state_that_is_unusable_at_the_start_is_an_error(self, stages: Stages, state: Path) -> None:
        state.mkdir()
        replace(state, b"{}")
        result = run(["estimate", "--follow", "--state", state, stages.requests])
        assert "not a driftkit state file" in said(result, 1)[0]
        assert result.stdout == b""

    def test_without_follow_a_state_is_read_once(self, stages: Stages, state: Path) -> None:
        asked = stages.read("requests")[0]
        with start(["estimate", "--unbuffered", "--state", state]) as process:
            talk = Talk(process)
            first = talk.ask(asked)
            ok(["calibrate", "--state", state, stages.completions])
            assert talk.ask(asked) == first
            talk.end()

    def test_without_a_state_it_only_does_not_wait(self, stages: Stages) -> None:
        with start(["estimate", "--follow"]) as process:
            talk = Talk(process)
            for asked, as_ever in zip(stages.read("requests")[:3], stages.read("estimated"), strict=False):
                assert talk.ask(asked) == as_ever
            assert talk.end() == []


class TestARunThatTeaches:
    @pytest.mark.parametrize(
        ("known", "options"),
        [
            (False, []),
            (True, []),
            (True, ["--batching", "static", "--batch-size", "8"]),
            (False, ["--method", "ema", "--max-model-len", "200"]),  # and some are not served
        ],
    )
    def test_keeps_what_calibrate_would_and_writes_the_same(
        self, stages: Stages, tmp_path: Path, known: bool, options: list[str]
    ) -> None:
        taught, calibrated = tmp_path / "taught", tmp_path / "calibrated"
        if known:
            before = ok(["run", "--run-id", "before", stages.scheduled])
            for state in taught, calibrated:
                ok(["calibrate", "--state", state], before)
        call = ["run", "--feedback", *options, stages.scheduled]
        plain = run([*call, "--state", calibrated])
        result = run([*call, "--state", taught, "--learn"])
        assert result.stdout == plain.stdout
        assert result.stderr.replace(bytes(taught), bytes(calibrated)) == plain.stderr
        assert result.returncode == plain.returncode
        method = options[:2] if "--method" in options else []
        ok(["calibrate", "--state", calibrated, *method], result.stdout)
        kept = (taught / FILE).read_bytes()
        assert kept == (calibrated / FILE).read_bytes()
        assert len(learned_runs(taught)) == 1 + known
        (warning,) = said(run(["calibrate", "--state", taught], result.stdout), 0)
        assert "was learned before" in warning
        assert (taught / FILE).read_bytes() == kept

    def test_a_run_of_the_same_name_is_not_learned_twice(self, stages: Stages, state: Path) -> None:
        call = ["run", "--feedback", "--learn", "--run-id", "night", "--state", state, stages.scheduled]
        run(call)
        before = (state / FILE).read_bytes()
        (warning,) = said(run(call), 0)
        assert warning == (
            "driftkit run: run night: completions that were learned before are not learned again"
        )
        assert (state / FILE).read_bytes() == before

    def test_without_learn_the_state_stays_as_it_is(self, stages: Stages, state: Path) -> None:
        said(run(["run", "--feedback", "--state", state, stages.scheduled]), 0)
        assert not state.exists()

    @pytest.mark.parametrize("options", [["--feedback"], []])
    def test_it_needs_a_place(self, stages: Stages, options: list[str]) -> None:
        result = run(["run", *options, "--learn", stages.scheduled])
        assert said(result, 2)[0] == "driftkit run: --learn goes with --state"

    def test_who_comes_second_is_told_at_the_start(self, stages: Stages, state: Path) -> None:
        with start(["calibrate", "--live", "--state", state]) as process:
            talk = Talk(process)
            talk.ask(stages.read("completions")[0])
            result = run(["run", "--feedback", "--learn", "--state", state, stages.scheduled])
            first, _ = said(result, 1)
            assert first == f"driftkit run: {state}: another driftkit is writing this state"
            assert result.stdout == b""
            talk.end()

    def test_who_estimates_beside_it_knows_what_has_ended(self, stages: Stages, state: Path) -> None:
        first, second = sorted(stages.read("scheduled"), key=lambda row: row["arrival_s"])[:2]
        first = changed(first, trace_output_tokens=7)  # the paper's table would have it far longer
        asked = next(row for row in stages.read("requests") if row["id"] == first["id"])
        with (
            start(["run", "--follow", "--feedback", "--learn", "--state", state]) as running,
            start(["estimate", "--follow", "--state", state]) as estimating,
        ):
            server, client = Talk(running), Talk(estimating)
            before = client.ask(asked)
            server.tell(first, changed(second, arrival_s=1000.0))
            ended = server.hear()
            until(lambda: learned_runs(state) == {ended["run_id"]: 1}, "the state does not know")
            after = client.ask(asked)
            assert before["est_bias_ratio"] == 1 != after["est_bias_ratio"]
            server.end()
            assert learned_runs(state) == {ended["run_id"]: 2}
            client.end()

    def test_a_run_on_a_real_server_is_learned_on_when_it_is_resumed(
        self, stages: Stages, tmp_path: Path, state: Path
    ) -> None:
        name, out = "table.builtin.driftkit-test.json", tmp_path / "out.jsonl"
        rows = [
            changed(row, arrival_s=0.1 * n, barrier=None)
            for n, row in enumerate(stages.read("scheduled")[:20])
        ]
        with streaming(ttft=0.01) as server:
            call = [
                "run",
                "--engine",
                "http",
                "--base-url",
                server.url,
                "--no-probe",
                "--max-client-lag",
                "1",
            ]
            call += ["--feedback", "--learn", "--state", str(state), "-o", str(out)]
            with start(call) as process:
                assert process.stdin is not None
                process.stdin.write(jsonl(rows))
                process.stdin.close()
                until(lambda: learned_runs(state, name), "nothing is kept while the run goes on")
                process.send_signal(signal.SIGINT)
                assert process.wait() == 130
            begun = records(out.read_bytes())
            assert 0 < len(begun) < 20
            assert learned_runs(state, name) == {begun[0]["run_id"]: len(begun)}
            ok([*call, "--resume"], jsonl(rows))
        assert learned_runs(state, name) == {begun[0]["run_id"]: 20}
        ok(["calibrate", "--state", tmp_path / "calibrated", out])
        assert (state / name).read_bytes() == (tmp_path / "calibrated" / name).read_bytes()


class TestCalibrateLive:
    def test_what_was_learned_is_there_while_more_may_come(self, stages: Stages, state: Path) -> None:
        rows = stages.read("completions")
        run_id = rows[0]["run_id"]
        with start(["calibrate", "--live", "--state", state]) as process:
            talk = Talk(process)
            for row in rows[:3]:
                talk.ask(row)
            until(lambda: learned_runs(state) == {run_id: 3}, "what came last is not kept")
            talk.ask(rows[3])
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        assert learned_runs(state) == {run_id: 4}

    def test_at_the_end_it_has_learned_what_it_would_have_at_once(
        self, stages: Stages, tmp_path: Path
    ) -> None:
        for name, options in {"live": ["--live"], "whole": []}.items():
            ok(["calibrate", *options, "--state", tmp_path / name, stages.completions])
        assert (tmp_path / "live" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()

    @pytest.mark.parametrize("recovers", [True, False])
    def test_a_disk_that_fails_for_a_while_does_not_end_it(
        self, stages: Stages, state: Path, recovers: bool
    ) -> None:
        rows = stages.read("completions")
        (state / ".writing").mkdir(parents=True)  # where the file is made that replaces the old one
        problem = f"driftkit calibrate: {state / FILE}: is a directory"
        with start(["calibrate", "--live", "--state", state]) as process:
            talk = Talk(process)
            talk.ask(rows[0])
            assert process.stderr is not None
            assert read_line(process.stderr.fileno()).decode() == problem + "\n"
            talk.ask(rows[1])
            if recovers:
                (state / ".writing").rmdir()
            assert talk.end(0 if recovers else 1) == ([] if recovers else [problem])
        assert learned_runs(state) == ({rows[0]["run_id"]: 2} if recovers else {})
