"""As long as outputs of this tenant and category have been: no text is looked at.

What Past-Future (Gong et al., ASPLOS 2025) schedules by: the empirical distribution of recent output lengths,
and for a request that has begun, of those that were longer than it is already. Outputs that were cut are
censored (`survival`). A tenant's category is shrunk towards the category, and that towards all, so a tenant
or category never seen is estimated by what is next. Kept as counts, one file per served model, which
`driftkit calibrate --fit history` writes anew. It does not learn by itself: corrections are learned of what
it says, and would be wrong if it moved under them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from driftkit.errors import StateError
from driftkit.estimation import observed
from driftkit.estimation.base import Estimate
from driftkit.estimation.survival import Curve, Lengths
from driftkit.records.document import ANEW, check_hash, digest, hashed, quoted, read, write
from driftkit.records.schema import Record, checker

VERSION = 2  # 1 had no hash
_KIND = "driftkit-history"
LEVELS = (0.1, 0.5, 0.9)

check_completion = checker((), ("tenant", "category", "served_model", *observed.FIELDS))

Group = tuple[str, ...]  # (), (category,) or (category, tenant)


class History:
    """Warns, once, when so many outputs were cut that a length is only known to be at least that."""

    name: ClassVar[str] = "history"
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, warn: Callable[[str], None] = lambda text: None) -> None:
        self._warn = warn
        self._lengths: dict[Group, Lengths] = {}
        self._curves: dict[Group, Curve] = {}
        self._quantiles: dict[Group, tuple[int, ...]] = {}

    @property
    def completions(self) -> int:
        return self._lengths[()].count if () in self._lengths else 0

    def said(self) -> str:
        """What there is of all that was counted, for people."""
        low, median, high = (self._curve(()).quantile(level) for level in LEVELS)
        cut = self._lengths[()].cut
        return f"{cut} of them cut; P10 {low}, median {median}, P90 {high} tokens"

    def learn(self, record: Record) -> bool:
        """Count a completion, if it says how long it is, or was at least."""
        seen = observed.observed(record)
        if seen is None:
            return False
        for group in _groups(record):
            self._lengths.setdefault(group, Lengths()).add(*seen)
        self._curves.clear()
        self._quantiles.clear()
        return True

    def estimate(self, record: Record) -> Estimate:
        group = self._nearest(record)
        quantiles = self._quantiles.get(group)
        if quantiles is None:
            curve = self._curve(group)
            quantiles = self._quantiles[group] = tuple(curve.quantile(level) for level in LEVELS)
        cap = record.get("max_tokens")
        if cap is not None:
            quantiles = tuple(min(tokens, cap) for tokens in quantiles)
        low, median, high = quantiles
        if self._curve(group).ends() < LEVELS[2] and (cap is None or cap > high):
            self._warn("some lengths are known too little, because most outputs were cut: at least so long")
        return Estimate(median, category=record.get("category"), interval_tokens=(low, high))

    def remaining(self, record: Record, generated: int) -> tuple[int, int, int]:
        """P10, median and P90 of the tokens still to come when `generated` are there: 1 at least, and not
        more than `max_tokens` leaves."""
        curve = self._curve(self._nearest(record))
        cap = record.get("max_tokens")
        most = cap - generated if cap is not None else None
        low, median, high = (
            max(1, min(left, most) if most is not None else left)
            for left in (curve.quantile(level, over=generated) - generated for level in LEVELS)
        )
        return low, median, high

    @classmethod
    def from_state(cls, folder: Path, served_model: str, warn: Callable[[str], None]) -> History:
        history = cls.stored(folder, served_model, warn)
        if history is None:
            hint = f"`driftkit calibrate --fit history --state {folder}` learns it from completions"
            parts = [other.name.split(".") for other in sorted(folder.glob("history.*.json"))]
            others = [unquote(part[1]) for part in parts if len(part) == 3]  # four: corrections of one
            if others:
                hint = f"there is one of another: --served-model {others[0]}"
            raise StateError(f"{_path(folder, served_model)}: no history of {served_model}", hint=hint)
        return history

    @classmethod
    def stored(
        cls, folder: Path, served_model: str, warn: Callable[[str], None] = lambda text: None
    ) -> History | None:
        """The folder's; None when there is none, StateError when it cannot be used."""
        path = _path(folder, served_model)
        document = read(path, _KIND, VERSION)
        if document is None:
            return None
        check_hash(path, document)
        history = cls(warn)
        try:
            for row in document["lengths"]:
                group = tuple(str(row[part]) for part in ("category", "tenant") if part in row)
                history._lengths[group] = Lengths.from_json(row["tokens"])
            if () not in history._lengths or document["served_model"] != served_model:
                raise ValueError("not whole, or renamed")
        except (KeyError, ValueError, TypeError):
            raise StateError(f"{path}: damaged history", hint=ANEW) from None
        return history

    @staticmethod
    def identity(folder: Path, served_model: str) -> str | None:
        """What tells the folder's history from one that was fitted to something else."""
        return digest(_path(folder, served_model))

    def save(self, folder: Path, served_model: str) -> None:
        """Write it to the state folder; hold its lock."""
        lengths = [
            {**dict(zip(("category", "tenant"), group, strict=False)), "tokens": known.to_json()}
            for group, known in sorted(self._lengths.items())
        ]
        content: dict[str, Any] = {
            "served_model": served_model,
            "completions": self.completions,
            "about": "tokens: [length from, outputs that ended there, outputs that were cut there]",
            "lengths": lengths,
        }
        write(_path(folder, served_model), _KIND, VERSION, hashed(content))

    def _nearest(self, record: Record) -> Group:
        """The smallest group of the record that anything is known of."""
        for group in reversed(_groups(record)):
            if group in self._lengths:
                return group
        return ()

    def _curve(self, group: Group) -> Curve:
        curve = self._curves.get(group)
        if curve is None:
            wider = self._curve(group[:-1]) if group else None
            known = self._lengths.get(group)
            curve = self._curves[group] = known.curve(wider) if known is not None else Curve((), ())
        return curve


def _groups(record: Record) -> tuple[Group, Group, Group]:
    category, tenant = record.get("category") or "", record.get("tenant") or ""
    return (), (category,), (category, tenant)


def _path(folder: Path, served_model: str) -> Path:
    return folder / f"history.{quoted(served_model)}.json"
