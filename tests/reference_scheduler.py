"""vLLM's scheduling step, request by request and rule by rule: slow, plain, what the fast one must equal.

It keeps explicit lists of the waiting and the running and never groups anything. The rules:

1. Arrivals are taken in between steps.
2. A step may compute `max_num_batched_tokens`. The long-prefill threshold counts only while more than one
   request waits or runs.
3. The running are looked at in order of admission while budget is left.
4. (async) Skipped: whose token in flight is the last that `max_tokens` allows.
5. A request gets what is known of it and not computed, at most the threshold and the budget, and never the
   last position of `max_model_len`. Known: prompt, generated tokens, and (async) the token in flight.
6. It needs a block for every `block_size` tokens; no watermark here.
7. While they are not free, somebody is preempted: fcfs the last admitted, priority the largest
   `(priority, arrival)`, of equal ones the first admitted. A part of this step it had is undone.
8. If it is the request itself, nobody behind it is looked at.
9. The preempted loses its blocks and waits again: fcfs first in the queue, priority in its place.
10. Else the request is scheduled.
11. If somebody was preempted, nobody is admitted in this step.
12. Else the waiting are looked at in order, while budget is left and fewer than `max_num_seqs` run:
    fcfs by arrival, priority by `(priority, arrival, id)`.
13. (async) Passed over: whose output from before its preemption is still to come.
14. The longest cached prefix in whole blocks counts as computed, but never the last known token.
15. Admitted are the rest, at most the threshold and the budget.
16. Only if the blocks for all that is known are free, besides the watermark if anybody runs. Hit blocks
    that nobody holds are free blocks, and needed.
17. Only if those for this step's part are, besides the watermark. If not, nobody behind it is looked at.
18. The hit blocks are held, the others taken from the front of the free list.
19. A block can be hit as soon as the tokens that fill it are known and scheduled.
20. What is scheduled counts as computed.
21. Whose known tokens are all computed gets a token. Whoever stops gives its blocks back.
22. (async) A step is planned before the output of the one before it is there: who stops by its last token
    keeps slot and blocks until then, and who stops by EOS has been scheduled once more for nothing.
23. One block is the null block.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from driftkit.engines.sim.scheduler import Limits
from reference_blocks import Block, BlockPool

Content = Callable[[int], Hashable | None] | Sequence[Hashable]


@dataclass(eq=False)
class Request:
    """`content` names what block `i` contains, whoever has it; None or past the end: what nobody else has."""

    name: str
    prompt: int
    output: int  # tokens it will generate
    priority: int = 0
    arrival: float = 0.0
    order: int = 0  # in place of vLLM's request id: breaks ties of arrival
    stops_by: str = "length"  # "length": `output` is its max_tokens; "stop": EOS, which nobody foresees
    content: Content = ()
    generated: int = 0
    computed: int = 0  # of the known and the sampled, those whose step may still be in flight included
    blocks: list[Block] = field(default_factory=list)
    hashed: int = 0  # of its blocks
    hashes: list[int] = field(default_factory=list)
    sampling: int = 0  # tokens in flight: sampled by a step whose output is not there yet
    in_flight: int = 0  # tokens scheduled in such steps
    stale: int = 0  # of these, those scheduled before its preemption
    preemptions: int = 0
    stopped: bool = False

    @property
    def known(self) -> int:
        return self.prompt + self.generated

    @property
    def last(self) -> int:
        """Known tokens at which it stops."""
        return self.prompt + self.output

    def contains(self, index: int) -> Hashable:
        if callable(self.content):
            key = self.content(index)
        elif index < len(self.content):
            key = self.content[index]
        else:
            key = None
        return ("own", self.name, index) if key is None else ("shared", key)


@dataclass
class Step:
    """What a plan decided. `computed`, `running`, `waiting` and `free` are as they were right after it."""

    budget: int
    scheduled: dict[Request, int] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    samples: set[Request] = field(default_factory=set)  # who gets a token from it
    running: list[Request] = field(default_factory=list)
    waiting: int = 0
    free: int = 0


@dataclass
class Reference:
    """`plan`, then `update` with what it returned; asynchronous, with the next `plan` in between."""

    limits: Limits
    by_priority: bool = False
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.limits.num_gpu_blocks, caching=self.limits.enable_prefix_caching)

    @property
    def free(self) -> int:
        return len(self.pool.free)

    def add(self, request: Request) -> None:
        """Rule 1."""
        self.waiting.append(request)

    def plan(self) -> Step:
        step = Step(self.limits.max_num_batched_tokens)
        threshold = self._threshold()
        self._schedule_running(step, threshold)
        if not step.preempted:  # rule 11
            self._admit_waiting(step, threshold)
        self._count_as_computed(step)
        step.running = list(self.running)
        step.waiting = len(self.waiting)
        step.free = self.free
        return step

    def update(self, step: Step) -> list[Request]:
        """Rule 21: the step's output is there. Returns who stopped, in scheduled order."""
        stopped = []
        for request, n in step.scheduled.items():
            request.in_flight -= n
            stale = request.stale > 0
            if stale:
                request.stale -= n
            if request.stopped or request not in step.samples:
                continue  # scheduled for nothing (rule 22), or its prompt goes on
            request.generated += 1
            if self.limits.async_scheduling and not stale:
                request.sampling -= 1
                self._hash_full_blocks(request, request.computed - request.sampling)
            if request.known in (request.last, self.limits.max_model_len):
                request.stopped = True
                stopped.append(request)
                self._give_back_blocks(request)
        self.running = [request for request in self.running if not request.stopped]
        self.waiting = [request for request in self.waiting if not request.stopped]  # preempted since
        return stopped

    def _threshold(self) -> int:
        """Rule 2."""
        threshold = self.limits.long_prefill_token_threshold
        alone = len(self.running) + len(self.waiting) <= 1
        return self.limits.max_num_batched_tokens if alone or not threshold else threshold

    def _schedule_running(self, step: Step, threshold: int) -> None:
        """Rules 3 to 10. Who is preempted for an earlier one is not looked at any more."""
        for request in list(self.running):
            if request not in self.running:
                continue
            if step.budget == 0:
                break
            n = self._tokens_for(request, step, threshold)
            if n == 0:
                continue
            while self._blocks_needed(request, request.computed + n) > self.free:
                victim = self._victim()
                self._preempt(victim, step)
                if victim is request:
                    return  # rule 8
            self._schedule(request, n, step)

    def _tokens_for(self, request: Request, step: Step, threshold: int) -> int:
        """Rules 4 and 5."""
        if self._last_token_is_in_flight(request):
            return 0
        room = self.limits.max_model_len - 1 - request.computed
        return min(request.known + request.sampling - request.computed, threshold, step.budget, room)

    def _last_token_is_in_flight(self, request: Request) -> bool:
        """Rule 4: only `max_tokens` is foreseen."""
        foreseen = request.stops_by == "length" and request.sampling > 0
        return foreseen and request.known + request.sampling >= request.last

    def _blocks_needed(self, request: Request, tokens: int) -> int:
        """Rule 6: besides those it holds."""
        return -(-tokens // self.limits.block_size) - len(request.blocks)

    def _victim(self) -> Request:
        """Rule 7."""
        if not self.by_priority:
            return self.running[-1]
        worst = max((request.priority, request.arrival) for request in self.running)
        return next(request for request in self.running if (request.priority, request.arrival) == worst)

    def _preempt(self, victim: Request, step: Step) -> None:
        """Rules 7 and 9. Blocks that this step would have filled keep the hash they got, as in vLLM."""
        step.budget += step.scheduled.pop(victim, 0)
        step.preempted.append(victim)
        self.running.remove(victim)
        self._give_back_blocks(victim)
        victim.computed = 0
        victim.sampling = 0
        victim.stale = victim.in_flight
        victim.preemptions += 1
        self.waiting.insert(0, victim)

    def _admit_waiting(self, step: Step, threshold: int) -> None:
        """Rules 12 to 18."""
        while step.budget > 0 and len(self.running) < self.limits.max_num_seqs:
            request = self._head()
            if request is None:
                break
            hits = self._hits(request)
            hit = len(hits) * self.limits.block_size
            n = min(request.known - hit, threshold, step.budget)
            if not self._may_be_admitted(request, hits, hit + n):
                break
            self.waiting.remove(request)
            self.pool.touch(hits)
            request.blocks = hits
            request.hashed = len(hits)
            request.computed = hit
            self.running.append(request)
            step.admitted.append(request)
            self._schedule(request, n, step)

    def _head(self) -> Request | None:
        """Rules 12 and 13."""
        eligible = [request for request in self.waiting if not request.stale]
        if self.by_priority:
            return min(eligible, key=lambda r: (r.priority, r.arrival, r.order), default=None)
        return eligible[0] if eligible else None

    def _hits(self, request: Request) -> list[Block]:
        """Rule 14: may find its own blocks from before a preemption."""
        whole_blocks = (request.known - 1) // self.limits.block_size
        return self.pool.prefix(self._hashes(request, whole_blocks))

    def _may_be_admitted(self, request: Request, hits: list[Block], tokens: int) -> bool:
        """Rules 16 and 17."""
        available = self.free - sum(block.references == 0 for block in hits)
        if self.running:
            available -= int(self.limits.watermark * self.limits.num_gpu_blocks)
        block = self.limits.block_size
        if self.limits.scheduler_reserve_full_isl and -(-request.known // block) - len(hits) > available:
            return False
        return -(-tokens // block) - len(hits) <= available

    def _schedule(self, request: Request, n: int, step: Step) -> None:
        """Rules 10, 18 and 19."""
        tokens = request.computed + n
        request.blocks += self.pool.take(self._blocks_needed(request, tokens))
        self._hash_full_blocks(request, min(tokens, request.known))
        step.scheduled[request] = n
        step.budget -= n

    def _hash_full_blocks(self, request: Request, tokens: int) -> None:
        """Rule 19, for the blocks filled by the first `tokens`, all of them known."""
        full = tokens // self.limits.block_size
        hashes = self._hashes(request, full)
        for index in range(request.hashed, full):
            self.pool.remember(request.blocks[index], hashes[index])
        request.hashed = max(request.hashed, full)

    def _hashes(self, request: Request, count: int) -> list[int]:
        """Of its first blocks: each also stands for all before it."""
        hashes = request.hashes
        while len(hashes) < count:
            before = hashes[-1] if hashes else 0
            hashes.append(self.pool.chain(before, request.contains(len(hashes))))
        return hashes[:count]

    def _count_as_computed(self, step: Step) -> None:
        """Rules 20 and 21: also says who will get a token."""
        for request, n in step.scheduled.items():
            request.computed += n
            request.in_flight += n
            step.computed.append(request.computed)
            if request.computed == request.known + request.sampling:
                step.samples.add(request)
                request.sampling += self.limits.async_scheduling

    def _give_back_blocks(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.hashed = 0
