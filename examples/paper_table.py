"""The table of examples/paper.sh: claim, the paper's number, ours with a 95 % interval.

Reads the reports (`driftkit report --format jsonl`) that paper.sh left in a folder; computes nothing itself
but the mean over categories that the paper quotes.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from driftkit.reporting.stats import t_interval
from driftkit.reporting.tables import Table, rendered

Row = dict[str, Any]


def rows(folder: Path, report: str, table: str) -> Iterator[Row]:
    with open(folder / f"{report}.report") as lines:
        yield from (row for row in map(json.loads, lines) if row["table"] == table)


def change(folder: Path, report: str, label: str, statistic: str) -> Row:
    """End-to-end latency of `label` against the report's baseline: percent, with its interval."""
    for row in rows(folder, report, "paired"):
        if (row["label"], row["metric"], row["statistic"]) == (label, "e2e_s", statistic):
            return row
    raise SystemExit(f"{report}: no {statistic} of {label}")


def error_changes(folder: Path, report: str, label: str, field: str) -> list[float]:
    """Per workload, the mean over categories of the change of an error by calibration, percent."""
    runs: dict[str, list[float]] = defaultdict(list)
    for row in rows(folder, report, "error"):
        if row["label"] == label and row["estimate"] == "calibrated":
            runs[row["run_id"]].append(row[field])
    return [float(np.mean(values)) for values in runs.values()]


def interval(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}"


def verdict(paper: float, ours: float, within: float) -> str:
    off = abs(ours - paper)
    return f"within {within:g} points" if off <= within else f"off by {off:.1f} points (allowed {within:g})"


class Claims:
    """The table as it grows; `None` for the paper's number where it gives none."""

    def __init__(self, title: str) -> None:
        columns = [
            ("claim", "claim"),
            ("paper", "paper %"),
            ("ours", "ours %"),
            ("interval", "95 % interval"),
        ]
        self.table = Table("paper", title, [*columns, ("verdict", "verdict")])

    def add(self, claim: str, paper: float | None, ours: float, spread: str, verdict: str = "") -> None:
        row = {"claim": claim, "paper": paper, "ours": ours, "interval": spread, "verdict": verdict}
        self.table.rows.append(row)

    def latency(
        self,
        folder: Path,
        report: str,
        label: str,
        statistic: str,
        claim: str,
        paper: float | None,
        within: float,
    ) -> None:
        row = change(folder, report, label, statistic)
        ours = row["change_percent"]
        judged = verdict(paper, ours, within) if paper is not None and within else ""
        self.add(claim, paper, ours, interval(row["low_percent"], row["high_percent"]), judged)

    def error(
        self,
        folder: Path,
        report: str,
        label: str,
        field: str,
        claim: str,
        paper: float | None,
        within: float,
    ) -> None:
        values = np.array(error_changes(folder, report, label, field))
        mean, low, high = t_interval(values)
        judged = verdict(paper, mean, within) if paper is not None and within else ""
        self.add(claim, paper, mean, interval(low, high), judged)


def headline(folder: Path) -> Table:
    claims = Claims("The paper's claims: gang batches, stress phase, change in percent")
    sjf = "static-sjf"
    claims.latency(folder, "base-static", sjf, "p50", "SJF against FIFO, median", -42, 6)
    claims.latency(folder, "base-static", sjf, "p99", "SJF against FIFO, P99", -16, 6)
    label = "near-cap-whitespace-ema"
    for field, name, paper in (("mae_change_percent", "MAE", -38.8), ("rmse_change_percent", "RMSE", -40.5)):
        claim = f"calibration, {name}: near-cap outputs counted in words"
        claims.error(folder, "base-error", label, field, claim, paper, 8)
    for lengths, tokenizer in (("near-cap", "builtin"), ("chat", "whitespace"), ("chat", "builtin")):
        for field, name in (("mae_change_percent", "MAE"), ("rmse_change_percent", "RMSE")):
            unit = "words" if tokenizer == "whitespace" else "tokens"
            claim = f"calibration, {name}: {lengths} outputs counted in {unit}"
            claims.error(folder, "base-error", f"{lengths}-{tokenizer}-ema", field, claim, None, 0)
    claims.latency(folder, "base-static", "static-priority", "mean", "priority against FIFO, mean", None, 0)
    claims.latency(folder, "base-static", "static-aging", "mean", "aging against FIFO, mean", None, 0)
    claims.latency(folder, "base-static", "static-weighted", "mean", "weighted against FIFO, mean", None, 0)
    claim = "SJF without calibration against FIFO, median"
    claims.latency(folder, "base-static", "static-sjf-uncalibrated", "p50", claim, None, 0)
    return claims.table


def beyond(folder: Path) -> Table:
    claims = Claims("What the paper does not say (paper %: a quick replica's number)")
    oracle = "static-oracle-sjf"
    claims.latency(folder, "base-static", oracle, "p50", "gangs: SJF with true lengths, median", -58, 0)
    claims.latency(folder, "base-static", oracle, "p99", "gangs: SJF with true lengths, P99", -24, 0)
    for policy in ("priority", "weighted", "sjf", "aging", "oracle-sjf"):
        label = f"continuous-{policy}"
        claims.latency(folder, "base-continuous", label, "p50", f"continuous: {policy}, median", None, 0)
        claims.latency(folder, "base-continuous", label, "p99", f"continuous: {policy}, P99", None, 0)
    claim = "continuous FIFO of 32 slots against gangs of 32, median"
    claims.latency(folder, "base-batching", "continuous32-fifo", "p50", claim, -25, 0)
    claim = "continuous FIFO of 256 slots against gangs of 32, median"
    claims.latency(folder, "base-batching", "continuous-fifo", "p50", claim, None, 0)
    for lengths, tokenizer in (("near-cap", "whitespace"), ("near-cap", "builtin"), ("chat", "builtin")):
        unit = "words" if tokenizer == "whitespace" else "tokens"
        claim = f"calibration by ratio, MAE: {lengths} outputs in {unit}"
        paper = -60 if lengths == "near-cap" else None
        claims.error(
            folder, "base-error", f"{lengths}-{tokenizer}-ratio", "mae_change_percent", claim, paper, 0
        )
    return claims.table


def sensitivity(folder: Path) -> Table:
    claims = Claims("The same when the constants move by 20 %")
    for scaled in ("step-time-x0.8", "step-time-x1.2", "lengths-x0.8", "lengths-x1.2"):
        for statistic, name, paper in (("p50", "median", -42), ("p99", "P99", -16)):
            claim = f"{scaled}: SJF against FIFO, {name}"
            claims.latency(folder, f"{scaled}-static", "static-sjf", statistic, claim, paper, 6)
    for scaled in ("lengths-x0.8", "lengths-x1.2", "words-x0.8", "words-x1.2"):
        for field, name, paper in (
            ("mae_change_percent", "MAE", -38.8),
            ("rmse_change_percent", "RMSE", -40.5),
        ):
            claim = f"{scaled}: calibration, {name}, near-cap in words"
            label = "near-cap-whitespace-ema"
            claims.error(folder, f"{scaled}-error", label, field, claim, paper, 8)
    return claims.table


def tiers(folder: Path) -> Table:
    table = Table("tiers", "Tiers, as `driftkit report` says it", [("label", "run"), ("finding", "finding")])
    for report in ("base-static", "base-continuous"):
        table.rows += rows(folder, report, "tiers")
    return table


def main() -> None:
    folder = Path(sys.argv[1])
    table = headline(folder)
    runs = change(folder, "base-static", "static-sjf", "p50")["runs"]
    table.notes.append(
        f"over {runs} workloads (seeds), Student's t; `driftkit report --baseline` on each report"
    )
    tables = [table, beyond(folder), sensitivity(folder), tiers(folder)]
    print(rendered(tables, sys.stdout, "auto"), end="")


if __name__ == "__main__":
    main()
