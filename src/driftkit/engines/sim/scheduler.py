"""vLLM V1's scheduling step without prefix caching, synchronous: who computes how much in each step.

A request is *prefilling* while more than one of its known tokens is not computed yet, and *decoding*
after. All decoding requests do the same thing every step, one token each, so they are kept as a group:
`_tick` counts the steps, a decoding request stores only `base` with `computed = base + _tick`, and a step
costs the same for one as for a thousand of them. What singles a request out is found, not searched for:
when it ends (a heap on the tick of its last token) and when it needs a KV block (buckets by residue).

Two facts make the group exact. `max_num_batched_tokens >= max_num_seqs` (vLLM insists), so a decode always
finds budget. And a request whose prompt did not fit into the step used up the budget, so at most one is
prefilling at the start of a step, admitted last of all. A long-prefill threshold breaks the second fact;
then nobody joins the group, and every request is walked in order of admission.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from driftkit.engines.sim.latency import Load, StepTime
from driftkit.errors import UsageError
from driftkit.records.job import Job


@dataclass(frozen=True, slots=True)
class Limits:
    """Admission limits, named as vLLM's options are; `num_gpu_blocks` counts the null block."""

    max_num_batched_tokens: int
    max_num_seqs: int
    num_gpu_blocks: int
    block_size: int
    max_model_len: int
    long_prefill_token_threshold: int = 0

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
        return (self.num_gpu_blocks - 1) * self.block_size  # one is the null block


class Sequence:
    """A job inside the engine. `known` is prompt plus generated tokens, `last` what it will end with."""

    __slots__ = ("admitted", "arrival", "base", "computed", "end_tick", "job", "known", "last")

    def __init__(self, job: Job, arrival: float) -> None:
        self.job = job
        self.arrival = arrival
        self.known = job.prompt_tokens
        self.last = job.prompt_tokens + job.output_tokens
        self.computed = 0
        self.admitted = -1  # order of admission; -1 while it waits
        self.base = 0
        self.end_tick = -1  # tick of its last token; -1 while it is not decoding


class Scheduler:
    """Waiting and running requests and the KV blocks they hold. `schedule`, then `update`, is one step."""

    def __init__(self, limits: Limits, *, by_priority: bool) -> None:
        self.limits = limits
        self.by_priority = by_priority
        self.free_blocks = limits.num_gpu_blocks - 1
        self.running: dict[int, Sequence] = {}
        self._fcfs: deque[Sequence] = deque()
        self._heap: list[tuple[int, float, int, Sequence]] = []
        self._admissions = 0
        # the decoding group
        self._tick = 0
        self._decoding = 0
        self._decoding_computed = 0
        self._by_residue: list[dict[int, Sequence]] = [{} for _ in range(limits.block_size)]
        self._ends: list[tuple[int, int, Sequence]] = []
        # everybody else who runs; what this step gives to those looked at one by one, and what it has left
        self._prefilling: dict[int, Sequence] = {}
        self._scheduled: dict[int, int] = {}
        self._budget = 0
        self.steady = False

    @property
    def waiting(self) -> int:
        return len(self._fcfs) + len(self._heap)

    @property
    def busy(self) -> bool:
        return bool(self.running or self._fcfs or self._heap)

    def add(self, sequence: Sequence) -> None:
        """Rule 1: take in an arrival, between steps."""
        if self.by_priority:
            job = sequence.job
            heapq.heappush(self._heap, (job.priority, sequence.arrival, job.order, sequence))
        else:
            self._fcfs.append(sequence)

    def computed(self, sequence: Sequence) -> int:
        """Tokens whose keys and values are in the cache."""
        return sequence.base + self._tick if sequence.end_tick >= 0 else sequence.computed

    def schedule(self, now: float) -> Load:
        """Rules 2-17: decide the step that starts at `now`."""
        limits = self.limits
        scheduled = self._scheduled
        scheduled.clear()
        self._budget = limits.max_num_batched_tokens - self._decoding
        running = len(self.running)
        needing = self._by_residue[-self._tick % limits.block_size]
        idle, idle_computed = 0, 0
        if self._prefilling or len(needing) > self.free_blocks:
            idle, idle_computed = self._schedule_one_by_one(needing)
        else:
            self.free_blocks -= len(needing)
        if len(self.running) == running and (self._fcfs or self._heap):  # rule 11: nobody was preempted
            self._admit(now)
        #: everybody who runs decodes, and nobody who waits could come in: so it stays until one ends
        self.steady = not self._prefilling and len(self.running) == running
        tokens = sequences = self._decoding - idle
        decode_kv = self._decoding_computed + self._decoding - idle_computed
        prefill_kv = prefill_pairs = 0
        for admitted, n in scheduled.items():
            sequence = self.running[admitted]
            if sequence.end_tick < 0:
                tokens += n
                sequences += 1
                if n == 1:
                    decode_kv += sequence.computed + 1
                else:
                    prefill_kv += sequence.computed + n
                    prefill_pairs += n * sequence.computed + n * (n + 1) // 2
        return Load(tokens, sequences, decode_kv, prefill_kv, prefill_pairs)

    def update(self, now: float) -> list[Sequence]:
        """Rules 20-21: the step has ended at `now`. Returns who finished, in scheduled order."""
        self._tick = tick = self._tick + 1
        self._decoding_computed += self._decoding
        finished = []
        ends = self._ends
        while ends and ends[0][0] <= tick:
            end_tick, _, sequence = heapq.heappop(ends)
            if sequence.end_tick == end_tick:  # else it was preempted or held back since
                self._leave_group(sequence)
                finished.append(sequence)
        for admitted, n in self._scheduled.items():
            done = self.running[admitted]
            if done.end_tick >= 0 or admitted not in self._prefilling:
                continue  # a decode of the group: it has its token
            done.computed += n
            if done.computed < done.known:
                continue
            done.known += 1
            if done.job.first_token_s is None:
                done.job.first_token_s = now
            if done.known == done.last:
                del self._prefilling[admitted]
                finished.append(done)
            elif not self.limits.long_prefill_token_threshold:
                self._join_group(done)
        for sequence in finished:
            del self.running[sequence.admitted]
            self.free_blocks += -(-sequence.computed // self.limits.block_size)
        return finished

    def coast(self, now: float, until: float, step_time: StepTime) -> float:
        """After a `steady` step: the steps alike that follow it, up to `until`. Returns when the last ended.

        Nothing but time, blocks and computed tokens changes in them, so their bookkeeping is left out; the
        step in which a request ends or the blocks run out is left to `schedule` and `update`.
        """
        ends = self._ends
        while ends[0][2].end_tick != ends[0][0]:
            heapq.heappop(ends)  # preempted or held back since
        last = ends[0][0] - 1
        needs = [len(members) for members in self._by_residue]
        block = self.limits.block_size
        tick, free, decoding = self._tick, self.free_blocks, self._decoding
        kv_tokens = self._decoding_computed + decoding
        fixed, per_kv = step_time.decode(decoding, decoding)
        while tick < last and now < until and needs[-tick % block] <= free:
            free -= needs[-tick % block]
            now += fixed + per_kv * kv_tokens
            kv_tokens += decoding
            tick += 1
        self._tick, self.free_blocks = tick, free
        self._decoding_computed = kv_tokens - decoding
        return now

    def _schedule_one_by_one(self, needing: dict[int, Sequence]) -> tuple[int, int]:
        """Rules 3-10, by admission, for those who need blocks or prefill.

        Returns how many decodes rule 8 left out of this step, and their computed tokens.
        """
        block = self.limits.block_size
        threshold = self._prefill_threshold()
        for admitted, sequence in sorted([*needing.items(), *self._prefilling.items()]):
            if admitted not in self.running:
                continue  # preempted for somebody above
            computed = self.computed(sequence)
            decoding = sequence.end_tick >= 0
            n = 1 if decoding else min(sequence.known - computed, threshold, self._budget)
            if n <= 0:
                continue
            need = -(-(computed + n) // block) + -computed // block
            while need > self.free_blocks:
                victim = self._victim()
                self._preempt(victim)
                if victim is sequence:
                    return self._leave_out_after(admitted)
            self.free_blocks -= need
            self._scheduled[admitted] = n
            if not decoding:
                self._budget -= n
        return 0, 0

    def _victim(self) -> Sequence:
        """Rule 7: fcfs the last admitted, priority the largest `(priority, arrival)`."""
        if self.by_priority:
            return max(self.running.values(), key=lambda s: (s.job.priority, s.arrival, s.job.order))
        return self.running[next(reversed(self.running))]

    def _preempt(self, victim: Sequence) -> None:
        """Rules 7 and 9: it loses its blocks and its part of this step, and waits again."""
        del self.running[victim.admitted]
        given = self._scheduled.pop(victim.admitted, 0)
        if victim.end_tick >= 0:
            self._leave_group(victim)
            self._budget += 1
        else:
            del self._prefilling[victim.admitted]
            self._budget += given
        self.free_blocks += -(-(victim.computed + given) // self.limits.block_size)
        victim.computed = 0
        victim.admitted = -1
        victim.job.preemptions += 1
        if self.by_priority:
            self.add(victim)
        else:
            self._fcfs.appendleft(victim)

    def _leave_out_after(self, admitted: int) -> tuple[int, int]:
        """Rule 8: nobody admitted later is scheduled in this step; the decodes among them lose a tick."""
        count = computed = 0
        for later, sequence in self.running.items():
            if later > admitted and sequence.end_tick >= 0:
                count += 1
                computed += self.computed(sequence)
                del self._by_residue[sequence.base % self.limits.block_size][later]
                sequence.base -= 1
                self._enroll(sequence)
        self._decoding_computed -= count
        return count, computed

    def _prefill_threshold(self) -> int:
        """Rule 2: most prompt tokens of one request in a step."""
        threshold = self.limits.long_prefill_token_threshold
        return threshold if threshold and len(self.running) + self.waiting > 1 else self.limits.max_model_len

    def _admit(self, now: float) -> None:
        """Rules 12 and 15-17: take from the head of the queue while budget, slots and blocks last."""
        limits = self.limits
        block = limits.block_size
        threshold = self._prefill_threshold()
        while self._budget > 0 and len(self.running) < limits.max_num_seqs and (self._fcfs or self._heap):
            sequence = self._heap[0][-1] if self.by_priority else self._fcfs[0]
            if -(-sequence.known // block) > self.free_blocks:
                break  # rule 16, the whole-sequence gate; rule 17 asks for less
            if self.by_priority:
                heapq.heappop(self._heap)
            else:
                self._fcfs.popleft()
            n = min(sequence.known, threshold, self._budget)
            self.free_blocks -= -(-n // block)
            self._budget -= n
            sequence.admitted = self._admissions
            self._admissions += 1
            self.running[sequence.admitted] = sequence
            self._prefilling[sequence.admitted] = sequence
            self._scheduled[sequence.admitted] = n
            if sequence.job.started_s is None:
                sequence.job.started_s = now

    def _join_group(self, sequence: Sequence) -> None:
        del self._prefilling[sequence.admitted]
        sequence.base = sequence.computed - self._tick
        self._decoding += 1
        self._decoding_computed += sequence.computed
        self._enroll(sequence)

    def _enroll(self, sequence: Sequence) -> None:
        """Note when it will need blocks and when it will end; its last token is never computed."""
        self._by_residue[sequence.base % self.limits.block_size][sequence.admitted] = sequence
        sequence.end_tick = sequence.last - 1 - sequence.base
        heapq.heappush(self._ends, (sequence.end_tick, sequence.admitted, sequence))

    def _leave_group(self, sequence: Sequence) -> None:
        sequence.computed = sequence.base + self._tick
        sequence.known = sequence.computed + 1
        sequence.end_tick = -1
        self._decoding -= 1
        self._decoding_computed -= sequence.computed
        del self._by_residue[sequence.base % self.limits.block_size][sequence.admitted]
