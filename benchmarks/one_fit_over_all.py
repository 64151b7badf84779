"""Is one fit over all served models better than one fit each? That depends on what each has answered.

    python benchmarks/one_fit_over_all.py FOLDER [--models a,b,...] [--seeds 1]

FOLDER is as for length_prediction.py, whose five folds by prompt these are. The prompts of the training folds
have been answered

    all              by every model, each of them
    shares           by one model each, dealt at random: as where every model has requests of its own
    N of a new one   by all models but one, which has answered N of them; each model is the new one once

`alone` is fitted on the model's own answers, `together` on everybody's, with the model's name, by the text of
prompts. `beside others` has in place of alone a fit on everybody's but those of the new one, whose name it
then does not know: what is gained there is what the N add. The regressor refuses fewer than 20
completions; here it is let off. MAE is so much under that of the constant median of all the model's
answers in the training folds, however many of them were to be seen. Seeds draw anew who has answered what;
figures are means over them. Intervals are 95 %, paired, by a bootstrap over prompts.

The rows with embeddings need driftkit[embed].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftkit.errors import DriftkitError
from driftkit.estimation import embeddings, fitting
from driftkit.estimation.regressor import Regressor
from driftkit.rng import stream
from length_prediction import FOLDS, Answers, Evaluation, Floats, dealt, remembered

NEW = (10, 25, 50, 100)  # answers
Answered = Iterable[tuple[int, int]]  # prompt, model


def record(answers: Answers, prompt: int, model: int) -> dict[str, Any]:
    return answers.record(prompt, model) | {"tenant": None}


def fitted(answers: Answers, answered: Answered, embed: Any) -> Regressor:
    return fitting.fit([record(answers, p, m) for p, m in answered], embed=embed).regressor


def medians(fit: Regressor, answers: Answers, prompts: Sequence[int], model: int) -> Floats:
    return fit.predict([record(answers, p, model) for p in prompts]).median.astype(float)


def everybody(
    answers: Answers, folds: NDArray[np.int64], embed: Any, seed: int | None
) -> tuple[Floats, Floats]:
    """Alone and together, where every model has answered all prompts or, with a seed, a share of its own."""
    alone, together = np.empty_like(answers.tokens), np.empty_like(answers.tokens)
    models = range(len(answers.models))
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold).tolist()
        turn = None if seed is None else dealt(len(train), len(models), seed, f"shares/{fold}")
        own = [[(p, m) for p in (train if turn is None else train[turn == m])] for m in models]
        over_all = fitted(answers, chain.from_iterable(own), embed)
        for m in models:
            alone[test, m] = medians(fitted(answers, own[m], embed), answers, test, m)
            together[test, m] = medians(over_all, answers, test, m)
    return alone, together


def others(answers: Answers, folds: NDArray[np.int64], embed: Any) -> Floats:
    """Each model by what the others have answered."""
    predicted = np.empty_like(answers.tokens)
    models = range(len(answers.models))
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold).tolist()
        for m in models:
            fit = fitted(answers, [(p, o) for p in train for o in models if o != m], embed)
            predicted[test, m] = medians(fit, answers, test, m)
    return predicted


def new_one(
    answers: Answers, folds: NDArray[np.int64], embed: Any, n: int, seed: int
) -> tuple[Floats, Floats]:
    """Alone and together, each model as the one that has answered but n prompts."""
    alone, together = np.empty_like(answers.tokens), np.empty_like(answers.tokens)
    models = range(len(answers.models))
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold).tolist()
        for m in models:
            few = train[np.argsort(stream(seed, f"new/{fold}/{m}").random(len(train)))[:n]]
            own = [(p, m) for p in few]
            rest = [(p, o) for p in train for o in models if o != m]
            alone[test, m] = medians(fitted(answers, own, embed), answers, test, m)
            together[test, m] = medians(fitted(answers, rest + own, embed), answers, test, m)
    return alone, together


def row(evaluation: Evaluation, name: str, one: Sequence[Floats], other: Sequence[Floats]) -> None:
    """Of runs that are paired, the one, the other, and how much better the other is."""
    cells = [
        f"{np.mean([evaluation.taus(run).mean() for run in runs]):6.3f} "
        f"{100 * np.mean([evaluation.gain(run)[0] for run in runs]):6.1f} %"
        for runs in (one, other)
    ]
    tau, gain = evaluation.differences(other, one)
    print(
        f"{name:32s} {cells[0]} {cells[1]}   {tau[0]:+.4f} [{tau[1]:+.4f}, {tau[2]:+.4f}]   "
        f"{100 * gain[0]:+6.2f} [{100 * gain[1]:+6.2f}, {100 * gain[2]:+6.2f}]",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare one fit over all served models with one each.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", help="comma-separated; default all")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    answers = Answers(options.folder, options.models.split(",") if options.models else None)
    folds = dealt(len(answers.prompts), FOLDS, 1, "folds")
    evaluation = Evaluation(answers, folds, 1)
    fitting.LEAST = min(NEW)
    kinds: list[tuple[str, Any]] = [("", None)]
    try:
        kinds.append((" + embeddings", remembered(embeddings.load())))
    except DriftkitError as error:
        print(f"one_fit_over_all: without embeddings: {error}", file=sys.stderr)
    print(f"{len(answers.prompts)} prompts, {len(answers.models)} models: {', '.join(answers.models)}")
    seeds = range(options.seeds)
    for kind, embed in kinds:
        print(f"\n{'answered' + kind:32s} {'alone: tau, MAE':>15s} {'together':>15s}   together - alone")
        row(evaluation, "all", *([run] for run in everybody(answers, folds, embed, None)))
        runs = [everybody(answers, folds, embed, seed) for seed in seeds]
        row(evaluation, "shares", *zip(*runs, strict=True))
        known = [others(answers, folds, embed)] * len(seeds)
        for n in NEW:
            alone, together = zip(*(new_one(answers, folds, embed, n, seed) for seed in seeds), strict=True)
            row(evaluation, f"{n} of a new one", alone, together)
            row(evaluation, "  beside others", known, together)


if __name__ == "__main__":
    main()
