"""What steps draw, what a cap on the watts costs, and what the report says of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import jsonl, ok, records, run, said
from driftkit.engines.sim import profiles
from driftkit.engines.sim.latency import Load, StepTime
from driftkit.engines.sim.power import MEMORY_SHARE, StepPower, busy_s, capped
from driftkit.engines.sim.profile import Gpu, load_gpu, load_model
from driftkit.errors import UsageError

GPUS = [load_gpu(name) for name in profiles.GPUS]
MODEL = load_model("llama-3.1-8b")

loads = st.builds(
    lambda decoding, context, chunk, computed: Load(
        tokens=decoding + chunk,
        sequences=decoding + (chunk > 0),
        decode_kv=decoding * context,
        prefill_kv=computed + chunk if chunk else 0,
        prefill_pairs=chunk * computed + chunk * (chunk + 1) // 2,
    ),
    decoding=st.integers(0, 300),
    context=st.integers(1, 20_000),
    chunk=st.integers(0, 8192),
    computed=st.integers(0, 100_000),
)
CHAT = Load(tokens=16, sequences=16, decode_kv=16 * 500, prefill_kv=0, prefill_pairs=0)
PROMPT = Load(tokens=2048, sequences=1, decode_kv=0, prefill_kv=2048, prefill_pairs=2048 * 2049 // 2)


def watts(load: Load, step_time: StepTime, power: StepPower) -> float:
    seconds = step_time.seconds(load)
    return power.joules(load, seconds) / seconds


def test_a_step_by_hand() -> None:
    """Ten tokens of 0.08 s each and two of 0.1 s in the head, under weights of 2 s: busy as 1 + half of 2 s.

    Beside a prompt, 100 KV tokens are read in 0.01 s each against 0.004 s of arithmetic (two rows): busy as
    0.004 + 0.005 each, 0.9 s. The prompt's attention, 5 s of arithmetic and 1 s of memory, is bound by
    arithmetic: 5 s. In all 2 + 0.9 + 5 = 7.9 s at 90 W above idle, and 10 W of idle over 9 s: 711 + 90 J.
    """
    assert MEMORY_SHARE == 0.5
    step_time = StepTime(1.0, 0.0, 2.0, 0.08, 0.01, 0.002, head_s=0.1, shared_kv_s=0.004)
    gpu = replace(load_gpu("l4"), idle_watts=10.0, peak_watts=100.0)
    power = StepPower.of(gpu, step_time)
    load = Load(tokens=10, sequences=2, decode_kv=100, prefill_kv=100, prefill_pairs=2500)
    assert power.joules(load, 9.0) == pytest.approx(801)


@given(loads, st.sampled_from(GPUS))
def test_nothing_draws_less_than_idle_or_more_than_the_peak(load: Load, gpu: Gpu) -> None:
    step_time = StepTime.of(gpu, MODEL)
    drawn = watts(load, step_time, StepPower.of(gpu, step_time))
    assert gpu.idle_watts <= drawn <= gpu.peak_watts * (1 + 1e-12)


@given(st.integers(1, 1000), st.integers(1, 10**6), st.sampled_from(GPUS))
def test_decoding_costs_so_much_and_so_much_more_per_kv_token(n: int, kv: int, gpu: Gpu) -> None:
    step_time = StepTime.of(gpu, MODEL)
    power = StepPower.of(gpu, step_time)
    load = Load(n, n, kv, 0, 0)
    fixed, per_kv = power.decode(n, *step_time.decode(n, n))
    assert fixed + per_kv * kv == pytest.approx(power.joules(load, step_time.seconds(load)), rel=1e-12)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_prompts_draw_more_than_decoding(gpu: Gpu) -> None:
    """POLCA, Splitwise: prompts at an A100's limit, decoding well under it."""
    step_time = StepTime.of(gpu, MODEL)
    power = StepPower.of(gpu, step_time)
    assert watts(PROMPT, step_time, power) > 0.95 * gpu.peak_watts
    assert watts(CHAT, step_time, power) < 0.8 * gpu.peak_watts


def test_a_kernel_is_never_busier_than_it_is_long() -> None:
    assert busy_s(3.0, 1.0) == 3.0
    assert busy_s(1.0, 3.0) == 2.5
    assert busy_s(2.0, 3.0) == 3.0
    assert busy_s(0.0, 3.0) == 1.5


# --- a cap ----------------------------------------------------------------------------------------


def test_a_cap_by_hand() -> None:
    """A quarter of an H100's 590 W above idle: 257.5 W, at half the clock."""
    gpu = load_gpu("h100")
    half = capped(gpu, 257.5)
    assert half == replace(gpu, peak_watts=257.5, peak_flops=gpu.peak_flops / 2)
    assert capped(gpu, gpu.peak_watts) == gpu


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_cap_slows_prompts_and_hardly_decoding(gpu: Gpu) -> None:
    cap = gpu.idle_watts + (gpu.peak_watts - gpu.idle_watts) / 2
    full, slow = StepTime.of(gpu, MODEL), StepTime.of(capped(gpu, cap), MODEL)
    free, bound = StepPower.of(gpu, full), StepPower.of(capped(gpu, cap), slow)
    assert 1.3 < slow.seconds(PROMPT) / full.seconds(PROMPT) < 1.45  # 1 / sqrt(1/2) is 1.41
    assert slow.seconds(CHAT) / full.seconds(CHAT) < 1.03
    assert watts(PROMPT, slow, bound) <= cap
    for load in (PROMPT, CHAT):
        assert bound.joules(load, slow.seconds(load)) < free.joules(load, full.seconds(load))


@pytest.mark.parametrize("cap", [0.1, 28.0, 31.9, 72.1, 1e300])
def test_caps_that_cannot_be(cap: float) -> None:
    with pytest.raises(UsageError, match=r"--power-cap: expected 31.96 to 72 watts on l4"):
        capped(load_gpu("l4"), cap)


LONG_PROMPTS = jsonl(
    {"id": str(n), "arrival_s": 2.0 * n, "prompt_tokens": 1500, "trace_output_tokens": 60} for n in range(12)
)


def test_a_run_under_a_cap_starts_later_speaks_as_fast_and_takes_less() -> None:
    def totals(*options: str) -> tuple[float, float, float]:
        rows = records(ok(["run", "--gpu", "h100", "--served-model", "llama-3.1-8b", *options], LONG_PROMPTS))
        ttft, tpot = (sum(row[name] for row in rows) for name in ("ttft_s", "tpot_s"))
        return ttft, tpot, sum(row["energy_j"] for row in rows)

    free, bound = totals(), totals("--power-cap", "350")
    assert bound[0] > 1.3 * free[0]
    assert bound[1] < 1.01 * free[1]
    assert bound[2] < 0.75 * free[2]


@pytest.mark.parametrize("cap", ["20", "80", "0", "-1", "nan", "inf", "x"])
@pytest.mark.parametrize("command", [["run"], ["schedule", "--policy", "fifo"]], ids=lambda args: args[0])
def test_a_call_with_a_cap_that_cannot_be(command: list[str], cap: str) -> None:
    assert "--power-cap" in said(run([*command, "--power-cap", cap], LONG_PROMPTS), 2)[0]


# --- what is said of it ---------------------------------------------------------------------------


def test_the_report_says_what_its_joules_are() -> None:
    done = ok(["run"], LONG_PROMPTS)
    text = " ".join(ok(["report"], done).decode().split())
    assert "A request's joules are its share, by tokens computed, of the steps it was in" in text
    (row,) = [row for row in records(ok(["report", "--format", "jsonl"], done)) if row["table"] == "energy"]
    joules = sum(json.loads(line)["energy_j"] for line in done.splitlines())
    assert row["energy_j"] == pytest.approx(joules)
    assert row["tokens_per_j"] == pytest.approx(12 * 60 / joules)


def test_a_refused_request_cost_nothing_that_is_known() -> None:
    refused = jsonl([{"id": "r", "arrival_s": 0, "prompt_tokens": 40_000, "trace_output_tokens": 1}])
    result = run(["run"], refused)
    assert result.returncode == 3
    assert "energy_j" not in records(result.stdout)[0]
