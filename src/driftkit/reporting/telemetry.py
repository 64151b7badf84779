"""What the GPUs, the processes and the servers did while the runs went on: telemetry joined by time."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from driftkit.errors import printable
from driftkit.records.schema import MOST, Record, checker
from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array
from driftkit.reporting.tables import Table, shown

#: what is told at an instant, in the order of rows
GAUGES = (
    *("power_w", "gpu_busy_ratio", "gpu_memory_bytes", "temperature_c", "sm_clock_mhz", "memory_clock_mhz"),
    *("cpu_ratio", "memory_bytes"),
    *("running_requests", "waiting_requests", "kv_ratio"),
)
COUNTER = "preemptions_total"
FIELDS = ("at_s", *GAUGES, COUNTER)

# a longer time than this between two samples, or than five usual ones, is not known
LONGEST_GAP_S = 1.0
USUAL_GAPS = 5
ALL_GPUS = "gpus"

Source = tuple[int, str]  # its place in the order of rows, and its name

check_telemetry = checker(("run_id", "at_s"), ("gpu", "replica", *GAUGES, COUNTER))


class Samples:
    """Telemetry, taken in record by record: for each run and source, FIELDS one after the other."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Source, array[float]]] = {}

    def add(self, record: Record) -> None:
        """FieldError when the record is not telemetry that can be reported."""
        check_telemetry(record)
        sources = self._rows.setdefault(record["run_id"], {})
        rows = sources.setdefault(_source(record), array("d"))
        rows.extend(math.nan if value is None else value for value in map(record.get, FIELDS))

    @property
    def run_ids(self) -> list[str]:
        return list(self._rows)

    def count(self, run_id: str) -> int:
        return sum(len(rows) for rows in self._rows[run_id].values()) // len(FIELDS)

    def of(self, run_id: str) -> dict[Source, dict[str, Array]]:
        """By source, the columns of one run in order of time."""
        found = {}
        for source, rows in self._rows.get(run_id, {}).items():
            table = np.frombuffer(rows).reshape(-1, len(FIELDS))
            ordered = table[np.argsort(table[:, 0], kind="stable")].T
            found[source] = dict(zip(FIELDS, ordered, strict=True))
        return found


def _source(record: Record) -> Source:
    """GPUs by index, the processes, then servers."""
    gpu, replica = record.get("gpu"), record.get("replica")
    if gpu is not None:
        return gpu, f"gpu{gpu}"
    return (MOST + 2, replica) if replica is not None else (MOST + 1, "processes")


@dataclass
class Gauge:
    """Over the runs of a group: the integral over time, the seconds that it is over, the largest sample."""

    area: float = 0.0
    seconds: float = 0.0
    largest: float = -math.inf

    @property
    def row(self) -> Record:
        return {
            "covered_s": self.seconds,
            "mean": self.area / self.seconds if self.seconds else None,
            "max": None if self.largest == -math.inf else self.largest,
        }


class Watched:
    """One source over the runs of a group."""

    def __init__(self) -> None:
        self.span_s = 0.0
        self.requests = 0
        self.tokens = 0.0
        self.gauges: dict[str, Gauge] = {}
        self.preemptions: int | None = None

    def add(self, columns: dict[str, Array], begin: float, end: float, served: Columns) -> None:
        """A run of which these are the samples, and these the requests that were served."""
        times = columns["at_s"]
        self.span_s += end - begin
        self.requests += len(served)
        self.tokens += served.total("actual_output_tokens") or 0.0
        inside = (begin <= times) & (times <= end)
        for name in GAUGES:
            known = columns[name][inside & ~np.isnan(columns[name])]
            area, seconds = over_time(times, columns[name], begin, end)
            if known.size or seconds:
                gauge = self.gauges.setdefault(name, Gauge())
                gauge.area += area
                gauge.seconds += seconds
                gauge.largest = max(gauge.largest, float(known.max(initial=-math.inf)))
        grown = increase(times, columns[COUNTER], begin, end)
        if grown is not None:
            self.preemptions = (self.preemptions or 0) + grown

    def rows(self) -> Iterator[Record]:
        for name in GAUGES:
            if name in self.gauges:
                gauge = self.gauges[name]
                energy = self.energy(gauge.area) if name == "power_w" and gauge.seconds else {}
                yield {"metric": name, **gauge.row, **energy}
        if self.preemptions is not None:
            yield {"metric": "preemptions", "total": self.preemptions}

    def energy(self, joules: float) -> Record:
        return {
            "energy_j": joules,
            "request_j": joules / self.requests if self.requests else None,
            "token_j": joules / self.tokens if self.tokens else None,
        }


def telemetry(data: Columns, by: Sequence[str], samples: Samples) -> Table:
    """Per label, and run if `by` has run_id, and source: mean and largest of each metric; joules.

    Of each run, from its first arrival to its last end: what was sampled before and after is left out.
    """
    by = [name for name in by if name == "run_id"]  # a GPU is not split by tenant
    columns = [("label", "label"), *((name, name) for name in by), ("source", "source"), ("metric", "metric")]
    columns += [("covered_s", "seconds"), ("mean", "mean"), ("max", "max"), ("total", "total")]
    columns += [("energy_j", "joules"), ("request_j", "joules/request"), ("token_j", "joules/output token")]
    table = Table("telemetry", "Telemetry", columns)
    for group, part in groups(data, by):
        watched: dict[Source, Watched] = {}
        spans = part.spans
        for run_id, run in part.split("run_id"):
            begin, end = spans[run_id]
            if end > begin:
                for source, its in samples.of(run_id).items():
                    watched.setdefault(source, Watched()).add(its, begin, end, run.ok)
        for source in sorted(watched):
            table.rows += [{**group, "source": source[1], **row} for row in watched[source].rows()]
            table.notes += _gaps(", ".join([*group.values(), source[1]]), watched[source])
        table.rows += [{**group, **row} for row in _all_gpus(list(watched.values()))]
    if table.rows:
        table.notes.insert(
            0,
            "from a run's first arrival to its last end; means are over time; joules: all that a GPU drew, "
            "for whomever, over the requests that were served and over their output tokens",
        )
    return table


def _all_gpus(watched: Sequence[Watched]) -> Iterator[Record]:
    """Their power together, if there are several."""
    drawing = [of for of in watched if "power_w" in of.gauges and of.gauges["power_w"].seconds]
    if len(drawing) > 1:
        power = [of.gauges["power_w"] for of in drawing]
        watts = sum(gauge.area / gauge.seconds for gauge in power)
        energy = drawing[0].energy(sum(gauge.area for gauge in power))
        yield {"source": ALL_GPUS, "metric": "power_w", "mean": watts, **energy}


def _gaps(about: str, of: Watched) -> Iterator[str]:
    """Says for how long nobody knows; of a GPU, for how long its power is not known."""
    gauges = [of.gauges["power_w"]] if "power_w" in of.gauges else of.gauges.values()
    known = max((gauge.seconds for gauge in gauges), default=of.span_s)
    if of.span_s - known > max(LONGEST_GAP_S, 0.01 * of.span_s):
        missing = ", and the joules of the rest are missing" if "power_w" in of.gauges else ""
        yield printable(f"{about}: sampled during {shown(known)} of {shown(of.span_s)} s{missing}")


def over_time(times: Array, values: Array, begin: float, end: float) -> tuple[float, float]:
    """The integral of `values` over `begin` to `end` by the trapezoid rule, and the seconds that it is over.

    `times` are in order; NaN is not known. Neither what is before the first or after the last sample nor a
    gap between two is bridged.
    """
    known = ~np.isnan(values)
    times, values = times[known], values[known]
    if times.size < 2:
        return 0.0, 0.0
    between = np.diff(times)
    longest = max(LONGEST_GAP_S, USUAL_GAPS * float(np.median(between)))
    left, right = np.clip(times[:-1], begin, end), np.clip(times[1:], begin, end)
    counts = (between <= longest) & (right > left)
    width = (right - left)[counts]
    along = ((left + right) / 2 - times[:-1])[counts] / between[counts]
    middle = values[:-1][counts] + np.diff(values)[counts] * along
    return float((width * middle).sum()), float(width.sum())


def increase(times: Array, counter: Array, begin: float, end: float) -> int | None:
    """How far a counter went up from `begin` to `end`; one that falls was set to 0 by a restart in between.

    From the last sample before to the first after; None when no two are known.
    """
    known = ~np.isnan(counter)
    times, counter = times[known], counter[known]
    first = max(0, int(np.searchsorted(times, begin, side="right")) - 1)
    last = int(np.searchsorted(times, end, side="left"))
    counter = counter[first : last + 1]
    if counter.size < 2:
        return None
    steps = np.diff(counter)
    return int(np.where(steps < 0, counter[1:], steps).sum())
