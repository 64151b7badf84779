"""This process and its descendants, from Linux's /proc: processor time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from driftkit.engines.telemetry.source import UnavailableError
from driftkit.records.schema import Record

#: samples between two searches for new descendants, which read every process of the machine
SEARCH_EVERY = 10
#: processor time is counted in ticks of mostly 10 ms: over less than this the ratio would be noise
SHORTEST_S = 0.1


class Usage(NamedTuple):
    """Of one process: its parent, processor ticks so far, when it began, resident pages; proc_pid_stat(5)."""

    parent: int
    ticks: int
    began: int
    pages: int


def processes() -> list[Processes]:
    """This process as a source; none where there is no /proc."""
    return [Processes(os.getpid())] if usage(os.getpid()) is not None else []


class Processes:
    """`cpu_ratio` since the sample before, 1 for a core; `memory_bytes`, shared pages counted for each.

    A descendant counts from the second time that it is seen.
    """

    name = "processes"

    def __init__(self, root: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._samples = 0
        self._known: list[int] = []
        self._before: dict[tuple[int, int], int] = {}
        self._before_s = 0.0
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def sample(self) -> list[Record]:
        if self._samples % SEARCH_EVERY == 0:
            self._known = family(self._root)
        self._samples += 1
        now = self._clock()
        found = {pid: used for pid in self._known if (used := usage(pid)) is not None}
        if not found:
            raise UnavailableError("/proc does not know them")
        told: Record = {"memory_bytes": sum(used.pages for used in found.values()) * self._page_bytes}
        # by when it began too: a process may have the number of one that ended
        ticks = {(pid, used.began): used.ticks for pid, used in found.items()}
        elapsed = now - self._before_s
        if self._before and elapsed < SHORTEST_S:
            return [told]
        if self._before:
            spent = sum(count - self._before[one] for one, count in ticks.items() if one in self._before)
            told["cpu_ratio"] = round(max(0, spent) / self._ticks_per_s / elapsed, 4)
        self._before, self._before_s = ticks, now
        return [told]

    def close(self) -> None:
        return


def usage(pid: int) -> Usage | None:
    """None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    fields = line[line.rfind(b")") + 2 :].split()  # the name before may hold anything
    if len(fields) < 22:
        return None
    return Usage(int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]), int(fields[21]))


def family(root: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    try:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    except OSError:
        pids = []
    for pid in pids:
        if (used := usage(pid)) is not None:
            children.setdefault(used.parent, []).append(pid)
    found = [root]
    for pid in found:  # grows as it goes
        found += children.get(pid, ())
    return found
