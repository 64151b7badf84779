"""AsyncLLM in process: real vLLM executes what the dispatcher hands over, and its end ends every job."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest

import tiny_model
from driftkit.engines.dispatcher import Arrivals, dispatch, dispatch_gangs
from driftkit.engines.vllm import Vllm
from driftkit.engines.vllm_arguments import engine_args
from driftkit.errors import UsageError
from driftkit.policies.base import parse
from driftkit.records.completion import in_order_of_arrival, job_of, outcome
from driftkit.records.job import Job
from driftkit.testing import check_engine
from vllm_server import ENVIRONMENT, QUICK, SMALL

MOST_QUEUED = 70  # waiting and running


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "stdout"


@pytest.fixture(scope="module")
def started(model: Path, printed: Path) -> Iterator[Vllm]:
    """One for all tests, since it takes long to start; what it and its processes print is in `printed`."""
    os.environ.update(ENVIRONMENT)
    before = set(psutil.Process().children(recursive=True))
    given = {**SMALL, **QUICK, "max_num_queued_reqs": MOST_QUEUED}
    arguments = [f"{name}={str(value).lower()}" for name, value in given.items()]
    sys.stdout.flush()
    stdout = os.dup(1)
    with printed.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        engine = Vllm(str(model), arguments, by_priority=True)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    yield engine
    engine.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert [process for process in left if "VLLM" in " ".join(process.cmdline())] == []


@pytest.fixture
def engine(started: Vllm) -> Vllm:
    """It replays lengths and keeps no text, unless a test says otherwise, and its clock shows 0."""
    started.replay, started.keep_text = True, False
    started.start()
    return started


def request(name: str, tokens: int = 20, output: int = 20, **others: Any) -> Job:
    """A job due at once."""
    record = {"id": name, "arrival_s": 0.0, "prompt_tokens": tokens, "trace_output_tokens": output}
    return job_of({**record, **others}, output)


def run(engine: Vllm, jobs: list[Job]) -> list[Job]:
    """All of them through the engine's own queue, in the order in which they ended."""
    numbered = in_order_of_arrival(jobs)
    return [job for together in dispatch(Arrivals(numbered, None), engine, None, 1) for job in together]


def prompt_ids(engine: Vllm, **record: Any) -> list[int]:
    """The tokens that vLLM is given."""
    prompt = engine.loop.run_until_complete(engine._prompt({"id": "a", **record}))
    found: list[int] = prompt["prompt_token_ids"]
    return found


# --- what every engine does ------------------------------------------------------------------------


def test_it_is_an_engine(engine: Vllm) -> None:
    check_engine(lambda: engine)


def test_gangs_end_together(engine: Vllm) -> None:
    jobs = [request(f"r{number}", output=5 + number) for number in range(12)]
    arrivals = Arrivals(in_order_of_arrival(jobs), None)
    batches = list(dispatch_gangs(arrivals, engine, parse("fifo").queue(), 5, 0.0))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    ends = [0.0]
    for batch in batches:
        (end,) = {job.finished_s for job in batch}
        assert all(ends[-1] <= (job.started_s or 0.0) < end for job in batch)
        ends.append(end)
    assert [job.output_tokens for job in jobs] == [5 + number for number in range(12)]


# --- vLLM's queue and its counters -----------------------------------------------------------------


def test_priorities_order_the_queue(engine: Vllm) -> None:
    """Sixteen fill every slot; those who come next start by priority, whatever their order of arrival."""
    first = [request(f"first{number}", output=44, priority=0) for number in range(engine.max_num_seqs)]
    priorities = [number * 7 % 24 for number in range(24)]
    late = [request(f"late{value}", 20, 10, priority=value, arrival_s=0.1) for value in priorities]
    run(engine, first + late)
    # a step has one instant, however many it takes in
    starts = sorted((job.started_s or math.inf, job.priority) for job in late)
    assert [priority for _, priority in starts] == sorted(priorities)
    assert len({started for started, _ in starts}) > 1
    assert all(job.status == "ok" for job in first + late)


def test_preemptions_are_those_that_vllm_counts(engine: Vllm) -> None:
    def counted() -> float:
        from prometheus_client import REGISTRY

        metrics = [metric for metric in REGISTRY.collect() if metric.name == "vllm:num_preemptions"]
        return sum(sample.value for sample in metrics[0].samples if sample.name.endswith("_total"))

    before = counted()
    jobs = run(engine, [request(f"r{number}", 40, 140) for number in range(14)])
    assert [job.output_tokens for job in jobs] == [140] * 14
    assert sum(job.preemptions or 0 for job in jobs) == counted() - before > 0


def test_a_session_finds_its_prompt_cached(engine: Vllm) -> None:
    first, second = request("turn1", 70, 2, session="s"), request("turn2", 130, 2, session="s")
    run(engine, [first])
    engine.start()
    run(engine, [second])
    assert (first.cached_tokens, second.cached_tokens) == (0, 64)  # two full blocks of 32


# --- prompts and sampling --------------------------------------------------------------------------


def test_text_and_chats_are_what_the_model_would_be_given(engine: Vllm, model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    text = "Grüße, 12345 times."
    assert prompt_ids(engine, prompt=text) == tokenizer.encode(text)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt_ids(engine, messages=messages) == tokenizer.encode(chat)
    assert len(prompt_ids(engine, prompt_tokens=33)) == 33


def test_sampling_fields_are_the_records(engine: Vllm) -> None:
    """The end token is made certain: the model stops at once, unless lengths are replayed."""
    sampling = {"prompt": "Hello", "logit_bias": {str(tiny_model.END_ID): 100}, "max_tokens": 9}
    engine.replay = False
    stopped, capped = request("stopped", **sampling), request("capped", max_tokens=9)
    run(engine, [stopped, capped])
    assert (stopped.finish_reason, stopped.output_tokens) == ("stop", 1)
    assert (capped.finish_reason, capped.output_tokens) == ("length", 9)
    engine.replay = True
    engine.start()
    (replayed,) = run(engine, [request("replayed", output=12, **sampling)])
    assert (replayed.finish_reason, replayed.output_tokens) == ("length", 12)


def test_text_is_kept_only_where_asked_and_a_seed_repeats_it(engine: Vllm) -> None:
    engine.keep_text = True
    texts = []
    for name in ("once", "again"):
        (job,) = run(engine, [request(name, prompt="Hello", seed=5, temperature=1.0)])
        texts.append(job.output_text)
        assert job.output_words == len((job.output_text or "").split())
        engine.start()
    assert texts[0]
    assert texts[0] == texts[1]
    engine.keep_text = False
    (job,) = run(engine, [request("silent")])
    assert job.output_text is None


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (request("ids", 512), "a prompt of 512 tokens, where prompt and answer have 512"),
        (request("text", prompt="word " * 600), "512"),
        (request("replay", 400, 113), "400 tokens in and 113 out to replay, where both together have 512"),
        (request("hot", temperature="x"), "temperature"),
    ],
)
def test_what_does_not_fit_is_rejected_and_says_why(engine: Vllm, job: Job, why: str) -> None:
    (ended,) = run(engine, [job])
    assert (ended.status, ended.output_tokens, ended.started_s) == ("rejected", 0, None)
    assert why in (ended.error or "")


class LooseJob:
    """As a Job that is not compiled: it takes any priority."""

    def __init__(self, job: Job, priority: Any) -> None:
        for field in fields(Job):
            setattr(self, field.name, getattr(job, field.name))
        self.priority = priority


@pytest.mark.parametrize("priority", [1.0, True, "3", 2**63, None])
def test_a_priority_that_is_no_integer_never_reaches_vllm(engine: Vllm, priority: Any) -> None:
    """It would hang every request after it."""
    wrong: Any = LooseJob(request("wrong"), priority)
    right = request("right", priority=1)
    ended = []
    for job in (wrong, right):
        engine.submit(job)
    while len(ended) < 2:
        ended += engine.advance(math.inf)
    assert ended == [wrong, right]
    assert (wrong.status, right.status) == ("rejected", "ok")
    assert wrong.error == f"priority: expected a 64-bit integer, got {priority!r}"


def test_a_full_queue_rejects(engine: Vllm) -> None:
    jobs = run(engine, [request(f"r{number}", 10, 10) for number in range(MOST_QUEUED + 20)])
    rejected = [job for job in jobs if job.status == "rejected"]
    assert len(rejected) == 20
    assert {job.status for job in jobs} == {"ok", "rejected"}
    assert "busy" in (rejected[0].error or "")


# --- ends ------------------------------------------------------------------------------------------


def test_cancelled_jobs_leave_vllm(engine: Vllm) -> None:
    jobs = in_order_of_arrival([request(f"r{number}", 20, 400) for number in range(3)])
    for job in jobs:
        engine.submit(job)
    engine.advance(1.0)
    engine.cancel("interrupted")
    assert engine.advance(math.inf) == jobs
    assert [(job.status, job.error) for job in jobs] == [("cancelled", "interrupted")] * 3
    assert all(0 < outcome(job)["received_output_tokens"] < 400 for job in jobs)
    engine.advance(engine.now() + 0.5)
    assert engine._llm.get_num_unfinished_requests() == 0
    assert [job.status for job in run(engine, [request("next")])] == ["ok"]


def core_of(engine: Vllm) -> int:
    """The process of vLLM's scheduler."""
    (core,) = engine._llm.engine_core.resources.engine_manager.processes
    return int(core.pid)


def test_an_interrupt_from_the_terminal_is_ours_alone(engine: Vllm) -> None:
    for process in psutil.Process(core_of(engine)).children(recursive=True):
        process.send_signal(signal.SIGINT)
    os.kill(core_of(engine), signal.SIGINT)
    assert [job.status for job in run(engine, [request("after", output=60)])] == ["ok"]


def test_nothing_is_printed(engine: Vllm, printed: Path) -> None:
    """stdout is data."""
    run(engine, [request("one")])
    assert printed.read_bytes() == b""


def test_the_death_of_vllm_ends_every_job_once(engine: Vllm, capfd: pytest.CaptureFixture[str]) -> None:
    """The last test with this engine: its scheduler is killed with eight in flight and more to come."""
    jobs = [request(f"r{number}", 20, 400) for number in range(8)]
    jobs += [request(f"late{number}", arrival_s=1.0 + number) for number in range(2)]
    killer = engine.loop.call_later(0.5, os.kill, core_of(engine), signal.SIGKILL)
    ended = run(engine, jobs)
    killer.cancel()
    assert sorted(job.record["id"] for job in ended) == sorted(job.record["id"] for job in jobs)
    assert {(job.status, job.error) for job in ended} == {("error", "vLLM's engine has died")}
    assert [job.finished_s < 10 for job in ended] == [True] * 10
    assert "Traceback" not in capfd.readouterr().err


# --- arguments -------------------------------------------------------------------------------------


def test_arguments_are_vllms_own(model: Path) -> None:
    given = ["max-num-seqs=7", "enable_prefix_caching=false", "max_model_len=1k", "compilation_config.mode=0"]
    args = engine_args(str(model), given, by_priority=True)
    assert (args.max_num_seqs, args.max_model_len, args.enable_prefix_caching) == (7, 1000, False)
    assert (args.scheduling_policy, args.disable_log_stats) == ("priority", False)
    # those of vLLM's engine in process on a CPU; AsyncLLM itself would take 2048 and 128
    args = engine_args(str(model), [], by_priority=False)
    assert (args.max_num_batched_tokens, args.max_num_seqs, args.scheduling_policy) == (4096, 256, "fcfs")


@pytest.mark.parametrize(
    ("argument", "message", "hint"),
    [
        ("max_num_sequences=3", "max_num_sequences: vLLM has no such argument", "did you mean max_num_seqs?"),
        ("max_num_seqs=x", "invalid int value: 'x'", None),
        ("max_num_seqs", "expected key=value", None),
        ("dtype=float99", "invalid choice: 'float99'", None),
        ("enforce_eager=1", "enforce_eager: expected true or false, got '1'", None),
        ("compilation_config.mod=0", "mod Unexpected keyword argument", None),
        ("model=x", "model: not to be set here", "--model names the model"),
    ],
)
def test_a_wrong_argument_is_named(model: Path, argument: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as raised:
        engine_args(str(model), [argument], by_priority=True)
    assert message in raised.value.message
    assert raised.value.message.startswith("--engine-arg")
    assert "\n" not in raised.value.message
    assert raised.value.hint == hint


@pytest.mark.parametrize("given", ["max_num_seqs=0", "max_model_len=100000"])
def test_what_vllm_refuses_is_one_line(model: Path, given: str) -> None:
    with pytest.raises(UsageError, match="vLLM refuses: ") as raised:
        Vllm(str(model), [given])
    assert "\n" not in raised.value.message
