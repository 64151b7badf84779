"""The scheduling step, request by request and rule by rule: slow, plain, what the fast one must equal.

It keeps an explicit list of running requests and their blocks and never groups anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from driftkit.engines.sim.scheduler import Limits


@dataclass(eq=False)
class Request:
    name: str
    prompt: int
    output: int
    priority: int = 0
    arrival: float = 0.0
    order: int = 0
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    preemptions: int = 0

    @property
    def known(self) -> int:
        return self.prompt + self.generated

    @property
    def rank(self) -> tuple[int, float, int]:
        return (self.priority, self.arrival, self.order)


@dataclass
class Reference:
    limits: Limits
    by_priority: bool
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = self.limits.num_gpu_blocks - 1

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def preempt(self, victim: Request) -> None:
        self.running.remove(victim)
        self.free += victim.blocks
        victim.blocks = victim.computed = 0
        victim.preemptions += 1
        self.waiting.insert(0, victim)

    def plan(self) -> dict[Request, int]:
        limits = self.limits
        budget = limits.max_num_batched_tokens
        threshold = limits.long_prefill_token_threshold
        if not threshold or len(self.running) + len(self.waiting) <= 1:
            threshold = 10**9
        scheduled: dict[Request, int] = {}
        preempted = False
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            n = min(request.known - request.computed, threshold, budget)
            if n == 0:
                index += 1
                continue
            need = -(-(request.computed + n) // limits.block_size) - request.blocks
            stopped = False
            while need > self.free:
                preempted = True
                if self.by_priority:
                    victim = max(self.running, key=lambda r: r.rank)
                    if victim in scheduled:
                        budget += scheduled.pop(victim)
                        index -= 1
                else:
                    victim = self.running[-1]
                self.preempt(victim)
                if victim is request:
                    stopped = True
                    break
            if stopped:
                break
            self.free -= need
            request.blocks += need
            scheduled[request] = n
            budget -= n
            index += 1
        while not preempted and self.waiting and budget > 0 and len(self.running) < limits.max_num_seqs:
            head = min(self.waiting, key=lambda r: r.rank) if self.by_priority else self.waiting[0]
            n = min(head.known, threshold, budget)
            if -(-head.known // limits.block_size) > self.free:
                break
            self.waiting.remove(head)
            head.blocks = -(-n // limits.block_size)
            self.free -= head.blocks
            self.running.append(head)
            scheduled[head] = n
            budget -= n
        return scheduled

    def update(self, scheduled: dict[Request, int]) -> list[Request]:
        finished = []
        for request, n in scheduled.items():
            request.computed += n
            if request.computed == request.known:
                request.generated += 1
                if request.generated == request.output:
                    finished.append(request)
        for request in finished:
            self.running.remove(request)
            self.free += request.blocks
            request.blocks = 0
        return finished
