"""How a real run is getting on, in one line on standard error that is written over.

Not rich's progress bar: drawing one takes milliseconds, in which no request could be sent on time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

REFRESH_S = 0.25
ERASE = "\r\x1b[K"


@dataclass
class Progress:
    """`total` requests are to be sent until `last_s` on the run's clock; None under --follow."""

    total: int | None
    last_s: float | None
    ended: int = 0
    failed: int = 0
    shown: bool = field(default_factory=lambda: sys.stderr.isatty())

    def line(self, now_s: float, in_flight: int) -> str:
        """What there is to see at an instant on the run's clock."""
        rate = self.ended / now_s if now_s > 0 else 0.0
        of = "" if self.total is None else f" of {self.total}"
        left = ""
        if self.last_s is not None and now_s < self.last_s:
            left = f", {_clock(self.last_s - now_s)} until the last is due"
        failed = f", {self.failed} failed" if self.failed else ""
        done = f"{_clock(now_s)} {self.ended}{of} done, {in_flight} in flight{failed}"
        return f"{done}, {rate:.1f}/s{left}"

    def show(self, now_s: float, in_flight: int) -> None:
        if self.shown:
            sys.stderr.write(ERASE + self.line(now_s, in_flight))
            sys.stderr.flush()

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write(ERASE)
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
