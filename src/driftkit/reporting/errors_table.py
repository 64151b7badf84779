"""How far the estimates were off, before and after calibration, and how stable the length classes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from driftkit.records.schema import length_class
from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array, error
from driftkit.reporting.tables import Table

ESTIMATES = (("est_output_tokens", "estimate"), ("cal_output_tokens", "calibrated"))
CLASSES = ("short", "medium", "long")


def estimate_error(data: Columns, by: Sequence[str]) -> Table:
    """Error of the output estimate per label and group; calibrated rows say how much it changed."""
    columns = [
        ("label", "label"),
        *((name, name) for name in by),
        ("estimate", "estimate"),
        ("count", "count"),
    ]
    columns += [
        ("mae", "MAE"),
        ("rmse", "RMSE"),
        ("bias", "bias"),
        ("mape_percent", "MAPE %"),
        ("tau", "tau"),
    ]
    columns += [("mae_change_percent", "MAE change %"), ("rmse_change_percent", "RMSE change %")]
    table = Table("error", "Estimate error", columns)
    units = set()
    for group, part in groups(data.ok, by):
        actual, unit = part.observed
        before = None
        for field, name in ESTIMATES:
            of = error(part[field], actual)
            if of is None:
                continue
            units.add(unit)
            row: dict[str, Any] = {
                **group,
                "estimate": name,
                "count": of.n,
                "mae": of.mae,
                "rmse": of.rmse,
            }
            row.update(bias=of.bias, mape_percent=of.mape, tau=of.tau)
            if before is not None and before.mae > 0:
                row["mae_change_percent"] = (of.mae / before.mae - 1) * 100
                row["rmse_change_percent"] = (of.rmse / before.rmse - 1) * 100
            before = of
            table.rows.append(row)
    if units:
        table.notes.append(
            f"estimated against actual output, in {', '.join(sorted(units))}; bias is estimate minus actual; "
            "tau is Kendall's tau-b"
        )
    return table


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
