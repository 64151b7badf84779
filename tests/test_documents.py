"""Every command of the README and the examples runs, and the README shows what the demo prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def readme_commands() -> list[str]:
    """The text of each `sh` fence of the README, but for the two `make` calls, which CI runs."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if not block.startswith("make ")]


def shell(script: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def azure_csv(tmp_path: Path) -> Path:
    """A small trace of our own in Azure's format."""
    rows = []
    for i in range(300):
        clock = f"18:{15 + i // 120:02d}:{i // 2 % 60:02d}.{i * 49_999 % 10_000_000:07d}"
        rows.append(f"2023-11-16 {clock},{100 + i},{1 + i % 200}")
    path = tmp_path / "AzureLLMInferenceTrace_conv.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "\r\n".join(sorted(rows)))
    return path


def test_the_readme_runs_from_top_to_bottom(tmp_path: Path, azure_csv: Path) -> None:
    """With 300 requests where a workload has 3,000: what the commands make of many is tested elsewhere."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = readme_commands()
    assert len(commands) >= 4
    printed = "".join(shell(block, tmp_path, DRIFTKIT_GEN_REQUESTS="300") for block in commands)
    for title in ("Latency", "Estimate error", "Fairness", "Tiers", "Against fifo"):
        assert f"\n{title}\n" in f"\n{printed}"
    assert (tmp_path / "learned").is_dir()
    assert (tmp_path / "summary.jsonl").stat().st_size > 1000
    tenants = (tmp_path / "tenants.txt").read_text()
    for policy in ("fifo", "priority", "sjf", "oracle-sjf"):
        assert re.search(rf"(?m)^  {policy} +e2e_s +300 ", printed), "examples/azure.sh"
        for tier in ("interactive", "background"):
            assert re.search(rf"(?m)^  {policy} +{tier} +e2e_s +\d+ ", tenants)


def test_the_gateway_log_of_the_readme(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"```\n(driftkit gen --trace gateway.csv.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    rows = [
        f"{1_700_000_000_000 + 40 * n},{900 + n},{50 + n},{n % 9 + 1},{'red' if n % 3 else 'blue'}"
        for n in range(60)
    ]
    (tmp_path / "gateway.csv").write_text("ts_ms,took_ms,in,out,team\n" + "\n".join(rows) + "\n")
    printed = shell(block, tmp_path)
    assert re.search(r"(?m)^  gateway +blue +e2e_s +20 ", printed)
    assert re.search(r"(?m)^  gateway +red +e2e_s +40 ", printed)


def test_the_readme_shows_what_the_demo_prints() -> None:
    shell(f"{sys.executable} {ROOT / 'tools' / 'update_readme.py'} --check", ROOT)


def test_the_fit_example_brings_a_real_run_within_a_few_percent(tmp_path: Path) -> None:
    printed = shell(f"{ROOT}/examples/fit.sh", tmp_path)
    (fitted,) = [
        line.split() for line in printed.splitlines() if line.split()[:3] == ["fitted", "e2e_s", "mean"]
    ]
    assert abs(float(fitted[5])) < 3  # change against measured, %; before the fit 44


def test_the_price_of_error_lies_between_the_prompts_length_and_the_oracle(tmp_path: Path) -> None:
    printed = shell(f"SEEDS=1 REQUESTS=400 {ROOT}/examples/price_of_error.sh", tmp_path)
    change = {
        line.split()[0]: float(line.split()[5])
        for line in printed.splitlines()
        if line.split()[1:3] == ["e2e_s", "mean"]
    }
    assert change["oracle"] < change["predicted"] < 0
    assert set(change) == {"oracle", "predicted", "calibrated", "table"}


def test_the_price_of_error_on_completions_of_ones_own(tmp_path: Path) -> None:
    script = f"""
    driftkit gen --spec {ROOT}/examples/tenants.toml --requests 120 | driftkit run >taught.jsonl
    driftkit gen --spec {ROOT}/examples/tenants.toml --requests 60 --seed 1 |
      driftkit estimate --model oracle | driftkit run | driftkit calibrate >served.jsonl
    {ROOT}/examples/price_of_error.sh taught.jsonl served.jsonl -- --max-num-seqs 2
    """
    printed = shell(script, tmp_path)
    for label in ("oracle", "predicted", "table", "prompt-length"):
        assert re.search(rf"(?m)^  {label} +as made +60 +tokens ", printed)
    assert re.findall(r"(?m)^  (\S+) +calibrated +60 +tokens ", printed) == ["calibrated"]
    assert re.search(r"(?m)^  oracle +e2e_s +mean .* 60 +bootstrap$", printed)
    with pytest.raises(AssertionError, match="usage: examples"):
        shell(f"{ROOT}/examples/price_of_error.sh taught.jsonl", tmp_path)
