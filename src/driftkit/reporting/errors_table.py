"""How far the estimates were off, before and after calibration, and how stable the length classes are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from driftkit.records.schema import length_class
from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array, Error, error
from driftkit.reporting.tables import Table, shown

ESTIMATES = (("est_output_tokens", "as made"), ("cal_output_tokens", "calibrated"))
CLASSES = ("short", "medium", "long")


def estimate_error(data: Columns, by: Sequence[str]) -> Table:
    """Error of the output estimate per label and group: as made, cut at `max_tokens`, calibrated.

    The cut, which needs no learning, is shown where it changes anything, so that calibration is not given
    credit for it.
    """
    columns = [("label", "label"), *((name, name) for name in by), ("estimate", "estimate")]
    columns += [("count", "count"), ("unit", "unit"), ("mae", "MAE"), ("rmse", "RMSE"), ("bias", "bias")]
    columns += [("mape_percent", "MAPE %"), ("tau", "tau")]
    columns += [("mae_change_percent", "MAE change %"), ("rmse_change_percent", "RMSE change %")]
    table = Table("error", "Estimate error", columns)
    for group, part in groups(data.ok, by):
        actual, unit = part.observed
        made = part["est_output_tokens"]
        first = error(made, actual)
        for name, estimate in _estimates(part, made, unit):
            of = error(estimate, actual)
            if of is None:
                continue
            row: dict[str, Any] = {**group, "estimate": name, "count": of.n, "unit": unit}
            row.update(mae=of.mae, rmse=of.rmse, bias=of.bias, mape_percent=of.mape, tau=of.tau)
            if name != "as made" and first is not None:
                if first.mae > 0:
                    row["mae_change_percent"] = (of.mae / first.mae - 1) * 100
                    row["rmse_change_percent"] = (of.rmse / first.rmse - 1) * 100
                if name == "calibrated":
                    table.notes += _harm(group, first, of)
            table.rows.append(row)
    if table.rows:
        table.notes.insert(
            0,
            "estimated against actual output; bias is estimate minus actual; tau is Kendall's tau-b: how "
            "well the order is known",
        )
    return table


def _estimates(part: Columns, made: Array, unit: str) -> Iterator[tuple[str, Array]]:
    yield "as made", made
    cap = part["max_tokens"]
    if unit == "tokens" and bool((made > cap).any()):
        yield "cut at max_tokens", np.fmin(made, cap)
    yield "calibrated", part["cal_output_tokens"]


def _harm(group: dict[str, str], before: Error, after: Error) -> Iterator[str]:
    """Calibration that made things worse is said in words."""
    name = " ".join(group.values())
    if after.mae > 1.02 * before.mae:
        yield f"{name}: calibration makes the error larger: MAE {shown(before.mae)} to {shown(after.mae)}"
    if after.tau < before.tau - 0.05:
        yield (
            f"{name}: calibration makes the order worse, on which sjf depends: tau {shown(before.tau)} to "
            f"{shown(after.tau)}"
        )


def class_stability(data: Columns, by: Sequence[str]) -> Table:
    """Requests of each budgeted class by the class that prompt and actual output fell into."""
    columns = [
        ("label", "label"),
        *((name, name) for name in by),
        ("estimate", "estimate"),
        ("class", "class"),
    ]
    columns += [(f"actual_{name}", f"was {name}") for name in CLASSES] + [("agree_percent", "agree %")]
    table = Table("classes", "Class stability", columns)
    for group, part in groups(data.ok, by):
        actual, _ = part.observed
        for field, name in ESTIMATES:
            known = ~np.isnan(part[field]) & ~np.isnan(actual) & ~np.isnan(part["prompt_tokens"])
            budget = _classes((part["prompt_tokens"] + part[field])[known])
            happened = _classes((part["prompt_tokens"] + actual)[known])
            for place, label in enumerate(CLASSES):
                counts = [int(((budget == place) & (happened == other)).sum()) for other in range(3)]
                if sum(counts):
                    row: dict[str, Any] = {**group, "estimate": name, "class": label}
                    row.update({f"actual_{other}": n for other, n in zip(CLASSES, counts, strict=True)})
                    row["agree_percent"] = counts[place] / sum(counts) * 100
                    table.rows.append(row)
    if table.rows:
        table.notes.append("class of prompt plus output: short to 128, medium to 512, else long")
    return table


def _classes(totals: Array) -> Array:
    """0, 1, 2 for short, medium, long: where `length_class` draws its lines."""
    lines = [total for total in range(1, 1024) if length_class(total) != length_class(total + 1)]
    return np.searchsorted(lines, totals, side="left").astype(np.float64)
