"""Queue depth over time against a count by brute force."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftkit.reporting.queue_depth import mean_depth, sparkline

intervals = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(intervals, st.integers(1, 12))
def test_the_mean_depth_is_the_overlap_over_the_width(spans: list[tuple[int, int]], bins: int) -> None:
    edges = np.linspace(-1.0, 62.0, bins + 1)
    starts = np.array([float(start) for start, _ in spans])
    ends = np.array([float(end) for _, end in spans])
    expected = [
        sum(max(0.0, min(end, right) - max(start, left)) for start, end in spans) / (right - left)
        for left, right in pairwise(edges.tolist())
    ]
    assert mean_depth(starts, ends, edges) == pytest.approx(expected, abs=1e-9)


@given(intervals)
def test_littles_law(spans: list[tuple[int, int]]) -> None:
    """Mean depth times the time watched is the sum of the waits."""
    edges = np.linspace(0.0, 60.0, 61)
    starts = np.array([float(start) for start, _ in spans])
    ends = np.array([float(end) for _, end in spans])
    assert mean_depth(starts, ends, edges).sum() == pytest.approx(float((ends - starts).sum()), abs=1e-6)


def test_far_from_zero_nothing_is_lost() -> None:
    """Instants of 1e9 seconds, as of a clock that counts from 1970."""
    origin = 1.7e9
    starts = origin + np.arange(1000) * 0.01
    depth = mean_depth(starts, starts + 0.5, np.linspace(origin + 1, origin + 9, 9))
    assert depth == pytest.approx(np.full(8, 50.0), rel=0.01)


def test_a_sparkline_reaches_from_nothing_to_the_largest() -> None:
    assert sparkline(np.array([0.0, 1.0, 4.0, 8.0, 0.5])) == "▁▂▅█▁"
    assert sparkline(np.zeros(3)) == "▁▁▁"
