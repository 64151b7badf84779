"""How well is the length of an answer predicted from its prompt, before the first token?

    python benchmarks/length_prediction.py FOLDER [--models a,b,...] [--quick] [--seed 1]

FOLDER holds one JSON (or .json.gz) per served model, a list of objects with `instruction` and `output` as
AlpacaEval writes them, and `dataset`, which stands for the tenant. Lengths are counted with the builtin
tokenizer. Prompts that not every model has answered are left out.

Five folds by prompt, so that every prompt is predicted by models that have not seen it, nor anybody's answer
to it; by its text alone, and in the rows `with tenants` by its data set too. Kendall's tau is taken within
each fold and averaged; MAE is in tokens, beside that of the constant median of the training folds. Intervals
are 95 %: bootstrap over prompts for the MAE, the coverage and what is paired, and by a t over the folds for
the other tau. Nothing is chosen here by these figures; the first table is the one that the regressor's form
was chosen from.

The rows with embeddings need driftkit[embed].
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, t
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVR

from driftkit.errors import DriftkitError
from driftkit.estimation import embeddings, tokenizers
from driftkit.estimation.features import table
from driftkit.estimation.fitting import features_of, fit
from driftkit.rng import stream

FOLDS = 5
DRAWS = 2000
LEAST = 50  # prompts
PAIRED_DRAWS = 1000  # of tau, which takes long
FAMILIES: dict[str, Callable[[], Any]] = {
    "ridge": lambda: Ridge(30.0),
    "SVR, RBF": lambda: SVR(C=0.7, epsilon=0.1),
    "extra trees": lambda: ExtraTreesRegressor(200, min_samples_leaf=3, max_features=0.3, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=10, random_state=0
    ),
    "20 neighbours": lambda: KNeighborsRegressor(20, weights="distance"),
}

Floats = NDArray[np.float64]


class Answers:
    """Prompts with their data sets, and how long each model's answer was: `tokens[prompt, model]`."""

    def __init__(self, folder: Path, wanted: Sequence[str] | None) -> None:
        count = tokenizers.load("builtin").count
        given: dict[str, dict[str, int]] = {}
        dataset: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            name = path.name.removesuffix(".gz").removesuffix(".json")
            if not path.name.removesuffix(".gz").endswith(".json") or (wanted and name not in wanted):
                continue
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            given[name] = {row["instruction"]: max(1, count(row["output"])) for row in json.loads(content)}
            dataset.update({row["instruction"]: row.get("dataset") or "" for row in json.loads(content)})
        if not given:
            sys.exit(f"length_prediction: {folder}: no answers there")
        if wanted and (missing := set(wanted) - set(given)):
            sys.exit(f"length_prediction: {folder}: no answers of {', '.join(sorted(missing))}")
        self.models = list(given)
        self.prompts = [
            p for p in next(iter(given.values())) if all(p in answers for answers in given.values())
        ]
        if len(self.prompts) < LEAST:
            sys.exit(f"length_prediction: {len(self.prompts)} prompts have answers of all models: too few")
        self.datasets = np.array([dataset[p] for p in self.prompts])
        self.prompt_tokens = [max(1, count(p)) for p in self.prompts]
        self.tokens = np.array([[given[m][p] for m in self.models] for p in self.prompts], float)

    def record(self, prompt: int, model: int) -> dict[str, Any]:
        return {
            "id": f"{prompt}/{model}",
            "prompt": self.prompts[prompt],
            "prompt_tokens": self.prompt_tokens[prompt],
            "tenant": str(self.datasets[prompt]),
            "served_model": self.models[model],
            "actual_output_tokens": int(self.tokens[prompt, model]),
        }


class Evaluation:
    """What out-of-fold predictions (prompts x models) are worth."""

    def __init__(self, answers: Answers, folds: NDArray[np.int64], seed: int) -> None:
        self.actual = answers.tokens
        self.folds = folds
        self.constant = np.empty_like(self.actual)
        for fold in range(FOLDS):
            self.constant[folds == fold] = np.median(self.actual[folds != fold], axis=0)
        uniforms = stream(seed, "bootstrap").random((DRAWS, len(self.actual)))
        self.draws = (uniforms * len(self.actual)).astype(int)

    def taus(self, predicted: Floats, drawn: NDArray[np.int64] | None = None) -> Floats:
        """Folds x models, of all prompts or of those drawn."""
        drawn = np.arange(len(self.folds)) if drawn is None else drawn
        return np.array(
            [
                [kendalltau(p, a).statistic for p, a in zip(predicted[of].T, self.actual[of].T, strict=True)]
                for of in (drawn[self.folds[drawn] == fold] for fold in range(FOLDS))
            ]
        )

    def gain(self, predicted: Floats) -> tuple[float, Floats]:
        """How far the MAE is below the constant's, the mean over models; and the same of each draw."""
        own, constant = np.abs(predicted - self.actual), np.abs(self.constant - self.actual)
        drawn = [1 - (own[d].mean(axis=0) / constant[d].mean(axis=0)).mean() for d in self.draws]
        return float(1 - (own.mean(axis=0) / constant.mean(axis=0)).mean()), np.array(drawn)

    def row(self, name: str, predicted: Floats) -> None:
        taus = self.taus(predicted).mean(axis=1)
        gain, drawn = self.gain(predicted)
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(
            f"{name:34s} {taus.mean():6.3f} ±{_half(taus):5.3f}   {100 * gain:5.1f} % "
            f"[{100 * low:5.1f}, {100 * high:5.1f}]",
            flush=True,
        )

    def differences(self, one: Sequence[Floats], other: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Of runs that are paired, their mean: tau, and gain in MAE, each with its interval over prompts."""
        both = list(zip(one, other, strict=True))
        taus = [self.taus(a) - self.taus(b) for a, b in both]
        drawn = [
            np.mean([self.taus(a, d) - self.taus(b, d) for a, b in both]) for d in self.draws[:PAIRED_DRAWS]
        ]
        gains = [(self.gain(a), self.gain(b)) for a, b in both]
        gain = np.mean([a[0] - b[0] for a, b in gains])
        of_draws = np.mean([a[1] - b[1] for a, b in gains], axis=0)
        return (
            np.array([np.mean(taus), *np.quantile(drawn, [0.025, 0.975])]),
            np.array([gain, *np.quantile(of_draws, [0.025, 0.975])]),
        )

    def paired(self, name: str, one: Floats, other: Floats) -> None:
        tau, gain = self.differences([one], [other])
        print(
            f"{name}: tau {tau[0]:+.4f} (over prompts [{tau[1]:+.4f}, {tau[2]:+.4f}]), "
            f"MAE gain {100 * gain[0]:+.2f} points [{100 * gain[1]:+.2f}, {100 * gain[2]:+.2f}]",
            flush=True,
        )

    def coverage(self, name: str, low: Floats, high: Floats, groups: Iterable[tuple[str, Any]]) -> None:
        inside = (low <= self.actual) & (self.actual <= high)
        drawn = np.quantile([inside[d].mean() for d in self.draws], [0.025, 0.975])
        print(f"{name:34s} {100 * inside.mean():5.1f} % [{100 * drawn[0]:.1f}, {100 * drawn[1]:.1f}]")
        for group, of in groups:
            print(f"  {group:32s} {100 * inside[of].mean():5.1f} %  of {inside[of].size}")
        sys.stdout.flush()


def dealt(count: int, hands: int, seed: int, name: str) -> NDArray[np.int64]:
    """To each of `count` one of the `hands`, at random and evenly."""
    order = np.argsort(stream(seed, name).random(count))
    given = np.empty(count, np.int64)
    given[order] = np.arange(count) % hands
    return given


def _half(values: Floats) -> float:
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def families(answers: Answers, folds: NDArray[np.int64], embed: Any) -> dict[str, Floats]:
    """Every family on the same columns, on log length, one fit per served model."""
    predicted = {name: np.empty_like(answers.tokens) for name in FAMILIES}
    rows = table([{**answers.record(p, 0), "tenant": None} for p in range(len(answers.prompts))], embed)
    logs = np.log(answers.tokens)
    for fold in range(FOLDS):
        train = folds != fold
        columns = features_of(rows[train]).named_steps["columns"].transform(rows)
        for model in range(len(answers.models)):
            for name, make in FAMILIES.items():
                fitted = make().fit(columns[train], logs[train, model])
                predicted[name][~train, model] = np.exp(fitted.predict(columns[~train]))
    return predicted


def regressor(
    answers: Answers, folds: NDArray[np.int64], embed: Any, *, together: bool, tenants: bool = False
) -> Floats:
    """`p10, median, p90` x prompts x models: one fit per served model, or one together.

    From the prompt alone, or with `tenants` from its data set too.
    """
    models = range(len(answers.models))
    predicted = np.empty((3, *answers.tokens.shape))

    def record(prompt: int, model: int) -> dict[str, Any]:
        return answers.record(prompt, model) | ({} if tenants else {"tenant": None})

    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        for some in [list(models)] if together else [[model] for model in models]:
            fitted = fit([record(p, m) for p in train for m in some], embed=embed).regressor
            for model in some:
                given = fitted.predict([record(p, model) for p in test])
                predicted[:, test, model] = given.p10, given.median, given.p90
    return predicted


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict how long answers are.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", help="comma-separated; default all")
    parser.add_argument("--quick", action="store_true", help="leave out the table of families")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    answers = Answers(options.folder, options.models.split(",") if options.models else None)
    folds = dealt(len(answers.prompts), FOLDS, options.seed, "folds")
    evaluation = Evaluation(answers, folds, options.seed)
    print(f"{len(answers.prompts)} prompts, {len(answers.models)} models: {', '.join(answers.models)}")
    kinds: list[tuple[str, Any]] = [("", None)]
    try:
        kinds.append((" + embeddings", remembered(embeddings.load())))
    except DriftkitError as error:
        print(f"length_prediction: without embeddings: {error}", file=sys.stderr)
    print(f"\n{'one fit per served model':34s} {'tau':>6s}          MAE under the constant median")
    evaluation.row("constant median", evaluation.constant + 1e-9 * np.arange(len(folds))[:, None])
    for kind, embed in kinds:
        if not options.quick:
            for name, predicted in families(answers, folds, embed).items():
                evaluation.row(name + kind, predicted)
    print()
    for kind, embed in kinds:
        started = time.perf_counter()
        each = regressor(answers, folds, embed, together=False)
        evaluation.row(f"regressor, each{kind}", each[1])
        together = regressor(answers, folds, embed, together=True)
        evaluation.row(f"regressor, together{kind}", together[1])
        evaluation.paired(f"together - each{kind}", together[1], each[1])
        names = [(name, answers.datasets == name) for name in sorted(set(answers.datasets))]
        evaluation.coverage(f"P10-P90, each{kind}", each[0], each[2], names)
        evaluation.coverage(f"P10-P90, together{kind}", together[0], together[2], names)
        for one_fit in False, True:
            name = f"{'together' if one_fit else 'each'}, with tenants{kind}"
            low, median, high = regressor(answers, folds, embed, together=one_fit, tenants=True)
            evaluation.row(f"regressor, {name}", median)
            evaluation.coverage(f"P10-P90, {name}", low, high, names)
        print(f"({time.perf_counter() - started:.0f} s)")
        print(f"\n{'served model':34s} {'tau, MAE gain: each':>24s} {'together':>24s}")
        for model, name in enumerate(answers.models):
            cells = []
            for predicted in (each[1], together[1]):
                tau = evaluation.taus(predicted)[:, model].mean()
                own = np.abs(predicted - evaluation.actual)[:, model].mean()
                constant = np.abs(evaluation.constant - evaluation.actual)[:, model].mean()
                cells.append(f"{tau:15.3f} {100 * (1 - own / constant):6.1f} %")
            print(f"{name:34s} {cells[0]} {cells[1]}")
        print(flush=True)


def remembered(model: Any) -> Any:
    """The same vectors, each computed once."""
    known: dict[str, Any] = {}

    def embed(texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, model(new), strict=True))
        return np.array([known[text] for text in texts])

    embed.name = model.name  # type: ignore[attr-defined]
    return embed


if __name__ == "__main__":
    main()
