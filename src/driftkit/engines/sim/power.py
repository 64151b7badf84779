"""What a step draws: a GPU's idle watts, and more of the way to its peak the busier the step keeps it.

watts = idle + (peak - idle) * utilisation. Arithmetic drives a card to its peak; reading memory while the
arithmetic waits drives it `MEMORY_SHARE` of the way. So prompts draw the peak and decoding much less, as was
measured (POLCA, arXiv 2308.12908; Splitwise's perf_model.csv: prompts at 1.0 to 1.09 of an A100's limit, a
request of which 97 % is decoding at 0.73). What a step spends between its kernels is idle.

An energy is then a sum of constants times what the step computes, as the roofline of energy has it (Choi et
al., IPDPS 2013), and affine in the KV tokens read, as the step's time is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from driftkit.engines.sim.latency import Load, StepTime
from driftkit.engines.sim.profile import Gpu
from driftkit.errors import UsageError

#: Reading memory at full speed, of the way from idle to peak. An assumption, between what one request at a
#: time shows: 0.65 on an A100 (Splitwise's perf_model.csv: 0.73 of 400 W) and 0.32 on an H100 (ML.ENERGY: 300
#: of 700 W). Decoding on an H200 was measured at 137 to 300 of 700 W (arXiv 2605.11999).
MEMORY_SHARE = 0.5

#: Watts above idle, at full utilisation, go with this power of the clock. An assumption, between 1 (the
#: voltage is at its floor) and 3 (it follows the clock); speeds and clocks under power limits give 1.2 to 2.4
#: (sweeps of RTX 3090s, llmgarage.ai, and of an RTX PRO 6000, Light-Heart-Labs/MMBT-Messy-Model-Bench-Tests).
CLOCK_EXPONENT = 2

#: The lowest clock, of the full one, that a cap may ask for: memory stays as fast down to there and below
#: (arXiv 2501.08219: decoding 1 to 6 % slower at a fifteenth), but drivers refuse limits that low.
LOWEST_CLOCK = 0.3


@dataclass(frozen=True, slots=True)
class StepPower:
    """Joules of a step: watts at no utilisation, what full utilisation adds, and seconds as in StepTime.

    A KV token read for a single token keeps the card busy for `kv_busy_s`, beside a prompt `shared_busy_s`.
    """

    idle_watts: float
    dynamic_watts: float
    weights_s: float
    token_s: float
    kv_token_s: float
    pair_s: float
    head_s: float
    kv_busy_s: float
    shared_busy_s: float

    @classmethod
    def of(cls, gpu: Gpu, step_time: StepTime) -> StepPower:
        pair_s, kv_token_s = step_time.pair_s, step_time.kv_token_s
        return cls(
            idle_watts=gpu.idle_watts,
            dynamic_watts=gpu.peak_watts - gpu.idle_watts,
            weights_s=step_time.weights_s,
            token_s=step_time.token_s,
            kv_token_s=kv_token_s,
            pair_s=pair_s,
            head_s=step_time.head_s,
            kv_busy_s=busy_s(pair_s, kv_token_s),
            shared_busy_s=busy_s(max(pair_s, step_time.shared_kv_s), kv_token_s),
        )

    def joules(self, load: Load, seconds: float) -> float:
        """Of a step that takes `seconds`."""
        tokens, sequences, decode_kv, prefill_kv, prefill_pairs = load
        busy = busy_s(self.token_s * tokens + self.head_s * sequences, self.weights_s)
        if prefill_pairs:
            busy += self.shared_busy_s * decode_kv
            busy += busy_s(self.pair_s * prefill_pairs, self.kv_token_s * prefill_kv)
        else:
            busy += self.kv_busy_s * decode_kv
        return self.idle_watts * seconds + self.dynamic_watts * busy

    def decode(self, requests: int, fixed_s: float, per_kv_s: float) -> tuple[float, float]:
        """(joules, joules per KV token read) of a step in which nobody prefills; of its seconds likewise."""
        idle, dynamic = self.idle_watts, self.dynamic_watts
        busy = busy_s((self.token_s + self.head_s) * requests, self.weights_s)
        return idle * fixed_s + dynamic * busy, idle * per_kv_s + dynamic * self.kv_busy_s


def busy_s(arithmetic_s: float, memory_s: float) -> float:
    """Seconds at full utilisation that draw as much as a kernel does, whose arithmetic and memory overlap."""
    longer = arithmetic_s if arithmetic_s > memory_s else memory_s
    both = arithmetic_s + MEMORY_SHARE * memory_s
    return both if both < longer else longer


def capped(gpu: Gpu, watts: float) -> Gpu:
    """The GPU with its clock locked where full utilisation draws `watts`; UsageError where it cannot.

    Arithmetic slows with the clock, memory does not: on an H200 a locked clock saves up to a third of what
    decoding takes, at hardly any loss (arXiv 2605.11999). A driver's power limit comes into play only where a
    step would draw more, and would leave decoding its clock and its watts.
    """
    dynamic = gpu.peak_watts - gpu.idle_watts
    least = gpu.idle_watts + dynamic * LOWEST_CLOCK**CLOCK_EXPONENT
    if not least <= watts <= gpu.peak_watts:
        raise UsageError(
            f"--power-cap: expected {least:.4g} to {gpu.peak_watts:g} watts on {gpu.name}, got {watts:g}",
            hint=f"it draws {gpu.idle_watts:g} W idle and {gpu.peak_watts:g} W at its peak, and clocks under "
            f"{LOWEST_CLOCK:g} of the full one are not modelled",
        )
    clock = ((watts - gpu.idle_watts) / dynamic) ** (1 / CLOCK_EXPONENT)
    return replace(gpu, peak_watts=watts, peak_flops=gpu.peak_flops * clock)
