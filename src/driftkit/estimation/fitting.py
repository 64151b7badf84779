"""Output length learned from completions: the median, and P10 and P90, from what is known at admission.

    table (features.py)                  text, labels, numbers, embedding if asked for
    -> columns                           TF-IDF reduced by SVD, one-hot labels, scaled numbers
    -> kernel                            RBF features (Nystroem): training stays linear in completions
    -> Ridge                             log spread; log length for any model, and for each served model

One scikit-learn Pipeline; matrices.py's few stand for it where requests are estimated. Lengths
are learned in units of a mean and a deviation of log length per served model, so that one fit over all models
learns from every model's answers what a prompt asks for. What a served model makes of it differently is
learned from its own completions and shrunk towards that: an unknown model gets what all have in common, a new
one departs from it as it is observed.

Quantiles are conformal: the residuals of predictions made out of fold, each divided by its predicted spread,
give three margins for everything, shrunk per served model and per tenant of it towards those of the whole. A
normal distribution is assumed nowhere but for what was cut.

Censored outputs (cut at `max_tokens`, or in flight when the run ended) enter the fit with their
expectation above the cut under the out-of-fold prediction, refitted until it settles (EM for a Tobit model),
and the margins by the product-limit estimate (censoring.py).
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from driftkit.errors import DriftkitError
from driftkit.estimation import observed
from driftkit.estimation.base import prompt_text
from driftkit.estimation.censoring import Bools, Floats, above, moments, quantiles
from driftkit.estimation.features import LABELS, NUMBERS, TEXT, table
from driftkit.estimation.folding import folded
from driftkit.estimation.regressor import (
    Embed,
    Fit,
    Margins,
    Regressor,
    Scores,
    Training,
    group_of,
    margins_of,
    scale_of,
    spread_of,
)
from driftkit.records.schema import MOST, Record, checker

Progress = Callable[[int, int], None]

LEAST = 20  # completions that ended by themselves
LEVELS = (0.1, 0.5, 0.9)

FOLDS = 5
MANY = 10_000  # completions from which on two folds do, and columns are fitted on so many of them
COMPONENTS = 60  # of the text
BASIS = 400  # rows that the kernel is spanned by
TEXT_WEIGHT = 10.0  # brings the components of a TF-IDF row, of length 1, to the size of a scaled number
LABEL_WEIGHT = 2.0
LINEAR = 0.2  # variance of the kernel's linear part, by that of the whole
EMBED_WEIGHT = 10.0  # the same of a sentence's embedding, of length 1
PENALTY = 1.0  # of the length: variance of the noise by that of what is explained, for each model asked
OWN_PENALTY = 8.0  # of what a served model makes of it differently
SPREAD_PENALTY = 20.0
UNTOLD = 0.25  # variance about a prediction, by that of all, without that of answers to one prompt
ROUNDS = 8  # of imputing what was cut, at most
SETTLED = 0.02  # deviations by which the last of them changed nothing
MODEL_PRIOR = 5.0  # completions that all models count for in one's mean and deviation
GROUP_PRIOR = 10.0  # completions that the whole counts for in a group's margins

check_observed = checker(
    ("id", "prompt_tokens"),
    (
        *("category", "tenant", "tier", "served_model", "max_tokens", "turn", "prompt", "messages"),
        *(*observed.FIELDS, "finished_s", "run_id"),
    ),
)


def fit(records: Sequence[Record], *, embed: Embed | None = None, progress: Progress | None = None) -> Fit:
    """Learn from completions; DriftkitError when there is too little to learn from.

    Records without an output, or that failed, are passed over.
    """
    found = [(record, seen) for record in records if (seen := observed.observed(record)) is not None]
    records = [record for record, _ in found]
    cut = np.array([seen.cut for _, seen in found], bool)
    _require(len(records), int(cut.sum()))
    logs = np.log(np.array([seen.tokens for _, seen in found], float))
    folds = _folds(records, 2 if len(records) > MANY else FOLDS)
    done = _counter(progress, len(np.unique(folds)) + 2)
    rows = table(records, embed)
    done()
    scales = _scales(records, logs, cut)
    scale = np.array([scale_of(scales, record) for record in records])
    target = (logs - scale[:, 0]) / scale[:, 1]
    names = list(scales)
    model = np.array([names.index(record.get("served_model") or "") for record in records])
    _, prompt = np.unique(_distinct(rows), return_inverse=True)
    penalty = PENALTY * _models_per_prompt(prompt, model)
    weight = _weights(prompt, target, cut)
    parts = []
    for fold in np.unique(folds):
        train = folds != fold
        features = features_of(rows[train])
        parts.append((train, features.transform(rows[train]), features.transform(rows[~train])))
        done()

    def length(seen: Floats, train: Bools, filled: Floats) -> Ridge:
        return _length(seen, filled[train], weight[train], model[train], len(names), penalty)

    filled, predicted, hidden = _imputed(target, cut, model, parts, length)
    size = np.log(np.sqrt((filled - predicted) ** 2 + hidden) + 0.05)
    log_spread = np.empty_like(size)
    for train, seen, unseen in parts:
        log_spread[~train] = Ridge(alpha=SPREAD_PENALTY).fit(seen, size[train]).predict(unseen)
    typical = float(np.median(log_spread))
    residuals = (target - predicted) / spread_of(log_spread, typical)
    groups = [group_of(record) for record in records]
    margins = _margins(residuals, cut, groups)
    features = features_of(rows)
    seen = features.transform(rows)
    last = _beside(Ridge(alpha=SPREAD_PENALTY).fit(seen, size), length(seen, np.ones_like(cut), filled))
    done()
    limits = {
        "log_spread": typical,
        "log_shortest": float(logs.min()),
        "log_longest": min(float((scale[:, 0] + scale[:, 1] * filled).max()), math.log(MOST)),
    }
    pipeline = Pipeline([*features.steps, ("length", last)])
    caps = np.array([_log_cap(record, seen) for record, seen in found])
    spread = spread_of(log_spread, typical)
    scores = _scores(logs, cut, caps, folds, scale, predicted, spread, residuals, groups)
    regressor = Regressor(folded(pipeline), scales, margins, limits, embed)
    return Fit(regressor, scores, _training(records, cut), pipeline)


def _training(records: Sequence[Record], cut: Bools) -> Training:
    finished = [record["finished_s"] for record in records if record.get("finished_s") is not None]
    runs = Counter(record["run_id"] for record in records if record.get("run_id"))
    first, last = (min(finished), max(finished)) if finished else (None, None)
    return Training(len(records), int(cut.sum()), first, last, dict(runs))


def _require(completions: int, cut: int) -> None:
    hint = "`driftkit run` writes completions; those that failed or have no actual_output_tokens do not count"
    if not completions:
        raise DriftkitError("no completions to learn from", hint=hint)
    if completions == cut:
        problem = f"all {completions} outputs were cut: nothing says how long they were going to be"
        raise DriftkitError(problem, hint="record some with a larger max_tokens")
    if completions - cut < LEAST:
        raise DriftkitError(
            f"{completions - cut} completions that were not cut: the regressor needs at least {LEAST}",
            hint=hint,
        )


def _counter(progress: Progress | None, steps: int) -> Callable[[], None]:
    finished = iter(range(1, steps + 1))
    return (lambda: progress(next(finished), steps)) if progress is not None else (lambda: None)


def _folds(records: Sequence[Record], count: int) -> NDArray[np.int64]:
    """A fold for each: equal prompts share one, so that a model is judged by prompts that it has not seen.

    Where there are but a few prompts, as in a workload made of templates, those are not unseen in use either.
    """
    texts = [prompt_text(record) for record in records]
    keys = [
        place if text is None else zlib.crc32(text.encode("utf-8", "replace"))
        for place, text in enumerate(texts)
    ]
    if len(set(keys)) >= LEAST:
        parts = GroupKFold(count).split(keys, groups=keys)
    else:
        parts = KFold(count, shuffle=True, random_state=0).split(keys)
    folds = np.empty(len(keys), np.int64)
    for fold, (_, of) in enumerate(parts):
        folds[of] = fold
    return folds


def _scales(records: Sequence[Record], logs: Floats, cut: Bools) -> dict[str, tuple[float, float]]:
    """Mean and deviation of log length per served model, and of all under ""."""
    mean, deviation = moments(logs, cut)
    scales = {"": (mean, max(deviation, 1e-6))}
    models = np.array([record.get("served_model") or "" for record in records])
    for model in sorted(set(models.tolist()) - {""}):
        of = models == model
        n = int(of.sum())
        own_mean, own_deviation = moments(logs[of], cut[of]) if not cut[of].all() else (mean, deviation)
        variance = (n * own_deviation**2 + MODEL_PRIOR * deviation**2) / (n + MODEL_PRIOR)
        scales[model] = (
            (n * own_mean + MODEL_PRIOR * mean) / (n + MODEL_PRIOR),
            max(math.sqrt(variance), 1e-6),
        )
    return scales


def features_of(rows: NDArray[np.object_]) -> Pipeline:
    """Columns and kernel, fitted on `rows` or on MANY of them."""
    _, first = np.unique(_distinct(rows), return_index=True)
    rows = rows[np.sort(first)]
    if len(rows) > MANY:
        rows = rows[np.linspace(0, len(rows) - 1, MANY).astype(int)]
    numbers = 1 + len(LABELS) + np.arange(len(NUMBERS))
    embedding = np.arange(numbers[-1] + 1, rows.shape[1])
    labels = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=100)
    blocks: list[tuple[str, Any, Any]] = [
        ("labels", labels, list(range(1, 1 + len(LABELS)))),
        ("numbers", StandardScaler(), numbers),
    ]
    text = _text_block(rows[:, TEXT])
    if text is not None:
        blocks.append(("text", text, TEXT))
    if len(embedding):
        blocks.append(("embedding", StandardScaler(with_std=False), embedding))
    weights = {"text": TEXT_WEIGHT, "labels": LABEL_WEIGHT, "embedding": EMBED_WEIGHT}
    columns = ColumnTransformer(blocks, transformer_weights=weights, sparse_threshold=0)
    with np.errstate(invalid="ignore"):  # texts that are all alike have components without variance
        columns.fit(rows)
    scaler = columns.named_transformers_["numbers"]
    scaler.scale_ = np.sqrt(scaler.scale_)  # half way: a rare cue is not to outweigh all others
    columned = columns.transform(rows)
    gamma = 1 / (columned.var(axis=0).sum() or 1.0)
    kernel = FeatureUnion(
        [
            ("rbf", Nystroem(gamma=gamma, n_components=min(BASIS, len(rows)), random_state=0)),
            ("linear", "passthrough"),
        ],
        transformer_weights={"linear": math.sqrt(LINEAR * gamma)},
    ).fit(columned)
    return Pipeline([("columns", columns), ("kernel", kernel)])


def _text_block(texts: NDArray[np.object_]) -> Pipeline | None:
    """None when there are not even two words that occur twice."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=20_000, sublinear_tf=True)
    try:
        terms = len(clone(words).fit(texts).vocabulary_)
    except ValueError:
        return None
    if terms < 2:
        return None
    return Pipeline(
        [("words", words), ("components", TruncatedSVD(min(COMPONENTS, terms - 1), random_state=0))]
    )


def _models_per_prompt(prompt: NDArray[np.int64], model: NDArray[np.int64]) -> float:
    """Answers to one prompt surprise alike, whoever gives them: they count as one."""
    return len(np.unique(np.column_stack([prompt, model]), axis=0)) / len(np.unique(prompt))


def _weights(prompt: NDArray[np.int64], target: Floats, cut: Bools) -> Floats:
    """Where answers to one prompt disagree, each says less of what it asks for: weights by their variance.

    Least squares with replicates (Fuller and Rao 1978). The variance of few answers is drawn to the typical
    one, which a prompt answered once has; what was cut does not show it.
    """
    ended, of = target[~cut], prompt[~cut]
    count = np.bincount(of, minlength=prompt.max() + 1)
    mean = np.bincount(of, ended, len(count)) / np.maximum(count, 1)
    squared = (ended - mean[of]) ** 2
    squares = np.bincount(of, squared, len(count))
    freedom = np.maximum(count - 1, 0)
    typical = squared.sum() / max(1, freedom.sum())
    variance = (squares + typical) / (freedom + 1)
    weight: Floats = 1 / (UNTOLD + variance[prompt])
    weight /= weight.mean()
    return weight


def _distinct(rows: NDArray[np.object_]) -> list[int]:
    return [hash(tuple(row)) for row in rows.tolist()]


Part = tuple[Bools, Floats, Floats]  # the rows trained on, their features, and those of the others
Solve = Callable[[Floats, Bools, Floats], Ridge]


def _length(
    features: Floats,
    target: Floats,
    weight: Floats,
    model: NDArray[np.int64],
    models: int,
    penalty: float,
) -> Ridge:
    """One column for any model, which is number 0, and one for each: what all have in common and its own."""
    ridge = Ridge(alpha=penalty).fit(features, target, weight)
    left = target - ridge.predict(features)
    coefficients = np.repeat(ridge.coef_[None], models, axis=0)
    intercepts = np.repeat(ridge.intercept_, models)
    for place in range(1, models if models > 2 else 1):
        of = model == place
        if of.any():
            own = Ridge(alpha=OWN_PENALTY).fit(features[of], left[of], weight[of])
            coefficients[place] += own.coef_
            intercepts[place] += own.intercept_
    ridge.coef_, ridge.intercept_ = coefficients, intercepts
    return ridge


def _beside(spread: Ridge, length: Ridge) -> Ridge:
    """One Ridge that gives what both do."""
    length.coef_ = np.vstack([spread.coef_, length.coef_])
    length.intercept_ = np.append(spread.intercept_, length.intercept_)
    return length


def _imputed(
    target: Floats, cut: Bools, model: NDArray[np.int64], parts: Sequence[Part], length: Solve
) -> tuple[Floats, Floats, Floats]:
    """The target with what was cut replaced by what it is expected to be, the out-of-fold prediction of it,
    and the variance that is left.
    """
    filled, predicted, hidden = target.copy(), np.empty_like(target), np.zeros_like(target)
    for turn in range(ROUNDS if cut.any() else 1):
        if turn:
            _, sigma = moments(target, cut, predicted)
            before = filled[cut]
            filled[cut], hidden[cut] = above(target[cut], predicted[cut], sigma)
            if np.abs(filled[cut] - before).max() < SETTLED:
                break
        for train, seen, unseen in parts:
            given = length(seen, train, filled).predict(unseen)
            predicted[~train] = given[np.arange(len(unseen)), model[~train]]
    return filled, predicted, hidden


def _margins(residuals: Floats, cut: Bools, groups: Sequence[tuple[str, str]]) -> Margins:
    """The LEVELS of the residuals: of all under (), per served model, and per tenant of a served model."""
    margins: Margins = {(): _as_margins(quantiles(residuals, cut, LEVELS))}
    for depth in (1, 2):
        places: dict[tuple[str, ...], list[int]] = {}
        for place, whole in enumerate(groups):
            places.setdefault(whole[:depth], []).append(place)
        for group, of in sorted(places.items()):
            above_it = np.array(margins[group[: depth - 1]])
            if cut[of].all():
                continue
            weight = len(of) / (len(of) + GROUP_PRIOR)
            own = quantiles(residuals[of], cut[of], LEVELS)
            margins[group] = _as_margins(weight * own + (1 - weight) * above_it)
    return margins


def _as_margins(values: Floats) -> tuple[float, float, float]:
    low, middle, high = sorted(map(float, values))
    return low, middle, high


def _log_cap(record: Record, seen: observed.Observed) -> float:
    """Where its output would have been cut; -inf for one that was in flight, of which nobody knows."""
    if seen.cut:
        return math.log(seen.tokens) if record.get("finish_reason") == "length" else -math.inf
    cap = record.get("max_tokens")
    return math.log(cap) if cap is not None else math.inf


def _scores(
    logs: Floats,
    cut: Bools,
    caps: Floats,
    folds: NDArray[np.int64],
    scale: Floats,
    predicted: Floats,
    spread: Floats,
    residuals: Floats,
    groups: Sequence[tuple[str, str]],
) -> Scores:
    """Every fold by what the others give, its margins too."""
    used = np.empty((len(logs), len(LEVELS)))
    constant = np.empty_like(logs)
    for fold in np.unique(folds):
        rest, of = folds != fold, np.flatnonzero(folds == fold).tolist()
        margins = _margins(
            residuals[rest], cut[rest], [groups[place] for place in np.flatnonzero(rest).tolist()]
        )
        used[of] = [margins_of(margins, groups[place]) for place in of]
        constant[of] = quantiles(logs[rest], cut[rest], [0.5])[0]
    quantile_logs = scale[:, :1] + scale[:, 1:] * (predicted[:, None] + spread[:, None] * used)
    known = caps > -math.inf
    caps = caps[known]
    low, middle, high = np.exp(np.minimum(quantile_logs[known].T, caps))
    constant = np.exp(np.minimum(constant[known], caps))
    actual = np.exp(logs[known])
    tau = kendalltau(middle, actual).statistic
    return Scores(
        tau=float(tau) if np.isfinite(tau) else 0.0,
        mae_tokens=float(np.abs(middle - actual).mean()),
        constant_mae_tokens=float(np.abs(constant - actual).mean()),
        coverage=float(((np.rint(low) <= np.rint(actual)) & (np.rint(actual) <= np.rint(high))).mean()),
    )
