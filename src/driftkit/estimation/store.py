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
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from driftkit import __version__
from driftkit.errors import StateError
from driftkit.estimation.features import FEATURE_SCHEMA
from driftkit.estimation.matrices import Labels, Matrices
from driftkit.estimation.regressor import LIMITS, Embed, Fit, Regressor, Scores, Training
from driftkit.records.document import check_hash, hashed, of_version, quoted
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
        "kind": _KIND,
        "version": VERSION,
        "written_by": f"driftkit {__version__}",
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
    document = hashed(content, but=())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _model_path(folder, model_hash)
        _replace(path, model)
        _replace(
            folder / _JSON, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )
        for old in set(folder.glob("regressor-*")) - {path}:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"{folder / _JSON}: {(error.strerror or str(error)).lower()}") from error


def read(folder: Path, embed: Embed | None = None) -> Fit | None:
    """The folder's regressor; None when it has none, StateError when it cannot be used.

    `embed` is for one that was fitted with embeddings; without it such a one is refused.
    """
    found = _document(folder)
    if found is None:
        return None
    document, model = found
    if document["embedding"] != (embed.name if embed is not None else None):
        needs = document["embedding"] or "no embeddings"
        hint = "pip install driftkit[embed]" if document["embedding"] else None
        raise StateError(f"{folder / _JSON}: fitted with {needs}", hint=hint)
    try:
        scales = {name: _numbers(values, 2) for name, values in document["scales"].items()}
        margins = {tuple(group): _numbers(levels, 3) for group, levels in document["margins"]}
        limits = dict(zip(LIMITS, _numbers([document["limits"][name] for name in LIMITS], 3), strict=True))
        if "" not in scales or () not in margins or limits["log_longest"] > math.log(MOST):
            raise ValueError("nothing for all models, or outputs that are too long")
        matrices = _matrices(document, model)
        if len(matrices.intercept) != 1 + len(scales):
            raise ValueError("another number of models")
        regressor = Regressor(matrices, scales, margins, limits, embed)
        return Fit(regressor, Scores(**document["scores"]), Training(**document["training"]))
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        raise StateError(f"{folder / _JSON}: damaged state", hint=_DAMAGED) from None


def check(folder: Path) -> None:
    """StateError for a regressor that `read` would not take for what it is, short of making it."""
    _document(folder)


def embeds(folder: Path) -> bool:
    """Whether the folder has a regressor that was fitted with embeddings; StateError as `read`."""
    document = _json(folder / _JSON)
    return document is not None and document["embedding"] is not None


def identity(folder: Path) -> str | None:
    """What tells the folder's regressor from every other; None when it has none, StateError as `read`."""
    document = _json(folder / _JSON)
    return str(document["sha256"]) if document is not None else None


def _document(folder: Path) -> tuple[dict[str, Any], bytes] | None:
    """The JSON and the file that it names, checked as far as their hashes; None when there is none."""
    for last in (False, True):
        document = _json(folder / _JSON)
        if document is None:
            return None
        path = _model_path(folder, document["model_sha256"])
        try:
            model = path.read_bytes()
        except OSError as error:
            if last or not isinstance(error, FileNotFoundError):
                raise StateError(
                    f"{path}: {(error.strerror or str(error)).lower()}", hint=_DAMAGED
                ) from error
            continue  # it was replaced between the two reads
        if hashlib.sha256(model).hexdigest() != document["model_sha256"]:
            raise StateError(f"{path}: damaged, or edited by hand: its hash is another", hint=_DAMAGED)
        return document, model
    return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        document = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except orjson.JSONDecodeError as error:
        raise StateError(f"{path}:{error.lineno}: damaged state: {error.msg}", hint=_DAMAGED) from None
    if type(document) is not dict or document.get("kind") != _KIND:
        raise StateError(f"{path}: not a driftkit regressor", hint="give another --state DIR")
    if document.get("version") != VERSION:
        raise of_version(path, "version", document.get("version"), VERSION, _ANEW)
    check_hash(path, document, but=(), hint=_DAMAGED)
    if not {"feature_schema", "embedding", "model_sha256"} <= set(document):
        raise StateError(f"{path}: damaged state", hint=_DAMAGED)
    if document["feature_schema"] != FEATURE_SCHEMA:
        problem = f"feature schema {document['feature_schema']}, this driftkit computes {FEATURE_SCHEMA}"
        raise StateError(f"{path}: {problem}", hint=_ANEW)
    return document


def _matrices(document: dict[str, Any], model: bytes) -> Matrices:
    """ValueError or the like when the file does not hold what the document says, or that does not fit."""
    shapes: Mapping[str, list[int]] = document["shapes"]
    arrays, end = {}, 0
    for name in _ARRAYS:
        count = math.prod(shapes[name])
        found = np.frombuffer(model, _dtype(name), count, end)
        arrays[name] = found.reshape(shapes[name])
        end += found.nbytes
    labels = [Labels(**values) for values in document["labels"]]
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
    return folder / f"regressor-{quoted(str(model_hash)[:16])}.f64"


def _dtype(name: str) -> str:
    return "<u8" if name == "term_keys" else "<f8"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.parent / ".writing-regressor"  # one writer; what a killed one left is overwritten
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
