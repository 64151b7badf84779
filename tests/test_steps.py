"""`run --steps`: every step of the engine as a record; what must hold of them, and five requests by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import event, given, settings

from cli import ok, records, run, said
from driftkit.engines.dispatcher import Arrivals, dispatch
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.simulation import simulate
from driftkit.engines.sim.steps import StepTaken
from driftkit.policies.base import parse
from test_five_requests import LIMITS, golden, jobs
from workloads import Case, Request, cases, jobs_of, workloads

PROMPTS = {"A": 6, "B": 5, "C": 9, "D": 3, "E": 2}
REQUESTS = b"".join(
    b'{"id":"%d","arrival_s":%g,"prompt_tokens":%d,"trace_output_tokens":%d}\n' % (n, n / 10, 40 + n, 30 - n)
    for n in range(20)
)


def test_five_requests_by_hand() -> None:
    """Each line of the golden file is a step of a second; E is preempted at the 11th, and begins anew."""
    told: list[StepTaken] = []
    engine = Simulator(LIMITS, StepTime(1.0, 0, 0, 0, 0, 0), by_priority=False, on_step=told.append)
    list(dispatch(Arrivals(jobs(), None), engine, None, 4))
    assert len(told) == 17
    computed = dict.fromkeys(PROMPTS, 0)
    known = dict(PROMPTS)
    for step, (number, tokens, free, finished) in zip(told, golden(), strict=True):
        if number == 11:
            known["E"], computed["E"] = computed["E"] + 1, 0
        prefill = sum(n for name, n in tokens.items() if computed[name] < known[name])
        for name, n in tokens.items():
            computed[name] += n
        assert (step.start_s, step.end_s) == (number - 1, number)
        assert step.running_requests == len(tokens)
        assert (step.prefill_tokens, step.decode_tokens) == (prefill, sum(tokens.values()) - prefill)
        assert (step.kv_blocks, step.kv_ratio) == (6 - free, (6 - free) / 6)
        assert step.preemptions == (number == 11)
        assert step.power_w is None
        for name in finished:
            del computed[name]
    # C and D wait from the 1st and the 2nd on; C comes in at the 6th, D and E at the 8th, E waits again
    assert [step.waiting_requests for step in told] == [1, 2, 2, 3, 3, 2, 2, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]


@settings(max_examples=120, deadline=None)
@given(workloads, cases())
def test_steps_account_for_every_token_block_preemption_and_joule(
    workload: list[Request], case: Case
) -> None:
    told: list[StepTaken] = []
    jobs = jobs_of(workload, case.policy)
    list(simulate(jobs, case.setup, parse(case.policy), on_step=told.append))
    limits = case.setup.limits()
    for before, after in pairwise(told):
        assert before.end_s <= after.start_s
    for step in told:
        assert step.start_s < step.end_s
        assert 1 <= step.prefill_tokens + step.decode_tokens <= limits.max_num_batched_tokens
        assert 1 <= step.running_requests <= limits.max_num_seqs
        assert 1 <= step.kv_blocks <= limits.num_gpu_blocks - 1
        assert case.setup.gpu.idle_watts < (step.power_w or 0.0) <= case.setup.gpu.peak_watts
    served = [job for job in jobs if job.status == "ok"]
    assert bool(told) == bool(served)
    if served:
        first = min(job.started_s or 0.0 for job in served)
        assert told[0].start_s == first or (case.gangs and told[0].start_s > first)  # the front end
        assert told[-1].end_s >= max(job.finished_s for job in served)
    preemptions = sum(job.preemptions or 0 for job in jobs)
    assert sum(step.preemptions for step in told) == preemptions
    prefills = sum(step.prefill_tokens for step in told)
    decodes = sum(step.decode_tokens for step in told)
    new = sum(job.prompt_tokens - (job.cached_tokens or 0) for job in served)
    # a first token is drawn where the prompt ends, every other where a token was decoded; asynchronously, one
    # whose end only the model knows is scheduled once more, in vain
    drawn = sum(job.output_tokens - 1 for job in served)
    vain = sum(job.finish_reason == "stop" for job in served) if limits.async_scheduling else 0
    if preemptions:
        # who begins anew draws a token at the end of its prefill, and computes at least its last known token
        assert drawn - preemptions <= decodes <= drawn + vain + preemptions
        assert prefills > new - sum(job.prompt_tokens for job in served if job.preemptions)
        event("preempted")
    else:
        assert prefills == new
        assert decodes == drawn + vain
    joules = sum((step.power_w or 0.0) * (step.end_s - step.start_s) for step in told)
    assert sum(job.energy_j or 0.0 for job in jobs) == pytest.approx(joules, rel=1e-9)
    assert all((job.energy_j is not None) == (job.status == "ok") for job in jobs)


@settings(max_examples=40, deadline=None)
@given(workloads, cases())
def test_a_run_that_is_watched_is_the_same_run(workload: list[Request], case: Case) -> None:
    alone, watched = jobs_of(workload, case.policy), jobs_of(workload, case.policy)
    list(simulate(alone, case.setup, parse(case.policy)))
    list(simulate(watched, case.setup, parse(case.policy), on_step=lambda step: None))
    for one, other in zip(alone, watched, strict=True):
        assert (one.started_s, one.first_token_s) == (other.started_s, other.first_token_s)
        assert (one.finished_s, one.preemptions) == (other.finished_s, other.preemptions)
        assert (one.energy_j or 0.0) == pytest.approx(other.energy_j or 0.0, rel=1e-12)


def test_the_file_has_every_step_and_the_output_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    out = ok(["run", "--steps", path, "--label", "here"], REQUESTS)
    assert out == ok(["run", "--label", "here"], REQUESTS)
    steps = records(path.read_bytes())
    completions = records(out)
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert {(s["kind"], s["schema"], s["run_id"], s["label"]) for s in steps} == {
        ("step", 1, completions[0]["run_id"], "here")
    }
    assert sum(step["prefill_tokens"] for step in steps) == sum(40 + n for n in range(20))
    # one more for each, whose end the engine does not foresee
    assert sum(step["decode_tokens"] for step in steps) == sum(30 - n for n in range(20))
    joules = sum(step["power_w"] * (step["end_s"] - step["start_s"]) for step in steps)
    assert sum(row["energy_j"] for row in completions) == pytest.approx(joules, rel=1e-9)


def test_what_is_no_file_for_steps(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(REQUESTS)
    line, _ = said(run(["run", "--steps", path, path]), 2)
    assert line == f"driftkit run: --steps: {path} is read from, and would be lost"
    assert path.read_bytes() == REQUESTS
    (line,) = said(run(["run", "--steps", tmp_path / "none" / "steps", path]), 1)
    assert line == f"driftkit run: {tmp_path}/none/steps: no such file or directory"
    (line,) = said(run(["run", "--steps", "/dev/full", path]), 1)
    assert line == "driftkit run: /dev/full: no space left on device"


def test_steps_pass_through_the_pipe_as_other_records_do() -> None:
    step = b'{"kind":"step","schema":1,"step":1,"start_s":0.5}\n'
    assert step in ok(["run"], step + REQUESTS)
