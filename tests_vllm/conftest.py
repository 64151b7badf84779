"""Real vLLM on the CPU: a model, and a server of it that the tests share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import tiny_model
from vllm_server import VllmServer, serve


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model.make(folder)
    return folder


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """It orders by priority, and refuses whoever comes while 100 requests are in it."""
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    priority = ["--scheduling-policy", "priority", "--max-num-queued-reqs", "100"]
    with serve(model, log, *priority, "--enable-per-request-metrics") as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the server said last, beside a test that failed with it."""
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(running, VllmServer):
        report.sections.append(("vllm serve", running.last_lines()))
    return report
