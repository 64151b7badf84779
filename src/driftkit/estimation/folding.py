"""What a fitted pipeline comes to: its matrices, multiplied out (matrices.py says what for)."""

from __future__ import annotations

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from driftkit.estimation.matrices import Labels, Matrices
from driftkit.estimation.words import key_of


def folded(pipeline: Pipeline) -> Matrices:
    """The matrices of a pipeline of fitting.py, whose steps and names this must agree with."""
    columns = pipeline["columns"]
    blocks, weights = columns.named_transformers_, columns.transformer_weights
    keys, idf, components = np.empty(0, np.uint64), np.empty(0), np.empty((0, 0))
    if "text" in blocks:
        words, reduced = blocks["text"]["words"], blocks["text"]["components"]
        terms = sorted(words.vocabulary_, key=words.vocabulary_.__getitem__)
        keys = np.array([key_of(*term.split(" ")) for term in terms], np.uint64)
        idf, components = words.idf_, weights["text"] * reduced.components_.T
    kernel_parts = dict(pipeline["kernel"].transformer_list)
    kernel, ridge = kernel_parts["rbf"], pipeline["length"]
    of_kernel, of_x = np.split(ridge.coef_.T, [len(kernel.components_)])
    return Matrices(
        labels=_labels(blocks["labels"]),
        label_weight=np.array(weights["labels"]),
        number_mean=blocks["numbers"].mean_,
        number_scale=blocks["numbers"].scale_,
        term_keys=keys,
        idf=idf,
        components=np.ascontiguousarray(components),
        embedding_mean=blocks["embedding"].mean_ if "embedding" in blocks else np.empty(0),
        embedding_weight=np.array(weights["embedding"]),
        gamma=np.array(float(kernel.gamma)),
        basis=kernel.components_,
        near=kernel.normalization_.T @ of_kernel,
        linear=pipeline["kernel"].transformer_weights["linear"] * of_x,
        intercept=ridge.intercept_,
    )


def _labels(encoder: OneHotEncoder) -> list[Labels]:
    found = []
    for values, rare in zip(encoder.categories_, encoder.infrequent_categories_, strict=True):
        rarely = [] if rare is None else rare.tolist()
        rare_values = set(rarely)
        found.append(Labels([value for value in values.tolist() if value not in rare_values], rarely))
    return found
