"""Golden: five requests through the simulator, step by step as worked by hand in golden/five_requests.txt."""

from __future__ import annotations

from pathlib import Path

from driftkit.engines.dispatcher import Arrivals, dispatch
from driftkit.engines.sim.engine import Simulator
from driftkit.engines.sim.latency import StepTime
from driftkit.engines.sim.scheduler import Limits, Scheduler, Sequence
from driftkit.records.job import Job

GOLDEN = Path(__file__).parent / "golden" / "five_requests.txt"
LIMITS = Limits(8, 4, num_gpu_blocks=7, block_size=4, max_model_len=16, enable_prefix_caching=False)
REQUESTS = {"A": (6, 5, 0.0), "B": (5, 6, 0.0), "C": (9, 7, 0.0), "D": (3, 8, 0.5), "E": (2, 7, 2.5)}


def jobs() -> list[Job]:
    return [
        Job({"id": name}, order, arrival, prompt, output)
        for order, (name, (prompt, output, arrival)) in enumerate(REQUESTS.items())
    ]


def golden() -> list[tuple[int, dict[str, int], int, list[str]]]:
    """(step, tokens per request, free blocks, finished) of each line."""
    steps = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("#"):
            continue
        number, *scheduled, free, finished = line.split("#")[0].split()
        tokens = {item[0]: int(item[1:]) for item in scheduled}
        steps.append((int(number), tokens, int(free), [] if finished == "-" else [finished]))
    return steps


def test_every_step() -> None:
    scheduler = Scheduler(LIMITS, by_priority=False)
    waiting = [Sequence(job, job.arrival_s) for job in jobs()]
    everyone = {s.job.record["id"]: s for s in waiting}
    for number, tokens, free, finished in golden():
        start = float(number - 1)
        while waiting and waiting[0].arrival <= start:
            scheduler.submit(waiting.pop(0))
        before = {name: scheduler.computed(s) for name, s in everyone.items()}
        load = scheduler.schedule(start)
        assert [s.job.record["id"] for s in scheduler.running.values()] == list(tokens), f"step {number}"
        assert scheduler.cache.free == free, f"step {number}"
        assert load.tokens == sum(tokens.values()), f"step {number}"
        assert [s.job.record["id"] for s in scheduler.update()] == finished, f"step {number}"
        for name, n in tokens.items():
            assert scheduler.computed(everyone[name]) == before[name] + n, f"step {number}"
    assert not scheduler.busy
    assert scheduler.cache.free == 6


def test_instants_follow_from_the_steps() -> None:
    engine = Simulator(LIMITS, StepTime(1.0, 0, 0, 0, 0, 0), by_priority=False)
    ended = [job for together in dispatch(Arrivals(jobs(), None), engine, None, 4) for job in together]
    seen = {
        job.record["id"]: (job.started_s, job.first_token_s, job.finished_s, job.preemptions) for job in ended
    }
    assert seen == {
        "A": (0.0, 1.0, 5.0, 0),
        "B": (0.0, 2.0, 7.0, 0),
        "C": (5.0, 7.0, 13.0, 0),
        "D": (7.0, 8.0, 15.0, 0),
        "E": (7.0, 8.0, 17.0, 1),
    }
    assert [job.output_tokens for job in ended] == [5, 6, 7, 8, 7]


def test_the_golden_file_conserves_tokens() -> None:
    steps = golden()
    assert len(steps) == 17
    totals = dict.fromkeys(REQUESTS, 0)
    for _, tokens, _, _ in steps:
        for name, n in tokens.items():
            totals[name] += n
    # all but the last token of each are computed; E's first five are computed twice, its 3 outputs among them
    expected = {name: prompt + output - 1 for name, (prompt, output, _) in REQUESTS.items()}
    expected["E"] += 4
    assert totals == expected
