"""`calibrate --fit regressor` and `estimate --model regressor`, through real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import DRIFTKIT, Record, bash, changed, jsonl, read_line, records, run, said, start, without
from stories import completion, request


def fit(state: Path) -> list[str]:
    return ["calibrate", "--fit", "regressor", "--state", str(state)]


def estimate(state: Path, *options: str) -> list[str]:
    return ["estimate", "--model", "regressor", "--state", str(state), "--served-model", "m", *options]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with a regressor, and what fitting it said."""
    state = tmp_path_factory.mktemp("state") / "learned"
    result = run(fit(state), jsonl(completion(number) for number in range(120)))
    assert result.stdout == b""
    (line,) = said(result, 0)
    assert line.startswith("fitted to 120 completions, 0 of them cut; out of fold: tau ")
    return state


def estimates(state: Path, rows: list[Record], *options: str) -> list[Record]:
    result = run(estimate(state, *options), jsonl(rows))
    assert said(result, 0) == []
    return records(result.stdout)


def test_what_is_asked_says_how_long_the_answer_is(taught: Path) -> None:
    rows = [request(number, max_tokens=200 if number < 4 else None) for number in range(40)]
    told = estimates(taught, rows)
    assert [row["id"] for row in told] == [row["id"] for row in rows]
    for number, row in enumerate(told):
        low, middle, high = (row[f"est_output_tokens{end}"] for end in ("_p10", "", "_p90"))
        assert 1 <= low <= middle <= high
        assert row["est_model"] == "regressor"
        if number < 4:
            assert high <= 200
        elif number % 2:
            assert middle < 30
        else:
            assert middle > 150
    assert estimates(taught, rows) == told


def test_other_records_keep_their_place_and_a_bad_line_its_number(taught: Path) -> None:
    rows = [request(0), {"kind": "summary", "n": 1}, request(1), {"kind": "summary", "n": 2}, request(2)]
    told = estimates(taught, rows)
    assert [row.get("n", row.get("id")) for row in told] == ["r0", 1, "r1", 2, "r2"]
    broken = [*rows, changed(request(3), turn="second"), request(4)]
    result = run(estimate(taught), jsonl(broken))
    assert "driftkit estimate: <stdin>:6: turn: expected an integer" in "\n".join(said(result, 1))
    assert [row.get("n", row.get("id")) for row in records(result.stdout)] == ["r0", 1, "r1", 2, "r2"]
    result = run(estimate(taught, "--on-error", "skip"), jsonl(broken))
    said(result, 3)
    assert [row["id"] for row in records(result.stdout) if "id" in row] == ["r0", "r1", "r2", "r4"]


def test_one_that_comes_alone_is_estimated_at_once(taught: Path) -> None:
    process = start(estimate(taught))
    assert process.stdin is not None
    assert process.stdout is not None
    waits = []
    for number in range(6):
        begun = time.monotonic()
        process.stdin.write(jsonl([request(number)]))
        assert json.loads(read_line(process.stdout.fileno()))["id"] == f"r{number}"
        waits.append(time.monotonic() - begun)
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    assert sorted(waits[1:])[2] < 0.25, "the first waits for the model to be read"


def test_a_closed_pipe_ends_it(taught: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    many.write_bytes(jsonl(request(number) for number in range(3000)))
    script = 'set -o pipefail; driftkit estimate --model regressor --state "$1" "$2" | head -n 1'
    result = bash(script, taught, many)
    assert result.returncode == 141
    assert b"Traceback" not in result.stderr
    assert len(records(result.stdout)) == 1


def test_strange_requests_are_estimated(taught: Path) -> None:
    rows = [
        without(request(0, prompt_tokens=9), "prompt"),
        request(1, category="never seen", tenant="new", tier="gold", turn=7),
        request(2, prompt="word " * 100_000),
        request(3, prompt=""),
        {"id": "chat", "arrival_s": 9.0, "messages": [{"role": "user", "content": "Write a long story."}]},
    ]
    assert all(1 <= row["est_output_tokens"] <= 700 for row in estimates(taught, rows))
    result = run(
        ["estimate", "--model", "regressor", "--state", str(taught), "--served-model", "x"], jsonl(rows)
    )
    assert "has seen no completion of x, but of m" in said(result, 0)[0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no completions to learn from"),
        ([completion(0)], "1 completions that were not cut: the regressor needs at least 20"),
        (
            [completion(n, finish_reason="length") for n in range(30)],
            "all 30 outputs were cut: nothing says how long they were going to be",
        ),
    ],
)
def test_too_little_to_learn_from(tmp_path: Path, rows: list[Record], says: str) -> None:
    assert says in said(run(fit(tmp_path / "state"), jsonl(rows)), 1)[0]
    assert not list((tmp_path / "state").glob("regressor*"))


def test_constant_lengths_of_one_tenant_without_text(tmp_path: Path) -> None:
    rows = [without(completion(n, tenant="only", actual_output_tokens=42), "prompt") for n in range(40)]
    said(run(fit(tmp_path / "state"), jsonl(rows)), 0)
    (told,) = estimates(tmp_path / "state", [{"id": "a", "arrival_s": 0.0, "prompt_tokens": 8}])
    assert (
        40
        <= told["est_output_tokens_p10"]
        <= told["est_output_tokens"]
        <= told["est_output_tokens_p90"]
        <= 44
    )


def test_to_estimate_by_what_was_learned_scikit_learn_is_not_imported(taught: Path, tmp_path: Path) -> None:
    """It takes long, and reads no model of another release of its own."""
    asked = tmp_path / "asked.jsonl"
    asked.write_bytes(jsonl([request(0)]))
    script = f"""
import sys
from driftkit.cli import main
try:
    main({[*map(str, [*estimate(taught), asked])]!r})
except SystemExit as end:
    assert end.code == 0
assert "numpy" in sys.modules
assert "sklearn" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["est_model"] == "regressor"


def test_a_descriptor_that_does_not_wait_is_waited_for(taught: Path) -> None:
    """As node, ssh and others leave theirs to who comes after them."""
    source, sink = os.pipe()
    os.set_blocking(source, False)
    command = [DRIFTKIT, *estimate(taught)]
    with subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(source)
        time.sleep(1.0)  # it has nothing to read yet
        with open(sink, "wb") as pipe:
            pipe.write(jsonl([request(0), request(1)]))
        out, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, b"")
    assert [row["id"] for row in records(out)] == ["r0", "r1"]


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        (path,) = state.glob(name)
        path.write_bytes(change(path.read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged("regressor.json", lambda content: content[:200]), "damaged state"),
        (damaged("regressor.json", lambda content: content.replace(b'"tau":', b'"tao":')), "edited by hand"),
        (
            damaged("regressor.json", lambda content: content.replace(b'"version": 2', b'"version": 9')),
            "version 9",
        ),
        (damaged("regressor-*.f64", lambda content: content[:-100]), "its hash is another"),
        (lambda state: next(state.glob("regressor-*.f64")).unlink(), "no such file"),
        (lambda state: (state / "regressor.json").unlink(), "no regressor"),
    ],
)
def test_a_state_that_cannot_be_used_is_refused_and_stays(
    taught: Path, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    state = tmp_path / "state"
    shutil.copytree(taught, state)
    damage(state)
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    lines = said(run(estimate(state), jsonl([request(0)])), 1)
    assert says in lines[0]
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_calls_that_cannot_be(taught: Path) -> None:
    assert "kept in a state folder" in said(run(["estimate", "--model", "regressor"], b""), 2)[0]
    assert "--fit regressor needs --state" in said(run(["calibrate", "--fit", "regressor"], b""), 2)[0]
    assert "--embed goes with --fit regressor" in said(run(["calibrate", "--embed"], b""), 2)[0]
    assert "nothing to do with --fit regressor" in said(run([*fit(taught), "--live"], b""), 2)[0]


def test_one_writer_at_a_time_and_the_next_fit_replaces_the_last(taught: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(taught, state)
    first = start(fit(state))
    assert first.stdin is not None
    deadline = time.monotonic() + 30
    while not holds(first.pid, state / "lock"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # from opening the file to locking it
    second = run(fit(state), jsonl(completion(number) for number in range(30)))
    assert "another driftkit is writing this state" in said(second, 1)[0]
    first.stdin.write(jsonl(completion(n, actual_output_tokens=1000 + n) for n in range(60)))
    _, told = first.communicate(timeout=60)
    assert first.returncode == 0, told
    assert len(list(state.glob("regressor-*.f64"))) == 1
    (row,) = estimates(state, [request(0)])
    assert row["est_output_tokens"] >= 900


@pytest.mark.parametrize("name", ["regressor.json", "regressor-*.f64"])
def test_a_damaged_one_is_replaced_and_that_is_said(taught: Path, tmp_path: Path, name: str) -> None:
    state = tmp_path / "state"
    shutil.copytree(taught, state)
    damaged(name, lambda content: content[:-100])(state)
    warning, line = said(run(fit(state), jsonl(completion(number) for number in range(60))), 0)
    assert warning.startswith(f"driftkit calibrate: {state}/regressor")
    assert warning.endswith(": it is replaced")
    assert line.startswith("fitted to 60 completions, ")
    estimates(state, [request(0)])


def test_a_newer_one_is_not_replaced_by_what_an_older_driftkit_fits(taught: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(taught, state)
    path = state / "regressor.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 9'))
    newer = path.read_bytes()
    told = said(run(fit(state), jsonl(completion(number) for number in range(60))), 1)
    assert told[1] == "  it was written by another driftkit: upgrade this one"
    assert path.read_bytes() == newer


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    rows = jsonl(completion(number) for number in range(60))
    again, line = said(run(fit(tmp_path / "twice"), rows + rows), 0)
    assert again == "driftkit calibrate: 60 completions came more than once: each counts once"
    assert [line] == said(run(fit(tmp_path / "once"), rows), 0)
    once, twice = ((tmp_path / name / "regressor.json").read_bytes() for name in ("once", "twice"))
    assert once == twice


def holds(pid: int, path: Path) -> bool:
    """Whether the process has the file open."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any(link.exists() and link.samefile(path) for link in links)
