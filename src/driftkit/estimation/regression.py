"""The regressor that `calibrate --fit regressor` has left in a state folder, as an estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from threadpoolctl import ThreadpoolController

from driftkit.errors import StateError
from driftkit.estimation import store
from driftkit.estimation.base import Estimate
from driftkit.estimation.regressor import Embed, Regressor
from driftkit.records.schema import Record


class Regression:
    """Median, P10 and P90 for requests to `served_model`; many at once cost a fraction of one by one."""

    name: ClassVar[str] = "regressor"
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, regressor: Regressor, served_model: str) -> None:
        self._regressor = regressor
        self._served_model = served_model
        self._threads = ThreadpoolController()

    @classmethod
    def from_state(cls, folder: Path, served_model: str, warn: Callable[[str], None]) -> Regression:
        found = store.read(folder, embedding_of(folder))
        if found is None:
            hint = f"`driftkit calibrate --fit regressor --state {folder}` learns it from completions"
            raise StateError(f"{folder}: no regressor", hint=hint)
        if found.regressor.scales and served_model not in found.regressor.scales:
            known = ", ".join(sorted(filter(None, found.regressor.scales)))
            warn(f"{folder}: the regressor has seen no completion of {served_model}, but of {known}")
        return cls(found.regressor, served_model)

    @staticmethod
    def identity(folder: Path, served_model: str) -> str | None:
        """What tells the folder's regressor from one that was fitted to something else."""
        return store.identity(folder)

    def estimate(self, record: Record) -> Estimate:
        return self.estimate_many([record])[0]

    def estimate_many(self, records: Sequence[Record]) -> list[Estimate]:
        asked = [{**record, "served_model": self._served_model} for record in records]
        with self._threads.limit(limits=1):  # more would but wait for each other, on matrices so small
            told = self._regressor.predict(asked)
        rows = zip(told.median.tolist(), told.p10.tolist(), told.p90.tolist(), strict=True)
        return [Estimate(median, interval_tokens=(low, high)) for median, low, high in rows]


def embedding_of(folder: Path) -> Embed | None:
    """What the folder's regressor embeds texts with, loaded; None where it does without."""
    if not store.embeds(folder):
        return None
    from driftkit.estimation import embeddings

    return embeddings.load()
