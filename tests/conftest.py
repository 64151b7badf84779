"""Workloads that went through the whole pipe once, for the tests of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anybody imports numpy, here and in what is called from here. A worker for each core keeps them busy;
# threads of linear algebra would only spin while they wait for one, ten times as long as they compute.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

from cli import Stages, ok


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
