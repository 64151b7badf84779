"""What every command owes to the shell: streams, exit codes, messages, and what it leaves alone.

A class per command inherits the contracts that hold for it; what is particular to one command stands below.
"""

from __future__ import annotations

import array
import fcntl
import gzip
import json
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cli import (
    DRIFTKIT,
    PATIENCE_S,
    Record,
    Stages,
    bash,
    changed,
    jsonl,
    ok,
    on_terminal,
    read_line,
    records,
    run,
    said,
    start,
    without,
)
from driftkit.commands import COMMANDS
from driftkit.registry import names

REQUESTS = 48
EXAMPLE_SPEC = Path(__file__).resolve().parent.parent / "examples" / "tenants.toml"
BAD_LINE = 17

# each makes something else of a good line, which is then refused with these words
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda line: line[:40], "not JSON: "),
    "not JSON": (lambda line: b"id=3", "not JSON: "),
    "two objects": (lambda line: line + line, "not JSON: "),
    "an array": (lambda line: b"[1, 2]", "expected a JSON object, got an array"),
    "a number": (lambda line: b"7", "expected a JSON object, got a number"),
    "null": (lambda line: b"null", "expected a JSON object, got nothing"),
    "NaN": (lambda line: line[:-1] + b',"x":NaN}', "not JSON: "),
    "infinity": (lambda line: line[:-1] + b',"x":1e999}', "not JSON: "),
    "minus infinity": (lambda line: line[:-1] + b',"x":-Infinity}', "not JSON: "),
    "invalid UTF-8": (lambda line: line.replace(b"tenant-", b"tenant\xff-"), "not JSON: "),
    "half a surrogate pair": (lambda line: line[:-1] + b',"x":"\\ud800"}', "not JSON: "),
    "deeper than any stack": (
        lambda line: line[:-1] + b',"x":' + b"[" * 9000 + b"]" * 9000 + b"}",
        "not JSON",
    ),
    "id of another type": (lambda line: with_fields(line, id=3), "id: expected a string, got 3"),
    "newer schema": (lambda line: with_fields(line, schema=2), "schema: expected 1, got 2"),
    "schema as text": (lambda line: with_fields(line, schema="1"), "schema: expected 1, got '1'"),
    "schema as truth": (lambda line: with_fields(line, schema=True), "schema: expected 1, got true"),
    "kind of another type": (lambda line: with_fields(line, kind=3), "kind: expected a string, got 3"),
}
UNKNOWN_KIND = b'{"kind":"note","schema":1,"id":5,"text":"\xc3\xa9","a":[1,2.5,null,{"b":[]}],"e":1e-7}\n'


def with_fields(line: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(line), **fields}).encode()


def one_bad(data: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    lines = data.splitlines()
    lines[BAD_LINE - 1] = damage(lines[BAD_LINE - 1])
    return b"\n".join(lines) + b"\n"


class Command:
    """How to call it, and which stage's file it reads."""

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str]

    def args(self, file: Path | str) -> list[str | Path]:
        return [self.name, *self.options, file]

    def file(self, stages: Stages) -> Path:
        path: Path = getattr(stages, self.reads)
        return path

    def much(self, stages: Stages) -> list[str | Path]:
        """A call that writes more than a pipe holds."""
        return self.args(self.file(stages))


class OutputContract(Command):
    """Data on standard output, nothing else there, and what happens when nobody takes it."""

    def test_standard_output_is_json_lines(self, stages: Stages) -> None:
        rows = records(ok(self.args(self.file(stages))))
        assert rows
        assert {type(row) for row in rows} == {dict}
        assert {row["schema"] for row in rows} == {1}

    def test_head_ends_it(self, long_stages: Stages) -> None:
        call = self.much(long_stages)
        result = bash('set -o pipefail; "$@" | head -1', DRIFTKIT, *call)
        assert (result.returncode, result.stderr) == (141, b"")
        assert result.stdout == ok(call).splitlines(keepends=True)[0]

    @pytest.mark.parametrize("options", [(), ("--help",)], ids=["", "--help"])
    def test_a_pipe_that_nobody_reads(self, stages: Stages, options: tuple[str, ...]) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        result = run([*self.args(self.file(stages)), *options], stdout=writer)
        os.close(writer)
        assert (result.returncode, result.stderr) == (141, b"")

    @pytest.mark.parametrize("options", [(), ("--help",)], ids=["", "--help"])
    def test_closed_standard_output(self, stages: Stages, options: tuple[str, ...]) -> None:
        result = bash('"$@" >&-', DRIFTKIT, *self.args(self.file(stages)), *options)
        assert (result.returncode, result.stderr) == (141, b"")

    @pytest.mark.parametrize("options", [(), ("--help",)], ids=["", "--help"])
    def test_full_disk(self, stages: Stages, options: tuple[str, ...]) -> None:
        with open("/dev/full", "wb") as full:
            result = run([*self.args(self.file(stages)), *options], stdout=full.fileno())
        assert said(result, 1) == [f"driftkit {self.name}: standard output: no space left on device"]

    def test_closed_standard_error_loses_no_data(self, stages: Stages) -> None:
        call = self.args(self.file(stages))
        result = bash('"$@" 2>&-', DRIFTKIT, *call)
        assert (result.returncode, result.stdout) == (0, ok(call))

    def test_it_ends_with_a_line_when_it_is_interrupted_while_the_reader_is_slow(
        self, long_stages: Stages
    ) -> None:
        with start(self.much(long_stages)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            wait_until_full(process.stdout.fileno())
            process.send_signal(signal.SIGINT)
            written, complaint = process.stdout.read(), process.stderr and process.stderr.read()
        assert (process.returncode, complaint) == (130, f"driftkit {self.name}: interrupted\n".encode())
        assert written.endswith(b"\n")
        records(written)


def wait_until_full(pipe: int) -> None:
    """Until nothing more is written into a pipe that nobody reads."""
    held, since = array.array("i", [0]), time.monotonic()
    while held[0] < 1 << 15 or time.monotonic() - since < 0.2:
        before = held[0]
        time.sleep(0.02)
        fcntl.ioctl(pipe, termios.FIONREAD, held)
        if held[0] != before:
            since = time.monotonic()
        assert time.monotonic() - since < PATIENCE_S


class InputContract(Command):
    """Files, standard input, and lines that are no good."""

    @pytest.fixture
    def data(self, stages: Stages) -> bytes:
        return self.file(stages).read_bytes()

    @pytest.fixture
    def output(self, data: bytes) -> bytes:
        """What it writes when nothing is wrong."""
        return ok(self.args("-"), data)

    def refuses(self, data: bytes, problem: str, tmp_path: Path) -> None:
        """In one line with one hint at most."""
        path = tmp_path / "in put.jsonl"
        path.write_bytes(data)
        first, *hints = said(run(self.args(path)), 1)
        assert first.startswith(f"driftkit {self.name}: {path}:{BAD_LINE}: {problem}")
        assert len(hints) <= 1
        assert all(hint.startswith("  ") for hint in hints)

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_bad_line_is_named(self, data: bytes, tmp_path: Path, damage: str) -> None:
        damaged, problem = DAMAGES[damage]
        self.refuses(one_bad(data, damaged), problem, tmp_path)

    def test_debug_shows_a_traceback_after_the_message(self, data: bytes) -> None:
        args = self.args("-")
        bad = one_bad(data, lambda line: b"[]")
        message = said(run(args, bad), 1)
        result = run([*args, "--debug"], bad)
        assert result.returncode == 1
        lines = result.stderr.decode().splitlines()
        assert lines[: len(message)] == message
        assert lines[len(message)] == "Traceback (most recent call last):"

    @pytest.mark.parametrize("bad", [b'{"id": "x", \r\n', b"\xff\xfe  \n", b'["no object"]', b"{} {}\n"])
    def test_bad_lines_are_left_out_and_kept(
        self, data: bytes, output: bytes, tmp_path: Path, bad: bytes
    ) -> None:
        rejects = tmp_path / "rejects"
        lines = data.splitlines(keepends=True)
        mixed = b"".join([*lines[:3], bad.rstrip(b"\n") + b"\n", *lines[3:], bad])
        result = run([*self.args("-"), "--on-error", "skip", "--rejects", rejects], mixed)
        first, second, total = said(result, 3)
        assert first.startswith(f"driftkit {self.name}: <stdin>:4: ")
        assert second.startswith(f"driftkit {self.name}: <stdin>:{len(lines) + 2}: ")
        assert total.startswith(f"driftkit {self.name}: 2 ")
        assert result.stdout == output
        assert rejects.read_bytes() == (bad.rstrip(b"\n") + b"\n") * 2

    def test_nothing_is_left_out_of_good_input(self, data: bytes, output: bytes, tmp_path: Path) -> None:
        rejects = tmp_path / "rejects"
        assert ok([*self.args("-"), "--on-error", "skip", "--rejects", rejects], data) == output
        assert rejects.read_bytes() == b""

    def test_rejects_never_overwrite_the_input(self, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "input.jsonl"
        path.write_bytes(data)
        result = run([*self.args(path), "--on-error", "skip", "--rejects", path])
        assert path.read_bytes() == data
        assert str(path) in said(result, 2)[0]

    def test_rejects_on_a_full_disk(self, data: bytes) -> None:
        bad = one_bad(data, lambda line: b"[]")
        result = run([*self.args("-"), "--on-error", "skip", "--rejects", "/dev/full"], bad)
        assert said(result, 1)[-1] == f"driftkit {self.name}: /dev/full: no space left on device"

    def test_blank_lines_are_nothing(self, data: bytes, output: bytes) -> None:
        spaced = b"\n \n" + data.replace(b"\n", b"\n\t\n\r\n") + b"\n"
        assert ok(self.args("-"), spaced) == output

    def test_lines_may_end_as_on_windows(self, data: bytes, output: bytes) -> None:
        assert ok(self.args("-"), data.replace(b"\n", b"\r\n")) == output

    def test_the_last_line_needs_no_end(self, data: bytes, output: bytes) -> None:
        assert ok(self.args("-"), data.rstrip(b"\n")) == output

    def test_gzip_is_unpacked(self, data: bytes, output: bytes, tmp_path: Path) -> None:
        packed = gzip.compress(data)
        (tmp_path / "packed").write_bytes(packed)
        assert ok(self.args(tmp_path / "packed")) == ok(self.args("-"), packed) == output

    @pytest.mark.parametrize(
        "damage",
        [lambda data: data[:-20], lambda data: data[:2], lambda data: data[:40] + bytes(40) + data[80:]],
        ids=["cut off", "only its magic", "garbled"],
    )
    def test_damaged_gzip(self, data: bytes, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        path = tmp_path / "damaged.gz"
        path.write_bytes(damage(gzip.compress(data)))
        first, *_ = said(run(self.args(path)), 1)
        assert first.startswith(f"driftkit {self.name}: {path}:")

    def test_no_such_file(self) -> None:
        result = run(self.args("nowhere.jsonl"))
        assert said(result, 1) == [f"driftkit {self.name}: nowhere.jsonl: no such file or directory"]
        assert result.stdout == b""

    def test_closed_standard_input(self) -> None:
        result = bash('"$@" <&-', DRIFTKIT, *self.args("-"))
        assert said(result, 1) == [f"driftkit {self.name}: standard input is closed"]

    def test_big_whole_numbers_are_kept_or_refused(self, data: bytes) -> None:
        """A trace or session id beyond 64 bits must not come out as another number."""
        number = 2**70 + 1
        result = run(self.args("-"), one_bad(data, lambda line: with_fields(line, x_session=number)))
        if result.returncode == 0:
            kept = {row.get("x_session") for row in records(result.stdout)}
            assert kept in ({None, number}, {None}), kept
            assert number in kept or self.name == "report"
        else:
            assert f"<stdin>:{BAD_LINE}: " in said(result, 1)[0]

    @pytest.mark.parametrize(
        ("how", "code", "word"),
        [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
        ids=["INT", "TERM"],
    )
    def test_a_signal_while_it_reads(
        self, long_stages: Stages, tmp_path: Path, how: signal.Signals, code: int, word: str
    ) -> None:
        data = self.file(long_stages).read_bytes()
        assert len(data) > 3 << 16  # more than a pipe holds: once all is written, it has started to read
        with open(tmp_path / "out", "wb") as out, start(self.args("-"), stdout=out.fileno()) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(data)
            process.send_signal(how)
            assert process.stderr.read() == f"driftkit {self.name}: {word}\n".encode()
        assert process.returncode == code
        written = (tmp_path / "out").read_bytes()
        assert written.endswith(b"\n") or not written
        assert bool(written) == isinstance(self, StreamContract)
        records(written)


class FilterContract(InputContract):
    """Commands that take `[FILE]...`."""

    def test_a_folder_is_its_files_by_name(self, data: bytes, output: bytes, tmp_path: Path) -> None:
        lines = data.splitlines(keepends=True)
        (tmp_path / "2026-11-02.jsonl").write_bytes(b"".join(lines[3:]))
        (tmp_path / "2026-11-01.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:3])))
        (tmp_path / "notes.txt").write_bytes(b"none of it")
        if self.name != "report":  # which names a run by its file
            assert ok(self.args(tmp_path)) == output
        assert ok(self.args(tmp_path)) == ok(
            [*self.args(tmp_path / "2026-11-01.jsonl.gz"), tmp_path / "2026-11-02.jsonl"]
        )

    def test_a_folder_may_have_more_files_than_may_be_open(self, data: bytes, tmp_path: Path) -> None:
        lines = data.splitlines(keepends=True)
        (tmp_path / "0.jsonl").write_bytes(b"".join(lines))
        for n in range(1, 130):
            (tmp_path / f"{n}.jsonl").write_bytes(b"")
        args = self.args(tmp_path)
        limited = bash('ulimit -n 120; "$@"', DRIFTKIT, *args)
        assert (limited.returncode, limited.stdout) == (0, ok(args))

    def test_a_folder_with_a_file_packed_and_unpacked(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "1.jsonl").write_bytes(data)
        (tmp_path / "1.jsonl.gz").write_bytes(gzip.compress(data))
        first, *_ = said(run(self.args(tmp_path)), 2)
        assert first.endswith(f"{tmp_path}: 1.jsonl is there packed and unpacked: keep one")

    def test_a_folder_without_records(self, tmp_path: Path) -> None:
        first, *_ = said(run(self.args(tmp_path)), 2)
        assert first == f"driftkit {self.name}: {tmp_path}: a folder without *.jsonl or *.jsonl.gz"

    def test_a_terminal_is_no_input(self) -> None:
        master, slave = pty.openpty()
        result = subprocess.run(
            [DRIFTKIT, self.name, *self.options], stdin=slave, capture_output=True, timeout=PATIENCE_S
        )
        os.close(slave)
        os.close(master)
        lines = said(result, 2)
        assert lines[0] == f"driftkit {self.name}: no input: give a FILE, or pipe records in"
        assert any(f"Usage: driftkit {self.name}" in line for line in lines)
        assert result.stdout == b""

    def test_no_file_is_standard_input(self, data: bytes, output: bytes) -> None:
        assert ok([self.name, *self.options], data) == output

    def test_files_follow_one_another(self, data: bytes, output: bytes, tmp_path: Path) -> None:
        first, *middle, last = data.splitlines(keepends=True)
        (tmp_path / "first").write_bytes(first.rstrip(b"\n"))
        (tmp_path / "last.gz").write_bytes(gzip.compress(last))
        args = [*self.args(tmp_path / "first"), "-", tmp_path / "last.gz"]
        assert ok(args, b"".join(middle)) == output

    def test_lines_are_numbered_in_each_file(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "bad").write_bytes(b"\n[]\n")
        first, *_ = said(run([*self.args("-"), tmp_path / "bad"], data), 1)
        assert first.startswith(f"driftkit {self.name}: {tmp_path / 'bad'}:2: ")

    def test_a_record_without_an_id(self, data: bytes, tmp_path: Path) -> None:
        nameless = one_bad(data, lambda line: json.dumps(without(json.loads(line), "id")).encode())
        self.refuses(nameless, "id: expected a string, got nothing", tmp_path)

    def test_unknown_kinds_are_none_of_its_business(self, data: bytes, output: bytes) -> None:
        mixed = UNKNOWN_KIND + data + UNKNOWN_KIND
        lines = ok(self.args("-"), mixed).splitlines(keepends=True)
        notes = [line for line in lines if line == UNKNOWN_KIND]
        assert len(notes) == (0 if self.name == "report" else 2)
        assert b"".join(line for line in lines if line != UNKNOWN_KIND) == output


class SilentWhenEmpty(Command):
    @pytest.mark.parametrize("nothing", [b"", b"\n\n", gzip.compress(b"")], ids=["", "blank", "gzip"])
    def test_empty_in_empty_out(self, nothing: bytes) -> None:
        assert ok(self.args("-"), nothing) == b""


class StreamContract(Command):
    """Commands that write a record when they have read it."""

    def first_line(self, stages: Stages, *options: str, terminal: bool = False) -> Record:
        """What comes for one record while standard input stays open."""
        line = self.file(stages).read_bytes().splitlines(keepends=True)[0]
        reader, writer = pty.openpty() if terminal else os.pipe()
        with start([*self.args("-"), *options], stdout=writer) as process:
            os.close(writer)
            assert process.stdin is not None
            process.stdin.write(line)
            row: Record = json.loads(read_line(reader))
            assert process.poll() is None
            process.stdin.close()
            assert process.wait() == 0
        os.close(reader)
        return row

    def test_a_terminal_sees_each_record_at_once(self, stages: Stages) -> None:
        assert self.first_line(stages, terminal=True)["id"] == stages.read(self.reads)[0]["id"]

    def test_so_does_a_pipe_with_unbuffered(self, stages: Stages) -> None:
        assert self.first_line(stages, "--unbuffered")["id"] == stages.read(self.reads)[0]["id"]

    def test_what_was_good_before_a_bad_line_is_out(self, stages: Stages) -> None:
        data = self.file(stages).read_bytes()
        result = run(self.args("-"), one_bad(data, lambda line: b"[]"))
        assert result.stdout == b"".join(ok(self.args("-"), data).splitlines(True)[: BAD_LINE - 1])


class PassThroughContract(Command):
    """A stage only adds fields: everything else keeps its value, its type and its place."""

    changes: ClassVar[tuple[str, ...]] = ()
    STRANGERS: ClassVar[Record] = {
        "x": {"b": [1, {"a": None}], "a": "é \U0001f600 \u2028 \x7f"},
        "": -0.0,
        "x_small": 1e-7,
        "x_large": 2**53 + 1,
        "x_largest": 2**64 - 1,
        "x_third": 0.1 + 0.2,
        "x_null": None,
        "est": True,
        "Tenant": '\\u0000 " \\ \n',
    }

    def test_what_it_does_not_know_stays(self, stages: Stages) -> None:
        rows = stages.read(self.reads)
        strange = [self.with_strangers(row, number) for number, row in enumerate(rows)]
        out = {row["id"]: row for row in records(ok(self.args("-"), jsonl(strange)))}
        assert len(out) == len(rows)
        for row in strange:
            kept = {name: value for name, value in out[row["id"]].items() if name in row}
            assert json.dumps(without(kept, *self.changes)) == json.dumps(without(row, *self.changes))

    def test_strangers_change_nothing_else(self, stages: Stages) -> None:
        rows = stages.read(self.reads)
        strange = [self.with_strangers(row, number) for number, row in enumerate(rows)]
        out = records(ok(self.args("-"), jsonl(strange)))
        plain = records(ok(self.args("-"), jsonl(rows)))
        assert [self.own(row) for row in out] == [self.own(row) for row in plain]

    def with_strangers(self, row: Record, number: int) -> Record:
        """Among the fields at another place in every record."""
        fields = list(row.items())
        place = number % len(fields)
        return dict([*fields[:place], *self.STRANGERS.items(), *fields[place:]])

    def own(self, row: Record) -> Record:
        return without(row, "run_id", *self.STRANGERS)


class TestGen(OutputContract):
    name = "gen"
    options = ("--preset", "driftsched", "--requests")
    reads = "requests"

    def args(self, file: Path | str) -> list[str | Path]:
        return [self.name, *self.options, str(REQUESTS)]

    def much(self, stages: Stages) -> list[str | Path]:
        return [self.name, *self.options, "600"]


class TestGenFromSpec(TestGen):
    options = ("--spec", str(EXAMPLE_SPEC), "--requests")


class TestGenFromTrace(OutputContract, InputContract, StreamContract, SilentWhenEmpty, PassThroughContract):
    name = "gen"
    options = ("--trace",)
    reads = "requests"
    changes = ("kind", "schema")  # which come first, wherever the trace had them


class TestEstimate(OutputContract, FilterContract, StreamContract, SilentWhenEmpty, PassThroughContract):
    name = "estimate"
    reads = "requests"


class TestSchedule(OutputContract, FilterContract, SilentWhenEmpty, PassThroughContract):
    name = "schedule"
    options = ("--policy", "sjf")
    reads = "estimated"
    changes = ("policy", "priority")


class TestScheduleWithoutPlan(OutputContract, SilentWhenEmpty, PassThroughContract):
    name = "schedule"
    options = ("--policy", "aging", "--no-plan")
    reads = "estimated"
    changes = ("policy", "priority")


class TestScheduleFollow(
    OutputContract, FilterContract, StreamContract, SilentWhenEmpty, PassThroughContract
):
    name = "schedule"
    options = ("--policy", "priority", "--follow")
    reads = "estimated"
    changes = ("policy", "priority")

    def test_it_follows_without_being_asked_to_flush(self, stages: Stages) -> None:
        assert self.first_line(stages)["policy"] == "priority"


class TestRun(OutputContract, FilterContract, SilentWhenEmpty, PassThroughContract):
    name = "run"
    reads = "scheduled"
    changes = ("kind",)


class TestRunWithFeedback(OutputContract, SilentWhenEmpty, PassThroughContract):
    name = "run"
    options = ("--feedback", "--batching", "static", "--batch-size", "8")
    reads = "scheduled"
    changes = ("kind",)


class TestCalibrate(OutputContract, FilterContract, StreamContract, SilentWhenEmpty, PassThroughContract):
    name = "calibrate"
    reads = "completions"

    def test_live_flushes(self, stages: Stages) -> None:
        assert self.first_line(stages, "--live")["cal_bias_ratio"] == 1


class TestReport(OutputContract, FilterContract):
    name = "report"
    options = ("--format", "jsonl")
    reads = "calibrated"

    def much(self, stages: Stages) -> list[str | Path]:
        return [*self.args(self.file(stages)), "--by", "id"]

    def test_of_nothing(self) -> None:
        for nothing in b"", b"\n", UNKNOWN_KIND:
            first, _hint = said(run(["report"], nothing), 1)
            assert first == "driftkit report: no completions in the input"


class TestUsage:
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    @pytest.mark.parametrize("command", ["", *COMMANDS])
    def test_help(self, command: str, flag: str) -> None:
        text = ok([*command.split(), flag]).decode()
        assert text.startswith(f"Usage: driftkit {command}".rstrip())
        assert max(map(len, text.splitlines())) <= 100

    @pytest.mark.parametrize("flag", ["--version", "-V"])
    def test_version(self, flag: str) -> None:
        assert ok([flag]).startswith(b"driftkit 0.")

    def test_nothing_at_all_is_the_help_and_an_error(self) -> None:
        result = run([])
        assert said(result, 2)[0].startswith("Usage: driftkit ")
        assert result.stdout == b""

    @pytest.mark.parametrize(
        ("call", "wrong", "way_out"),
        [
            ("estimte", "estimte", "estimate"),
            ("frobnicate", "frobnicate", "schedule"),
            ("--bogus", "--bogus", "--help"),
            ("gen", "--preset", "--trace"),
            ("gen --preset driftsched --spec x.toml", "--preset", "--spec"),
            ("gen --print-spec driftsch", "driftsch", "driftsched"),
            ("gen --preset driftsch", "driftsch", "driftsched"),
            ("gen --preset driftsched --sed 1", "--sed", "--seed"),
            ("gen --preset driftsched --requests 0", "--requests", "1"),
            ("gen --preset driftsched --requests many", "many", "--requests"),
            ("gen --preset driftsched --lengths chatt", "chatt", "chat"),
            ("gen --trace - --trace-format azur", "azur", "azure"),
            ("estimate --modle table", "--modle", "--model"),
            ("estimate --model tabel", "tabel", "table"),
            ("estimate --tokenizer bultin", "bultin", "builtin"),
            ("estimate --on-error stop", "stop", "skip"),
            ("schedule", "--policy", "--policy"),
            ("schedule --policy sjff", "sjff", "sjf"),
            ("schedule --policy aging --param rte=1", "rte", "rate"),
            ("schedule --policy fifo --param rate=1", "rate", "none"),
            ("schedule --policy aging --param rate=fast", "fast", "number"),
            ("schedule --policy aging --param rate=nan", "rate", "number"),
            ("schedule --policy aging --param rate", "rate", "KNOB=VALUE"),
            ("schedule --policy weighted --follow", "weighted", "--follow"),
            ("schedule --policy fifo --gpu l5", "l5", "l4"),
            ("run --batching statc", "statc", "static"),
            ("run --served-model qwen", "qwen", "qwen1.5-1.8b"),
            ("run --batch-wait -1", "-1", "--batch-wait"),
            ("run --state somewhere", "--state", "--feedback"),
            ("calibrate --method rato", "rato", "ratio"),
            ("calibrate --sorted", "--sorted", "--sort"),
            ("report --formt jsonl", "--formt", "--format"),
            ("report --format json", "json", "jsonl"),
            ("report --where tier", "tier", "FIELD=VALUE"),
        ],
    )
    def test_a_bad_call_names_what_is_wrong_and_the_nearest_right(
        self, stages: Stages, call: str, wrong: str, way_out: str
    ) -> None:
        stage = "calibrated" if call.startswith(("calibrate", "report")) else "scheduled"
        result = run(call.split(), getattr(stages, stage).read_bytes())
        lines = said(result, 2)
        assert wrong in lines[0]
        assert way_out in "\n".join(lines)
        assert 1 <= len(lines) <= 2
        assert result.stdout == b""


class TestRefusedFields:
    """Each command checks the fields that it reads, and says what it expected."""

    @pytest.mark.parametrize(
        ("command", "field", "value", "problem"),
        [
            ("gen --trace", "arrival_s", -1, "expected a number >= 0, got -1"),
            ("gen --trace", "prompt", 3, "expected a string, got a number"),
            ("gen --trace", "trace_output_tokens", 0, "expected an integer >= 1, got 0"),
            ("estimate", "arrival_s", None, "expected a number >= 0, got nothing"),
            ("estimate", "arrival_s", "1", "expected a number >= 0, got '1'"),
            ("estimate", "tier", 3, "expected a string, got 3"),
            ("estimate", "max_tokens", 1.5, "expected an integer >= 1, got 1.5"),
            ("estimate", "prompt_tokens", True, "expected an integer >= 1, got true"),
            ("estimate --model oracle", "trace_output_tokens", None, "expected an integer >= 1, got nothing"),
            ("schedule --policy sjf", "prompt_tokens", -4, "expected an integer >= 1, got -4"),
            ("schedule --policy sjf", "est_total_tokens", None, "expected an integer >= 0, got nothing"),
            ("schedule --policy fifo", "est_output_tokens", None, "expected an integer >= 0, got nothing"),
            ("schedule --policy priority", "tier_level", "gold", "expected an integer, got 'gold'"),
            ("schedule --policy weighted", "weight", 0, "expected a number > 0, got 0"),
            ("schedule --policy fifo", "barrier", "yes", "expected a boolean, got 'yes'"),
            ("run", "prompt_tokens", None, "expected an integer >= 1, got nothing"),
            ("run", "trace_output_tokens", None, "expected an integer >= 1, got nothing"),
            ("run", "priority", 1.5, "expected an integer, got 1.5"),
            ("run", "policy", 7, "expected a string, got 7"),
            ("run --feedback", "est_output_tokens", None, "expected an integer >= 0, got nothing"),
            ("calibrate", "finished_s", None, "expected a number >= 0, got nothing"),
            ("calibrate", "est_bias_ratio", 0, "expected a number > 0, got 0"),
            ("calibrate", "actual_output_tokens", "9", "expected an integer >= 0, got '9'"),
            ("calibrate", "run_id", 3, "expected a string, got 3"),
            ("report", "e2e_s", "fast", "expected a number >= 0, got 'fast'"),
            ("report", "label", 3, "expected a string, got 3"),
            (
                "report",
                "status",
                "fine",
                "expected one of ok, error, timeout, rejected, cancelled, got 'fine'",
            ),
        ],
    )
    def test_by_line_and_field(
        self, stages: Stages, tmp_path: Path, command: str, field: str, value: object, problem: str
    ) -> None:
        stage = "completions" if command.startswith(("calibrate", "report")) else "scheduled"
        rows = stages.read(stage)
        rows[BAD_LINE - 1] = changed(rows[BAD_LINE - 1], **{field: value})
        path = tmp_path / "records.jsonl"
        path.write_bytes(jsonl(rows))
        first, *hints = said(run([*command.split(), path]), 1)
        assert first == f"driftkit {command.split()[0]}: {path}:{BAD_LINE}: {field}: {problem}"
        assert len(hints) <= 1

    @pytest.mark.parametrize(
        ("call", "way_out"),
        [
            ("schedule --policy sjf", "driftkit estimate"),
            ("schedule --policy fifo", "driftkit estimate"),
            ("run", "driftkit estimate"),
        ],
    )
    def test_a_forgotten_estimate_is_hinted_at(self, stages: Stages, call: str, way_out: str) -> None:
        _first, hint = said(run(call.split(), stages.requests.read_bytes()), 1)
        assert way_out in hint

    def test_the_one_in_the_design(self, stages: Stages, tmp_path: Path) -> None:
        rows = stages.read("estimated")
        rows[16]["prompt_tokens"] = -4
        (tmp_path / "reqs.jsonl").write_bytes(jsonl(rows))
        result = bash("driftkit schedule --policy sjf reqs.jsonl", cwd=tmp_path)
        message = "driftkit schedule: reqs.jsonl:17: prompt_tokens: expected an integer >= 1, got -4"
        assert said(result, 1) == [message]

    @pytest.mark.parametrize(
        ("call", "fields"),
        [
            ("estimate", {"prompt_tokens": 2**64 - 1, "est_tokenizer": "given"}),
            ("estimate --model prompt-length", {"prompt_tokens": 2**63, "est_tokenizer": "given"}),
            ("schedule --policy aging", {"arrival_s": 1e300}),
            ("schedule --policy aging --no-plan", {"arrival_s": 1.7e308}),
            ("schedule --policy aging --follow", {"tier_level": 2**62}),
            ("schedule --policy sjf", {"est_output_tokens": 2**63}),
            ("run --feedback", {"est_base_tokens": 2**62, "est_safety_ratio": 1e300}),
            ("run", {"trace_output_tokens": 2**63, "max_tokens": None}),
            ("calibrate", {"est_base_tokens": 2**63, "est_safety_ratio": 10, "max_tokens": None}),
            ("calibrate", {"est_base_tokens": None, "est_output_tokens": 9, "est_bias_ratio": 1e-320}),
            ("report", {"e2e_s": 1e308, "est_output_tokens": 2**63}),
        ],
    )
    def test_absurd_numbers_are_no_internal_error(
        self, stages: Stages, call: str, fields: dict[str, Any]
    ) -> None:
        stage = "completions" if call.startswith(("calibrate", "report")) else "scheduled"
        rows = stages.read(stage)
        rows[BAD_LINE - 1] = changed(rows[BAD_LINE - 1], **fields)
        result = run(call.split(), jsonl(rows))
        lines = said(result, result.returncode)
        assert result.returncode in (0, 1, 3)
        assert all(line.startswith(("driftkit ", "  ")) for line in lines)


class TestOptionsThatWouldDoNothing:
    @pytest.mark.parametrize(
        ("call", "says"),
        [
            ("run --max-concurrency 4", "--max-concurrency"),
            ("run --batching static --max-concurrency 4", "--max-concurrency"),
            ("run --batching static --dispatch engine", "--dispatch engine"),
            ("run --rejects somewhere", "--on-error skip"),
        ],
    )
    def test_they_are_refused(self, stages: Stages, call: str, says: str) -> None:
        result = run(call.split(), stages.scheduled.read_bytes())
        assert says in said(result, 2)[0]
        assert not Path("somewhere").exists()

    @pytest.mark.parametrize(("command", "stage"), [("run", "completions"), ("calibrate", "requests")])
    def test_records_of_another_stage_pass_but_that_is_said(
        self, stages: Stages, command: str, stage: str
    ) -> None:
        data = getattr(stages, stage).read_bytes()
        result = run([command], data)
        (line,) = said(result, 0)
        assert line.startswith(f"driftkit {command}: nothing to do: all 48 records are of another kind")
        assert result.stdout == data


def test_a_rank_needs_no_lengths(stages: Stages) -> None:
    """`gen | schedule --no-plan`, without estimate in between."""
    rows = records(ok(["schedule", "--policy", "priority", "--no-plan", stages.requests]))
    assert [row["sched_rank"] for row in rows] == list(range(REQUESTS))
    for phase in ("learning", "stress"):  # between them is a barrier
        priorities = [row["priority"] for row in rows if row["phase"] == phase]
        assert priorities == sorted(priorities)


class TestScheduleAgain:
    def test_an_older_plan_does_not_stay(self, stages: Stages) -> None:
        rows = records(ok(["schedule", "--policy", "fifo", "--no-plan"], stages.scheduled.read_bytes()))
        assert not {"sched_start_s", "sched_finish_s"} & set().union(*rows)

    def test_nobody_is_ranked_across_a_barrier(self, stages: Stages) -> None:
        """Not even one who arrives at its very instant."""
        rows = [
            changed(row, arrival_s=1.5 if n > 24 else 1.0, barrier=n == 24)
            for n, row in enumerate(stages.read("estimated"))
        ]
        ranked = records(ok(["schedule", "--policy", "sjf", "--no-plan"], jsonl(rows)))
        before = {row["id"] for row in rows[:24]}
        assert {row["id"] for row in ranked[:24]} == before
        done = {row["id"]: row for row in records(ok(["run"], jsonl(ranked)))}
        last = max(done[name]["finished_s"] for name in before)
        assert min(row["offered_s"] for name, row in done.items() if name not in before) >= last


class TestHostileText:
    """A value of a record can neither break a message or a table into lines, nor drive a terminal."""

    EVIL = "a\x1b[31m\nb\u2028c"

    def test_in_a_message(self, stages: Stages) -> None:
        rows = [changed(row, policy=self.EVIL) for row in stages.read("scheduled")]
        first, *_ = said(run(["run"], jsonl(rows)), 1)
        assert "no policy named 'a\\x1b[31m\\nb\\u2028c'" in first

    def test_in_a_table(self, stages: Stages) -> None:
        rows = [changed(row, label=self.EVIL) for row in stages.read("calibrated")]
        text = ok(["report", "--table", "fairness"], jsonl(rows)).decode()
        assert "a\\x1b[31m\\nb\\u2028c" in text
        assert "\x1b" not in text


class TestExitStatus:
    def test_a_policys_fields_are_looked_for_when_it_is_built_anew(self, stages: Stages) -> None:
        rows = [changed(without(row, "tier_level"), policy="priority") for row in stages.read("scheduled")]
        first, hint = said(run(["run", "--feedback"], jsonl(rows)), 1)
        assert first.startswith("driftkit run: <stdin>:1: tier_level: expected an integer, got nothing")
        assert "1 is served before 2" in hint

    def test_outputs_cut_by_the_engine_are_said(self, stages: Stages) -> None:
        (line,) = said(run(["run", "--max-model-len", "200"], stages.scheduled.read_bytes()), 0)
        assert "outputs were cut at the engine's max_model_len" in line

    def test_3_when_a_request_was_not_served(self, stages: Stages) -> None:
        rows = stages.read("scheduled")
        rows[5]["prompt_tokens"] = 10**6
        result = run(["run"], jsonl(rows))
        assert rows[5]["id"] in said(result, 3)[0]
        statuses = {row["id"]: row["status"] for row in records(result.stdout)}
        assert len(statuses) == REQUESTS
        assert {name for name, status in statuses.items() if status != "ok"} == {rows[5]["id"]}

    def test_141_through_the_whole_pipe(self) -> None:
        result = bash(
            "set -o pipefail; driftkit gen --preset driftsched --requests 900 | driftkit estimate |"
            " driftkit schedule --policy sjf --no-plan | driftkit run | driftkit calibrate | head -1"
        )
        assert (result.returncode, result.stderr) == (141, b"")
        assert json.loads(result.stdout)["kind"] == "completion"

    def test_141_of_the_first_when_the_second_is_refused(self) -> None:
        script = (
            'driftkit gen --preset driftsched | driftkit schedule --policy sjff; echo "${PIPESTATUS[@]}" >&2'
        )
        *_said, statuses = bash(script).stderr.decode().splitlines()
        assert statuses == "141 2"

    def test_a_policy_in_the_records_that_there_is_none_of(self, stages: Stages) -> None:
        rows = [changed(row, policy="sjff") for row in stages.read("scheduled")]
        first, hint = said(run(["run"], jsonl(rows)), 1)
        assert first.startswith("driftkit run: <stdin>:1: policy: ")
        assert "sjf" in hint


class TestIdentity:
    @pytest.mark.parametrize(
        ("call", "stage"),
        [
            ("schedule --policy sjf", "estimated"),
            ("schedule --policy sjf --no-plan", "estimated"),
            ("run", "scheduled"),
            ("report", "calibrated"),
        ],
    )
    def test_an_id_twice_in_a_run_is_refused(self, stages: Stages, call: str, stage: str) -> None:
        rows = stages.read(stage)
        rows.insert(BAD_LINE - 1, rows[2])
        first, *_ = said(run(call.split(), jsonl(rows)), 1)
        name = call.split()[0]
        assert first.startswith(
            f"driftkit {name}: <stdin>:{BAD_LINE}: id: '{rows[2]['id']}' was there before"
        )

    @pytest.mark.parametrize(("command", "stage"), [("estimate", "requests"), ("calibrate", "completions")])
    def test_the_others_do_not_look(self, stages: Stages, command: str, stage: str) -> None:
        rows = stages.read(stage)
        result = run([command], jsonl([rows[0], *rows]))
        lines = said(result, 0)
        assert len(records(result.stdout)) == REQUESTS + 1
        assert ["1 completions of run" in line for line in lines] == [True] * (command == "calibrate")

    @pytest.mark.parametrize(
        ("call", "wrong"),
        [("schedule --policy sjf", {"prompt_tokens": None}), ("run", {"policy": "no-such-policy"})],
    )
    def test_a_line_left_out_does_not_use_up_its_id(
        self, stages: Stages, call: str, wrong: dict[str, Any]
    ) -> None:
        rows = stages.read("scheduled")
        repaired = [changed(rows[3], **wrong), *rows]
        result = run([*call.split(), "--on-error", "skip"], jsonl(repaired))
        assert len(said(result, 3)) == 2
        assert result.stdout == ok(call.split(), jsonl(rows))

    def test_the_run_is_of_the_policy_that_was_not_left_out(self, stages: Stages) -> None:
        rows = stages.read("scheduled")
        strays = [
            changed(row, policy="weighted") if place in (16, 30) else row for place, row in enumerate(rows)
        ]
        left = [row for place, row in enumerate(rows) if place not in (16, 30)]
        result = run(["run", "--on-error", "skip"], jsonl(strays))
        assert len(said(result, 3)) == 3
        assert result.stdout == ok(["run"], jsonl(left))


class TestDeterminism:
    PIPE = (
        "driftkit gen --preset driftsched --requests 48 --seed {seed} | tee requests | driftkit estimate"
        " | tee estimated | driftkit schedule --policy {policy} | tee scheduled | driftkit run --feedback"
        " | tee completions | driftkit calibrate | tee calibrated | driftkit report > report"
    )

    def outputs(self, folder: Path, policy: str, seed: int, hash_seed: str) -> dict[str, bytes]:
        folder.mkdir()
        script = f"set -o pipefail; export PYTHONHASHSEED={hash_seed}; {self.PIPE}"
        result = bash(script.format(policy=policy, seed=seed), cwd=folder)
        assert (result.returncode, result.stderr) == (0, b"")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    @pytest.mark.parametrize("policy", ["sjf", "random", "weighted"])
    def test_the_same_bytes_again_and_others_with_another_seed(self, tmp_path: Path, policy: str) -> None:
        first = self.outputs(tmp_path / "first", policy, 0, "0")
        assert len(first) == 6
        assert all(first.values())
        assert self.outputs(tmp_path / "again", policy, 0, "1") == first
        other = self.outputs(tmp_path / "other", policy, 1, "0")
        assert {name for name in first if other[name] == first[name]} == set()

    def test_a_policy_has_a_seed_of_its_own(self, stages: Stages) -> None:
        orders = {
            tuple(row["id"] for row in records(ok([*call.split(), stages.estimated])))
            for call in (
                "schedule --no-plan --policy random",
                "schedule --no-plan --policy random --param seed=0",
                "schedule --no-plan --policy random --param seed=1",
            )
        }
        assert len(orders) == 2

    def test_the_bootstrap_has_a_seed(self, stages: Stages, tmp_path: Path) -> None:
        other = ok(["run", "--label", "other", "--batching", "static", stages.scheduled])
        (tmp_path / "other").write_bytes(other)
        call = ["report", "--format", "jsonl", "--baseline", "sjf", stages.completions, tmp_path / "other"]
        first = ok(call)
        assert b'"baseline"' in first or b"sjf" in first
        assert ok(call) == ok([*call, "--seed", "0"]) == first
        assert ok([*call, "--seed", "1"]) != first


POLICIES = [name for name in names("policies") if not name.startswith("oracle")]


class TestTruth:
    """`trace_output_tokens` is for engines and oracles; to everybody else it is a field like any other."""

    LIES: ClassVar[dict[str, Callable[[Record], Record]]] = {
        "tripled": lambda row: changed(row, trace_output_tokens=3 * row["trace_output_tokens"]),
        "removed": lambda row: without(row, "trace_output_tokens"),
        "constant": lambda row: changed(row, trace_output_tokens=1),
    }

    def check(self, args: list[str], rows: list[Record], lie: str) -> None:
        honest = ok(args, jsonl(rows))
        told = ok(args, jsonl(map(self.LIES[lie], rows)))
        if args[0] != "report":
            honest, told = (
                jsonl(without(row, "trace_output_tokens") for row in records(out)) for out in (honest, told)
            )
        assert told == honest

    @pytest.mark.parametrize("lie", LIES)
    @pytest.mark.parametrize("model", ["table", "prompt-length"])
    def test_estimate(self, stages: Stages, model: str, lie: str) -> None:
        self.check(["estimate", "--model", model], stages.read("requests"), lie)

    @pytest.mark.parametrize("lie", LIES)
    @pytest.mark.parametrize("policy", POLICIES)
    def test_schedule(self, stages: Stages, policy: str, lie: str) -> None:
        self.check(["schedule", "--policy", policy], stages.read("estimated"), lie)

    @pytest.mark.parametrize("lie", LIES)
    @pytest.mark.parametrize("method", ["ratio", "ema"])
    def test_calibrate(self, stages: Stages, method: str, lie: str) -> None:
        self.check(["calibrate", "--method", method], stages.read("completions"), lie)

    @pytest.mark.parametrize("lie", LIES)
    @pytest.mark.parametrize("form", ["table", "jsonl"])
    def test_report(self, stages: Stages, form: str, lie: str) -> None:
        self.check(["report", "--format", form], stages.read("calibrated"), lie)

    @pytest.mark.parametrize(
        ("call", "stage"),
        [
            ("estimate --model oracle", "requests"),
            ("schedule --policy oracle-sjf", "estimated"),
            ("run", "scheduled"),
        ],
    )
    def test_those_who_may_do_read_it(self, stages: Stages, call: str, stage: str) -> None:
        with pytest.raises(AssertionError):
            self.check(call.split(), stages.read(stage), "constant")

    @pytest.mark.parametrize("lie", ["tripled", "constant"])
    def test_feedback_orders_by_what_has_finished_only(self, stages: Stages, lie: str) -> None:
        """Until something has finished, the true lengths of what waits cannot have been looked at."""
        at_once = [changed(row, arrival_s=0.0, barrier=None) for row in stages.read("scheduled")]
        rows = [
            records(ok(["run", "--feedback"], jsonl(map(told, at_once)))) for told in (dict, self.LIES[lie])
        ]
        honest, lied = (
            {row["id"]: (row["cal_output_tokens"], row["started_s"]) for row in run} for run in rows
        )
        first_end = min(row["finished_s"] for run in rows for row in run)
        before = {name for name, (_, started) in honest.items() if started < first_end}
        assert len(before) > 8
        assert {name: honest[name] for name in before} == {name: lied[name] for name in before}


class TestColour:
    ESCAPE = b"\x1b["

    @pytest.mark.parametrize(
        ("options", "env", "coloured"),
        [
            ((), {"TERM": "xterm", "NO_COLOR": ""}, True),
            ((), {"TERM": "xterm", "NO_COLOR": "1"}, False),
            ((), {"TERM": "dumb", "NO_COLOR": ""}, False),
            (("--color", "never"), {"TERM": "xterm", "NO_COLOR": ""}, False),
            (("--color", "always"), {"TERM": "dumb", "NO_COLOR": "1"}, True),
        ],
    )
    def test_on_a_terminal(
        self, stages: Stages, options: tuple[str, ...], env: dict[str, str], coloured: bool
    ) -> None:
        text = on_terminal(["report", *options, stages.calibrated], env)
        assert (self.ESCAPE in text) == coloured
        assert b"Latency" in text

    @pytest.mark.parametrize(("when", "coloured"), [("auto", False), ("always", True)])
    def test_in_a_pipe(self, stages: Stages, when: str, coloured: bool) -> None:
        assert (self.ESCAPE in ok(["report", "--color", when, stages.calibrated])) == coloured
