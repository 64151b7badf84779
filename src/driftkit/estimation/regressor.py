"""A fitted length regressor: the median, and P10 and P90, from what is known of a request at admission.

What matrices.py predicts of a request is the logarithm of a spread and its length for any served model and
for each: in deviations of log length from the mean, which `scales` has per served model. `margins` are the
deviations, in spreads, of P10, median and P90 from that: of everything, of a served model, of a tenant of it.
fitting.py learns all of it and says how.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from driftkit.estimation.features import look
from driftkit.estimation.matrices import Floats, Matrices, predictor
from driftkit.records.schema import Record


class Embed(Protocol):
    """Texts to vectors; `name` says what makes them. embeddings.py has one."""

    name: str

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


Margins = dict[tuple[str, ...], tuple[float, float, float]]

LIMITS = ("log_spread", "log_shortest", "log_longest")  # the median spread, and what outputs were between
WIDEST_SPREAD = 3.0  # a spread is at most so many times the median spread, and at least one by it


class Predictions(NamedTuple):
    """Output tokens, an array for each, with p10 <= median <= p90 <= max_tokens where a record has that."""

    median: NDArray[np.int64]
    p10: NDArray[np.int64]
    p90: NDArray[np.int64]


class Regressor:
    """A fitted model: `fit` makes it, store.py keeps it."""

    def __init__(
        self,
        matrices: Matrices,
        scales: dict[str, tuple[float, float]],
        margins: Margins,
        limits: dict[str, float],
        embed: Embed | None,
    ) -> None:
        self.matrices = matrices
        self.scales = scales
        self.margins = margins
        self.limits = limits
        self._embed = embed
        self._predict = predictor(matrices)

    @property
    def embedding(self) -> str | None:
        """What makes the embeddings that it reads, if it reads any."""
        return self._embed.name if self._embed is not None else None

    def predict(self, records: Sequence[Record]) -> Predictions:
        """For records that have their `prompt_tokens`; everything else may be absent."""
        if not records:
            none = np.empty(0, np.int64)
            return Predictions(none, none, none)
        given = self._predict(look(records, self._embed))
        spread = spread_of(given[:, 0], self.limits["log_spread"])
        column = {model: place for place, model in enumerate(self.scales, start=1)}
        columns = [column.get(record.get("served_model") or "", 1) for record in records]
        length = given[np.arange(len(records)), columns]
        scale = np.array([scale_of(self.scales, record) for record in records])
        margins = np.array([margins_of(self.margins, group_of(record)) for record in records])
        logs = scale[:, :1] + scale[:, 1:] * (length[:, None] + spread[:, None] * margins)
        logs = np.clip(logs, self.limits["log_shortest"], self.limits["log_longest"])
        tokens = np.rint(np.exp(logs)).astype(np.int64)
        caps = np.array([record.get("max_tokens") or np.iinfo(np.int64).max for record in records], np.int64)
        p10, median, p90 = np.clip(tokens, 1, caps[:, None]).T
        return Predictions(median, p10, p90)


class Scores(NamedTuple):
    """Out of fold, as in use: estimates are cut at `max_tokens`, as outputs were; none of those in flight."""

    tau: float
    mae_tokens: float
    constant_mae_tokens: float
    coverage: float


class Training(NamedTuple):
    """What a model was learned from. Instants are on each run's own clock."""

    completions: int
    censored: int
    first_finished_s: float | None
    last_finished_s: float | None
    runs: dict[str, int]


class Fit(NamedTuple):
    """A model, how good it is out of fold, what it was learned from, and, when it has just been, the
    scikit-learn Pipeline that its matrices were made of."""

    regressor: Regressor
    scores: Scores
    training: Training
    pipeline: Any = None


def scale_of(scales: dict[str, tuple[float, float]], record: Record) -> tuple[float, float]:
    return scales.get(record.get("served_model") or "", scales[""])


def spread_of(log_spread: Floats, typical: float) -> Floats:
    bound = math.log(WIDEST_SPREAD)
    spread: Floats = np.exp(np.clip(log_spread, typical - bound, typical + bound))
    return spread


def group_of(record: Record) -> tuple[str, str]:
    return record.get("served_model") or "", record.get("tenant") or ""


def margins_of(margins: Margins, group: tuple[str, str]) -> tuple[float, float, float]:
    return margins.get(group) or margins.get(group[:1]) or margins[()]
