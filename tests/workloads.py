"""Random workloads, and every way to run them: for tests of what must always hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hypothesis import strategies as st

from driftkit.engines.sim.simulation import Setup
from driftkit.policies.base import StaticPolicy, parse
from driftkit.records.completion import in_order_of_arrival, job_of
from driftkit.records.job import Job

MAX_MODEL_LEN = 64
TIERS = (("premium", 1, 5), ("standard", 2, 3), ("batch", 3, 2))
STATIC = ("fifo", "priority", "sjf", "aging:rate=1.0", "random:seed=1", "oracle-sjf")


class Request(NamedTuple):
    """One request of a random workload; the gap is in milliseconds.

    It may be a turn of a session, or its prompt begin as those of its group do, for so many blocks.
    """

    gap: int
    prompt: int
    output: int
    cap: int | None
    tier: int
    barrier: bool
    session: str | None = None
    group: int = 0
    shared: int = 0


requests = st.builds(
    Request,
    gap=st.sampled_from([0, 0, 1, 10, 20, 60, 200, 1000]),
    prompt=st.integers(1, MAX_MODEL_LEN + 4),  # from MAX_MODEL_LEN on it is refused
    output=st.integers(1, 40),
    cap=st.one_of(st.none(), st.integers(1, 30)),
    tier=st.integers(0, 2),
    barrier=st.sampled_from([False] * 9 + [True]),
    session=st.sampled_from([None, None, "a", "b"]),
    group=st.integers(0, 2),
    shared=st.sampled_from([0, 0, 1, 3, 12]),
)
workloads = st.lists(requests, min_size=1, max_size=25)
engines = st.builds(
    Setup,
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(5, 80),
    # 17 blocks of 4 tokens: one request of the greatest length, so that others are preempted
    num_gpu_blocks=st.sampled_from([17, 20, 30, 500]),
    block_size=st.just(4),
    max_model_len=st.just(MAX_MODEL_LEN),
    long_prefill_token_threshold=st.sampled_from([0, 0, 7]),
    enable_prefix_caching=st.booleans(),
    scheduler_reserve_full_isl=st.booleans(),
    watermark=st.sampled_from([0.0, 0.0, 0.07]),
    async_scheduling=st.booleans(),
)


@dataclass
class Case:
    """A way to run: the policy, gangs or not, who holds the queue."""

    setup: Setup
    policy: str

    @property
    def gangs(self) -> bool:
        return self.setup.batching == "static"

    @property
    def client(self) -> bool:
        return self.setup.dispatch == "client" or (not self.gangs and self.policy == "weighted")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    setup = draw(engines)
    policy = draw(st.sampled_from([*STATIC, "weighted"]))
    way = draw(st.sampled_from(["engine", "client", "gangs"]))
    if way == "gangs":
        size, wait = draw(st.integers(1, 6)), draw(st.sampled_from([0.0, 0.01, 0.1]))
        return Case(replace(setup, batching="static", batch_size=size, batch_wait=wait), policy)
    if way == "client":
        concurrency = draw(st.one_of(st.none(), st.integers(1, 6)))
        return Case(replace(setup, dispatch="client", max_concurrency=concurrency), policy)
    return Case(setup, policy)


def jobs_of(workload: list[Request], policy: str) -> list[Job]:
    """Jobs as `schedule` and `run` make them of records."""
    built = parse(policy)
    milliseconds = 0
    jobs = []
    for number, request in enumerate(workload):
        milliseconds += request.gap
        tier, level, weight = TIERS[request.tier]
        record: dict[str, Any] = {
            "id": f"r{number}",
            "tier": tier,
            "tier_level": level,
            "weight": weight,
            "arrival_s": milliseconds / 1000,
            "prompt_tokens": request.prompt,
            "est_total_tokens": request.prompt + 10 * (request.output // 10),
            "max_tokens": request.cap,
            "trace_output_tokens": request.output,
            "barrier": request.barrier,
        }
        if request.session is not None:
            record["session"] = request.session
        if request.shared:
            names = [f"{request.group}/{block}" for block in range(request.shared)]
            record |= {"prefix_hashes": names, "prefix_block_tokens": 4}
        if isinstance(built, StaticPolicy):
            record["priority"] = built.key(record)
        jobs.append(job_of(record, request.output))
    return in_order_of_arrival(jobs)
