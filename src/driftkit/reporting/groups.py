"""What a row of a table is about: a label, and a value of each field in `--by`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from driftkit.reporting.completions import Columns


def groups(
    data: Columns, by: Sequence[str], *, label: bool = True
) -> Iterator[tuple[dict[str, str], Columns]]:
    """Each label (or all of them together), split by each field in turn; tiers come by their level."""
    yield from _split(data, ["label", *by] if label else by, {})


def _split(
    data: Columns, by: Sequence[str], group: dict[str, str]
) -> Iterator[tuple[dict[str, str], Columns]]:
    if not by:
        yield group, data
        return
    parts = list(data.split(by[0]))
    if by[0] == "tier":
        parts.sort(key=lambda part: _level(part[1]))
    for value, part in parts:
        yield from _split(part, by[1:], {**group, by[0]: value})


def _level(tier: Columns) -> float:
    levels = tier["tier_level"]
    return float(np.min(levels, initial=np.inf, where=~np.isnan(levels)))
