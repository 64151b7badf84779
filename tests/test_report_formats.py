"""What leaves the report for other programs: CSV, Markdown, JSON lines, and gates that end a nightly job."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import Record, Stages, jsonl, ok, records, run, said, without
from driftkit.reporting import csv as csv_format
from driftkit.reporting import markdown
from driftkit.reporting.report import NAMES
from driftkit.reporting.tables import Table
from test_report import completion


def slo_rows() -> list[Record]:
    """First tokens after 2, 3, 4, 5 s against 3.5 s; ends after 3, 4, 5, 6 s against 5 s; one not served."""
    rows = [completion(n, n + 1, 2, slo_ttft_s=3.5, slo_e2e_s=5.0, energy_j=10.0) for n in range(4)]
    rows.append(completion(4, 0, 1, status="timeout", slo_e2e_s=5.0))
    rows.append(completion(5, 0, 4))
    return rows


def table_of(rows: list[Record], name: str, *options: str) -> list[Record]:
    return records(ok(["report", "--format", "jsonl", "--table", name, *options], jsonl(rows)))


def test_goodput_by_hand() -> None:
    (row,) = table_of(slo_rows(), "goodput")
    assert (row["objectives"], row["met"], row["met_percent"]) == (5, 2, 40.0)
    assert (row["ttft_met_percent"], row["e2e_met_percent"]) == (50.0, 60.0)
    assert row["goodput_rps"] == pytest.approx(2 / 9)  # 0 to 5 + 4


def test_energy_by_hand() -> None:
    (row,) = table_of(slo_rows(), "energy")
    assert (row["count"], row["energy_j"], row["request_j"]) == (4, 40.0, 10.0)
    assert row["tokens_per_j"] == pytest.approx(44 / 40)


def test_what_nobody_knows_has_no_table() -> None:
    out = ok(["report"], jsonl([completion(n, 1, 1) for n in range(3)])).decode()
    assert not any(title in out for title in ("Goodput", "Energy", "Coverage", "Estimate error", "Tiers"))


def test_coverage_by_hand() -> None:
    rows = [
        completion(n, 1, 1, actual_output_tokens=n, est_output_tokens_p10=2, est_output_tokens_p90=7)
        for n in range(10)
    ]
    (row,) = table_of(rows, "coverage")
    found = (row["below_percent"], row["within_percent"], row["above_percent"], row["width_tokens"])
    assert found == pytest.approx((20, 60, 20, 5))


def test_trend_goes_run_by_run_in_time() -> None:
    rows = []
    for night, (started, e2e) in enumerate([("2026-11-02T01:00:00Z", 4.0), ("2026-11-01T01:00:00Z", 2.0)]):
        rows += [
            completion(n, 0, e2e, run_id=f"night-{night}", run_started_at=started, est_output_tokens=22)
            for n in range(5)
        ]
    first, second = table_of(rows, "trend")
    assert (first["run_id"], second["run_id"]) == ("night-1", "night-0")
    assert "p99_change_percent" not in first
    assert (second["p99_change_percent"], second["mae"]) == pytest.approx((100, 11))
    assert second["actual_ratio"] == pytest.approx(0.5)


def test_the_course_of_the_queue_adds_up_to_the_waits() -> None:
    rows = [completion(n, 3, 1) for n in range(20)]
    course = table_of(rows, "queue_course")
    waited = sum(row["waiting"] * (row["to_s"] - row["from_s"]) for row in course)
    assert waited == pytest.approx(60)
    (row,) = table_of(rows, "queue")
    assert (row["max"], len(row["course"])) == (3, 60)


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_table_alone_in_every_format(stages: Stages, name: str) -> None:
    baseline = ["--baseline", "sjf"] if name == "paired" else []
    for form in ("table", "markdown", "csv", "jsonl"):
        result = run(["report", "--table", name, "--format", form, *baseline, stages.calibrated])
        lines = said(result, 0)
        assert [f"driftkit report: the table {name} is empty: it needs " in line for line in lines] == [
            True
        ] * (name in ("goodput", "telemetry", "paired"))


def test_csv_is_what_jsonl_says(stages: Stages) -> None:
    rows = records(ok(["report", "--format", "jsonl", "--table", "latency", stages.calibrated]))
    text = ok(["report", "--format", "csv", "--table", "latency", stages.calibrated]).decode()
    read = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["p99"]) for row in read] == [row["p99"] for row in rows]
    assert [row["metric"] for row in read] == [row["metric"] for row in rows]


def test_csv_tables_are_parted_by_a_blank_line(stages: Stages) -> None:
    blocks = ok(["report", "--format", "csv", stages.calibrated]).decode().split("\n\n")
    assert [block.split(",")[0] for block in blocks] == ['"table"'] * len(blocks)
    assert len(blocks) >= 6


@given(st.text(max_size=20))
def test_no_cell_of_a_csv_starts_a_formula(text: str) -> None:
    table = Table("t", "T", [("name", "name")], rows=[{text: 1, "name": text}])
    for row in csv.reader(io.StringIO(csv_format.rendered([table]))):
        assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row)
        assert all(cell.isprintable() for cell in row)


def test_negative_numbers_stay_numbers_in_csv() -> None:
    table = Table("t", "T", [("x", "x")], rows=[{"x": -1.5}, {"x": None}, {"x": True}])
    assert csv_format.rendered([table]) == '"table","x"\n"t",-1.5\n"t",""\n"t","true"\n'


def test_names_cannot_break_out_of_a_markdown_table() -> None:
    rows: list[dict[str, Any]] = [{"name": "a|b\n<img> [x](y) `c`", "n": 1.5}]
    table = Table("t", "T", [("name", "name"), ("n", "n")], rows=rows, notes=["*so*"])
    assert markdown.rendered([table]) == (
        "## T\n\n| name | n |\n|---|---:|\n| a\\|b\\\\n\\<img\\> \\[x](y) \\`c\\` | 1.500 |\n\n- \\*so\\*\n"
    )


# --- gates ----------------------------------------------------------------------------------------

FOUR = jsonl([completion(n, n, 2, est_output_tokens=20 + n) for n in range(4)])


@pytest.mark.parametrize(
    ("gate", "crossed"),
    [
        ("e2e_s.p99>4.9", True),
        ("e2e_s.p99>5", False),
        ("e2e_s.max>=5", True),
        ("ttft_s.mean < 3 label=fifo", True),
        ("throughput.failed>0", False),
        ("error.mae>10 estimate=made", None),
        ("error.bias>10", True),
        ("fairness.jain_slowdown<0.9", False),
        ("paired.change_percent>5 metric=e2e_s statistic=p99", None),
    ],
)
def test_gates(gate: str, crossed: bool | None) -> None:
    result = run(["report", "--fail-if", gate], FOUR)
    if crossed is None:  # looks at nothing here: that must not pass
        said(result, 2)
        assert result.stdout == b""
        return
    lines = said(result, 4 if crossed else 0)
    assert len(lines) == crossed
    assert result.stdout == ok(["report"], FOUR)
    if crossed:
        assert lines[0].startswith(f"driftkit report: --fail-if {gate!r}: crossed: ")


def test_a_gate_names_the_rows_that_cross_it() -> None:
    rows = [completion(n, n, 2, tier="gold" if n % 2 else "lead", tier_level=n % 2) for n in range(6)]
    result = run(["report", "--by", "tier", "--table", "tiers", "--fail-if", "e2e_s.max>6"], jsonl(rows))
    assert said(result, 4) == [
        "driftkit report: --fail-if 'e2e_s.max>6': crossed: max is 7.000 (label=fifo tier=gold)"
    ]


@pytest.mark.parametrize(
    ("gate", "hint"),
    [
        ("e2e_s.p99", "for example"),
        ("e2e_s.p9>3", "did you mean p99?"),
        ("e2e.p99>3", "did you mean e2e_s?"),
        ("throughputs.failed>0", "did you mean throughput?"),
        ("e2e_s.p99>high", None),
        ("e2e_s.p99>3 labl=fifo", "did you mean label?"),
        ("e2e_s.p99>3 label=fifi", "did you mean fifo?"),
        ("e2e_s.label>3", None),
        ("e2e_s.p99>nan", None),
        ("e2e_s.p99>1e400", None),
        ('e2e_s.p99>3 label="fifo', None),
        ("e2e_s.p99>3 label", None),
    ],
)
def test_a_gate_that_says_nothing_is_a_bad_call(gate: str, hint: str | None) -> None:
    result = run(["report", "--fail-if", gate], FOUR)
    first, *hints = said(result, 2)
    assert first.startswith(f"driftkit report: --fail-if {gate!r}: ")
    assert result.stdout == b""
    assert hint is None or hint in hints[0]


NIGHTS = [completion(n, 0, 2, run_id="good", label="good", est_output_tokens=9) for n in range(4)]
NIGHTS += [completion(n, 0, 0, run_id="dead", label="dead", status="timeout") for n in range(4)]


@pytest.mark.parametrize(
    ("gate", "options", "about"),
    [
        ("e2e_s.p99>30", [], "p99 is not known (label=dead)"),
        ("e2e_s.p99>30", ["--by", "run_id"], "p99 is not known (label=dead run_id=dead)"),
        ("trend.e2e_p99_s>30", ["--trend"], "e2e_p99_s is not known (label=dead run_id=dead)"),
        ("error.mae>30", [], "mae is not known (label=dead)"),
        ("goodput.met_percent<90", [], "met_percent is not known (label=good)"),
        ("error.tau<0.9 label=good", [], "tau is not known (label=good)"),  # one constant estimate has none
        ("paired.change_percent>5", ["--baseline", "good"], "change_percent is not known (label=dead)"),
    ],
)
def test_a_gate_that_hears_nothing_is_crossed(gate: str, options: list[str], about: str) -> None:
    lines = said(run(["report", *options, "--fail-if", gate], jsonl(NIGHTS)), 4)
    assert any(line.endswith(f"crossed: {about}") for line in lines)


def test_a_gate_names_a_tenant_with_a_space() -> None:
    rows = jsonl([completion(n, n, 2, tenant="Big Corp" if n else "small") for n in range(4)])
    gate = 'e2e_s.max>4 tenant="Big Corp"'
    (line,) = said(run(["report", "--by", "tenant", "--fail-if", gate], rows), 4)
    assert "max is 5.000" in line
    env = {"DRIFTKIT_REPORT_FAIL_IF": gate, "DRIFTKIT_REPORT_BY": "tenant"}
    assert said(run(["report"], rows, env=env), 4) == [line]


# --- what a log does not say ----------------------------------------------------------------------


def test_a_log_that_does_not_know_starts_has_no_queue() -> None:
    rows = [without(completion(n, 0, 10), "started_s", "queue_wait_s", "inference_s") for n in range(20)]
    for name in ("queue", "queue_course"):
        result = run(["report", "--table", name], jsonl(rows))
        assert said(result, 0) == [f"driftkit report: the table {name} is empty: it needs started_s"]


def test_latencies_follow_from_instants() -> None:
    rows = [
        without(completion(n, 1, 2, first_token_s=n + 1.5, slo_ttft_s=2.0), "ttft_s", "queue_wait_s")
        for n in range(3)
    ]
    means = {row["metric"]: row["mean"] for row in table_of(rows, "latency")}
    assert (means["ttft_s"], means["queue_wait_s"]) == (1.5, 1)
    assert table_of(rows, "goodput")[0]["met"] == 3


def test_a_tenants_rates_are_over_the_whole_run() -> None:
    rows = [completion(n, 0, 1) for n in range(100)] + [completion(50, 0, 1, id="s", tenant="small")]
    by_tenant = {row["tenant"]: row for row in table_of(rows, "throughput", "--by", "tenant")}
    assert by_tenant["small"]["request_rps"] == pytest.approx(1 / 100)
    assert by_tenant["small"]["offered_rps"] == pytest.approx(1 / 101 * 100 / 99)
    course = [row for row in table_of(rows, "queue_course", "--by", "tenant") if row["tenant"] == "small"]
    assert (course[0]["from_s"], course[-1]["to_s"]) == (0, 100)


def test_a_run_by_itself_can_be_a_group() -> None:
    rows = [completion(n, 0, 1, run_id=f"run-{n % 2}") for n in range(10)]
    assert {row["run_id"] for row in table_of(rows, "queue_course", "--by", "run_id")} == {"run-0", "run-1"}
    assert records(ok(["report", "--by", "run_id", "--format", "jsonl"], jsonl(rows)))


def test_json_lines_hold_the_course_of_the_queue_too(stages: Stages) -> None:
    rows = [json.loads(line) for line in ok(["report", "--format", "jsonl", stages.calibrated]).splitlines()]
    assert {row["table"] for row in rows} >= {"latency", "throughput", "error", "queue", "queue_course"}
