"""What a detector is, and how rare its false alarms are to be.

Every detector is held to an average run length: of values as `Detector` describes them, a false alarm in ARL
on average, of `sprt` ten times as many. A tenant's detectors see that tenant alone, so that many tenants
together raise as many as one that sends as much.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

ARL = 1_000_000


class Alarm(NamedTuple):
    """What a detector says: its statistic, the threshold that it passed, and when the drift began, as far
    as the detector can tell."""

    statistic: float
    threshold: float
    since_s: float


class Rank(NamedTuple):
    """Where a residual lies among those before it, in [0, 1)."""

    #: of an output that was cut, by chance: anywhere above `least`
    drawn: float
    least: float
    cut: bool


class Detector(Protocol):
    """Sees one quantity of one tenant, value after value.

    Of `residual` the values are independent and uniform in (0, 1) while nothing drifts (`residuals`); `rank`
    is the same with what is known of outputs that were cut (`Rank`). The others are as the records have them.
    """

    name: ClassVar[str]
    #: the quantities that one each of it is to see: residual, rank, or inputs (`watch.INPUTS`)
    watches: ClassVar[tuple[str, ...]]

    def update(self, value: Any, at_s: float) -> Alarm | None:
        """Take in a value of a request that began at `at_s`, s. After an alarm it is not asked again."""
        ...

    def start_run(self) -> None:
        """Another clock begins: what was seen before counts as seen at 0."""
        ...

    def to_json(self) -> dict[str, Any]: ...

    def load_json(self, state: dict[str, Any]) -> None:
        """Restore what `to_json` gave; ValueError, KeyError or TypeError when it is something else."""
        ...
