"""How long the outputs of a made-up workload are: stated models, each constant with its source.

Lengths are lognormal and cut at `max_tokens`, as an engine cuts them. Whitespace words follow from tokens
by a factor of their own, drawn for each output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from driftkit.errors import UsageError

_normal_quantile = NormalDist().inv_cdf


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Median and log-scale sigma of the uncut length, in tokens or in caps; words per token likewise."""

    name: str
    median: float
    sigma: float
    #: whether `median` is in multiples of the request's cap rather than in tokens
    of_cap: bool
    words_per_token: float
    words_cv: float

    def draw(self, cap: int, length_u: float, words_u: float) -> tuple[int, int]:
        """Output tokens (1 to `cap`) and whitespace words of one request, from two uniforms in [0, 1)."""
        scale = self.median * cap if self.of_cap else self.median
        length = scale * math.exp(self.sigma * _quantile(length_u))
        tokens = cap if length >= cap else max(1, int(length))
        spread = math.sqrt(math.log1p(self.words_cv**2))
        ratio = self.words_per_token * math.exp(spread * _quantile(words_u) - spread * spread / 2)
        return tokens, max(1, round(tokens * ratio))


def _quantile(u: float) -> float:
    return _normal_quantile(min(max(u, 1e-12), 1 - 1e-12))


MODELS = {
    # The paper's regime: "outputs close to the caps", bias near 1 when counted in tokens. Its data are not
    # published, so the constants are assumptions, fixed before any result was compared: two thirds of the
    # outputs are cut, the rest end a little earlier. Words: 0.73-0.8 a token with CV 0.15-0.25 are the
    # ranges a replica of the paper used; their middle is taken.
    "near-cap": LengthModel("near-cap", 1.1, 0.2, of_cap=True, words_per_token=0.765, words_cv=0.20),
}


def named(name: str) -> LengthModel:
    """The length model `name`; UsageError lists those there are."""
    if name not in MODELS:
        raise UsageError(f"--lengths: no model named {name!r}", hint="known: " + ", ".join(MODELS))
    return MODELS[name]
