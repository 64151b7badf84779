"""A regressor in the state folder: a JSON that people can read, and beside it its matrices.

    regressor.json          feature schema, versions, what it was trained on, scores, labels, margins; and
                            the hash, which names it, and the shapes
    regressor-<hash>.f64    of these: the numbers of matrices.py, 8 bytes each, little-endian, one array after
                            the other, and nothing else

So there is no pickle, nor anything else that could run: what does not have the numbers that the shapes ask
for, or has one that is none, is refused. And there is no scikit-learn, whose next release reads objects of
this one wrongly or not at all; that which fitted is named for the record. Of the words of prompts only keys
are kept.

The hashes find damage and edits by hand; they are no signature.

The numbers are written first, under a name of their own, and the JSON replaced last: a reader finds the old
two or the new two. One writer at a time: call `write` under the folder's lock.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from driftkit.errors import StateError
from driftkit.estimation.features import FEATURE_SCHEMA
from driftkit.estimation.matrices import Labels, Matrices
from driftkit.estimation.regressor import LIMITS, Embed, Fit, Regressor, Scores, Training
from driftkit.records import document
from driftkit.records.schema import MOST

VERSION = 2
_ARRAYS = Matrices._fields[1:]
_KIND = "driftkit-regressor"
_JSON = "regressor.json"
_ANEW = "fit anew: driftkit calibrate --fit regressor"
_DAMAGED = f"restore it from a backup, or {_ANEW}"


def write(folder: Path, fit: Fit) -> None:
    """Replace the folder's regressor, whole or not at all."""
    regressor = fit.regressor
    arrays = {name: getattr(regressor.matrices, name) for name in _ARRAYS}
    model = b"".join(array.astype(_dtype(name)).tobytes() for name, array in arrays.items())
    model_hash = hashlib.sha256(model).hexdigest()
    content = {
        "feature_schema": FEATURE_SCHEMA,
        "scikit_learn": version("scikit-learn"),
        "embedding": regressor.embedding,
        "training": fit.training._asdict(),
        "scores": fit.scores._asdict(),
        "scales": regressor.scales,
        "margins": [[list(group), list(levels)] for group, levels in regressor.margins.items()],
        "limits": regressor.limits,
        "labels": [values._asdict() for values in regressor.matrices.labels],
        "shapes": {name: array.shape for name, array in arrays.items()},
        "model_sha256": model_hash,
    }
    path = _model_path(folder, model_hash)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document.replace(path, model)
        document.write(folder / _JSON, _KIND, VERSION, document.hashed(content))
        for old in set(folder.glob("regressor-*")) - {path}:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"{folder / _JSON}: {(error.strerror or str(error)).lower()}") from error


def read(folder: Path, embed: Embed | None = None) -> Fit | None:
    """The folder's regressor; None when it has none, StateError when it cannot be used.

    `embed` is for one that was fitted with embeddings; without it such a one is refused.
    """
    both = _document(folder)
    if both is None:
        return None
    found, model = both
    if found["embedding"] != (embed.name if embed is not None else None):
        needs = found["embedding"] or "no embeddings"
        hint = "pip install driftkit[embed]" if found["embedding"] else None
        raise StateError(f"{folder / _JSON}: fitted with {needs}", hint=hint)
    try:
        scales = {name: _numbers(values, 2) for name, values in found["scales"].items()}
        margins = {tuple(group): _numbers(levels, 3) for group, levels in found["margins"]}
        limits = dict(zip(LIMITS, _numbers([found["limits"][name] for name in LIMITS], 3), strict=True))
        if "" not in scales or () not in margins or limits["log_longest"] > math.log(MOST):
            raise ValueError("nothing for all models, or outputs that are too long")
        matrices = _matrices(found, model)
        if len(matrices.intercept) != 1 + len(scales):
            raise ValueError("another number of models")
        regressor = Regressor(matrices, scales, margins, limits, embed)
        return Fit(regressor, Scores(**found["scores"]), Training(**found["training"]))
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        raise StateError(f"{folder / _JSON}: damaged state", hint=_DAMAGED) from None


def check(folder: Path) -> None:
    """StateError for a regressor that `read` would not take for what it is, short of making it."""
    _document(folder)


def embeds(folder: Path) -> bool:
    """Whether the folder has a regressor that was fitted with embeddings; StateError as `read`."""
    found = _json(folder / _JSON)
    return found is not None and found["embedding"] is not None


def identity(folder: Path) -> str | None:
    """What tells the folder's regressor from every other; None when it has none, StateError as `read`."""
    found = _json(folder / _JSON)
    return str(found["sha256"]) if found is not None else None


def _document(folder: Path) -> tuple[dict[str, Any], bytes] | None:
    """The JSON and the file that it names, checked as far as their hashes; None when there is none."""
    for last in (False, True):
        found = _json(folder / _JSON)
        if found is None:
            return None
        path = _model_path(folder, found["model_sha256"])
        try:
            model = path.read_bytes()
        except OSError as error:
            if last or not isinstance(error, FileNotFoundError):
                raise StateError(
                    f"{path}: {(error.strerror or str(error)).lower()}", hint=_DAMAGED
                ) from error
            continue  # it was replaced between the two reads
        if hashlib.sha256(model).hexdigest() != found["model_sha256"]:
            raise StateError(f"{path}: damaged, or edited by hand: its hash is another", hint=_DAMAGED)
        return found, model
    return None


def _json(path: Path) -> dict[str, Any] | None:
    found = document.read(path, _KIND, VERSION, _ANEW)
    if found is None:
        return None
    document.check_hash(path, found, _DAMAGED)
    if not {"feature_schema", "embedding", "model_sha256"} <= set(found):
        raise StateError(f"{path}: damaged state", hint=_DAMAGED)
    if found["feature_schema"] != FEATURE_SCHEMA:
        problem = f"feature schema {found['feature_schema']}, this driftkit computes {FEATURE_SCHEMA}"
        raise StateError(f"{path}: {problem}", hint=_ANEW)
    return found


def _matrices(found: dict[str, Any], model: bytes) -> Matrices:
    """ValueError or the like when the file does not hold what the document says, or that does not fit."""
    shapes: Mapping[str, list[int]] = found["shapes"]
    arrays, end = {}, 0
    for name in _ARRAYS:
        count = math.prod(shapes[name])
        flat = np.frombuffer(model, _dtype(name), count, end)
        arrays[name] = flat.reshape(shapes[name])
        end += flat.nbytes
    labels = [Labels(**values) for values in found["labels"]]
    matrices = Matrices(labels=labels, **arrays)
    if end != len(model) or not matrices.consistent():
        raise ValueError("matrices that do not fit each other")
    return matrices


def _numbers(values: list[float], count: int) -> Any:
    """A tuple of so many finite numbers; ValueError or the like for anything else."""
    numbers = tuple(map(float, values))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"not {count} numbers: {values}")
    return numbers


def _model_path(folder: Path, model_hash: str) -> Path:
    return folder / f"regressor-{document.quoted(str(model_hash)[:16])}.f64"


def _dtype(name: str) -> str:
    return "<u8" if name == "term_keys" else "<f8"
