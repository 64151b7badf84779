"""`calibrate --fit engine`: constants known by construction are found again, and bad runs are said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cli import jsonl, ok, records, run, said
from driftkit.engines.sim import fit as fitting
from driftkit.engines.sim.profile import load_gpu, load_model, read
from driftkit.engines.sim.simulation import Setup
from driftkit.policies.base import parse

REQUESTS = [
    {
        "id": f"r{n}",
        "arrival_s": 0.35 * n + 0.1 * (n * n % 7),
        "prompt_tokens": 20 + 397 * (n * 7 % 11),
        "max_tokens": 400,
        "trace_output_tokens": 2 + 13 * (n * 5 % 17),
    }
    for n in range(90)
]
DATA = b"".join(json.dumps(record).encode() + b"\n" for record in REQUESTS)


def run_on(setup: Setup) -> fitting.Run:
    """What the simulator does with those constants, as if it were a real engine."""
    asked = [fitting.Observed(record, record["trace_output_tokens"], 0, 0) for record in REQUESTS]
    latencies = fitting.run_of(asked, parse("fifo")).replayed(setup)
    ordered = sorted(asked, key=lambda one: one.record["arrival_s"])
    return fitting.run_of(
        (
            one._replace(ttft_s=float(ttft), e2e_s=float(e2e))
            for one, ttft, e2e in zip(ordered, latencies.ttft_s, latencies.e2e_s, strict=True)
        ),
        parse("fifo"),
    )


# no shrinking: each example is a fit
@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    st.floats(0.5, 0.95), st.floats(0.25, 0.8), st.floats(1e-3, 8e-3), st.floats(0, 2e-4), st.floats(0, 0.05)
)
def test_constants_known_by_construction_are_found_again(
    memory: float, compute: float, overhead: float, sequence: float, frontend: float
) -> None:
    start = Setup(load_gpu("l4"), load_model("llama-3.1-8b"), max_model_len=8192)
    gpu = replace(
        start.gpu,
        memory_efficiency=memory,
        compute_efficiency=compute,
        step_overhead_s=overhead,
        sequence_overhead_s=sequence,
        frontend_s=frontend,
    )
    real = run_on(replace(start, gpu=gpu))
    found = fitting.fit(real, start)
    held_out = slice(found.judged, None)
    sides = (real.latencies, real.replayed(start), real.replayed(found.setup))
    for error in fitting.errors(*(side.part(held_out) for side in sides)):
        assert abs(error.percent) < 3, error
    assert abs(found.setup.gpu.compute_efficiency / compute - 1) < 0.05
    # weights, overhead and what a request costs trade with each other where as many always share a step: what
    # shows is how long that takes
    fixed, per_kv = found.setup.step_time().decode(16, 16)
    true_fixed, true_per_kv = replace(start, gpu=gpu).step_time().decode(16, 16)
    kv_tokens = 16 * 2000
    assert abs((fixed + kv_tokens * per_kv) / (true_fixed + kv_tokens * true_per_kv) - 1) < 0.04


def test_the_profile_of_a_run_replays_it(tmp_path: Path) -> None:
    engine = ["--gpu", "rtx4090", "--served-model", "qwen2.5-7b"]
    measured = ok(["run", *engine], DATA)
    start = ["--gpu", "rtx-pro-6000", "--served-model", "qwen2.5-7b"]
    result = run(["calibrate", "--fit", "engine", *start], measured)
    assert result.returncode == 0
    assert result.stdout == run(["calibrate", "--fit", "engine", *start], measured).stdout
    table = [line.split() for line in result.stderr.decode().splitlines() if " e2e_s  mean " in line]
    (fitted, held_out) = table
    assert fitted[0] == "fitted"
    assert held_out[:2] == ["held", "out"]
    before, after, percent = map(float, held_out[-3:])
    was = float(held_out[-4])
    assert abs(after / was - 1) < abs(before / was - 1) / 4
    assert percent == pytest.approx(100 * (after / was - 1), abs=0.1)
    path = tmp_path / "mine.toml"
    path.write_bytes(result.stdout)
    assert result.stdout.startswith(b"# Fitted by driftkit ")
    replayed = records(ok(["run", "--profile", path], DATA))
    mean = sum(record["e2e_s"] for record in replayed) / len(replayed)
    real = records(measured)
    assert abs(mean / (sum(record["e2e_s"] for record in real) / len(real)) - 1) < 0.03
    ok(["schedule", "--policy", "fifo", "--profile", path], ok(["estimate", "--model", "oracle"], DATA))


def test_completions_without_first_tokens_are_fitted_by_their_end() -> None:
    slow = ["--gpu", "l4", "--step-time-scale", "1.3"]
    measured = records(ok(["run", *slow], DATA))
    bare = b"".join(
        json.dumps(
            {k: r[k] for k in ("id", "kind", "arrival_s", "prompt_tokens", "finished_s", "max_tokens")}
            | {"trace_output_tokens": r["actual_output_tokens"]}
        ).encode()
        + b"\n"
        for r in measured
    )
    result = run(["calibrate", "--fit", "engine", "--gpu", "l4"], bare)
    assert result.returncode == 0
    lines = result.stderr.decode().splitlines()
    assert not any("ttft_s" in line for line in lines)
    (error,) = [float(line.split()[-1]) for line in lines if line.startswith("held out  e2e_s  mean")]
    assert abs(error) < 5


COMPLETION = {"id": "a", "kind": "completion", "arrival_s": 0, "prompt_tokens": 5, "actual_output_tokens": 3}
ENDED = COMPLETION | {"first_token_s": 1, "finished_s": 2}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"finished_s": None}, "finished_s: expected a number >= 0, got nothing"),
        ({"finished_s": 0}, "finished_s: expected a number > 0, when it was due, got 0"),
        ({"first_token_s": 3}, "first_token_s: expected a number from 0 (due) to 2 (finished), got 3"),
        ({"prompt_tokens": None}, "prompt_tokens: expected an integer >= 1, got nothing"),
        ({"actual_output_tokens": None}, "actual_output_tokens: expected an integer >= 1, got nothing"),
        ({"arrival_s": None}, "offered_s: expected a number >= 0, got nothing"),
        ({"policy": "best"}, "policy: "),
    ],
)
def test_a_completion_that_cannot_be_fitted_says_why(changes: dict[str, object], says: str) -> None:
    line, *_ = said(run(["calibrate", "--fit", "engine"], json.dumps(ENDED | changes).encode()), 1)
    assert line.startswith(f"driftkit calibrate: <stdin>:1: {says}")


def test_constants_that_end_at_a_bound_are_said() -> None:
    measured = ok(["run", "--gpu", "h200", "--served-model", "qwen2.5-7b"], DATA)
    result = run(["calibrate", "--fit", "engine", "--gpu", "l4", "--served-model", "qwen2.5-7b"], measured)
    assert result.returncode == 0
    assert "memory_efficiency went to its bound" in result.stderr.decode()


def test_runs_that_there_is_nothing_to_fit_in() -> None:
    one = json.dumps(ENDED).encode()
    (line,) = said(run(["calibrate", "--fit", "engine"], one), 1)
    assert line == "driftkit calibrate: 1 completions that ended well: a fit needs at least 20"
    failed = json.dumps(ENDED | {"status": "error"}).encode()
    left_out, line = said(run(["calibrate", "--fit", "engine"], failed), 1)
    assert left_out == "driftkit calibrate: 1 completions that did not end well are left out"
    assert line == "driftkit calibrate: no completions that ended well: nothing to fit"
    line, _ = said(run(["calibrate", "--fit", "engine"]), 1)
    assert line == "driftkit calibrate: no completions that ended well: nothing to fit"


def test_a_server_with_other_limits_than_the_replay(tmp_path: Path) -> None:
    measured = ok(["run"], DATA)
    line, hint = said(run(["calibrate", "--fit", "engine", "--max-model-len", "300"], measured), 1)
    assert "ended well in the run, not in its replay" in line
    assert "--max-model-len" in hint


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--fit", "engine", "--method", "ema"], "--method: nothing to do with --fit"),
        (["--fit", "engine", "--live"], "--live: nothing to do with --fit"),
        (
            ["--fit", "engine", "--step-time-scale", "2"],
            "--step-time-scale: --fit engine is to find that out",
        ),
        (["--gpu", "l4"], "--gpu goes with --fit engine"),
        (["--no-such"], "No such option"),
    ],
)
def test_calls_that_cannot_be(args: list[str], says: str) -> None:
    line, *_ = said(run(["calibrate", *args], DATA), 2)
    assert says in line


def test_the_limits_that_a_profile_holds_are_in_it_and_the_others_are_named(tmp_path: Path) -> None:
    limits = ["--max-num-seqs", "6", "--max-model-len", "9000", "--no-async-scheduling"]
    others = ["--num-gpu-blocks", "600", "--no-enable-prefix-caching"]
    measured = ok(["run", *limits, *others], DATA)
    fitted = run(["calibrate", "--fit", "engine", *limits, *others], measured)
    assert b"Beside --profile give again: --num-gpu-blocks 600 --no-enable-prefix-caching\n" in fitted.stdout
    path = tmp_path / "fitted.toml"
    path.write_bytes(fitted.stdout)
    gpu, model = read(fitted.stdout)
    assert (gpu.max_num_seqs, gpu.async_scheduling, model.max_model_len) == (6, False, 9000)
    # the same server again, with what the comment says and no more
    again = ok(["run", "--profile", str(path), *others], DATA)
    ends = [[json.loads(line)["finished_s"] for line in out.splitlines()] for out in (measured, again)]
    assert max(ends[1]) == pytest.approx(max(ends[0]), rel=0.03)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prefix_hashes": [1, 2]}, "prefix_block_tokens"),
        ({"prefix_hashes": [[1], 2], "prefix_block_tokens": 16}, "prefix_hashes"),
        ({"session": ["a"]}, "session"),
        ({"actual_output_tokens": 0}, "actual_output_tokens"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_a_line(fields: dict[str, object], says: str) -> None:
    completions = [{**record, **fields} for record in records(ok(["run"], DATA))]
    lines = said(run(["calibrate", "--fit", "engine"], jsonl(completions)), 1)
    assert says in lines[0]


def test_a_client_that_notes_no_first_token_is_fitted_by_the_end() -> None:
    """Whoever does not stream has the first token with the last, or none to tell."""
    completions = records(ok(["run"], DATA))
    for record in completions:
        record["first_token_s"] = record["finished_s"]
    result = run(["calibrate", "--fit", "engine"], jsonl(completions))
    assert result.returncode == 0, result.stderr
    assert b"e2e_s" in result.stdout
    assert b"tpot_s" not in result.stdout


def test_a_constant_that_starts_at_its_bound_did_not_go_there(tmp_path: Path) -> None:
    path = tmp_path / "full.toml"
    start = fitting.profile_of(Setup(load_gpu("l4"), load_model("qwen1.5-1.8b")))
    path.write_text(fitting.written(replace(start[0], memory_efficiency=1.0), start[1], []))
    result = run(
        ["calibrate", "--fit", "engine", "--profile", str(path)], ok(["run", "--profile", str(path)], DATA)
    )
    assert result.returncode == 0, result.stderr
    assert b"memory_efficiency went to its bound" not in result.stderr
