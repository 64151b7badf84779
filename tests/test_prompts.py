"""The generated prompts: enough of them differ, and their wording gives the category away."""

import random
import re
from itertools import product

import pytest

from driftkit.workload.prompts import ANGLES, TEMPLATES, TOPICS, body, prompt

CATEGORIES = ("short_qa", "summary", "technical", "report")
TENANTS = ("tenant-premium", "tenant-standard", "tenant-batch")
PHASES = ((1000, (40, 25, 25, 10)), (2000, (10, 20, 40, 30)))
KEYWORDS = {
    "summary": ("summarize", "summary"),
    "report": ("detailed", "report", "comprehensive"),
    "technical": ("architecture", "code", "technical"),
}
ALL_BODIES = [
    (
        category,
        body(
            category,
            (i + 0.5) / len(TOPICS),
            (j + 0.5) / len(TEMPLATES[category]),
            (k + 0.5) / len(ANGLES),
        ),
    )
    for category in CATEGORIES
    for i, j, k in product(range(len(TOPICS)), range(len(TEMPLATES[category])), range(len(ANGLES)))
]


def classify(text: str) -> str | None:
    """The paper's rule; None where two categories tie, so that no tie counts as agreement."""
    lowered = text.lower()
    counts = {c: sum(lowered.count(word) for word in words) for c, words in KEYWORDS.items()}
    top = max(counts.values())
    if top == 0:
        return "short_qa"
    winners = [c for c, count in counts.items() if count == top]
    return winners[0] if len(winners) == 1 else None


def draw(seed: int) -> list[tuple[str, str]]:
    """The (category, prompt) pairs of one run of both phases."""
    rng = random.Random(seed)
    run: list[tuple[str, str]] = []
    for count, mix in PHASES:
        for category in rng.choices(CATEGORIES, weights=mix, k=count):
            tenant = rng.choice(TENANTS)
            us = (rng.random(), rng.random(), rng.random())
            run.append((category, prompt(len(run) + 1, tenant, category, *us)))
    return run


def test_prefix_and_choice() -> None:
    text = prompt(7, "tenant-batch", "summary", 0.0, 0.0, 0.0)
    prefix = "Request ID 7. Tenant tenant-batch. Job type summary. "
    assert text == prefix + body("summary", 0.0, 0.0, 0.0)
    assert TOPICS[0] in text
    assert ANGLES[0] in text


@pytest.mark.parametrize("category", CATEGORIES)
def test_largest_uniform_takes_the_last_entries(category: str) -> None:
    u = 1 - 2**-53
    last = TEMPLATES[category][-1].format(topic=TOPICS[-1], angle=ANGLES[-1])
    assert body(category, u, u, u) == last


def test_unknown_category() -> None:
    with pytest.raises(KeyError):
        body("poem", 0.0, 0.0, 0.0)


def test_tables() -> None:
    assert tuple(TEMPLATES) == CATEGORIES
    assert len(TOPICS) == 59
    assert len({topic.lower() for topic in TOPICS}) == len(TOPICS)
    assert len({angle.lower() for angle in ANGLES}) == len(ANGLES)
    templates = [t for group in TEMPLATES.values() for t in group]
    assert [len(group) for group in TEMPLATES.values()] == [5, 5, 5, 5]
    assert len(set(templates)) == len(templates)
    for template in templates:
        assert sorted(re.findall(r"\{(.*?)\}", template)) == ["angle", "topic"], template


def test_all_combinations_differ_and_read_cleanly() -> None:
    assert len({text for _, text in ALL_BODIES}) == len(ALL_BODIES)
    for _, text in ALL_BODIES:
        assert "  " not in text
        assert text == text.strip()
        assert text.isascii()
        assert not set("{}") & set(text)


def test_word_counts() -> None:
    means = []
    for category in CATEGORIES:
        words = [len(text.split()) for c, text in ALL_BODIES if c == category]
        assert min(words) >= 15, category
        assert max(words) <= 60, category
        means.append(sum(words) / len(words))
    assert means == sorted(means)


@pytest.mark.parametrize("seed", range(8))
def test_few_repeats(seed: int) -> None:
    bodies = {text.split(f"Job type {category}. ", 1)[1] for category, text in draw(seed)}
    assert len(bodies) > 2800


@pytest.mark.parametrize("category", CATEGORIES)
def test_category_shows_in_the_words(category: str) -> None:
    bodies = [text for c, text in ALL_BODIES if c == category]
    prefix = f"Request ID 12. Tenant tenant-standard. Job type {category}. "
    whole = sum(classify(prefix + text) == category for text in bodies)
    alone = sum(classify(text) == category for text in bodies)
    assert whole >= 0.97 * len(bodies)
    assert alone >= 0.95 * len(bodies)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_agrees_with_its_categories(seed: int) -> None:
    run = draw(seed)
    assert sum(classify(text) == category for category, text in run) >= 0.97 * len(run)
