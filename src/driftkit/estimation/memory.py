"""A memory of recent errors: what a request was like, and how far its estimate was off, as a log-ratio.

Of a request the errors of the NEIGHBOURS most like it are averaged. How like a pair is falls with the
distance of its features (features.py, without the text itself, and the logarithm of the base's estimate) and
with the completions that have come since:

    weight = exp(-distance^2 / (2 WIDTH^2)) * 2 ^ (-later / HALF_LIFE)
    ratio  = exp(sum(weight * error) / (sum(weight) + PRIOR))

so where neighbours are few, far or old the ratio goes to 1, and the estimate stays what it was. Distance is
in deviations of all cues together; what the base has said, and a label (category, tenant, tier) that is
another, weigh more than a cue.

An output that was cut was going to be longer. Its error enters with what it is expected to be above the cut
(censoring.py), under the errors of its own neighbours and the spread around those, until that settles.

Distances are computed CHUNK at a time, whatever is asked, and rounded ratios are given: the same request and
memory give the same bytes, alone or among many.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from driftkit.errors import StateError
from driftkit.estimation.base import WIDEST
from driftkit.estimation.censoring import Floats, above, moments
from driftkit.estimation.features import FEATURE_SCHEMA, LABELS, NUMBERS, in_parts
from driftkit.records import document
from driftkit.records.document import quoted
from driftkit.records.known_runs import KnownRuns
from driftkit.records.schema import Record

VERSION = 1
_KIND = "driftkit-memory"

PAIRS = 10_000  # that are kept, the latest
# chosen with benchmarks/error_memory.py, for its steady load and its drift alike, on four served models that
# docs/lengths.md does not judge by
NEIGHBOURS = 20
WIDTH = 0.8
HALF_LIFE = 600.0  # completions
PRIOR = 0.2  # the weight of "the estimate is right"; a neighbour without distance has 1
LABEL = 1.0  # how far apart another category, tenant or tier is
LABEL_VALUES = 50  # of each label
_LABEL = LABEL / (2 * WIDTH)  # in its column, so that those of two that differ are LABEL apart
ESTIMATE = 1.5  # how far apart two estimates are of which one is e times the other
CHUNK = 64
ROUNDS = 8  # of imputing what was cut, at most
SETTLED = 0.01  # a change of the log-ratio by which the last of them changed nothing

# columns of a pair, before the labels, the base's estimate and the NUMBERS
AT, ERROR, CUT, EXPECTED = range(4)
_ASKED = slice(4, None)
_LABELS = slice(4, 4 + len(LABELS))
_SPACE = slice(4 + len(LABELS), None)
COLUMNS = ("at_s", "error", "cut", "expected error", *LABELS, "log estimate", *NUMBERS)


class Of(NamedTuple):
    """Whose errors a memory holds: no good for another estimator, tokenizer or model."""

    base: str
    tokenizer: str
    served_model: str


class Seen(NamedTuple):
    """A completion, its base's estimate and its length in the unit of that, and whether it was cut there."""

    record: Record
    estimate: float
    length: int
    cut: bool


class Memory:
    """Pairs of one estimator; `base_is` tells one fit of it from another, where it is fitted.

    The clocks of runs are laid end to end: a run, or the rest of one, begins, with the first that was
    offered, where what was learned before it has ended, and so does what is asked afterwards. `max_age_s` is
    the age on that clock beyond which a pair is forgotten.
    """

    def __init__(self, of: Of, base_is: str | None, max_age_s: float | None = None) -> None:
        self.of = of
        self.base_is = base_is
        self.max_age_s = max_age_s
        self.runs = KnownRuns()
        self.clock_s = 0.0
        self.pairs: Floats = np.empty((0, len(COLUMNS)))
        self._new: deque[tuple[float, Seen]] = deque(maxlen=PAIRS)  # and when it ended on the clock
        self._space: _Space | None = None
        self._threads = ThreadpoolController()

    def learn(self, run: str, seen: Sequence[Seen]) -> None:
        """Take in the completions of a run, in the order in which they ended; `settle` after the last."""
        for one in seen if run else ():
            self.runs.add(run, one.record["id"], one.record["finished_s"])
        if seen:
            started = self.clock_s - min(_began(one.record) for one in seen)
            self._new.extend((started + one.record["finished_s"], one) for one in seen)
            self.clock_s = started + max(one.record["finished_s"] for one in seen)

    def settle(self) -> None:
        """Add what was taken in, forget what is too old or too much, and say anew what was to be expected of
        what was cut."""
        oldest = -math.inf if self.max_age_s is None else self.clock_s - self.max_age_s
        if self._new:
            self.pairs = np.concatenate([self.pairs, _pairs(self._new)])
            self._new.clear()
        self.pairs = self.pairs[self.pairs[:, AT] >= oldest][-PAIRS:]
        self._space = None
        cut = self.pairs[:, CUT] > 0
        expected = self.pairs[:, EXPECTED]
        expected[:] = self.pairs[:, ERROR]
        if not cut.any() or cut.all():
            return
        with self._threads.limit(limits=1):
            near, weights = self._nearest_of_its_own()
        for _ in range(ROUNDS):
            predicted = _average(weights, expected[near])
            _, sigma = moments(self.pairs[:, ERROR], cut, predicted)
            before = expected[cut]
            filled, _ = above(self.pairs[cut, ERROR], predicted[cut], sigma)
            expected[cut] = np.minimum(filled, WIDEST)
            if np.abs(expected[cut] - before).max() < SETTLED:
                break

    def ratios(self, records: Sequence[Record], estimates: Sequence[float], start_s: float = 0.0) -> Floats:
        """The factor for the estimate of each request; 1 where nothing is known that is not too old.

        What is known has ended at `start_s` on the clock of their `arrival_s`.
        """
        if not len(self.pairs) or not records:
            return np.ones(len(records))
        if self._space is None:
            age = np.arange(len(self.pairs), 0, -1.0) * (math.log(2) / HALF_LIFE)
            self._space = _Space(self.pairs, age)
        asked = self._space.placed(_asked(records, estimates))
        oldest = np.full(len(records), -math.inf)
        if self.max_age_s is not None:
            age = np.array([r["arrival_s"] for r in records], float) - start_s
            oldest = self.clock_s + age - self.max_age_s
        forgotten = np.searchsorted(self.pairs[:, AT], oldest)
        expected = self.pairs[:, EXPECTED]
        found = np.empty(len(records))
        for start in range(0, len(records), CHUNK):
            chunk = slice(start, start + CHUNK)
            with self._threads.limit(limits=1):  # more would but wait for each other, and round otherwise
                logs = self._space.likeness(asked[chunk])
            if forgotten.any():
                logs[np.arange(len(expected)) < forgotten[chunk, None]] = -np.inf
            near, weights = _nearest(logs, min(NEIGHBOURS, len(expected)))
            found[chunk] = _average(weights, expected[near])
        return np.exp(found).round(6)

    @property
    def knows_text(self) -> bool:
        """Whether the prompt of any was there to be looked at."""
        return bool(self.pairs[:, COLUMNS.index("has text")].any())

    def said(self) -> str:
        """What there is, for people."""
        cut = int(self.pairs[:, CUT].sum())
        return f"remembered: {len(self.pairs)} errors of {'/'.join(self.of)}, {cut} of outputs that were cut"

    def _nearest_of_its_own(self) -> tuple[NDArray[np.int64], Floats]:
        """Of every pair its neighbours among the others, came they before it or after, and their weights."""
        places = np.arange(len(self.pairs))
        space = _Space(self.pairs, np.zeros(len(places)))
        asked = space.placed(self.pairs[:, _ASKED])
        found = []
        for start in range(0, len(places), CHUNK):
            of = places[start : start + CHUNK]
            logs = space.likeness(asked[of])
            logs -= (math.log(2) / HALF_LIFE * np.abs(places - of[:, None])).astype(np.float32)
            logs[np.arange(len(of)), of] = -np.inf
            found.append(_nearest(logs, min(NEIGHBOURS, len(places) - 1)))
        return np.concatenate([near for near, _ in found]), np.concatenate([weights for _, weights in found])


def _began(record: Record) -> float:
    """When it was offered, as far as it says so: at its end at the latest."""
    finished: float = record["finished_s"]
    for due in (record.get("offered_s"), record.get("arrival_s")):
        if due is not None:
            return min(float(due), finished)
    return finished


def _pairs(new: Collection[tuple[float, Seen]]) -> Floats:
    """What is remembered of completions, each with the instant at which it ended."""
    seen = [one for _, one in new]
    rows = np.empty((len(seen), len(COLUMNS)))
    rows[:, AT] = [at_s for at_s, _ in new]
    errors = np.log([one.length / one.estimate for one in seen])
    rows[:, ERROR] = rows[:, EXPECTED] = np.clip(errors, -WIDEST, WIDEST)
    rows[:, CUT] = [one.cut for one in seen]
    rows[:, _ASKED] = _asked([one.record for one in seen], [one.estimate for one in seen])
    return rows


def _nearest(logs: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], Floats]:
    """Places of the `count` largest of each row, and their weights."""
    near = np.argpartition(logs, -count, axis=1)[:, -count:]
    return near, np.exp(np.minimum(np.take_along_axis(logs, near, axis=1), 0).astype(float))


def _average(weights: Floats, errors: Floats) -> Floats:
    average: Floats = (weights * errors).sum(axis=1) / (weights.sum(axis=1) + PRIOR)
    return average


class _Space:
    """Where pairs are: numbers and labels as columns, so that one product of matrices gives all distances.

    `age` is taken from the likeness of each pair.
    """

    def __init__(self, pairs: Floats, age: Floats) -> None:
        numbers = pairs[:, _SPACE]
        deviation = numbers.std(axis=0)
        self._centre = numbers.mean(axis=0)
        # half way to deviations, as the regressor has it: a rare cue is not to outweigh all others
        scale = 1 / np.sqrt(np.where(deviation > 1e-6, deviation, 1.0))
        unit = math.sqrt(float(((numbers - self._centre) * scale).var(axis=0).sum())) or 1.0
        scale[0] = ESTIMATE * unit
        self._scale = scale / (unit * WIDTH * math.sqrt(2))
        self._values = [_frequent(column) for column in pairs[:, _LABELS].T]
        placed = self.placed(pairs[:, _ASKED])
        # (x, 1, -xx) times (2y, -yy - age, 1) is -(x - y)(x - y) - age
        columns = np.column_stack((2 * placed[:, :-2], placed[:, -1] - age, placed[:, -2]))
        self._pairs = np.ascontiguousarray(columns.T.astype(np.float32))

    def likeness(self, placed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logarithm of the weight of each pair for each that is asked, CHUNK at most."""
        padded = np.zeros((CHUNK, placed.shape[1]), np.float32)
        padded[: len(placed)] = placed
        logs: NDArray[np.float32] = (padded @ self._pairs)[: len(placed)]
        return logs

    def placed(self, asked: Floats) -> NDArray[np.float32]:
        """Places of what is asked, and 1, and minus their squares."""
        numbers = (asked[:, len(LABELS) :] - self._centre) * self._scale
        labels = [
            _LABEL * (column[:, None] == values)
            for column, values in zip(asked[:, : len(LABELS)].T, self._values, strict=True)
        ]
        place = np.column_stack([numbers, *labels])
        # a label counts whether it has a column or not: without one it is another than all, its like included
        squares = (numbers * numbers).sum(axis=1) + len(LABELS) * _LABEL**2
        return np.column_stack([place, np.ones(len(place)), -squares]).astype(np.float32)


def _frequent(labels: Floats) -> Floats:
    """The most frequent values of a label: each gets a column, and no other is known again."""
    values, counts = np.unique(labels, return_counts=True)
    return values[np.argsort(-counts, kind="stable")[:LABEL_VALUES]]


def _asked(records: Sequence[Record], estimates: Sequence[float]) -> Floats:
    """What is known of requests, as the last columns of a pair; a label by its CRC."""
    numbers, labels = [], []
    for seen in in_parts(records):
        numbers.append(seen.numbers)
        labels.append([[zlib.crc32(label.encode()) for label in column] for column in seen.labels])
    return np.column_stack([np.hstack(labels).T, np.log(estimates), np.concatenate(numbers)])


def write(folder: Path, memory: Memory) -> Path:
    """Replace the folder's memory of that estimator, whole or not at all; hold the folder's lock."""
    whole = io.BytesIO()
    np.save(whole, memory.pairs, allow_pickle=False)
    content: dict[str, Any] = {
        "feature_schema": FEATURE_SCHEMA,
        "of": list(memory.of),
        "base_is": memory.base_is,
        "max_age_s": memory.max_age_s,
        "clock_s": memory.clock_s,
        **memory.runs.to_json(),
        "completions": len(memory.pairs),
        "censored": int(memory.pairs[:, CUT].sum()),
        "about": "pairs: a .npy of 64-bit numbers, compressed by zlib, in base64; no text is kept",
        "columns": list(COLUMNS),
        "pairs": base64.b64encode(zlib.compress(whole.getvalue(), 6)).decode(),
    }
    path = path_of(folder, memory.of)
    document.write(path, _KIND, VERSION, document.hashed(content))
    return path


def read(folder: Path, of: Of) -> Memory | None:
    """The memory of that estimator; None when there is none, StateError when it cannot be used."""
    return _read(path_of(folder, of))


def bases(folder: Path, served_model: str) -> list[str]:
    """The bases that the folder has memories of for that served model, by the names of the files."""
    paths = folder.glob(f"memory.*.*.{quoted(served_model)}.json")
    return sorted({unquote(path.name.split(".")[1]) for path in paths})


def known(folder: Path, base: str, served_model: str) -> list[Memory]:
    """The folder's memories of that base's errors, one for each tokenizer; StateError as `read`."""
    paths = files(folder, base, served_model)
    return [found for found in map(_read, paths) if found is not None]


def files(folder: Path, base: str, served_model: str | None = None) -> list[Path]:
    """Where the folder has memories of that base's errors, of all served models or of one."""
    served = quoted(served_model) if served_model is not None else "*"
    return sorted(folder.glob(f"memory.{quoted(base)}.*.{served}.json"))


def _read(path: Path) -> Memory | None:
    found = document.read(path, _KIND, VERSION)
    if found is None:
        return None
    document.check_hash(path, found)
    try:
        memory = Memory(Of(*found["of"]), found["base_is"], found["max_age_s"])
        if path_of(path.parent, memory.of) != path:
            raise StateError(f"{path}: holds the memory of {'/'.join(memory.of)}", hint="was it renamed?")
        if found["feature_schema"] == FEATURE_SCHEMA and found["columns"] != list(COLUMNS):
            problem = "its columns are others than this driftkit's"
            raise StateError(f"{path}: {problem}", hint="move it away, then calibrate --fit knn anew")
        if found["feature_schema"] != FEATURE_SCHEMA:
            problem = f"feature schema {found['feature_schema']}, this driftkit computes {FEATURE_SCHEMA}"
            raise StateError(f"{path}: {problem}", hint="move it away, then calibrate --fit knn anew")
        memory.runs, memory.clock_s = KnownRuns.from_json(found), float(found["clock_s"])
        memory.pairs = _unpacked(found["pairs"])
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, zlib.error):
        raise StateError(f"{path}: damaged memory", hint=document.ANEW) from None
    return memory


def _unpacked(packed: str) -> Floats:
    """The pairs; ValueError or the like when they are something else."""
    most = PAIRS * len(COLUMNS) * 8 + 1024  # a small file is not to fill the machine's memory
    whole = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), most)
    stream = io.BytesIO(whole)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("no pairs: another .npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    told = (len(whole) - stream.tell()) // (8 * len(COLUMNS))  # numpy takes the memory that the header says
    if dtype != np.float64 or shape != (told, len(COLUMNS)):
        raise ValueError(f"no pairs: {dtype} {shape}")
    pairs: Floats = np.load(io.BytesIO(whole), allow_pickle=False)
    if not np.isfinite(pairs).all() or (np.diff(pairs[:, AT]) < 0).any():
        raise ValueError("pairs without a number, or out of order")
    return pairs


def path_of(folder: Path, of: Of) -> Path:
    return folder / f"memory.{'.'.join(map(quoted, of))}.json"
