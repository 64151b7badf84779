"""A fitted pipeline as the few matrices that it comes to: the same predictions, many times quicker.

    x          = labels as indicators | scaled numbers | text components | centred embedding, each weighted
    prediction = exp(-gamma |x - basis|^2) @ near + x @ linear + intercept

All that follows the kernel in the pipeline is linear (Nystroem's normalisation, the weight of the linear
part, the Ridge), so it is multiplied out once. What scikit-learn does at every call besides (checking its
input, looking at objects one by one, making a string of each pair of words) is left out.

regressor.py makes the pipeline, and must agree with this on its steps; tests hold both to equal predictions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from driftkit.estimation.features import Seen
from driftkit.estimation.words import Ints, Keys, finder, key_of, pairs

Floats = NDArray[np.float64]
Block = Callable[[Seen], Floats]


def folded(pipeline: Pipeline) -> Callable[[Seen], Floats]:
    """What `pipeline.predict` is for the same requests, as a function of what is seen of them."""
    blocks = _blocks(pipeline["columns"])
    parts = dict(pipeline["kernel"].transformer_list)
    kernel, ridge = parts["rbf"], pipeline["length"]
    gamma, basis = kernel.gamma, kernel.components_
    # by rows in memory: what is multiplied at every call is not to be copied at every call
    scaled_basis = np.ascontiguousarray(2 * gamma * basis.T)
    basis_norms = gamma * np.square(basis).sum(axis=1)
    of_kernel, of_x = np.split(ridge.coef_.T, [len(basis)])
    near = kernel.normalization_.T @ of_kernel
    linear = pipeline["kernel"].transformer_weights["linear"] * of_x

    def predict(seen: Seen) -> Floats:
        x = np.hstack([block(seen) for block in blocks])
        exponents = x @ scaled_basis
        exponents -= gamma * np.square(x).sum(axis=1, keepdims=True)
        exponents -= basis_norms
        np.minimum(exponents, 0, out=exponents)  # a distance is not below 0 by rounding
        predicted: Floats = np.exp(exponents, out=exponents) @ near + x @ linear + ridge.intercept_
        return predicted

    return predict


def _blocks(columns: Pipeline) -> list[Block]:
    """The ColumnTransformer's blocks in its order, each with its weight."""
    made: list[Block] = []
    for name, fitted, _ in columns.transformers_:
        weight = columns.transformer_weights.get(name, 1.0)
        if name == "labels":
            made.append(_labels(fitted, weight))
        elif name == "numbers":
            made.append(_numbers(fitted.mean_, fitted.scale_))
        elif name == "text":
            made.append(_text(fitted["words"], fitted["components"], weight))
        elif name == "embedding":
            made.append(_embedding(fitted.mean_, weight))
    return made


def _labels(encoder: OneHotEncoder, weight: float) -> Block:
    """An indicator for each label; the rare ones share one, and those that were not seen have none."""
    place_of: list[dict[str, int]] = []
    rows_of: list[Floats] = []
    for labels, rare in zip(encoder.categories_, encoder.infrequent_categories_, strict=True):
        rarely = set() if rare is None else set(rare)
        places = {label: place for place, label in enumerate(one for one in labels if one not in rarely)}
        count = len(places) + bool(rarely)
        places.update(dict.fromkeys(rarely, count - 1))
        place_of.append(places)
        rows_of.append(weight * np.eye(count + 1, count))  # the last has no indicator

    def block(seen: Seen) -> Floats:
        return np.hstack(
            [
                rows[[places.get(label, len(rows) - 1) for label in labels]]
                for rows, places, labels in zip(rows_of, place_of, seen.labels, strict=True)
            ]
        )

    return block


def _numbers(mean: Floats, scale: Floats) -> Block:
    return lambda seen: (seen.numbers - mean) / scale


def _embedding(mean: Floats, weight: float) -> Block:
    def block(seen: Seen) -> Floats:
        assert seen.vectors is not None, "fitted with embeddings, and asked without"
        centred: Floats = weight * (seen.vectors - mean)
        return centred

    return block


def _text(words: TfidfVectorizer, components: TruncatedSVD, weight: float) -> Block:
    """Sublinear TF-IDF of words and pairs of words, each row of length 1, reduced to the components."""
    terms = sorted(words.vocabulary_, key=words.vocabulary_.__getitem__)
    find = finder(np.array([key_of(*term.split(" ")) for term in terms], np.uint64))
    idf = words.idf_
    weighted_components = np.ascontiguousarray(weight * components.components_.T)

    def block(seen: Seen) -> Floats:
        counts = _counts(seen, find, len(terms))
        counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
        lengths = np.sqrt(counts.multiply(counts).sum(axis=1))
        lengths[lengths == 0] = 1
        reduced: Floats = (counts @ weighted_components) / lengths[:, None]
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
