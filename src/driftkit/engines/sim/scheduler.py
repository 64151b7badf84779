"""vLLM V1's scheduling step: who computes how much in each step, and who holds KV blocks.

Rules are numbered as in tests/reference_scheduler.py, which takes every request by itself. Here the decoding
requests are kept as a group: all do the same thing every step, one token each. `_tick` counts the steps
planned, a member stores only `base` with `computed = base + _tick`, and a step costs the same for one member
as for a thousand. What singles a member out is found, not searched for: when it ends (a heap on the tick of
its last token) and when it needs a KV block (members by `base` modulo the block size).

Members always find budget, because vLLM insists on `max_num_batched_tokens >= max_num_seqs`, unless a prompt
admitted before them uses it up. Then, and when blocks run out, a step is decided one by one.

Asynchronous scheduling plans a step while the one before it runs: `schedule` is called once more before its
`update`, and what a request has computed and knows counts the token in flight.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from driftkit.engines.sim.content import Contents, Conversation
from driftkit.engines.sim.kv_cache import Block, KVCache
from driftkit.engines.sim.latency import Load
from driftkit.errors import UsageError
from driftkit.records.job import Job


@dataclass(frozen=True, slots=True)
class Limits:
    """Admission limits and switches, named as vLLM's options are; `num_gpu_blocks` counts the null block.

    `scheduler_reserve_full_isl`: nobody is admitted for whose known tokens there are not blocks enough.
    `watermark`: the share of all blocks that an admission leaves free while somebody runs.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    num_gpu_blocks: int
    block_size: int
    max_model_len: int
    long_prefill_token_threshold: int = 0
    enable_prefix_caching: bool = True
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    async_scheduling: bool = False

    def __post_init__(self) -> None:
        for name in ("max_num_batched_tokens", "max_num_seqs", "block_size", "max_model_len"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected an integer >= 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise UsageError(
                f"--max-num-batched-tokens {self.max_num_batched_tokens} is under "
                f"--max-num-seqs {self.max_num_seqs}: vLLM refuses that",
                hint="raise the one or lower the other",
            )
        if self.usable_tokens < self.max_model_len:
            raise UsageError(
                f"the KV cache holds {max(0, self.usable_tokens)} tokens, less than one request of "
                f"--max-model-len {self.max_model_len}: vLLM refuses to start",
                hint="lower --max-model-len or raise --num-gpu-blocks",
            )

    @property
    def usable_tokens(self) -> int:
        return (self.num_gpu_blocks - 1) * self.block_size  # rule 23: one is the null block


#: what a sequence does: decoding, it is in the group; ending, its last token is in flight (asynchronous)
WAITING, PREFILLING, DECODING, ENDING = range(4)


class Sequence:
    """A job inside the engine. `known` is prompt plus generated tokens, `last` what it will end with."""

    __slots__ = (
        *("admitted", "arrival", "base", "blocks", "computed", "conversation", "end_tick", "job", "joined"),
        *("joules", "known", "last", "names", "own", "place", "state", "stops"),
    )

    def __init__(self, job: Job, arrival: float) -> None:
        self.job = job
        self.arrival = arrival
        self.known = job.prompt_tokens
        self.last = job.prompt_tokens + job.output_tokens
        #: it ends by a token that only the model knows, not by its length
        self.stops = job.finish_reason == "stop"
        self.state = WAITING
        self.admitted = -1  # order of admission
        #: tokens whose keys and values are in the cache or being computed; a member's are `base` and the tick
        self.computed = 0
        self.joined = 0  # what it had computed when it joined the group
        self.base = 0
        self.end_tick = -1
        #: what it has cost; of a member, less what every member had cost when it joined
        self.joules = 0.0
        # content that others share and the blocks of it that are held; freed blocks of its own, their place
        self.names: list[Hashable] = []
        self.conversation: Conversation | None = None
        self.blocks: list[Block] = []
        self.own = 0
        self.place = 0


class Scheduler:
    """Waiting and running requests and their KV blocks. `schedule`, then `update`, is one step.

    `queue` holds the waiting: in order, or by priority a heap of `(priority, arrival, order, sequence)`.
    """

    def __init__(self, limits: Limits, *, by_priority: bool) -> None:
        self.limits = limits
        self.by_priority = by_priority
        self.cache = KVCache(limits.num_gpu_blocks - 1)
        self.running: dict[int, Sequence] = {}
        self._contents = Contents(limits.block_size)
        self._watermark_blocks = int(limits.watermark * limits.num_gpu_blocks)
        self._fcfs: deque[Sequence] = deque()
        self._heap: list[tuple[int, float, int, Sequence]] = []
        self.queue: deque[Sequence] | list[tuple[int, float, int, Sequence]]
        self.queue = self._heap if by_priority else self._fcfs
        # by priority, who is preempted first: (-priority, -arrival, -order, admitted, sequence), a heap
        self._worst: list[tuple[int, float, int, int, Sequence]] = []
        self._blocked = False  # whoever is at the head of the queue cannot come in until somebody ends
        self._admissions = 0
        # steps planned and steps that have ended
        self._tick = 0
        self._ended = 0
        # the decoding group: how many, what they have computed, who by residue, who ends when
        self._decoding = 0
        self._decoding_computed = 0
        self._needing: list[dict[int, Sequence]] = [{} for _ in range(limits.block_size)]
        self._ends: list[tuple[int, int, Sequence]] = []
        #: what a member there from the beginning would have cost, at a token a step
        self.member_joules = 0.0
        self._left_out: list[Sequence] = []  # members who get no token in the step planned last
        # everybody else who runs, and what they get in the step being planned
        self._single: dict[int, Sequence] = {}
        self._grants: dict[int, int] = {}
        self._budget = 0
        #: whose prompt was computed to its end in the step planned last: it gives them a token
        self.prefilled: list[Sequence] = []
        self._ending: list[Sequence] = []  # asynchronous: whose last token is in flight
        self.preemptions = 0

    @property
    def busy(self) -> bool:
        return bool(self.running or self.queue)

    @property
    def steady(self) -> bool:
        """Whether the next step is as the last: everybody who runs decodes, nobody else can come in."""
        return not self._single and (self._blocked or not self.queue) and self._decoding > 0

    def submit(self, sequence: Sequence) -> None:
        """Rule 1: take in an arrival, between steps."""
        job = sequence.job
        record = job.record
        if self.limits.enable_prefix_caching and ("prefix_hashes" in record or "session" in record):
            sequence.names, sequence.conversation = self._contents.shared(record, job.prompt_tokens)
        if self.by_priority:
            self._wait_by_priority(sequence)
        else:
            self._fcfs.append(sequence)

    def computed(self, sequence: Sequence) -> int:
        """Tokens whose keys and values are in the cache, or will be after the steps planned so far."""
        return sequence.base + self._tick if sequence.state == DECODING else sequence.computed

    def schedule(self, now: float) -> Load:
        """Rules 2-20: plan the step at `now`. A load without tokens is no step: nobody could do anything."""
        self._grants.clear()
        self._left_out = []
        self.prefilled = []
        if self.limits.async_scheduling:
            self._set_ending_aside()
        running = len(self.running)
        needing = len(self._needing[-self._tick % self.limits.block_size])
        idle = idle_computed = 0
        if not self._single and needing <= self.cache.free:
            self.cache.free -= needing
            self._budget = self.limits.max_num_batched_tokens - self._decoding
        else:
            idle, idle_computed = self._schedule_running()
        if self.queue and len(self.running) == running:  # rule 11: nobody was preempted
            self._admit(now)
        tokens = sequences = self._decoding - idle
        decode_kv = self._decoding_computed + self._decoding - idle_computed
        prefill_kv = prefill_pairs = 0
        for admitted, n in self._grants.items():
            sequence = self._single[admitted]
            computed = sequence.computed
            tokens += n
            sequences += 1
            if n == 1:
                decode_kv += computed + 1
            else:
                prefill_kv += computed + n
                prefill_pairs += n * computed + n * (n + 1) // 2
        if not tokens:
            return Load(0, 0, 0, 0, 0)
        self._advance()
        return Load(tokens, sequences, decode_kv, prefill_kv, prefill_pairs)

    def charge(self, joules: float) -> None:
        """Every token of the step planned last costs so much."""
        self.member_joules += joules
        running = self.running
        for admitted, n in self._grants.items():
            sequence = running[admitted]
            sequence.joules += joules * (n - 1 if sequence.state == DECODING else n)  # a member by now
        for sequence in self._left_out:
            sequence.joules -= joules

    @property
    def prefill_tokens(self) -> int:
        """Of the step planned last: what it computes of prompts, and of what the preempted had computed."""
        single = self._single
        return sum(
            n
            for admitted, n in self._grants.items()
            if admitted not in single or single[admitted].state == PREFILLING
        )

    def update(self) -> list[Sequence]:
        """Rule 21: the oldest step planned has ended. Returns who finished, in scheduled order."""
        self._ended += 1
        return self.finish()

    def decode_steps(self) -> tuple[int, int, int]:
        """While `steady`: how many steps alike can follow, of how many requests, and what the first reads."""
        ends = self._ends
        while not _current(ends[0]):
            heapq.heappop(ends)
        most = ends[0][0] - self._tick
        free, decoding, block = self.cache.free, self._decoding, self.limits.block_size
        if (most // block + 1) * decoding > free:
            cycles = min(most // block, free // decoding)
            free -= cycles * decoding
            steps = cycles * block
            while steps < most and (needing := len(self._needing[-(self._tick + steps) % block])) <= free:
                free -= needing
                steps += 1
            most = steps
        return most, decoding, self._decoding_computed + decoding

    def decode(self, steps: int, member_joules: float) -> None:
        """Plan and end so many of the `decode_steps`; `finish` follows. `member_joules`: as it is then."""
        block, decoding, needing = self.limits.block_size, self._decoding, self._needing
        first = -self._tick % block  # who needs a block in the first step, and down from there
        blocks = steps // block * decoding
        for place in range(first, first - steps % block, -1):
            blocks += len(needing[place])
        self.cache.free -= blocks
        self._tick += steps
        self._ended += steps
        self._decoding_computed += steps * decoding
        self.member_joules = member_joules

    # --- running requests -------------------------------------------------------------------------

    def _set_ending_aside(self) -> None:
        """Rule 4: whose token in flight is known to be the last computes no more, but does not leave yet."""
        ends = self._ends
        while ends and ends[0][0] <= self._tick:
            entry = heapq.heappop(ends)
            if _current(entry):
                sequence = entry[2]
                self._leave_group(sequence)
                sequence.state = ENDING
                # rule 22: of an end that only the model knows, one token more is computed, in vain
                sequence.known = sequence.last - (not sequence.stops)
                self._single[sequence.admitted] = sequence
                self._ending.append(sequence)

    def _schedule_running(self) -> tuple[int, int]:
        """Rules 3-10. Returns how many members are left out of this step, and what they have computed."""
        missing = self._schedule_together()
        if missing == 0:
            return 0, 0
        if missing is None:
            return self._schedule_one_by_one(list(self.running.values()))
        asking = {**self._needing[-self._tick % self.limits.block_size], **self._single}
        return self._schedule_one_by_one([asking[admitted] for admitted in sorted(asking)])

    def _schedule_together(self) -> int | None:
        """Rules 3-6, if all who run can have what they ask for, but for the one admitted last.

        Returns how many blocks are missing, then nobody has got any; None if tokens are.
        """
        block = self.limits.block_size
        threshold = self._prefill_threshold()
        budget = self.limits.max_num_batched_tokens - self._decoding
        need = len(self._needing[-self._tick % block])
        grants = []
        last = next(reversed(self.running), -1)
        for admitted, sequence in sorted(self._single.items()):
            computed = sequence.computed
            n = min(sequence.known - computed, threshold)
            if n > budget:
                if admitted != last:
                    return None
                n = budget
            if n:
                budget -= n
                need += -(-(computed + n) // block) + -computed // block
                grants.append((admitted, n))
        if need > self.cache.free:
            return need - self.cache.free
        self.cache.free -= need
        self._budget = budget
        for admitted, n in grants:
            self._grants[admitted] = n
            sequence = self._single[admitted]
            if sequence.names:
                self._name_blocks(sequence, sequence.computed + n)
        return 0

    def _schedule_one_by_one(self, asking: list[Sequence]) -> tuple[int, int]:
        """Rules 3-10 for those `asking`, in order of admission; all others who run have their one token."""
        block = self.limits.block_size
        threshold = self._prefill_threshold()
        got: dict[int, int] = {}
        others = len(self.running) - len(asking)
        self._budget = self.limits.max_num_batched_tokens - others
        for sequence in asking:
            if sequence.state == WAITING:
                continue  # preempted for somebody above
            admitted = sequence.admitted
            if self._budget <= 0:
                return self._leave_out(admitted, got)
            computed = self.computed(sequence)
            member = sequence.state == DECODING
            n = 1 if member else min(sequence.known - computed, threshold, self._budget)
            if n <= 0:
                continue
            need = -(-(computed + n) // block) + -computed // block
            while need > self.cache.free:
                victim = self._victim()
                if victim in asking:
                    undone = got.pop(victim.admitted, 0)
                    self._budget += undone
                else:
                    # who does not ask has a token of the budget from the start, and its place in the cache
                    # when its turn comes
                    undone = int(victim.admitted < admitted)
                    self._budget += 1
                self._preempt(victim, undone)
                if victim is sequence:
                    return self._leave_out(admitted, got)  # rule 8
            self.cache.free -= need
            self._budget -= n
            got[admitted] = n
            if sequence.names and not member:
                self._name_blocks(sequence, computed + n)
        return self._leave_out(self._admissions, got)

    def _leave_out(self, first: int, got: dict[int, int]) -> tuple[int, int]:
        """End a step decided one by one: of the members, those admitted `first` or later lose a tick."""
        self._grants.update((admitted, n) for admitted, n in got.items() if admitted in self._single)
        if first == self._admissions:
            return 0, 0
        left_out = [s for a, s in self.running.items() if a >= first and s.state == DECODING]
        computed = sum(s.base for s in left_out) + self._tick * len(left_out)
        if len(left_out) < self._decoding or self._grants:  # else there is no step, and no tick
            self._decoding_computed -= len(left_out)
            for sequence in left_out:
                del self._needing[sequence.base % self.limits.block_size][sequence.admitted]
                sequence.base -= 1
                self._left_out.append(sequence)
                self._enroll(sequence)
        return len(left_out), computed

    def _victim(self) -> Sequence:
        """Rule 7: fcfs the last admitted, priority the largest `(priority, arrival)`."""
        if not self.by_priority:
            return self.running[next(reversed(self.running))]
        while True:
            *_, admitted, sequence = heapq.heappop(self._worst)
            if sequence.admitted == admitted:  # else it has ended or was preempted
                return sequence

    def _preempt(self, victim: Sequence, n: int) -> None:
        """Rules 7 and 9: it loses its blocks and the `n` tokens it had got of this step, and waits again."""
        del self.running[victim.admitted]
        prefilling = victim.state == PREFILLING
        if victim.state == DECODING:
            self._leave_group(victim)
            victim.known = victim.computed + 1  # the token in flight among them
        else:
            del self._single[victim.admitted]
        held = victim.computed + n
        # asynchronous: a block is named when its last token is known, a step after it was planned
        known = held if prefilling or not self.limits.async_scheduling else max(victim.joined, held - 1)
        self._release(victim, held, known)
        victim.computed = 0
        victim.admitted = -1
        victim.state = WAITING
        victim.job.preemptions = (victim.job.preemptions or 0) + 1
        self.preemptions += 1
        if self.by_priority:
            self._wait_by_priority(victim)
        else:
            self._fcfs.appendleft(victim)
            self._blocked = False

    def _prefill_threshold(self) -> int:
        """Rule 2: most prompt tokens of one request in a step."""
        threshold = self.limits.long_prefill_token_threshold
        return (
            threshold if threshold and len(self.running) + len(self.queue) > 1 else self.limits.max_model_len
        )

    # --- waiting requests -------------------------------------------------------------------------

    def _wait_by_priority(self, sequence: Sequence) -> None:
        job = sequence.job
        heapq.heappush(self._heap, (job.priority, sequence.arrival, job.order, sequence))
        self._blocked = False  # the head may be another now

    def _admit(self, now: float) -> None:
        """Rules 12 and 14-18: take from the head of the queue while budget, slots and blocks last.

        Rule 13 sets aside whose output from before a preemption is still in flight. With one step in flight
        there is none: it has ended before the next step that admits anybody is planned.
        """
        limits = self.limits
        block, cache = limits.block_size, self.cache
        threshold = self._prefill_threshold()
        while self.queue:
            if self._budget <= 0:
                return
            if len(self.running) >= limits.max_num_seqs:
                break
            sequence = self._heap[0][-1] if self.by_priority else self._fcfs[0]
            shared, own = self._hits(sequence) if sequence.own or sequence.names else ([], 0)
            hit = len(shared) + own
            n = min(sequence.known - hit * block, threshold, self._budget)
            whole = sequence.known if limits.scheduler_reserve_full_isl else hit * block + n
            evictable = own + sum(not held.holders for held in shared)
            reserve = self._watermark_blocks if self.running else 0
            if -(-whole // block) - hit + evictable + reserve > cache.free:
                break
            if self.by_priority:
                heapq.heappop(self._heap)
            else:
                self._fcfs.popleft()
            if own:
                cache.reuse(sequence.place, sequence.own, own)
            if shared:
                cache.hold(shared)
                sequence.blocks = shared
            sequence.own = 0
            cache.free -= -(-n // block)
            self._budget -= n
            sequence.state = PREFILLING
            sequence.admitted = admitted = self._admissions
            sequence.computed = hit * block
            self._admissions = admitted + 1
            self.running[admitted] = sequence
            self._single[admitted] = sequence
            self._grants[admitted] = n
            if self.by_priority:
                self._may_be_victim(sequence)
            if sequence.names:
                self._name_blocks(sequence, hit * block + n)  # rule 19: the next one may hit them
            job = sequence.job
            if job.started_s is None:
                job.started_s = now
                if limits.enable_prefix_caching:
                    job.cached_tokens = hit * block
        else:
            return
        self._blocked = True

    def _may_be_victim(self, sequence: Sequence) -> None:
        job, worst = sequence.job, self._worst
        heapq.heappush(worst, (-job.priority, -sequence.arrival, -job.order, sequence.admitted, sequence))
        if len(worst) > 2 * len(self.running) + 64:
            worst[:] = [entry for entry in worst if entry[-1].admitted == entry[-2]]
            heapq.heapify(worst)

    def _hits(self, sequence: Sequence) -> tuple[list[Block], int]:
        """Rule 14: the longest prefix in the cache, in whole blocks: shared ones, and of its own how many."""
        most = (sequence.known - 1) // self.limits.block_size
        names = sequence.names
        conversation = sequence.conversation
        shared = self.cache.find(names[:most], conversation.name if conversation is not None else None)
        if not sequence.own or len(shared) < len(names):
            return shared, 0
        return shared, min(self.cache.left(sequence.place, sequence.own), most - len(names))

    # --- tokens and blocks ------------------------------------------------------------------------

    def _advance(self) -> None:
        """Rule 20: what was planned counts as computed; whoever has no prompt left joins the group."""
        self._tick = tick = self._tick + 1
        self._decoding_computed += self._decoding
        for admitted, n in self._grants.items():
            sequence = self._single[admitted]
            sequence.computed += n
            if sequence.state == PREFILLING and sequence.computed == sequence.known:
                del self._single[admitted]
                self.prefilled.append(sequence)
                sequence.state = DECODING
                sequence.joined = sequence.computed
                sequence.base = sequence.computed - tick
                sequence.joules -= self.member_joules
                self._decoding += 1
                self._decoding_computed += sequence.computed
                self._enroll(sequence)

    def _enroll(self, sequence: Sequence) -> None:
        """Note when it will need blocks and when it will end; its last token is never computed."""
        self._needing[sequence.base % self.limits.block_size][sequence.admitted] = sequence
        sequence.end_tick = sequence.last - 1 - sequence.base
        heapq.heappush(self._ends, (sequence.end_tick, sequence.admitted, sequence))

    def _leave_group(self, sequence: Sequence) -> None:
        sequence.computed = sequence.base + self._tick
        sequence.joules += self.member_joules
        self._decoding -= 1
        self._decoding_computed -= sequence.computed
        del self._needing[sequence.base % self.limits.block_size][sequence.admitted]

    def finish(self) -> list[Sequence]:
        """Those whose last token was of a step that has ended: their blocks are free."""
        ends, ended = self._ends, self._ended
        if not self._ending and (not ends or ends[0][0] > ended):
            return []
        finished, self._ending = self._ending, []
        while ends and ends[0][0] <= ended:
            entry = heapq.heappop(ends)
            if _current(entry):
                self._leave_group(entry[2])
                finished.append(entry[2])
        for sequence in finished:
            if sequence.conversation is not None:
                sequence.conversation.tokens = max(sequence.conversation.tokens, sequence.last)
            if sequence.admitted < 0:  # preempted with its last token in flight
                self._take_out(sequence)
                continue
            del self.running[sequence.admitted]
            self._single.pop(sequence.admitted, None)
            sequence.admitted = -1
            self._release(sequence, sequence.computed, sequence.last - 1)
        self._blocked = False
        return finished

    def _take_out(self, sequence: Sequence) -> None:
        """Out of the queue."""
        if self.by_priority:
            self._heap[:] = [entry for entry in self._heap if entry[-1] is not sequence]
            heapq.heapify(self._heap)
        else:
            self._fcfs.remove(sequence)

    def _name_blocks(self, sequence: Sequence, computed: int) -> None:
        """Let others find the blocks that its first `computed` tokens fill, as far as they have names."""
        full = computed // self.limits.block_size
        blocks = sequence.blocks
        blocks.extend(map(self.cache.add, sequence.names[len(blocks) : full]))

    def _release(self, sequence: Sequence, held: int, known: int) -> None:
        """Free the blocks of `held` tokens; those full of the first `known` may be hit again."""
        block = self.limits.block_size
        blocks = -(-held // block)
        full = known // block if self.limits.enable_prefix_caching else 0
        names = sequence.names
        conversation = sequence.conversation
        if conversation is not None:
            names.extend(conversation.name(index) for index in range(len(names), full))
        if names:
            self._name_blocks(sequence, known)
            shared = sequence.blocks
            own = max(0, full - len(names))
            sequence.place = self.cache.release(own, blocks - len(shared) - own)
            self.cache.release_shared(shared)
            sequence.blocks = []
            sequence.own = own
        else:
            sequence.place = self.cache.release(full, blocks - full)
            sequence.own = full


def _current(entry: tuple[int, int, Sequence]) -> bool:
    """Whether an end is still as it was foreseen: not so for who was preempted or left out since."""
    end_tick, admitted, sequence = entry
    return sequence.state == DECODING and sequence.end_tick == end_tick and sequence.admitted == admitted
