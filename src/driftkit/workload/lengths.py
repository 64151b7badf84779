"""How long inputs and outputs are: lognormal, mixtures of lognormals, histograms, each cut where stated.

Whitespace words follow from tokens by a factor of their own, drawn for each output.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple, Protocol

from driftkit.errors import near_or_known
from driftkit.records.schema import MOST
from driftkit.records.toml_table import Table

_normal_quantile = NormalDist().inv_cdf
_normal_cdf = NormalDist().cdf
_BELOW_1 = 1 - 2**-53


class Distribution(Protocol):
    """Lengths in tokens, before they are cut; `cap` is the request's max_tokens."""

    def draw(self, u: float, cap: int) -> float:
        """A length from a uniform in [0, 1)."""
        ...

    def quantile(self, u: float, cap: int) -> float:
        """The same, but never falling in `u`, so that it keeps a rank correlation."""
        ...

    def scaled(self, factor: float) -> Distribution: ...


class Lognormal(NamedTuple):
    """`share` of the lengths; `median` in tokens, or in multiples of the cap; `sigma` of the logarithm."""

    share: float
    median: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares add up to 1. `of_cap`: medians are in multiples of the request's cap rather than in tokens."""

    parts: tuple[Lognormal, ...]
    of_cap: bool = False

    def scaled(self, factor: float) -> Mixture:
        return replace(self, parts=tuple(part._replace(median=part.median * factor) for part in self.parts))

    def draw(self, u: float, cap: int) -> float:
        """`u` picks the part and, stretched, the place in it."""
        for part in self.parts:
            if u < part.share:
                break
            u -= part.share
        scale = part.median * cap if self.of_cap else part.median
        return scale * math.exp(part.sigma * _quantile(u / part.share))

    def quantile(self, u: float, cap: int) -> float:
        if len(self.parts) == 1:
            return self.draw(u, cap)
        scale = cap if self.of_cap else 1
        ends = [math.log(part.median) + part.sigma * _quantile(u) for part in self.parts]
        low, high = min(ends), max(ends)  # a mixture's quantile lies between those of its parts
        for _ in range(40):
            middle = (low + high) / 2
            below = sum(part.share * _lognormal_cdf(middle, part) for part in self.parts)
            low, high = (middle, high) if below < u else (low, middle)
        return scale * math.exp((low + high) / 2)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bins between `edges` (tokens, rising), evenly filled; `cumulative`: the share of all up to each."""

    edges: tuple[float, ...]
    cumulative: tuple[float, ...]

    def scaled(self, factor: float) -> Histogram:
        return replace(self, edges=tuple(edge * factor for edge in self.edges))

    def draw(self, u: float, cap: int) -> float:
        place = bisect_right(self.cumulative, u)  # never an empty bin: its sum is that of the bin before
        before = self.cumulative[place - 1] if place else 0.0
        within = (u - before) / (self.cumulative[place] - before)
        return self.edges[place] + within * (self.edges[place + 1] - self.edges[place])

    quantile = draw


class Words(NamedTuple):
    """Whitespace words per token: mean and coefficient of variation of a lognormal factor."""

    per_token: float
    cv: float

    def of(self, tokens: int, u: float) -> int:
        spread = math.sqrt(math.log1p(self.cv**2))
        ratio = self.per_token * math.exp(spread * _quantile(u) - spread * spread / 2)
        return max(1, round(tokens * ratio))


@dataclass(frozen=True, slots=True)
class LengthModel:
    """A distribution, cut to `shortest` and `longest` tokens, and the words of what is so long."""

    distribution: Distribution
    shortest: int = 1
    longest: int = MOST
    words: Words | None = None

    @property
    def needs_cap(self) -> bool:
        return isinstance(self.distribution, Mixture) and self.distribution.of_cap

    def scaled(self, factor: float) -> LengthModel:
        """The same model with its medians (or edges) times `factor`."""
        return replace(self, distribution=self.distribution.scaled(factor))

    def tokens(self, u: float, cap: int = MOST, factor: float = 1.0) -> int:
        """Whole tokens, from a uniform in [0, 1), times `factor`, cut at `cap` as an engine cuts."""
        return self._cut(self.distribution.draw(u, cap) * factor, cap)

    def tokens_at(self, u: float, cap: int = MOST, factor: float = 1.0) -> int:
        """The same, but never falling in `u`."""
        return self._cut(self.distribution.quantile(u, cap) * factor, cap)

    def _cut(self, length: float, cap: int) -> int:
        most = cap if cap < self.longest else self.longest
        if length >= most:
            return most
        return int(length) if length >= self.shortest else min(self.shortest, most)


class Dependence(NamedTuple):
    """A Gaussian copula between input and output: `normal` is the correlation of the normals behind them."""

    normal: float

    def output(self, input_u: float, u: float) -> float:
        """The output's uniform: tied to the input's, with `u` for the rest."""
        tied, free = self.normal, math.sqrt(1 - self.normal**2)
        return min(_normal_cdf(tied * _quantile(input_u) + free * _quantile(u)), _BELOW_1)


def _quantile(u: float) -> float:
    return _normal_quantile(min(max(u, 1e-12), 1 - 1e-12))


def _lognormal_cdf(log_length: float, part: Lognormal) -> float:
    z = log_length - math.log(part.median)
    return _normal_cdf(z / part.sigma) if part.sigma else float(z >= 0)


# --- their tables ---------------------------------------------------------------------------------

Models = Mapping[str, LengthModel]


def read(table: Table, key: str, models: Models) -> LengthModel:
    """The length at `key`: a whole number, the name of one of the file's models, or a model's table."""
    value = table.raw(key)
    if type(value) is str:
        if value not in models:
            raise table.wrong(key, f"no length model named {value!r}", near_or_known(value, models))
        return models[value]
    if type(value) is int:
        tokens = table.integer(key, 1, MOST)
        return LengthModel(Mixture((Lognormal(1.0, tokens, 0.0),)))
    if type(value) is not dict:
        raise table.expected(key, "a whole number of tokens, the name of a length model or a table")
    return read_model(table.table(key))


def read_model(table: Table) -> LengthModel:
    kind = table.one_of("model", ("lognormal", "mixture", "histogram"))
    distribution: Distribution
    if kind == "histogram":
        distribution = _histogram(table)
    else:
        if kind == "lognormal":
            parts: tuple[Lognormal, ...] = (_part(table, 1.0),)
        else:
            entries = table.tables("parts")
            if not entries:
                raise table.expected("parts", "an array of {share, median, sigma}")
            shares = [entry.number("share", 1e-9, 1e9) for entry in entries]
            total = sum(shares)
            parts = tuple(_part(entry, share / total) for entry, share in zip(entries, shares, strict=True))
            for entry in entries:
                entry.done()
        distribution = Mixture(parts, table.boolean("of_cap"))
    shortest = table.integer("shortest", 1, MOST, 1)
    longest = table.integer("longest", 1, MOST, MOST)
    if longest < shortest:
        raise table.expected("longest", f"an integer >= shortest ({shortest})")
    words = None
    if "words_per_token" in table or "words_cv" in table:
        words = Words(table.number("words_per_token", 1e-3, 1e3), table.number("words_cv", 0, 10, 0.0))
    table.done()
    return LengthModel(distribution, shortest, longest, words)


def _part(table: Table, share: float) -> Lognormal:
    return Lognormal(share, table.number("median", 1e-6, MOST), table.number("sigma", 0, 10))


def _histogram(table: Table) -> Histogram:
    edges = table.numbers("edges", 0, MOST, 2)
    for place in range(1, len(edges)):
        if edges[place] <= edges[place - 1]:
            raise table.wrong(f"edges[{place}]", f"expected more than the edge before, got {edges[place]:g}")
    weights = table.numbers("weights", 0, 1e12, 1)
    if len(weights) != len(edges) - 1:
        raise table.wrong("weights", f"expected one a bin, {len(edges) - 1} in all, got {len(weights)}")
    sums = list(accumulate(weights))
    if not sums[-1]:
        raise table.wrong("weights", "expected a weight above 0, got none")
    return Histogram(tuple(edges), tuple(total / sums[-1] for total in sums))


def read_dependence(table: Table, key: str) -> Dependence:
    """`{normal = r}`, or `{rank = r}`: Spearman's, in a Gaussian copula 6 / pi * asin(normal / 2)."""
    entry = table.table(key)
    if ("rank" in entry) == ("normal" in entry):
        raise table.wrong(key, f"expected rank or normal, got {'both' if 'rank' in entry else 'neither'}")
    if "rank" in entry:
        normal = 2 * math.sin(math.pi / 6 * entry.number("rank", -1, 1))
    else:
        normal = entry.number("normal", -1, 1)
    entry.done()
    return Dependence(max(-1.0, min(1.0, normal)))
