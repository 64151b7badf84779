"""What calibration keeps: the state folder, the feedback that replays it, and the order it insists on."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli import Record, Stages, changed, jsonl, ok, read_line, records, run, said, start, without

METHODS = ("ratio", "ema")
KEY = ["table", "builtin", "qwen1.5-1.8b"]
FILE = "table.builtin.qwen1%2E5-1%2E8b.json"
READERS_AND_WRITERS = ("calibrate", "estimate", "run --feedback")


class Nights(NamedTuple):
    """The completions of the same tenants on two nights, and the first night's requests."""

    requests: Path
    first: Path
    second: Path


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory, stages: Stages) -> Nights:
    second = tmp_path_factory.mktemp("nights") / "second.jsonl"
    requests = ok(["gen", "--preset", "driftsched", "--requests", "48", "--seed", "1"])
    second.write_bytes(ok(["run"], ok(["schedule", "--policy", "fifo"], ok(["estimate"], requests))))
    return Nights(stages.scheduled, stages.completions, second)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def learn(state: Path, completions: Path, *options: str) -> bytes:
    return ok(["calibrate", "--state", state, *options, completions])


def files(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.iterdir()}


def user(command: str, state: Path, nights: Nights) -> list[str | Path]:
    """A call of each command that takes `--state`."""
    reads = nights.first if command == "calibrate" else nights.requests
    return [*command.split(), "--state", state, reads]


class TestKeeping:
    def test_a_run_learned_twice_changes_nothing_and_says_so(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first)
        before = files(state)
        result = run(["calibrate", "--state", state, nights.first])
        (warning,) = said(result, 0)
        run_id = records(nights.first.read_bytes())[0]["run_id"]
        assert warning.startswith(f"driftkit calibrate: run {run_id} was learned before")
        assert files(state) == before
        assert len(result.stdout.splitlines()) == len(nights.first.read_bytes().splitlines())

    def test_a_new_run_is_learned_beside_the_old(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first)
        first = json.loads(files(state)[FILE])
        learn(state, nights.second)
        both = json.loads(files(state)[FILE])
        assert both["learned"] != first["learned"]
        assert set(both["runs"]) > set(first["runs"])
        assert list(both["runs"].values()) == [48, 48]

    def test_two_nights_at_once_are_two_nights_in_turn(self, nights: Nights, tmp_path: Path) -> None:
        ok(["calibrate", "--state", tmp_path / "at-once", nights.first, nights.second])
        learn(tmp_path / "in-turn", nights.first)
        learn(tmp_path / "in-turn", nights.second)
        assert files(tmp_path / "at-once") == files(tmp_path / "in-turn")

    def test_what_is_known_is_applied_from_the_first_record(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first)
        known = records(learn(state, nights.second))
        unknown = records(ok(["calibrate", nights.second]))
        assert unknown[0]["cal_bias_ratio"] == 1
        assert known[0]["cal_bias_ratio"] != 1

    @pytest.mark.parametrize("method", METHODS)
    def test_it_is_readable_json_that_says_where_it_is_from(
        self, nights: Nights, state: Path, method: str
    ) -> None:
        learn(state, nights.first, "--method", method)
        document = json.loads(files(state)[FILE])
        assert (document["key"], document["method"], document["version"]) == (KEY, method, 1)
        assert document["written_by"].startswith("driftkit ")

    @pytest.mark.parametrize("field", ["est_model", "est_tokenizer", "served_model"])
    def test_each_estimator_tokenizer_and_model_has_its_own(
        self, nights: Nights, state: Path, tmp_path: Path, field: str
    ) -> None:
        learn(state, nights.first)
        before = files(state)
        other = tmp_path / "other.jsonl"
        rows = records(nights.second.read_bytes())
        other.write_bytes(jsonl(changed(row, **{field: "../an other/.one"}) for row in rows))
        learn(state, other)
        after = files(state)
        assert {name: content for name, content in after.items() if name in before} == before
        assert len(after) == len(before) + 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["other.jsonl", "state"]

    def test_no_other_method_goes_into_it(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first, "--method", "ema")
        before = files(state)
        for args in (["calibrate"], ["run", "--feedback"]):
            reads = nights.second if args == ["calibrate"] else nights.requests
            lines = said(run([*args, "--method", "ratio", "--state", state, reads]), 2)
            assert "learned with --method ema, not ratio" in lines[0]
        assert files(state) == before

    def test_the_method_of_the_state_is_the_default(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first, "--method", "ema")
        learn(state, nights.second)
        assert json.loads(files(state)[FILE])["method"] == "ema"

    def test_the_umask_decides_who_may_read_it(self, nights: Nights, state: Path) -> None:
        assert run(["calibrate", "--state", state, nights.first], umask=0o022).returncode == 0
        assert (state / FILE).stat().st_mode & 0o777 == 0o644


def parts(path: Path, *at: slice) -> list[bytes]:
    """Parts of a file, as rotation leaves them."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [b"".join(lines[part]) for part in at]


class TestARunInParts:
    """Its log was rotated, its file grew, or its reader began again: each completion is learned once."""

    @pytest.mark.parametrize("method", ["quantile", "ratio", "isotonic", "ema"])
    def test_the_second_half_is_learned_in_a_call_of_its_own(
        self, nights: Nights, tmp_path: Path, method: str
    ) -> None:
        learn(tmp_path / "whole", nights.first, "--method", method)
        for half in parts(nights.first, slice(24), slice(24, None)):
            ok(["calibrate", "--method", method, "--state", tmp_path / "halves"], half)
        assert files(tmp_path / "halves") == files(tmp_path / "whole")

    @pytest.mark.parametrize("options", [[], ["--sort"], ["--live"]])
    def test_what_overlaps_is_learned_once_and_that_is_said(
        self, nights: Nights, state: Path, tmp_path: Path, options: list[str]
    ) -> None:
        learn(tmp_path / "whole", nights.first)
        early, late = parts(nights.first, slice(30), slice(20, None))
        call = ["calibrate", *options, "--state", state]
        ok(call, early)
        (warning,) = said(run(call, late), 0)
        run_id = records(early)[0]["run_id"]
        assert warning.startswith(f"driftkit calibrate: 10 completions of run {run_id} were learned before:")
        assert files(state) == files(tmp_path / "whole")
        (warning,) = said(run(call, early), 0)
        assert warning.startswith(f"driftkit calibrate: run {run_id} was learned before: the state does not")
        assert files(state) == files(tmp_path / "whole")

    @pytest.mark.parametrize("options", [["--sort"], []])
    def test_one_file_given_twice_in_one_call(
        self, nights: Nights, state: Path, tmp_path: Path, options: list[str]
    ) -> None:
        learn(tmp_path / "once", nights.first)
        call: list[str | Path] = ["calibrate", *options, "--state", state, nights.first, nights.first]
        (warning,) = said(run(call), 0)
        assert "were learned before" in warning
        assert files(state) == files(tmp_path / "once")

    def test_a_resumed_run_goes_back_in_time_and_all_of_it_is_learned(
        self, nights: Nights, state: Path
    ) -> None:
        """Its clock begins with what was in flight, so some of it ends before what had ended."""
        early, resumed = parts(nights.first, slice(0, None, 2), slice(1, None, 2))
        call = ["calibrate", "--sort", "--state", state]
        ok(call, early)
        assert "24 completions of run" in said(run(call, early + resumed), 0)[0]
        assert list(json.loads(files(state)[FILE])["runs"].values()) == [48]

    def test_the_part_that_is_new_is_watched(self, nights: Nights, state: Path) -> None:
        early, whole = parts(nights.first, slice(24), slice(None))
        call = ["calibrate", "--fail-on-drift", "--state", state]
        ok(call, early)
        said(run(call, whole), 0)
        said(run(call, whole), 3)  # nothing to look at

    def test_a_run_in_a_state_without_ids_is_known_to_its_end(self, nights: Nights, state: Path) -> None:
        """As an older driftkit has written it."""
        early, late = parts(nights.first, slice(24), slice(24, None))
        ok(["calibrate", "--state", state], early)
        old = without(json.loads(files(state)[FILE]), "latest", "learned_until_s")
        (state / FILE).write_text(json.dumps(old))
        before = files(state)
        assert "was learned before" in said(run(["calibrate", "--state", state], late), 0)[0]
        assert files(state) == before
        learn(state, nights.second)
        assert "was learned before" in said(run(["calibrate", "--state", state], late), 0)[0]


class TestWritingWholeOrNotAtAll:
    def test_no_temporary_file_stays(self, nights: Nights, state: Path) -> None:
        for night in nights.first, nights.second:
            learn(state, night)
            assert set(files(state)) == {"lock", FILE}

    def test_the_old_file_is_replaced_not_written_over(
        self, nights: Nights, state: Path, tmp_path: Path
    ) -> None:
        learn(state, nights.first)
        before = (state / FILE).read_bytes()
        os.link(state / FILE, tmp_path / "link")  # what a reader has open stays what it was
        learn(state, nights.second)
        assert (tmp_path / "link").read_bytes() == before != (state / FILE).read_bytes()

    def test_a_bad_line_leaves_it_as_it_was(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first)
        before = files(state)
        said(run(["calibrate", "--state", state], nights.second.read_bytes() + b'{"id": 3\n'), 1)
        assert files(state) == before

    def test_what_came_before_the_end_of_a_torn_gzip_is_learned_under_skip(
        self, nights: Nights, state: Path, tmp_path: Path
    ) -> None:
        """As it is of a plain file of which the last line is torn."""
        packed = tmp_path / "night.jsonl.gz"
        packed.write_bytes(gzip.compress(nights.first.read_bytes())[:-400])
        rejects = tmp_path / "rejects"
        call: list[str | Path] = ["calibrate", "--state", state, packed]
        first, hint = said(run(call), 1)
        assert "--on-error skip goes by what comes before" in hint
        assert not (state / FILE).exists()
        result = run([*call, "--on-error", "skip", "--rejects", rejects])
        problem, left_out = said(result, 3)
        read = len(records(result.stdout))
        assert 20 < read < 48
        assert problem == first
        assert problem.startswith(f"driftkit calibrate: {packed}:{read + 1}: gzip: ")
        assert left_out == f"driftkit calibrate: 1 bad lines left out, copied to {rejects}"
        (whole,) = parts(nights.first, slice(read))
        assert result.stdout == ok(["calibrate", "--state", tmp_path / "whole"], whole)
        assert files(state) == files(tmp_path / "whole")

    def test_a_full_disk_under_standard_output_leaves_it_as_it_was(self, nights: Nights, state: Path) -> None:
        learn(state, nights.first)
        before = files(state)
        with open("/dev/full", "wb") as full:
            said(run(["calibrate", "--state", state, nights.second], stdout=full.fileno()), 1)
        assert files(state) == before

    @pytest.mark.parametrize(
        ("how", "code"),
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    )
    def test_an_end_half_way_leaves_it_as_it_was(
        self, nights: Nights, state: Path, how: signal.Signals, code: int
    ) -> None:
        learn(state, nights.first)
        before = files(state)
        with start(["calibrate", "--unbuffered", "--state", state]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(nights.second.read_bytes().splitlines(keepends=True)[0])
            read_line(process.stdout.fileno())
            process.send_signal(how)
            assert process.wait() == code
        assert files(state) == before


class TestOneWriter:
    @pytest.mark.parametrize("known", [True, False], ids=["known", "empty"])
    def test_a_second_is_refused_and_readers_do_not_wait(
        self, nights: Nights, state: Path, known: bool
    ) -> None:
        if known:
            learn(state, nights.first)
        with start(["calibrate", "--unbuffered", "--state", state]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(nights.second.read_bytes().splitlines(keepends=True)[0])
            read_line(process.stdout.fileno())  # from here on it holds the lock
            result = run(["calibrate", "--state", state, nights.second])
            first, *hints = said(result, 1)
            assert first == f"driftkit calibrate: {state}: another driftkit is writing this state"
            assert len(hints) <= 1
            assert result.stdout == b""
            for command in "estimate", "run --feedback":
                said(run(user(command, state, nights)), 0)
            process.stdin.close()
            assert process.wait() == 0
        assert sum(json.loads(files(state)[FILE])["runs"].values()) == 48 * known + 1

    def test_the_lock_of_a_killed_writer_is_free(self, nights: Nights, state: Path) -> None:
        with start(["calibrate", "--unbuffered", "--state", state]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(nights.first.read_bytes().splitlines(keepends=True)[0])
            read_line(process.stdout.fileno())
            process.kill()
        learn(state, nights.first)


def document(method: str = "ratio", learned: Any = None, **other: Any) -> str:
    """A state file, by default a good one that has learned nothing."""
    nothing = {"category": {}, "cell": []} if method == "ratio" else {"bias_ratio": {}}
    return json.dumps(
        {
            "kind": "driftkit-calibration",
            "version": 1,
            "key": KEY,
            "method": method,
            "runs": {},
            "learned": nothing if learned is None else learned,
            **other,
        }
    )


def moments(*values: float) -> dict[str, Any]:
    return {"category": {"summary": list(values)}, "cell": [["tenant-batch", "summary", *values]]}


UNUSABLE = {
    "empty": ("", "damaged state"),
    "cut off": (document()[:-9], "damaged state"),
    "not UTF-8": ('{"kind": "\udcff"}', "damaged state"),
    "NaN": (document(learned=moments(5, float("nan"), 0.1)), "damaged state"),
    "an array": ("[]", "not a driftkit state file"),
    "foreign": ('{"kind": "terraform", "version": 1}', "not a driftkit state file"),
    "newer": (document(version=2, models=[]), "state version 2, this driftkit reads 1"),
    "of another key": (document(key=["oracle", "builtin", "x"]), "oracle"),
    "unknown method": (document(method="kalman"), "damaged state"),
    "nothing learned": (document(learned=3), "damaged state"),
    "moments missing": (document(learned=moments(5, 0.1)), "damaged state"),
    "moments as text": (document(learned={"category": {"summary": "abc"}, "cell": []}), "damaged state"),
    "runs as array": (document(runs=[]), "damaged state"),
    "negative variance": (document(learned=moments(5, 0.1, -3)), "damaged state"),
    "negative count": (document(learned=moments(-10, 0.1, 0.1)), "damaged state"),
    "mean beyond any ratio": (document(learned=moments(5, 1e9, 0.1)), "damaged state"),
    "bias zero": (document("ema", {"bias_ratio": {"summary": 0}}), "damaged state"),
    "bias negative": (document("ema", {"bias_ratio": {"summary": -3}}), "damaged state"),
    "bias beyond any ratio": (document("ema", {"bias_ratio": {"summary": 1e200}}), "damaged state"),
}


class TestUnusableState:
    @pytest.mark.parametrize("command", READERS_AND_WRITERS)
    @pytest.mark.parametrize("what", UNUSABLE)
    def test_it_is_an_error_and_stays_as_it_is(
        self, nights: Nights, state: Path, command: str, what: str
    ) -> None:
        content, problem = UNUSABLE[what]
        state.mkdir()
        (state / FILE).write_bytes(content.encode(errors="surrogateescape"))
        before = files(state)
        result = run(user(command, state, nights))
        first, *hints = said(result, 1)
        assert first.startswith(f"driftkit {command.split()[0]}: {state}")
        assert problem in first
        assert len(hints) <= 1
        assert {name: data for name, data in files(state).items() if name != "lock"} == before
        assert result.stdout == b""

    @pytest.mark.parametrize("command", READERS_AND_WRITERS)
    def test_the_good_document_that_the_bad_ones_are_made_of_is_read(
        self, nights: Nights, state: Path, command: str
    ) -> None:
        state.mkdir()
        (state / FILE).write_text(document(learned=moments(5, 0.1, 0.1)))
        ok(user(command, state, nights))

    @pytest.mark.parametrize("command", READERS_AND_WRITERS)
    def test_a_file_instead_of_a_folder(self, nights: Nights, state: Path, command: str) -> None:
        state.write_text("mine")
        assert str(state) in "\n".join(said(run(user(command, state, nights)), 2))
        assert state.read_text() == "mine"


class TestApplying:
    @pytest.mark.parametrize("method", METHODS)
    def test_estimate_multiplies_by_what_was_learned(
        self, nights: Nights, stages: Stages, state: Path, method: str
    ) -> None:
        learn(state, nights.first, "--method", method)
        before = stages.read("estimated")
        after = records(ok(["estimate", "--state", state, stages.requests]))
        assert any(row["est_bias_ratio"] > 1.01 or row["est_bias_ratio"] < 0.99 for row in after)
        caps = method == "ratio"
        for old, new in zip(before, after, strict=True):
            factors = new["est_bias_ratio"] * new["est_safety_ratio"] * new["est_input_ratio"]
            tokens = max(1, int(old["est_base_tokens"] * factors))
            tokens = min(tokens, old["max_tokens"]) if caps else tokens
            assert abs(new["est_output_tokens"] - tokens) <= 1  # the product is taken in another order
            assert new["est_total_tokens"] == new["prompt_tokens"] + new["est_output_tokens"]
            assert without(new, *CORRECTED) == without(old, *CORRECTED)

    def test_what_was_learned_in_words_is_not_applied_to_tokens(
        self, nights: Nights, stages: Stages, state: Path
    ) -> None:
        learn(state, nights.first)
        result = run(["estimate", "--tokenizer", "whitespace", "--state", state, stages.requests])
        (warning,) = said(result, 0)
        assert "nothing learned yet for table/whitespace/qwen1.5-1.8b" in warning
        assert {row["est_bias_ratio"] for row in records(result.stdout)} == {1}

    @pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
    def test_estimate_warns_once_of_a_state_without_anything(
        self, stages: Stages, state: Path, exists: bool
    ) -> None:
        if exists:
            state.mkdir()
        result = run(["estimate", "--state", state, stages.requests])
        (warning,) = said(result, 0)
        assert warning.startswith(f"driftkit estimate: {state}: nothing learned yet")
        assert result.stdout == stages.estimated.read_bytes()
        assert state.exists() == exists

    def test_a_correction_is_not_learned_a_second_time(
        self, nights: Nights, stages: Stages, tmp_path: Path
    ) -> None:
        """Ratios are taken against the estimate without its bias: twice the same night, the same state."""
        once, again = tmp_path / "once", tmp_path / "again"
        learn(once, nights.first)
        estimated = ok(["estimate", "--state", once, stages.requests])
        completions = tmp_path / "completions.jsonl"
        completions.write_bytes(ok(["run"], ok(["schedule", "--policy", "fifo"], estimated)))
        learn(again, completions)
        uncorrected = tmp_path / "uncorrected"
        plain = ok(["run"], ok(["schedule", "--policy", "fifo", stages.estimated]))
        completions.write_bytes(plain)
        learn(uncorrected, completions)
        learned = [json.loads((folder / FILE).read_bytes())["learned"] for folder in (again, uncorrected)]
        assert learned[0] == learned[1]


CORRECTED = ("est_bias_ratio", "est_output_tokens", "est_total_tokens", "est_class")


def calibration(rows: list[Record]) -> dict[str, tuple[float, int]]:
    """The calibration of each record, exactly."""
    return {row["id"]: (row["cal_bias_ratio"], row["cal_output_tokens"]) for row in rows}


class TestFeedbackIsWhatCalibrateReplays:
    def online(self, call: list[str | Path], data: bytes, known: bool) -> bytes:
        """What a run with feedback writes; that its state holds nothing is said."""
        result = run(call, data)
        lines = said(result, 0)
        assert len(lines) == (0 if known else 1)
        assert all("nothing learned yet" in line for line in lines)
        return result.stdout

    @pytest.mark.parametrize("seed", [3, 5, 6])
    def test_where_tenants_and_categories_meet_for_the_first_time_in_the_middle(self, seed: int) -> None:
        """Outputs of real lengths, long overload: most arrive before anything of their cell has ended."""
        made = ok(
            ["gen", "--preset", "driftsched", "--requests", "300", "--seed", str(seed), "--lengths", "chat"]
        )
        scheduled = ok(["schedule", "--policy", "sjf", "--no-plan"], ok(["estimate"], made))
        online = ok(["run", "--feedback"], scheduled)
        assert ok(["calibrate"], online) == online

    def test_priorities_written_by_hand_stay_without_a_policy(self, stages: Stages) -> None:
        rows = [
            without(changed(row, arrival_s=0.0, priority=-n, barrier=None), "policy")
            for n, row in enumerate(stages.read("scheduled"))
        ]
        out = records(ok(["run", "--feedback", "--max-num-seqs", "1"], jsonl(rows)))
        assert [row["priority"] for row in out] == sorted(row["priority"] for row in out)

    def test_corrected_estimates_without_their_state_are_said(
        self, nights: Nights, stages: Stages, state: Path
    ) -> None:
        learn(state, nights.first)
        scheduled = ok(["schedule", "--policy", "sjf"], ok(["estimate", "--state", state, stages.requests]))
        (warning,) = said(run(["run", "--feedback"], scheduled), 0)
        assert "give it their --state" in warning
        ok(["run", "--feedback", "--state", state], scheduled)

    @pytest.mark.parametrize(
        ("method", "batching", "policy", "known"),
        list(product(METHODS, ("continuous", "static"), ("fifo", "sjf"), (False, True))),
    )
    def test_bit_for_bit(
        self, nights: Nights, state: Path, method: str, batching: str, policy: str, known: bool
    ) -> None:
        if known:
            learn(state, nights.second, "--method", method)
        calm = [changed(row, arrival_s=4 * row["arrival_s"]) for row in records(nights.requests.read_bytes())]
        scheduled = ok(["schedule", "--policy", policy, "--no-plan"], jsonl(calm))
        options = ["--method", method, "--state", state]
        call = ["run", "--feedback", "--batching", batching, "--batch-size", "8", *options]
        rows = records(self.online(call, scheduled, known))
        assert len({row["cal_bias_ratio"] for row in rows}) > 3  # it learned on the way
        plain = jsonl(without(row, "cal_bias_ratio", "cal_output_tokens") for row in rows)
        assert calibration(records(ok(["calibrate", *options], plain))) == calibration(rows)

    def test_the_next_night_of_the_same_workload_is_a_run_of_its_own(
        self, nights: Nights, state: Path, tmp_path: Path
    ) -> None:
        """Cron replays one workload night after night, each night with what was learned before."""
        for night in range(2):
            online = tmp_path / f"{night}.jsonl"
            call = ["run", "--feedback", "--state", state, nights.requests]
            online.write_bytes(self.online(call, b"", known=night > 0))
            replayed = ok(["calibrate", "--state", state, online])
            assert calibration(records(replayed)) == calibration(records(online.read_bytes()))


def shuffled(path: Path) -> bytes:
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    return b"".join(lines)


def interleaved(first: Path, second: Path) -> bytes:
    pairs = zip(*(path.read_bytes().splitlines(keepends=True) for path in (first, second)), strict=True)
    return b"".join(line for pair in pairs for line in pair)


class TestOrder:
    @pytest.mark.parametrize("mix", [lambda n: shuffled(n.first), lambda n: interleaved(n.first, n.second)])
    def test_another_order_is_refused_with_the_way_out(
        self, nights: Nights, mix: Callable[[Nights], bytes]
    ) -> None:
        first, hint = said(run(["calibrate"], mix(nights)), 1)
        assert first.startswith("driftkit calibrate: <stdin>:")
        assert "--sort" in hint

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("batching", ["continuous", "static"])
    def test_sorted_it_is_the_ordered_stream(
        self, nights: Nights, tmp_path: Path, method: str, batching: str
    ) -> None:
        completions = tmp_path / "completions.jsonl"
        completions.write_bytes(ok(["run", "--batching", batching, nights.requests]))
        ordered = records(ok(["calibrate", "--method", method, completions]))
        resorted = records(ok(["calibrate", "--method", method, "--sort"], shuffled(completions)))
        assert calibration(resorted) == calibration(ordered)

    def test_interleaved_runs_sorted_are_one_after_the_other(self, nights: Nights) -> None:
        mixed = ok(["calibrate", "--sort"], interleaved(nights.first, nights.second))
        assert mixed == ok(["calibrate", nights.first, nights.second])

    def test_live_takes_any_order(self, nights: Nights) -> None:
        assert len(records(ok(["calibrate", "--live"], shuffled(nights.first)))) == 48

    def test_sorting_keeps_the_state_that_the_ordered_stream_keeps(
        self, nights: Nights, tmp_path: Path
    ) -> None:
        learn(tmp_path / "ordered", nights.first)
        ok(["calibrate", "--sort", "--state", tmp_path / "sorted"], shuffled(nights.first))
        assert files(tmp_path / "sorted") == files(tmp_path / "ordered")


def test_a_copied_folder_works(nights: Nights, stages: Stages, state: Path, tmp_path: Path) -> None:
    learn(state, nights.first)
    shutil.copytree(state, tmp_path / "copy")
    there, here = (ok(["estimate", "--state", s, stages.requests]) for s in (state, tmp_path / "copy"))
    assert there == here
