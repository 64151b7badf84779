"""Man pages: made from the commands as they are, clean, and every example of them runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import check_install
import make_docs
from cli import Record, Stages, changed, jsonl, ok, records, without
from driftkit import registry
from driftkit.cli import EXIT_STATUSES, group
from driftkit.commands import COMMANDS
from driftkit.records.schema import FIELDS
from manual import pages, surface
from test_documents import ROOT, shell

PAGES = sorted((ROOT / "man").iterdir())


def program(name: str) -> str:
    """Its path. CI must have it; elsewhere the test is skipped."""
    found = shutil.which(name)
    if found is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"{name} is not installed; tools/install_shells.sh does that")
    return found


def test_what_is_checked_in_is_what_the_commands_say() -> None:
    assert make_docs.differing(make_docs.documents()) == [], "run tools/make_docs.py"


def test_a_document_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_docs.documents()
    for path, text in made.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    assert make_docs.differing(made) == []
    (tmp_path / "man" / "driftkit-gen.1").write_text("edited by hand")
    (tmp_path / "man" / "driftkit-gone.1").write_text("of a command that is no more")
    (tmp_path / "completions" / "_driftkit").unlink()
    wrong = ["completions/_driftkit", "man/driftkit-gen.1", "man/driftkit-gone.1"]
    assert make_docs.differing(made) == wrong


def test_the_wheel_ships_each_where_it_is_looked_for() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    places = {str(path.relative_to(ROOT)): place for path, place in check_install.shared_files().items()}
    assert set(places) == set(make_docs.documents())
    assert wheel["shared-data"] == places


def test_neither_terminal_nor_environment_shows_in_them() -> None:
    env = {
        **os.environ,
        "COLUMNS": "40",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "NO_COLOR": "1",
        "PYTHONHASHSEED": "7",
    }
    command = [sys.executable, ROOT / "tools" / "make_docs.py", "--check"]
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_finds_nothing_to_say(page: Path) -> None:
    said = subprocess.run(
        [program("mandoc"), "-T", "lint", page], capture_output=True, text=True, check=False
    ).stdout
    # mandoc looks for other pages in the system's folders only; the next test looks where they are
    said = re.sub(r".*referenced manual not found: Xr driftkit\S* \d.*\n", "", said)
    assert said == ""


def test_every_page_that_another_refers_to_is_there() -> None:
    refers = {ref for page in PAGES for ref in re.findall(r"(?m)^\.Xr (\S+ \d)", page.read_text())}
    assert refers == {page.name.replace(".", " ") for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_fits_into_eighty_columns(page: Path) -> None:
    rendered = subprocess.run(
        [program("mandoc"), "-T", "utf8", page], capture_output=True, text=True, check=True
    ).stdout
    lines = [re.sub(r".\x08", "", line) for line in rendered.splitlines()]
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("command", [*surface.subcommands()], ids=lambda command: command.name)
def test_a_page_has_every_option_of_help_and_every_exit_status(command: surface.Command) -> None:
    page = " ".join((ROOT / "man" / f"driftkit-{command.name}.1").read_text().split())
    help_ = CliRunner().invoke(group, [command.name, "--help"], prog_name="driftkit").output
    shown = set(re.findall(r"(?m)^  (?:-\w, )?(--[a-z][a-z-]*)", help_))
    explained = set(re.findall(r"\.It (?:Fl -\w+ , |Fl \w , )?Fl (-[a-z][a-z-]*)", page))
    assert explained == {flag.removeprefix("-") for flag in shown}
    assert "--on-error" in shown
    for code, meaning in EXIT_STATUSES.items():
        assert (f".It {code} " in page) == (set(re.findall(r"--[a-z-]+", meaning)) <= shown)


def test_every_registered_name_is_on_some_page() -> None:
    whole = "".join(page.read_text() for page in PAGES)
    for table in registry.TABLES:
        assert f"driftkit.{table}.v1" in whole
        for name in registry.names(table):
            assert f"\n.It Cm {name}\n" in whole


def telemetry_of(run_id: str) -> list[Record]:
    """A GPU that draws 50 W all the time, and a server with nothing to do."""
    head = {"kind": "telemetry", "schema": 1, "run_id": run_id}
    own = [{"gpu": 0, "power_w": 50}, {"replica": "http://localhost:8000", "waiting_requests": 0}]
    return [{**head, "at_s": at_s, **fields} for at_s in range(0, 1000, 10) for fields in own]


@pytest.fixture(scope="module")
def files(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tools/manual/manual.toml promises to the examples."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "requests.jsonl").write_bytes(stages.requests.read_bytes())
    (folder / "estimated.jsonl").write_bytes(stages.estimated.read_bytes())
    (folder / "planned.jsonl").write_bytes(stages.scheduled.read_bytes())
    (folder / "sjf.jsonl").write_bytes(stages.completions.read_bytes())
    fifo = ok(["run"], ok(["schedule", "--policy", "fifo", stages.estimated]))
    (folder / "fifo.jsonl").write_bytes(fifo)
    (folder / "telemetry.jsonl").write_bytes(jsonl(telemetry_of(records(fifo)[0]["run_id"])))
    first, second, *_ = stages.read("requests")
    (folder / "broken.jsonl").write_bytes(jsonl([changed(first, arrival_s="soon"), second]))
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += [f"2023-11-16 18:15:{i:02d}.0000000,{100 + i},{1 + i}" for i in range(40)]
    (folder / "AzureLLMInferenceTrace_conv.csv").write_text("\r\n".join(rows))
    return folder


@pytest.mark.parametrize("name", ["driftkit", *COMMANDS, "records", "spec"])
def test_every_example_runs_and_writes(name: str, files: Path, tmp_path: Path) -> None:
    examples = pages.examples(name)
    assert len(examples) >= 2
    for _, script in examples:
        assert f"\n{script.splitlines()[0]}\n".replace("\\", "\\e") in next(
            page.read_text() for page in PAGES if page.stem in (name, f"driftkit-{name}")
        )
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(files, folder)
        printed = shell(script, folder)
        new = [path for path in folder.iterdir() if not (files / path.name).exists()]
        assert printed or new
        assert all(path.is_dir() or path.stat().st_size for path in new)


def refused(command: str, record: Record, path: Path) -> str:
    """What a command says of one record, put into `path`; empty when it takes it."""
    path.write_bytes(jsonl([record]))
    args = [command, str(path), *(["--policy", "fifo"] if command == "schedule" else [])]
    result = CliRunner().invoke(group, args, prog_name="driftkit")
    return str(result.exception or "").removeprefix(f"{path}:1: ")


@pytest.mark.parametrize("command", pages.EXTRA["needs"])
def test_a_command_needs_the_fields_that_the_page_says_and_no_other(
    command: str, stages: Stages, tmp_path: Path
) -> None:
    needs = pages.EXTRA["needs"][command]
    stage = {"estimate": "requests", "schedule": "estimated", "run": "scheduled"}.get(command, "completions")
    whole = {**stages.read(stage)[0], "messages": [{"role": "user", "content": "Why?"}]}
    whole.setdefault("prompt_tokens", 12)
    names = [name for need in needs for name in need.split("|")]
    least = {name: whole[name] for name in names}
    if command in ("calibrate", "report"):
        least["kind"] = "completion"
    path = tmp_path / "records.jsonl"
    assert refused(command, least, path) == ""
    for need in needs:
        field = need.split("|")[0]
        assert refused(command, without(least, *need.split("|")), path).startswith(f"{field}: ")
        for alternative in need.split("|"):
            others = [name for name in need.split("|") if name != alternative]
            assert refused(command, without(least, *others), path) == ""


def test_the_page_of_records_has_every_field() -> None:
    page = (ROOT / "man" / "driftkit-records.5").read_text()
    assert re.findall(r"(?m)^\.It Va (\S+) Pq", page) == list(FIELDS)
