"""Figures about the lengths of chat answers, from a file of real ones: what the workload presets are set by.

    pip install tiktoken scipy numpy   # driftkit itself is installed too
    python tools/fit_chat_lengths.py Qwen1.5-1.8B-Chat.json.gz qwen.tiktoken

The first file is a JSON list (or lines) of objects with `instruction` and `output`, the second the vocabulary
of the model that wrote the outputs. Prints numbers only; no text of the files leaves this program.

Two things would spoil a plain fit of the output length:

- A generation cap. Outputs within 1 % of the longest are taken as cut there when there are at least five of
  them; they enter the likelihood as "at least the cap" (right-censored). Re-encoding gives a token more or
  less than what was generated, hence the 1 %.
- Repetition loops. A small model that starts to repeat itself runs to the cap or near it, which says nothing
  about how long an answer is. An output of 1,000 tokens or more that zlib shrinks more than 7.5-fold
  (ordinary long answers: 2.5 to 7) is a loop. The fit is shown with loops, as observed or censored, and
  without.

The Kolmogorov-Smirnov distance is taken below the cap only, against the share of all outputs, and its p-value
is by parametric bootstrap, since the parameters were fitted to the same data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from scipy import optimize, stats
from tiktoken.load import load_tiktoken_bpe

from driftkit.estimation.tokenizers.encodings import guess_pattern

CLASSES = {
    "summary": ("summarize", "summary"),
    "report": ("detailed", "report", "comprehensive"),
    "technical": ("architecture", "code", "technical"),
}
BANDS = ((1, 64), (65, 256), (257, 512), (513, 1024), (1025, 10**9))
CUTS = (64, 256, 384, 512)
LOOP_TOKENS = 1000
LOOP_SHRINKS = 7.5


@dataclass(frozen=True)
class Answer:
    """One prompt and its output; lengths in tokens, `tokens` are the output's."""

    prompt_class: str
    prompt_tokens: int
    tokens: list[int]
    words: int
    loop: bool


def classify(prompt: str) -> str:
    """The class with the most keywords in the prompt (as substrings), the earlier on a tie; else short_qa."""
    lowered = prompt.lower()
    found = {name: sum(word in lowered for word in words) for name, words in CLASSES.items()}
    best = max(found, key=lambda name: found[name])
    return best if found[best] else "short_qa"


def read(path: Path, encoding: tiktoken.Encoding) -> list[Answer]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    try:
        records: list[dict[str, Any]] = json.loads(text)
    except json.JSONDecodeError:
        records = [json.loads(line) for line in text.splitlines() if line.strip()]
    answers = []
    for record in records:
        output = record["output"]
        tokens = encoding.encode_ordinary(output)
        if not tokens:
            continue
        data = output.encode()
        loop = len(tokens) >= LOOP_TOKENS and len(data) > LOOP_SHRINKS * len(zlib.compress(data, 9))
        prompt = record["instruction"]
        answers.append(
            Answer(classify(prompt), len(encoding.encode_ordinary(prompt)), tokens, len(output.split()), loop)
        )
    return answers


def find_cap(lengths: Sequence[int]) -> float:
    """The generation cap in tokens, or infinity if no heap of outputs ends at one length."""
    longest = max(lengths)
    near = [length for length in lengths if length >= 0.99 * longest]
    return float(np.median(near)) if len(near) >= 5 else float("inf")


@dataclass(frozen=True)
class Fit:
    """A lognormal: median in tokens, sigma of the logarithm, KS distance below the cap and its p-value."""

    count: int
    censored: int
    median: float
    sigma: float
    ks: float
    p: float


def fit_lognormal(lengths: Sequence[int], cap: float, *, bootstrap: int = 200) -> Fit:
    values = np.asarray(lengths, dtype=float)
    mu, sigma, ks = _fit_once(values, cap)
    rng = np.random.default_rng(0)
    worse = 0
    for _ in range(bootstrap):
        # Lengths are whole numbers of at least one token.
        drawn = np.maximum(1, np.round(rng.lognormal(mu, sigma, len(values))))
        worse += _fit_once(np.minimum(drawn, cap), cap)[2] >= ks
    p = (worse + 1) / (bootstrap + 1) if bootstrap else float("nan")
    return Fit(len(values), int((values >= 0.99 * cap).sum()), float(np.exp(mu)), sigma, ks, p)


def _fit_once(values: np.ndarray[Any, np.dtype[np.float64]], cap: float) -> tuple[float, float, float]:
    cut = values >= 0.99 * cap
    logs = np.log(values[~cut])
    if not cut.any():
        mu, sigma = float(logs.mean()), float(logs.std())
    else:
        log_cap = np.log(0.99 * cap)

        def loss(parameters: np.ndarray[Any, np.dtype[np.float64]]) -> float:
            mu, sigma = parameters[0], np.exp(parameters[1])
            seen = stats.norm.logpdf(logs, mu, sigma).sum()
            return -float(seen + cut.sum() * stats.norm.logsf(log_cap, mu, sigma))

        found = optimize.minimize(loss, [logs.mean(), np.log(logs.std() + 1e-3)], method="Nelder-Mead")
        mu, sigma = float(found.x[0]), float(np.exp(found.x[1]))
    ordered = np.sort(values[~cut])
    model = stats.norm.cdf(np.log(ordered), mu, sigma)
    ranks = np.arange(1, len(ordered) + 1)
    ks = max(np.abs(ranks / len(values) - model).max(), np.abs((ranks - 1) / len(values) - model).max())
    return mu, sigma, float(ks)


def show_fit(name: str, lengths: Sequence[int], cap: float) -> None:
    if len(lengths) < 8:
        print(f"{name:34s} {len(lengths):5d}  too few")
        return
    fit = fit_lognormal(lengths, cap)
    print(
        f"{name:34s} {fit.count:5d} {fit.censored:4d} {fit.median:8.1f} {fit.sigma:6.3f} "
        f"{fit.ks:6.3f} {fit.p:6.3f}"
    )


def show_shapes(lengths: Sequence[int], cap: float) -> None:
    """Other shapes for the same lengths below the cap, and the lognormal of the quartiles.

    The median and the quartiles are not moved by the short answers on the left, as the likelihood is.
    """
    print("\nother shapes, without loops: KS below the cap")
    values = np.asarray([length for length in lengths if length < 0.99 * cap], dtype=float)
    low, median, high = np.percentile(lengths, (25, 50, 75))
    sigma = float(np.log(high / low) / (2 * stats.norm.ppf(0.75)))
    shapes = {
        f"lognormal by quartiles, median {median:.0f}, sigma {sigma:.3f}": stats.lognorm(sigma, scale=median),
        "weibull": stats.weibull_min(*stats.weibull_min.fit(values, floc=0)),
        "gamma": stats.gamma(*stats.gamma.fit(values, floc=0)),
        "log-logistic": stats.fisk(*stats.fisk.fit(values, floc=0)),
    }
    for name, shape in shapes.items():
        parameters = ", ".join(f"{value:.4g}" for value in shape.args)
        print(f"{name:46s} {stats.kstest(values, shape.cdf).statistic:6.3f}  ({parameters})")
    parts = two_lognormals(np.log(values))
    text = "; ".join(f"share {w:.3f}, median {np.exp(m):.1f}, sigma {s:.3f}" for w, m, s in parts)

    def mixed(x: Any) -> Any:  # kstest passes an array, whatever its stubs say
        return np.sum([w * stats.norm.cdf(np.log(x), m, s) for w, m, s in parts], axis=0)

    print(f"{'two lognormals':46s} {stats.kstest(values, mixed).statistic:6.3f}  ({text})")


def two_lognormals(logs: np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[float, float, float]]:
    """(share, mean, sigma of the logarithm) of a mixture of two, by expectation maximisation."""
    shares = np.array([0.2, 0.8])
    means = np.quantile(logs, [0.1, 0.6])
    sigmas = np.array([logs.std(), logs.std() / 2])
    for _ in range(500):
        weights = shares * stats.norm.pdf(logs[:, None], means, sigmas)
        weights /= weights.sum(axis=1, keepdims=True)
        mass = weights.sum(axis=0)
        shares = mass / len(logs)
        means = (weights * logs[:, None]).sum(axis=0) / mass
        sigmas = np.sqrt((weights * (logs[:, None] - means) ** 2).sum(axis=0) / mass)
    return [(float(w), float(m), float(s)) for w, m, s in zip(shares, means, sigmas, strict=True)]


def show_ratio(name: str, ratios: Sequence[float], words: int, tokens: int) -> None:
    if len(ratios) < 2:
        print(f"{name:34s} {len(ratios):5d}")
        return
    mean, spread = float(np.mean(ratios)), float(np.std(ratios, ddof=1))
    print(f"{name:34s} {len(ratios):5d} {mean:7.4f} {spread / mean:7.4f} {words / tokens:9.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Lengths of chat answers, in figures.")
    parser.add_argument("answers", type=Path)
    parser.add_argument("vocabulary", type=Path)
    options = parser.parse_args()
    ranks = load_tiktoken_bpe(str(options.vocabulary))
    encoding = tiktoken.Encoding("v", pat_str=guess_pattern(ranks), mergeable_ranks=ranks, special_tokens={})
    answers = read(options.answers, encoding)
    lengths = [len(answer.tokens) for answer in answers]
    cap = find_cap(lengths)
    at_cap = [answer for answer in answers if len(answer.tokens) >= 0.99 * cap]
    loops = [answer for answer in answers if answer.loop]
    sound = [answer for answer in answers if not answer.loop]
    print(
        f"outputs {len(answers)}, cap {cap:.0f} tokens, at the cap {len(at_cap)}, loops {len(loops)} ", end=""
    )
    print(f"(of which at the cap {sum(answer.loop for answer in at_cap)})")

    print(
        f"\n{'lognormal fit of output tokens':34s} {'n':>5s} {'cut':>4s} {'median':>8s} {'sigma':>6s} "
        f"{'KS':>6s} {'p':>6s}"
    )
    show_fit("all, as observed (cap ignored)", lengths, float("inf"))
    show_fit("all, cap censored", lengths, cap)
    plain = [len(answer.tokens) for answer in sound]
    show_fit("without loops, cap censored", plain, cap)
    show_fit("  of these 16 tokens or more", [length for length in plain if length >= 16], cap)
    for name in [*CLASSES, "short_qa"]:
        members = [answer for answer in answers if answer.prompt_class == name]
        show_fit(f"{name}, cap censored", [len(answer.tokens) for answer in members], cap)
        show_fit(f"{name}, without loops", [len(answer.tokens) for answer in members if not answer.loop], cap)

    show_shapes(plain, cap)

    points = (1, 5, 10, 25, 50, 75, 90, 95, 99)
    print(f"\n{'percentiles of output tokens':34s} " + " ".join(f"p{point:<6d}" for point in points))
    for name, group in (("all", answers), ("without loops", sound)):
        row = np.percentile([len(answer.tokens) for answer in group], points)
        print(f"{name:34s} " + " ".join(f"{value:<7.0f}" for value in row))
    row = np.percentile([answer.prompt_tokens for answer in answers], points)
    print(f"{'prompt (no chat template)':34s} " + " ".join(f"{value:<7.0f}" for value in row))

    print(f"\n{'whitespace words per token':34s} {'n':>5s} {'mean':>7s} {'CV':>7s} {'of totals':>9s}")
    for name, group in (("all", answers), ("without loops", sound)):
        ratios = [answer.words / len(answer.tokens) for answer in group]
        show_ratio(name, ratios, sum(a.words for a in group), sum(len(a.tokens) for a in group))
    for low, high in BANDS:
        group = [answer for answer in sound if low <= len(answer.tokens) <= high]
        ratios = [answer.words / len(answer.tokens) for answer in group]
        name = f"  {low}-{high}" if high < 10**9 else f"  {low} and more"
        show_ratio(f"{name} tokens", ratios, sum(a.words for a in group), sum(len(a.tokens) for a in group))
    for cut in CUTS:
        for name, group in (("all", answers), ("longer only", [a for a in answers if len(a.tokens) > cut])):
            parts = [answer.tokens[:cut] for answer in group]
            words = [len(encoding.decode(part, errors="replace").split()) for part in parts]
            ratios = [count / len(part) for count, part in zip(words, parts, strict=True)]
            show_ratio(f"  first {cut} tokens, {name}", ratios, sum(words), sum(map(len, parts)))

    print("\nlog output against log prompt tokens")
    below = [answer for answer in sound if len(answer.tokens) < 0.99 * cap]
    for name, group in (("all", answers), ("without loops and cap", below)):
        x = np.log([max(1, answer.prompt_tokens) for answer in group])
        y = np.log([len(answer.tokens) for answer in group])
        slope = stats.linregress(x, y)
        rho = stats.spearmanr(x, y)
        print(
            f"{name:34s} {len(group):5d} Pearson {slope.rvalue:+.3f} (p {slope.pvalue:.2g}), "
            f"slope {slope.slope:+.3f} ± {slope.stderr:.3f}, Spearman {rho.statistic:+.3f}"
        )


if __name__ == "__main__":
    main()
