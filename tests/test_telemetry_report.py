"""`report --telemetry`: samples joined with completions by run and time, by hand and against brute force."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import Record, bash, jsonl, ok, records, run, said
from driftkit.reporting.telemetry import increase, over_time
from test_report import completion

nan = float("nan")


def sample(at_s: float, run_id: str = "run-1", **fields: object) -> Record:
    return {"kind": "telemetry", "schema": 1, "run_id": run_id, "label": "fifo", "at_s": at_s, **fields}


def power(watts: list[float], gpu: int = 0, run_id: str = "run-1") -> list[Record]:
    """A sample each second from 0."""
    return [sample(float(at), run_id, gpu=gpu, power_w=value) for at, value in enumerate(watts)]


def server(waiting: list[int], preempted: list[int], replica: str = "http://a:8000") -> list[Record]:
    """A sample at 0, 1, ..."""
    return [
        sample(float(at), replica=replica, waiting_requests=now, preemptions_total=count)
        for at, (now, count) in enumerate(zip(waiting, preempted, strict=True))
    ]


# due at 0.5 and 1, 11 output tokens each, the last ends at 3.5; a third request fails
SERVED = [completion(0, 0, 1, offered_s=0.5, finished_s=2.0), completion(1, 0, 1, finished_s=3.5)]
RUN = jsonl([*SERVED, completion(2, 0, 1, finished_s=3.0, status="error", error="refused")])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.jsonl"


def table(file: Path, telemetry: list[Record], *options: str, data: bytes = RUN) -> list[Record]:
    file.write_bytes(jsonl(telemetry))
    args = ["report", "--format", "jsonl", "--table", "telemetry", "--telemetry", str(file), *options]
    return records(ok(args, data))


# --- by hand --------------------------------------------------------------------------------------


def test_the_energy_of_a_run_by_hand(file: Path) -> None:
    """From 0.5 to 3.5 s: 50 J to 1 s, 150 J to 2 s, 200 J to 3 s, then from 200 to 150 W in half a second:
    87.5 J. Two requests were served, with 22 output tokens."""
    (row,) = table(file, power([100, 100, 200, 200, 100, 900]))
    assert row == {
        "kind": "summary",
        "schema": 1,
        "table": "telemetry",
        "label": "fifo",
        "source": "gpu0",
        "metric": "power_w",
        "covered_s": 3.0,
        "mean": 162.5,
        "max": 200.0,
        "energy_j": 487.5,
        "request_j": 243.75,
        "token_j": pytest.approx(487.5 / 22),
    }


def test_two_gpus_and_what_they_draw_together(file: Path) -> None:
    rows = table(file, power([100] * 5) + power([30] * 5, gpu=1))
    assert [(row["source"], row["energy_j"], row["mean"]) for row in rows] == [
        ("gpu0", 300, 100),
        ("gpu1", 90, 30),
        ("gpus", 390, 130),
    ]
    assert rows[2]["request_j"] == 195


def test_a_server_by_hand(file: Path) -> None:
    """Waiting, from 0.5 to 1 s 2 to 4 requests, to 2 s 4 to 8, to 3 s 8 to 0, to 3.5 s 0 to 25; from the last
    sample before to the first one after, 5 were preempted."""
    rows = table(file, server([0, 4, 8, 0, 50], [7, 7, 9, 12, 12]))
    waiting, preemptions = rows
    assert waiting["metric"] == "waiting_requests"
    assert waiting["mean"] == pytest.approx((1.5 + 6 + 4 + 6.25) / 3)
    assert waiting["max"] == 8
    assert (preemptions["metric"], preemptions["total"]) == ("preemptions", 5)
    assert "covered_s" not in preemptions


def test_a_server_that_was_restarted_counts_from_0_again(file: Path) -> None:
    rows = table(file, server([0] * 5, [131, 140, 3, 5, 5]))
    assert rows[1]["total"] == 9 + 3 + 2


def test_what_people_read(file: Path) -> None:
    processes = [sample(at / 2, cpu_ratio=0.5 if at else None, memory_bytes=1000) for at in range(9)]
    file.write_bytes(jsonl(power([100] * 5) + processes + server([2] * 5, [0] * 5)))
    text = ok(["report", "--table", "telemetry", "--telemetry", str(file)], RUN).decode()
    title, _, heading, rule, *rows = text.split("\n\n  from a run's")[0].splitlines()
    assert [title, *(" ".join(line.split()) for line in (heading, *rows))] == [
        "Telemetry",
        "label source metric seconds mean max total joules joules/request joules/output token",
        "fifo gpu0 power_w 3.000 100.0 100.0 - 300.0 150.0 13.64",
        "fifo processes cpu_ratio 3.000 0.5000 0.5000 - - - -",
        "fifo processes memory_bytes 3.000 1000 1000 - - - -",
        "fifo http://a:8000 waiting_requests 3.000 2.000 2.000 - - - -",
        "fifo http://a:8000 preemptions - - - 0 - - -",
    ]
    assert set(rule) <= {" ", "─"}
    assert "over the requests that were served" in text
    for form in ("csv", "markdown"):
        text = ok(
            ["report", "--table", "telemetry", "--telemetry", str(file), "--format", form], RUN
        ).decode()
        assert "power_w" in text
        assert "http://a:8000" in text


def test_runs_of_a_label_are_added_and_by_run_id_told_apart(file: Path) -> None:
    data = RUN + jsonl(completion(n, 0, 1, run_id="run-2", offered_s=0, finished_s=2) for n in range(2))
    telemetry = power([100] * 5) + power([50] * 5, run_id="run-2")
    (row,) = table(file, telemetry, data=data)
    assert (row["energy_j"], row["covered_s"], row["mean"]) == (400, 5, 80)
    assert (row["request_j"], row["token_j"]) == (100, pytest.approx(400 / 44))
    rows = table(file, telemetry, "--by", "run_id", "--by", "tenant", data=data)
    assert [(row["run_id"], row["energy_j"]) for row in rows] == [("run-1", 300), ("run-2", 100)]
    assert "tenant" not in rows[0]


# --- gaps -----------------------------------------------------------------------------------------


def test_a_gap_is_left_out_and_said(file: Path) -> None:
    data = jsonl([completion(0, 0, 20)])
    telemetry = [row for row in power([100] * 21) if not 4 < row["at_s"] < 14]
    (row,) = table(file, telemetry, data=data)
    assert (row["energy_j"], row["covered_s"], row["mean"]) == (1000, 10, 100)
    text = ok(["report", "--table", "telemetry", "--telemetry", str(file)], data).decode()
    assert "fifo, gpu0: sampled during 10.00 of 20.00 s, and the joules of the rest are missing" in text


def test_telemetry_that_ends_early_is_said(file: Path) -> None:
    data = jsonl([completion(0, 0, 20)])
    file.write_bytes(jsonl(server([1] * 5, [0] * 5)))
    text = ok(["report", "--table", "telemetry", "--telemetry", str(file)], data).decode()
    assert "fifo, http://a:8000: sampled during 4.000 of 20.00 s\n" in text


def test_a_single_sample_has_a_largest_and_no_mean(file: Path) -> None:
    (row,) = table(file, [sample(1.0, gpu=0, power_w=80)])
    assert (row["max"], row["covered_s"]) == (80, 0)
    assert "mean" not in row
    assert "energy_j" not in row


courses = st.lists(
    st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.one_of(st.just(nan), st.integers(0, 300))),
    max_size=20,
)


@given(courses, st.integers(0, 20), st.integers(0, 20))
def test_the_integral_is_that_of_many_small_steps(
    course: list[tuple[float, float]], begin: int, length: int
) -> None:
    times = np.cumsum([step for step, _ in course])
    values = np.array([value for _, value in course], dtype=float)
    start, end = begin / 2, (begin + length) / 2
    area, seconds = over_time(times, values, start, end)
    known = ~np.isnan(values)
    times, values = times[known], values[known]
    grid = np.linspace(start, end, 4000 * length + 1)
    middles = (grid[1:] + grid[:-1]) / 2
    if times.size < 2 or not middles.size:
        assert (area, seconds) == (0, 0)
        return
    inside = (middles > times[0]) & (middles < times[-1])
    between = np.diff(times)
    longest = max(1.0, 5 * float(np.median(between)))
    after = np.clip(np.searchsorted(times, middles), 1, times.size - 1)
    inside &= between[after - 1] <= longest
    width = (end - start) / middles.size
    assert seconds == pytest.approx(inside.sum() * width, abs=0.01)
    assert area == pytest.approx(np.interp(middles, times, values)[inside].sum() * width, abs=0.2, rel=0.01)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.data())
def test_a_counter_is_counted_through_restarts(grown: list[int], data: st.DataObject) -> None:
    """As long as it has come further before a restart than it had by the sample after it, nothing is lost."""
    restarts = data.draw(st.sets(st.integers(1, len(grown) - 1)))
    counter, counters = 10**6, []
    for place, more in enumerate(grown):
        if place in restarts:
            counter = 0
        counter += more
        counters.append(float(counter))
    lost = sum(
        more
        for place, more in enumerate(grown)
        if place in restarts and counters[place] >= counters[place - 1]
    )
    times = np.arange(len(grown), dtype=float)
    found = increase(times, np.array(counters), 0.0, float(len(grown)))
    assert found is not None
    assert sum(grown[1:]) - lost <= found <= sum(grown[1:])


# --- the file -------------------------------------------------------------------------------------


def test_samples_of_other_runs_are_told_in_one_line(file: Path) -> None:
    file.write_bytes(jsonl(power([100] * 5) + power([1] * 3, run_id="other") + power([1], run_id="third")))
    result = run(["report", "--telemetry", str(file), "--table", "telemetry", "--format", "jsonl"], RUN)
    assert said(result, 0) == [
        "driftkit report: 4 samples are of runs without a completion here: other, third",
    ]
    assert [row["energy_j"] for row in records(result.stdout)] == [300]


def test_a_run_that_where_leaves_out_is_no_other_run(file: Path) -> None:
    data = RUN + jsonl([completion(0, 0, 1, run_id="run-2", label="sjf")])
    rows = table(file, power([100] * 5) + power([50] * 5, run_id="run-2"), "--where", "label=sjf", data=data)
    assert [(row["label"], row["energy_j"]) for row in rows] == [("sjf", 50)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"run_id": None}, "run_id: expected a string, got nothing"),
        ({"at_s": None}, "at_s: expected a number >= 0, got nothing"),
        ({"at_s": -1}, "at_s: expected a number >= 0, got -1"),
        ({"gpu": "0"}, "gpu: expected an integer >= 0, got '0'"),
        ({"power_w": "5 W"}, "power_w: expected a number >= 0, got '5 W'"),
        ({"kv_ratio": 85}, "kv_ratio: expected a number <= 1, got 85"),
        ({"waiting_requests": 1.5}, "waiting_requests: expected an integer >= 0, got 1.5"),
        ({"memory_bytes": 10**18}, "memory_bytes: expected an integer <= 1e+15, got 1000000000000000000"),
    ],
)
def test_a_bad_sample_is_told_by_file_and_line(fields: Record, says: str, file: Path, tmp_path: Path) -> None:
    rows = power([100] * 5)
    rows[2] = {**rows[2], **fields}
    file.write_bytes(jsonl(rows))
    call = ["report", "--telemetry", str(file), "--table", "telemetry", "--format", "jsonl"]
    assert said(run(call, RUN), 1) == [f"driftkit report: {file}:3: {says}"]
    rejects = tmp_path / "rejects"
    result = run([*call, "--on-error", "skip", "--rejects", str(rejects)], RUN)
    assert said(result, 3)[0] == f"driftkit report: {file}:3: {says}"
    assert records(rejects.read_bytes()) == [rows[2]]
    assert records(result.stdout)[0]["energy_j"] == 300  # 2 s without a sample are bridged


def test_a_file_that_is_not_there(file: Path) -> None:
    (line,) = said(run(["report", "--telemetry", str(file)], RUN), 1)
    assert line == f"driftkit report: {file}: no such file or directory"


def test_rejects_do_not_overwrite_telemetry(file: Path) -> None:
    file.write_bytes(jsonl(power([100] * 5)))
    before = file.read_bytes()
    result = run(["report", "--telemetry", str(file), "--on-error", "skip", "--rejects", str(file)], RUN)
    assert "would be lost" in said(result, 2)[0]
    assert file.read_bytes() == before


def test_it_may_still_be_written_while_completions_come(file: Path) -> None:
    """As in `run --telemetry FILE | report --telemetry FILE`: it is opened when completions have ended."""
    script = '{ sleep 0.3; printf "%s\\n" "$1"; printf "%s\\n" "$2" > "$3"; } | driftkit report '
    script += '--telemetry "$3" --table telemetry --format jsonl'
    telemetry = jsonl(power([100] * 5)).decode().rstrip()
    result = bash(script, RUN.decode().rstrip(), telemetry, file)
    assert (result.returncode, result.stderr) == (0, b"")
    assert records(result.stdout)[0]["energy_j"] == 300


def test_telemetry_among_the_input_is_telemetry_too(file: Path) -> None:
    mixed = RUN + jsonl(power([100] * 5))
    (row,) = records(ok(["report", "--table", "telemetry", "--format", "jsonl"], mixed))
    assert row["energy_j"] == 300


def test_several_files_and_a_packed_one(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(jsonl(power([30] * 5, gpu=1)))
    assert bash('gzip "$1"', other).returncode == 0
    rows = table(file, power([100] * 5), "--telemetry", f"{other}.gz")
    assert [row["source"] for row in rows] == ["gpu0", "gpu1", "gpus"]


def test_the_manifest_tells_of_it(file: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    table(file, power([100] * 5), "--manifest", str(manifest))
    inputs = json.loads(manifest.read_text())["inputs"]
    assert [one["name"] for one in inputs] == ["<stdin>", str(file)]
    assert inputs[1]["bytes"] == file.stat().st_size


# --- gates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "crossed"),
    [
        ("telemetry.token_j>13", "token_j is 13.64 (label=fifo source=gpu0 metric=power_w)"),
        ("telemetry.token_j>14", None),
        ("telemetry.max>=9 metric=waiting_requests", "max is 9 (label=fifo source=http://a:8000)"),
        ("telemetry.mean>99 metric=power_w source=gpu0", "mean is 100.0 (label=fifo)"),
        ("telemetry.total>0 metric=preemptions", None),
    ],
)
def test_gates(gate: str, crossed: str | None, file: Path) -> None:
    file.write_bytes(jsonl(power([100] * 5) + server([2, 9, 2, 2, 2], [0] * 5)))
    lines = said(run(["report", "--telemetry", str(file), "--fail-if", gate], RUN), 4 if crossed else 0)
    expected = [] if crossed is None else [f"driftkit report: --fail-if {gate!r}: crossed: {crossed}"]
    assert lines == [line.replace("9 (", "9.000 (") for line in expected]


def test_a_gate_without_telemetry_is_crossed() -> None:
    (line,) = said(run(["report", "--fail-if", "telemetry.token_j>14"], RUN), 4)
    assert line.endswith("crossed: token_j is not known (label=fifo)")
