"""ServeGen's clients: per client the rate of every ten minutes, and the lengths of every six hours.

https://github.com/alibaba/ServeGen (Apache-2.0), `data/*/*/chunk-N-trace.csv` (start of the window in s,
requests/s, CV of the gaps, Gamma|Weibull, shape, scale) and `chunk-N-dataset.json` (start -> histograms of
input and output tokens as text). A folder, or a tar of one. One client is one tenant.

Within a window the gaps are independent draws of the window's distribution, whose scale is set so that they
last 1/rate on average; the first one is what is left of a gap that began before the window (its equilibrium
distribution), which makes the expected number of requests exactly rate x window for every shape (Cox, Renewal
Theory, 1962). A fresh gap at the start of each window would add (CV^2 - 1)/2 requests to each. Input and
output are drawn independently, as the histograms have no joint counts. An output of 0 tokens counts as 1.

The exception to "domain code opens no files": a folder of ServeGen is many files, read one at a time.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy.special import gammaincinv

from driftkit import rng
from driftkit.errors import DriftkitError, FieldError, LineError
from driftkit.records.io import Reader, readable
from driftkit.records.schema import SCHEMA, Record, shown
from driftkit.workload.traces import Trace
from driftkit.workload.traces.cells import number, tokens

WINDOW_S = 600.0
LENGTHS_S = 21600
_FILE = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)$")
_PAIR = re.compile(r"\s*(\d+)\s*:\s*([0-9.eE+-]+)\s*$")
_MICROSECONDS = 6  # digits of an arrival
_CHUNK = 4096
# narrower than any published fit needs; beyond them a window's clumps grow without bound
_SHAPES = {"gamma": (1e-4, 1e6), "weibull": (0.1, 1e3)}

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]


class Gaps(NamedTuple):
    """The renewal process of one window: `pattern` is gamma or weibull, `shape` its shape."""

    start_s: float
    rate_rps: float
    pattern: str
    shape: float

    def arrivals(self, seed: int, stream: str) -> Array:
        """Instants from the window's start, in order; about rate x window of them."""
        draws = rng.stream(seed, stream)
        at = self._first(*draws.random(2).tolist())
        parts: list[Array] = []
        chunk = 16 + int(self.rate_rps * WINDOW_S)
        while at < WINDOW_S:
            times = at + np.concatenate(([0.0], np.cumsum(self._gaps(draws.random(chunk)))))
            parts.append(times[:-1])
            at = float(times[-1])
        arrivals = np.concatenate(parts) if parts else np.empty(0)
        inside: Array = arrivals[arrivals < WINDOW_S]
        return inside

    def _gaps(self, u: Array) -> Array:
        """Quantiles of the gap with mean 1/rate."""
        if self.pattern == "gamma":
            return np.asarray(gammaincinv(self.shape, u) / (self.shape * self.rate_rps), dtype=np.float64)
        return np.asarray((-np.log1p(-u)) ** (1 / self.shape) * self._weibull_scale)

    def _first(self, length_u: float, place_u: float) -> float:
        """What is left of the gap that holds the window's start: a length-biased gap, cut at random.

        Length-biased, a gamma gap has one more to its shape, and a Weibull gap is the power 1/shape of a
        gamma variable of shape 1 + 1/shape.
        """
        if self.pattern == "gamma":
            gap = float(gammaincinv(self.shape + 1, length_u)) / (self.shape * self.rate_rps)
        else:
            gap = float(gammaincinv(1 + 1 / self.shape, length_u)) ** (1 / self.shape) * self._weibull_scale
        return gap * place_u

    @property
    def _weibull_scale(self) -> float:
        return 1 / (self.rate_rps * math.gamma(1 + 1 / self.shape))


@dataclass(slots=True)
class Histogram:
    """Lengths in tokens and their cumulated probabilities."""

    lengths: Lengths
    cumulated: Array

    def draw(self, u: Array) -> Lengths:
        drawn: Lengths = self.lengths[np.searchsorted(self.cumulated, u * self.cumulated[-1], side="right")]
        return drawn


@dataclass(slots=True)
class Client:
    """Its name, its windows by start, and, where known, its histograms' text by start."""

    number: int
    windows: dict[float, Gaps] = field(default_factory=dict)
    lengths: dict[int, Record] = field(default_factory=dict)
    lengths_file: str = ""
    expected: float = 0.0  # requests of the whole trace
    _parsed: dict[tuple[int, str], Histogram] = field(default_factory=dict)

    def histogram(self, at: float, side: str) -> Histogram:
        """Of `input_tokens` or `output_tokens` in the six hours that hold `at`; DriftkitError if bad."""
        key = int(at // LENGTHS_S) * LENGTHS_S
        if (key, side) not in self._parsed:
            self._parsed = {known: value for known, value in self._parsed.items() if known[0] == key}
            try:
                self._parsed[key, side] = _histogram(self.lengths.get(key, {}).get(side), side)
            except FieldError as error:
                raise DriftkitError(f"{self.lengths_file}: {key}: {error.message}") from None
        return self._parsed[key, side]


class ServeGen(Trace):
    """Times are those of the trace; only the options' window of it is made."""

    name: ClassVar[str] = "servegen"

    def records(self, reader: Reader, *, any_order: bool = False) -> Iterator[Record]:
        ((self.source, stream),) = reader.sources
        folder = Path(self.source)
        files = (
            _in_folder(folder)
            if folder.is_dir()
            else _in_tar(self.source, b"".join(readable(self.source, stream)))
        )
        clients: dict[int, Client] = {}
        starts: set[float] = set()
        first, last = self.options.window or (0.0, math.inf)
        for path, data in files:
            match = _FILE.search(path)
            if match is None:
                continue
            client = clients.setdefault(int(match[1]), Client(int(match[1])))
            if match[2] == "dataset.json":
                client.lengths, client.lengths_file = _lengths(path, data), path
                continue
            reader.sources = [(path, data.splitlines(keepends=True))]
            for window in reader.lines(_window):
                if window is not None:
                    starts.add(window.start_s)
                    client.expected += window.rate_rps * WINDOW_S
                    if window.rate_rps and first - WINDOW_S < window.start_s < last:
                        client.windows[window.start_s] = window
        if not starts:
            hint = "a folder or tar with chunk-N-trace.csv and chunk-N-dataset.json is wanted"
            raise DriftkitError(f"{self.source}: no ServeGen clients in it", hint=hint)
        known = [client for _, client in sorted(clients.items()) if client.lengths]
        if missing := [str(number) for number, client in sorted(clients.items()) if not client.lengths]:
            self.remarks[f"clients without a dataset.json are left out: {', '.join(missing)}"] = None
        span_s = max(starts) + WINDOW_S - min(starts)
        self.rate_rps = sum(client.expected for client in known) / span_s
        for start in sorted({start for client in known for start in client.windows}):
            yield from self._requests([client for client in known if start in client.windows], start)

    def _requests(self, clients: list[Client], start: float) -> Iterator[Record]:
        """A window's requests by arrival, built one by one from packed columns."""
        drawn = [self._drawn(client, start) for client in clients]
        arrivals, prompts, outputs = (np.concatenate(column) for column in zip(*drawn, strict=True))
        sizes = [columns[0].size for columns in drawn]
        owner = np.repeat(np.arange(len(clients)), sizes)
        place = np.concatenate([np.arange(1, size + 1) for size in sizes])
        order = np.argsort(arrivals, kind="stable")
        for chunk in range(0, order.size, _CHUNK):
            rows = order[chunk : chunk + _CHUNK]
            columns = (owner, place, arrivals, prompts, outputs)
            for whose, nth, at, prompt, output in zip(*(c[rows].tolist() for c in columns), strict=True):
                client = clients[whose].number
                yield {
                    "kind": "request",
                    "schema": SCHEMA,
                    "id": f"servegen-{client}-{start:.0f}-{nth}",
                    "tenant": f"client-{client}",
                    "arrival_s": round(start + at, _MICROSECONDS),
                    "prompt_tokens": prompt,
                    "trace_output_tokens": output,
                }

    def _drawn(self, client: Client, start: float) -> tuple[Array, Lengths, Lengths]:
        """Arrivals from the window's start, input and output lengths; each has a stream of its own."""
        name = f"servegen/{client.number}/{start:g}"
        arrivals = client.windows[start].arrivals(self.options.seed, f"{name}/gap")
        if not arrivals.size:
            nothing = np.empty(0, dtype=np.int64)
            return arrivals, nothing, nothing
        prompts, outputs = (
            client.histogram(start, side).draw(
                rng.stream(self.options.seed, f"{name}/{side}").random(arrivals.size)
            )
            for side in ("input_tokens", "output_tokens")
        )
        return arrivals, prompts, outputs


def _window(line: bytes) -> Gaps | None:
    """A row of chunk-N-trace.csv; None for a blank line."""
    text = line.decode("utf-8", "replace").strip()
    if not text:
        return None
    cells = text.split(",")
    if len(cells) != 6:
        raise LineError(f"expected start,rate,cv,pattern,shape,scale, got {len(cells)} columns")
    start, rate = number("start", cells[0]), number("rate", cells[1])
    if start < 0:
        raise FieldError("start", f"expected seconds >= 0, got {shown(cells[0])}")
    if not 0 <= rate <= 1e6:
        raise FieldError("rate", f"expected requests/s >= 0, got {shown(cells[1])}")
    if rate == 0:
        return Gaps(start, 0.0, "", 0.0)
    pattern, shape = cells[3].lower(), number("shape", cells[4])
    if pattern not in ("gamma", "weibull"):
        raise FieldError("pattern", f"expected Gamma or Weibull, got {shown(cells[3])}")
    smallest, largest = _SHAPES[pattern]
    if not smallest <= shape <= largest:
        raise FieldError(
            "shape", f"expected a number from {smallest:g} to {largest:g}, got {shown(cells[4])}"
        )
    return Gaps(start, rate, pattern, shape)


def _lengths(path: str, data: bytes) -> dict[int, Record]:
    """The six-hour histograms of chunk-N-dataset.json, still as text."""
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DriftkitError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from None
    if type(content) is not dict:
        raise DriftkitError(f"{path}: expected an object, got {shown(content)}")
    for key, value in content.items():
        if not key.isdecimal() or type(value) is not dict:
            raise DriftkitError(f"{path}: {key}: expected seconds and an object, got {shown(value)}")
    return {int(key): value for key, value in content.items()}


def _histogram(text: object, side: str) -> Histogram:
    """`{length: probability, ...}` as Python writes it."""
    if type(text) is not str:
        raise FieldError(side, f"expected a histogram as text, got {shown(text)}")
    lengths, weights = [], []
    for pair in filter(str.strip, text.strip().removeprefix("{").removesuffix("}").split(",")):
        match = _PAIR.match(pair)
        if match is None:
            raise FieldError(side, f"expected length: probability, got {shown(pair.strip())}")
        lengths.append(max(1, tokens(side, match[1], minimum=0)))
        weights.append(number(side, match[2]))
    if not lengths or min(weights) < 0 or not sum(weights) > 0:
        raise FieldError(side, "expected lengths with probabilities, got none, though there are requests")
    return Histogram(np.array(lengths, dtype=np.int64), np.cumsum(np.array(weights)))


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("chunk-*-*")):
        try:
            yield str(path), path.read_bytes()
        except OSError as error:
            raise DriftkitError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _in_tar(source: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if member.isfile() and (content := tar.extractfile(member)) is not None:
                    yield f"{source}/{member.name}", content.read()
    except tarfile.TarError as error:
        raise DriftkitError(f"{source}: tar: {str(error).lower()}") from None
