"""Every step of real vLLM runs, from the rules: see tests/fixtures/README.md for the runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from grouped_scheduler import Grouped
from recordings import PlainReference, read, replay

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("vllm_*_steps_*.jsonl.gz"))
# of two of one instant vLLM evicts who was admitted first; the simulator receives one after the other
ONE_BY_ONE = [path for path in FIXTURES if "ties" not in path.name]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name.split(".")[0])
def test_the_plain_rules_decide_as_vllm_did(path: Path) -> None:
    recording = read(path)
    assert sum("sch" in step for step in recording.steps) > 300
    assert any(step.get("pre") for step in recording.steps)
    assert list(replay(recording, PlainReference(recording))) == []


@pytest.mark.parametrize("path", ONE_BY_ONE, ids=lambda path: path.name.split(".")[0])
def test_the_simulator_decides_as_vllm_did(path: Path) -> None:
    recording = read(path)
    grouped = Grouped(recording)
    assert list(replay(recording, grouped)) == []
    assert not grouped.scheduler.busy
    assert grouped.scheduler.cache.free == recording.limits.num_gpu_blocks - 1
