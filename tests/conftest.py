"""Workloads that went through the whole pipe once, for the tests of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from cli import Stages, ok

settings.register_profile("driftkit", deadline=None)  # by the clock of a machine that does other things too
settings.load_profile("driftkit")
# A pytest worker for each core keeps all busy: threads of linear algebra would spin while they wait for one,
# up to twenty times as long as they compute. Read when numpy is imported, which nobody has done yet.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")


def make_stages(folder: Path, requests: int) -> Stages:
    paths = Stages(*(folder / f"{stage}.jsonl" for stage in Stages._fields))
    paths.requests.write_bytes(ok(["gen", "--preset", "driftsched", "--requests", str(requests)]))
    paths.estimated.write_bytes(ok(["estimate", paths.requests]))
    paths.scheduled.write_bytes(ok(["schedule", "--policy", "sjf", paths.estimated]))
    paths.completions.write_bytes(ok(["run", paths.scheduled]))
    paths.calibrated.write_bytes(ok(["calibrate", paths.completions]))
    return paths


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """48 requests."""
    return make_stages(tmp_path_factory.mktemp("stages"), 48)


@pytest.fixture(scope="session")
def long_stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Enough requests that no pipe holds what a stage makes of them."""
    return make_stages(tmp_path_factory.mktemp("long-stages"), 600)
