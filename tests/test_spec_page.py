"""driftkit-spec(5) against the reader of spec files: its keys, what is required, and the moments stated."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from driftkit import rng
from driftkit.errors import FieldError
from driftkit.records.toml_table import Table
from driftkit.workload import arrivals, spec
from manual import spec_page
from test_arrivals import assert_mean, assert_variance

SECTIONS = {section["title"]: section for section in spec_page.WORDS["section"]}
PROCESSES = SECTIONS["ARRIVALS"]["kinds"]
#: keys that others stand in for, or refer to by name; their words on the page say so
OR_ANOTHER = {
    "": {"arrivals", "input", "output", "text", "phases", *spec_page.NAMED},
    "tenants": {"share", "arrivals"},
    "phases": {"arrivals", "mix", "share", "requests", "duration_s"},
    "dependence": {"rank", "normal"},
    "lengths": {"words_per_token"},
    "drift": {"category", "period_s", "until_s"},
}


def test_the_page_has_every_key_that_the_reader_asks_for_and_no_other() -> None:
    written = spec_page.written()
    for table, keys in spec_page.asked().items():
        assert set(keys) == written[table], table
    assert {table for table, _ in spec_page.asked()} == {table for table, _ in written}


@pytest.mark.parametrize(("title", "key"), [("ARRIVALS", "process"), ("LENGTHS", "model")])
def test_the_page_has_every_process_and_every_model(title: str, key: str) -> None:
    section = SECTIONS[title]
    assert spec_page.form(section, section, "", key) == spec_page.choice(section["kinds"]) + "; required"


def tables(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table of a document whose keys are not names of the user's, and where it is."""
    if isinstance(value, dict):
        if path not in spec_page.NAMED and spec_page.table_of(path) != "mix":
            yield path, value
        for key, below in value.items():
            yield from tables(below, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from tables(below, f"{path}[{place}]")


def test_what_is_required_cannot_be_left_out_and_what_is_not_can() -> None:
    tried, taken = set(), set()  # keys that were left out, and those without which some file was good
    for text in spec_page.samples():
        document = tomllib.loads(text)
        for path, table in tables(document):
            for key in list(table):
                name = spec_page.table_of(path), spec_page.kind_of(table), key
                before = copy.copy(table)
                del table[key]
                tried.add(name)
                if accepted(document):
                    taken.add(name)
                table.clear()
                table.update(before)
    assert len(tried) > 80
    for section in SECTIONS.values():
        for kind, words in {"": section, **section.get("kinds", {})}.items():
            for key in words["keys"]:
                at = [table for table in section["at"] if key not in OR_ANOTHER.get(table, ())]
                names = {n for n in tried if n[0] in at and kind in ("", n[1]) and n[2] == key}
                required = spec_page.form(section, words, kind, key).endswith("; required")
                assert not names or bool(names & taken) != required, (section["title"], kind, key)


def accepted(document: dict[str, Any]) -> bool:
    try:
        spec.read_table(Table(document, ""))
    except FieldError:
        return False
    return True


@pytest.mark.parametrize("process", [name for name, kind in PROCESSES.items() if "rate" in kind])
def test_gaps_have_the_mean_and_the_variance_that_the_page_gives(process: str) -> None:
    """Variance over mean of a renewal process's counts tends to the squared CV of its gaps."""
    kind = PROCESSES[process]
    values = tomllib.loads(f"its = {kind['example']}")["its"]
    rate, dispersion = (eval(kind[name], {}, values) for name in ("rate", "dispersion"))
    gap = arrivals.read(Table(values, "")).gap
    gaps = [gap(*rng.uniforms(0, process, place)[:2]) for place in range(20_000)]
    assert_mean(gaps, 1 / rate)
    assert_variance(gaps, dispersion / rate**2)


def test_processes_without_a_rate_to_state_are_those_whose_rate_changes() -> None:
    assert [name for name, kind in PROCESSES.items() if "rate" not in kind] == ["ramp", "diurnal"]
