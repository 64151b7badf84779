"""A fitted pipeline as the few matrices that it comes to: the same predictions, many times quicker.

    x          = labels as indicators | scaled numbers | text components | centred embedding, each weighted
    prediction = exp(-gamma |x - basis|^2) @ near + x @ linear + intercept

All that follows the kernel in the pipeline is linear (Nystroem's normalisation, the weight of the linear
part, the Ridge), so it is multiplied out once. They need neither scikit-learn, which takes long to be
imported, nor the words themselves: a term is known by its key (words.py).

fitting.py makes the pipeline, and folding.py these of it; tests hold both to equal predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from driftkit.estimation.features import LABELS, NUMBERS, Seen
from driftkit.estimation.words import Ints, Keys, finder, pairs

Floats = NDArray[np.float64]


class Labels(NamedTuple):
    """Values of a label: those that have an indicator each, and the rare ones, which share one."""

    own: list[str]
    rare: list[str]


class Matrices(NamedTuple):
    """With n numbers, t terms, c components of the text, an embedding of e, x columns, a basis of b rows, and
    m predictions for each request. Without text t is 0, without embedding e is."""

    labels: list[Labels]
    label_weight: Floats  # ()
    number_mean: Floats  # (n,)
    number_scale: Floats  # (n,)
    term_keys: Keys  # (t,)
    idf: Floats  # (t,)
    components: Floats  # (t, c)
    embedding_mean: Floats  # (e,)
    embedding_weight: Floats  # ()
    gamma: Floats  # ()
    basis: Floats  # (b, x)
    near: Floats  # (b, m)
    linear: Floats  # (x, m)
    intercept: Floats  # (m,)

    def consistent(self) -> bool:
        """Whether their shapes go together, all numbers are finite, and scales are above 0."""
        n, t, c, e = len(NUMBERS), len(self.idf), self.components.shape[-1], len(self.embedding_mean)
        x = sum(len(own) + bool(rare) for own, rare in self.labels) + n + c + e
        b, m = self.near.shape
        shapes = [(), (n,), (n,), (t,), (t,), (t, c), (e,), (), (), (b, x), (b, m), (x, m), (m,)]
        arrays = self[1:]
        return (
            len(self.labels) == len(LABELS)
            and [array.shape for array in arrays] == shapes
            and all(np.isfinite(array).all() for array in arrays)
            and bool((self.number_scale > 0).all())
        )


def predictor(of: Matrices) -> Callable[[Seen], Floats]:
    """What the pipeline predicts for requests, as a function of what is seen of them."""
    blocks = [_labels(of.labels, of.label_weight), _numbers(of)]
    if len(of.term_keys):
        blocks.append(_text(of))
    if len(of.embedding_mean):
        blocks.append(_embedding(of))
    # by rows in memory: what is multiplied at every call is not to be copied at every call
    scaled_basis = np.ascontiguousarray(2 * of.gamma * of.basis.T)
    basis_norms = of.gamma * np.square(of.basis).sum(axis=1)

    def predict(seen: Seen) -> Floats:
        x = np.hstack([block(seen) for block in blocks])
        exponents = x @ scaled_basis
        exponents -= of.gamma * np.square(x).sum(axis=1, keepdims=True)
        exponents -= basis_norms
        np.minimum(exponents, 0, out=exponents)  # a distance is not below 0 by rounding
        predicted: Floats = np.exp(exponents, out=exponents) @ of.near + x @ of.linear + of.intercept
        return predicted

    return predict


Block = Callable[[Seen], Floats]


def _labels(labels: Sequence[Labels], weight: Floats) -> Block:
    """An indicator for each value, one for all rare ones, and none for those that were not seen."""
    place_of = [
        {value: place for place, value in enumerate(own)} | dict.fromkeys(rare, len(own))
        for own, rare in labels
    ]
    counts = [len(own) + bool(rare) for own, rare in labels]
    rows_of = [weight * np.eye(count + 1, count) for count in counts]  # the last has no indicator

    def block(seen: Seen) -> Floats:
        return np.hstack(
            [
                rows[[places.get(value, len(rows) - 1) for value in values]]
                for rows, places, values in zip(rows_of, place_of, seen.labels, strict=True)
            ]
        )

    return block


def _numbers(of: Matrices) -> Block:
    return lambda seen: (seen.numbers - of.number_mean) / of.number_scale


def _embedding(of: Matrices) -> Block:
    def block(seen: Seen) -> Floats:
        assert seen.vectors is not None, "fitted with embeddings, and asked without"
        centred: Floats = of.embedding_weight * (seen.vectors - of.embedding_mean)
        return centred

    return block


def _text(of: Matrices) -> Block:
    """Sublinear TF-IDF of words and pairs of words, each row of length 1, reduced to the components."""
    find = finder(of.term_keys)

    def block(seen: Seen) -> Floats:
        counts = _counts(seen, find, len(of.term_keys))
        counts.data = (1 + np.log(counts.data)) * of.idf[counts.indices]
        lengths = np.sqrt(counts.multiply(counts).sum(axis=1))
        lengths[lengths == 0] = 1
        reduced: Floats = (counts @ of.components) / lengths[:, None]
        return reduced

    return block


def _counts(seen: Seen, find: Callable[[Keys], Ints], terms: int) -> csr_array:
    """How often each term stands in each text."""
    of_pairs, pair_keys = pairs(seen.tokens)
    text = np.concatenate([seen.tokens.text, of_pairs])
    term = np.concatenate([find(seen.tokens.key), find(pair_keys)])
    known = term >= 0
    stand = np.ones(np.count_nonzero(known))
    return coo_array((stand, (text[known], term[known])), shape=(len(seen.texts), terms)).tocsr()
