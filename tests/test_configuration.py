"""Flag over DRIFTKIT_* over --config; what a manifest says; what --redact-prompt leaves out."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from cli import Stages, bash, changed, jsonl, ok, records, run, said, without


def requests(data: bytes) -> int:
    return len(data.splitlines())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "driftkit.toml"
    path.write_text('[gen]\npreset = "driftsched"\nrequests = 30\n\n[report]\nby = ["tier"]\ntrend = true\n')
    return path


def test_flag_over_environment_over_file(config: Path) -> None:
    env = {"DRIFTKIT_GEN_REQUESTS": "20"}
    assert requests(run(["gen", "--config", config]).stdout) == 30
    assert requests(run(["gen", "--config", config], env=env).stdout) == 20
    assert requests(run(["gen", "--config", config, "--requests", "10"], env=env).stdout) == 10
    assert requests(run(["gen"], env={"DRIFTKIT_CONFIG": str(config)}).stdout) == 30


def test_a_variable_is_named_as_the_flag_is(stages: Stages) -> None:
    env = {"DRIFTKIT_REPORT_TABLE": "fairness", "DRIFTKIT_REPORT_FORMAT": "csv"}
    out = run(["report", stages.calibrated], env=env).stdout
    assert out == ok(["report", "--table", "fairness", "--format", "csv", stages.calibrated])


def test_a_required_option_may_come_from_the_file(stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[schedule]\npolicy = "aging"\nparam = "rate=0.5"\nno-plan = true\n')
    rows = records(ok(["schedule", "--config", tmp_path / "c.toml", stages.estimated]))
    assert {row["policy"] for row in rows} == {"aging:rate=0.5"}


def test_repeatable_options_and_flags(config: Path, stages: Stages) -> None:
    assert ok(["report", "--config", config, stages.calibrated]) == ok(
        ["report", "--by", "tier", "--trend", stages.calibrated]
    )


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[run]\nmax-num-sqs = 3\n", "[run] max-num-sqs: no such option", "did you mean max-num-seqs?"),
        ("[run]\nmax_num_seqs = 3\n", "[run] max_num_seqs: no such option", "did you mean max-num-seqs?"),
        ("[run]\nbatching = 'gang'\n", "[run] batching: 'gang' is not one of", None),
        ("[run]\nmax-num-seqs = 0\n", "[run] max-num-seqs: 0 is not in the range", None),
        ("[run]\nfeedback = 'yes'\n", "[run] feedback: expected true or false, got 'yes'", None),
        ("[rum]\n", "no command named 'rum'", "did you mean run?"),
        ("run = 3\n", "no command named 'run'", None),
        ("[run\n", "not TOML: ", None),
        ("\udcff", "not TOML: ", None),
    ],
)
def test_a_bad_file_is_a_bad_call(
    stages: Stages, tmp_path: Path, text: str, says: str, hint: str | None
) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    first, *hints = said(run(["run", "--config", path, stages.scheduled]), 2)
    assert first.startswith(f"driftkit run: --config: {path}: ")
    assert says in first
    assert hint is None or hint in hints[0]


def test_no_such_file() -> None:
    assert said(run(["gen", "--config", "nowhere"]), 2) == [
        "driftkit gen: --config: nowhere: no such file or directory"
    ]


def test_a_variable_that_no_option_reads_is_refused() -> None:
    first, hint = said(run(["gen", "--preset", "driftsched"], env={"DRIFTKIT_GEN_SEDE": "1"}), 2)
    assert first == "driftkit gen: environment: gen has no option for DRIFTKIT_GEN_SEDE"
    assert hint == "  did you mean DRIFTKIT_GEN_SEED?"


def test_a_flag_sets_aside_what_was_configured_instead_of_it(config: Path, tmp_path: Path) -> None:
    """A shared file names a preset and a number; a call that reads a trace has a use for neither."""
    trace = tmp_path / "trace.jsonl"
    trace.write_bytes(jsonl([{"arrival_s": 0, "prompt_tokens": 3}]))
    assert requests(run(["gen", "--config", config, "--trace", trace]).stdout) == 1
    said(run(["gen", "--preset", "driftsched", "--trace", trace]), 2)
    said(run(["gen", "--requests", "3", "--trace", trace]), 2)


def test_other_commands_variables_are_none_of_its_business() -> None:
    env = {"DRIFTKIT_RUN_MAX_NUM_SEQS": "3", "DRIFTKIT_HOME": "x"}
    assert run(["gen", "--preset", "driftsched", "--requests", "3"], env=env).returncode == 0


# --- manifest -------------------------------------------------------------------------------------


def test_a_manifest_says_what_was_read_and_written(stages: Stages, tmp_path: Path) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(stages.estimated.read_bytes()))
    path = tmp_path / "manifest.json"
    out = ok(["schedule", "--policy", "random", "--manifest", path, packed])
    manifest = json.loads(path.read_bytes())
    assert manifest["argv"] == ["schedule", "--policy", "random", "--manifest", str(path), str(packed)]
    assert manifest["options"]["block_size"] == 16  # what was not given is there too
    assert manifest["exit_status"] == 0
    assert {"driftkit", "python", "numpy", "orjson"} <= set(manifest["versions"])
    content = stages.estimated.read_bytes()
    (read,) = manifest["inputs"]
    assert read == {
        "name": str(packed),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert manifest["output"]["sha256"] == hashlib.sha256(out).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "packed.gz"]


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "jsonl"])
def test_of_a_report_too(stages: Stages, tmp_path: Path, form: str) -> None:
    path = tmp_path / "manifest.json"
    out = ok(["report", "--format", form, "--manifest", path, stages.calibrated])
    assert json.loads(path.read_bytes())["output"]["sha256"] == hashlib.sha256(out).hexdigest()


def test_a_manifest_changes_nothing_else(stages: Stages, tmp_path: Path) -> None:
    for args in (["estimate", stages.requests], ["run", stages.scheduled], ["calibrate", stages.completions]):
        assert ok([*args, "--manifest", tmp_path / "m"]) == ok(args)


def test_a_manifest_of_a_failure_is_what_cron_wants(tmp_path: Path) -> None:
    path = tmp_path / "m"
    result = run(["estimate", "--manifest", path], b'{"id":\n')
    said(result, 1)
    assert json.loads(path.read_bytes())["exit_status"] == 1


def test_a_manifest_that_cannot_be_written_is_an_error(stages: Stages, tmp_path: Path) -> None:
    path = tmp_path / "no such folder" / "m"
    (line,) = said(run(["estimate", "--manifest", path, stages.requests]), 1)
    assert "no such file or directory" in line


# --- prompts are private --------------------------------------------------------------------------


def test_redacted_anywhere_no_prompt_is_written(stages: Stages) -> None:
    script = (
        "driftkit gen --preset driftsched --requests 48 {} | driftkit estimate {} | driftkit schedule"
        " --policy sjf {} | driftkit run {} | driftkit calibrate {}"
    )
    whole = records(bash(script.format("", "", "", "", "")).stdout)
    for place in range(1, 5):
        options = ["--redact-prompt" if n == place else "" for n in range(5)]
        rows = records(bash(script.format(*options)).stdout)
        assert [without(row, "run_id") for row in rows] == [without(row, "prompt", "run_id") for row in whole]


def test_gen_counts_what_it_leaves_out() -> None:
    rows = records(ok(["gen", "--preset", "driftsched", "--requests", "9", "--redact-prompt"]))
    assert all("prompt" not in row and row["prompt_tokens"] > 20 for row in rows)


@pytest.mark.parametrize(
    "args",
    [
        ["gen", "--preset", "driftsched", "--to", "openai-batch"],
        ["estimate", "--on-error", "skip", "--rejects", "rejects"],
    ],
)
def test_what_would_leak_is_refused(args: list[str]) -> None:
    assert "--redact-prompt" in said(run([*args, "--redact-prompt"]), 2)[0]


@pytest.mark.parametrize(
    "line",
    [
        b'"SECRET"',
        b'["SECRET"]',
        b'{"custom_id":"a","body":{"prompt":["SECRET"]}}',
        b'{"custom_id":"a","body":{"messages":["SECRET"]}}',
        b'{"custom_id":"a","body":{"messages":"SECRET"}}',
        b'{"conversations":["SECRET"]}',
        b'{"conversations":[{"from":"human","value":["SECRET"]}]}',
    ],
)
def test_no_message_of_a_foreign_format_shows_it_either(line: bytes) -> None:
    result = run(["gen", "--trace", "-"], line + b"\n")
    assert result.returncode == 1
    assert b"SECRET" not in result.stderr


def test_messages_are_private_too(stages: Stages) -> None:
    rows = [
        changed(without(row, "prompt"), messages=[{"role": "user", "content": "secret"}])
        for row in stages.read("requests")
    ]
    assert b"secret" not in ok(["estimate", "--redact-prompt"], jsonl(rows))


def test_no_message_shows_what_a_user_has_written() -> None:
    data = b'{"id":"a","arrival_s":0,"messages":[{"role":"user","content":{"text":"secret"}}]}\n'
    result = run(["estimate"], data)
    assert b"secret" not in result.stderr
    assert "messages: expected objects with a text content" in said(result, 1)[0]
    result = run(["estimate"], b'{"id":"a","arrival_s":0,"prompt":["secret"]}\n')
    assert b"secret" not in result.stderr
    assert "prompt: expected a string, got an array" in said(result, 1)[0]
