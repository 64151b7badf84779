"""What a row of a table is about: a label, and a value of each field in `--by`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from driftkit.reporting.completions import Columns


def groups(data: Columns, by: Sequence[str]) -> Iterator[tuple[dict[str, str], Columns]]:
    """Each label, split by each field in turn, in order of first appearance."""
    yield from _split(data, ["label", *by], {})


def _split(
    data: Columns, by: Sequence[str], group: dict[str, str]
) -> Iterator[tuple[dict[str, str], Columns]]:
    if not by:
        yield group, data
        return
    for value, part in data.split(by[0]):
        yield from _split(part, by[1:], {**group, by[0]: value})
