"""A memory of errors: what it makes of them by hand, behind cuts and with age; its commands as processes."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stories
from cli import Record, changed, jsonl, ok, records, run, said, without
from driftkit import rng
from driftkit.errors import StateError
from driftkit.estimation import memory
from driftkit.estimation.base import NoCorrection, annotate, unbiased_tokens, unremembered_tokens
from driftkit.estimation.knn import Knn
from driftkit.estimation.memory import EXPECTED, HALF_LIFE, PRIOR, Memory, Of, Seen
from driftkit.estimation.table import Table
from driftkit.records.document import hashed
from stories import request

OF = Of("table", "builtin", "m")
SERVED = "qwen1.5-1.8b"
FILE = "memory.table.builtin.qwen1%2E5-1%2E8b.json"


def seen(
    length: int, at_s: float = 1.0, *, cut: bool = False, estimate: float = 100.0, **fields: Any
) -> Seen:
    record = {
        "id": "r",
        "prompt_tokens": 20,
        "category": "c",
        "tenant": "t",
        "offered_s": 0.0,
        "finished_s": at_s,
        **fields,
    }
    return Seen(record, estimate, length, cut)


def taught(*pairs: Seen, max_age_s: float | None = None) -> Memory:
    known = Memory(OF, None, max_age_s)
    known.learn("run", pairs)
    known.settle()
    return known


def ratio(known: Memory, estimate: float = 100.0, **fields: Any) -> float:
    asked = {"prompt_tokens": 20, "category": "c", "tenant": "t", "arrival_s": 0.0, **fields}
    return float(known.ratios([asked], [estimate])[0])


# --- what it makes of errors ------------------------------------------------------------------------


def test_one_error_by_hand() -> None:
    """Twice as long, without distance and the latest: weight 2^(-1/600)."""
    weight = 2 ** (-1 / HALF_LIFE)
    assert ratio(taught(seen(200))) == pytest.approx(2 ** (weight / (weight + PRIOR)), abs=1e-6)


def test_many_are_believed_and_few_or_far_or_old_are_not() -> None:
    one, many = taught(seen(200)), taught(*[seen(200)] * 60)
    assert 1.5 < ratio(one) < ratio(many) < 2
    assert ratio(many) > 1.97
    assert ratio(many, category="d", tenant="u") < ratio(many, tenant="u") < ratio(many)
    assert ratio(many, estimate=1000.0) < 1.1
    # seven half-lives of errors of others have come since: one part in 128
    apart = [seen(100, category="d", tenant="u", estimate=5000.0)] * int(7 * HALF_LIFE)
    assert ratio(taught(seen(200), *apart)) < 1.1


def test_the_nearest_count() -> None:
    """Short prompts are answered at twice the estimate, long ones at half."""
    known = taught(*[seen(200, prompt_tokens=10), seen(50, prompt_tokens=500)] * 30)
    assert ratio(known, prompt_tokens=10) > 1.8
    assert ratio(known, prompt_tokens=500) < 0.56
    assert 0.8 < ratio(known, prompt_tokens=70) < 1.25


def test_a_label_never_seen_is_not_taken_for_a_rare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one column for tenants, t's, the others are as far from each other as from t."""
    monkeypatch.setattr(memory, "LABEL_VALUES", 1)
    known = taught(*[seen(400, tenant="rare")] * 15, *[seen(100)] * 60)
    assert ratio(known, tenant="new") < 1.1
    assert ratio(known, tenant="rare") == ratio(known, tenant="new")
    assert ratio(known) == pytest.approx(1, abs=0.01)
    monkeypatch.setattr(memory, "LABEL_VALUES", 2)
    known = taught(*[seen(400, tenant="rare")] * 15, *[seen(100)] * 60)
    assert ratio(known, tenant="rare") > 2
    assert ratio(known, tenant="new") < 1.1


def test_nothing_remembered_changes_nothing() -> None:
    assert ratio(Memory(OF, None)) == 1.0


def test_an_error_beyond_a_factor_of_twenty_counts_as_twenty() -> None:
    assert ratio(taught(*[seen(10**9, estimate=1.0)] * 60), estimate=1.0) == pytest.approx(20, rel=0.05)


def test_constant_lengths_are_known_exactly_in_the_end() -> None:
    assert ratio(taught(*[seen(42)] * 200)) == pytest.approx(0.42, rel=0.02)


def test_alone_or_among_many_the_same() -> None:
    draws = rng.stream(1, "knn/among").random((300, 2))
    rows = [seen(1 + int(400 * u), prompt_tokens=1 + int(900 * v), tenant=f"t{u:.1f}") for u, v in draws]
    known = taught(*rows)
    asked = [{**row.record, "arrival_s": 0.0} for row in rows[:130]]
    together = known.ratios(asked, [100.0] * 130).tolist()
    assert [known.ratios([one], [100.0])[0] for one in asked] == together
    assert len(set(together)) > 100


def test_too_old_is_forgotten_as_the_clock_goes_on() -> None:
    known = taught(*[seen(200, 10.0)] * 30, *[seen(50, 100.0)] * 30, max_age_s=95.0)
    assert ratio(known, arrival_s=0.0) < 0.9  # all of them, and the later ones count for more
    assert ratio(known, arrival_s=50.0) == pytest.approx(0.5, rel=0.02)
    assert ratio(known, arrival_s=96.0) == 1.0
    known.learn("next", [seen(300, 86_420.0, offered_s=86_400.0)])  # at 120 on the clock of both
    known.settle()
    assert known.pairs[:, 0].tolist() == [100.0] * 30 + [120.0]


def test_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAIRS", 50)
    known = taught(*[seen(200, float(n)) for n in range(120)])
    assert known.pairs[:, 0].tolist() == [float(n) for n in range(70, 120)]


def test_no_more_is_looked_at_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand runs are put together once, and the features of the latest only are computed."""
    looked, asked = [], memory._asked
    monkeypatch.setattr(memory, "PAIRS", 50)
    monkeypatch.setattr(memory, "_asked", lambda rows, told: looked.append(len(rows)) or asked(rows, told))
    known = Memory(OF, None)
    for number in range(1000):
        known.learn(f"run {number}", [seen(200, offered_s=0.0)] * 50)
    known.settle()
    assert looked == [50]
    assert known.pairs[:, 0].tolist() == [1000.0] * 50
    assert known.clock_s == 1000
    assert len(known.runs.counts) == 1000


def test_it_finds_the_truth_behind_cuts() -> None:
    """Lognormal, medians 300 and 60, deviation 0.4, estimated as 100; half of the outputs cut at 250 and 50.

    The mean of 1,000 log-ratios, of 20 neighbours each out of 2,000: a standard error of about 1 %.
    """
    draws = rng.stream(3, "knn/cuts").random((2000, 3))
    pairs = []
    for place, (u, v, w) in enumerate(draws):
        median, cap = ((300, 250), (60, 50))[place % 2]
        cap = cap if w < 0.5 else 10**6
        normal = math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)
        length = max(1, round(median * math.exp(0.4 * normal)))
        fields = {"category": "ab"[place % 2], "max_tokens": 1000, "prompt_tokens": 1 + int(500 * w * v)}
        pairs.append(seen(min(length, cap), place, cut=length >= cap, **fields))
    asked = [{**pair.record, "arrival_s": 0.0} for pair in pairs[-1000:]]

    def found(known: Memory) -> tuple[float, float]:
        logs = [math.log(one) for one in known.ratios(asked, [100.0] * 1000)]
        first, second = (math.exp(sum(logs[side::2]) / 500) for side in (0, 1))
        return 100 * first, 100 * second

    assert found(taught(*pairs)) == pytest.approx((300, 60), rel=0.04)
    naive = found(taught(*(pair._replace(cut=False) for pair in pairs)))
    assert naive[0] < 270
    assert naive[1] < 54


def test_an_estimate_by_memory_is_cut_at_max_tokens_and_still_tells_its_base() -> None:
    known = taught(*[seen(900, category="summary", tier="premium", max_tokens=500, estimate=300.0)] * 60)
    record: Record = {"id": "r", "arrival_s": 0.0, "category": "summary", "tenant": "t", "prompt_tokens": 20}
    record |= {"tier": "premium", "est_tokenizer": "builtin", "max_tokens": 500}
    plain = dict(record)
    annotate(plain, Table(print), NoCorrection())
    annotate(record, Knn(Table(print), {"builtin": known}, print), NoCorrection())
    assert plain["est_output_tokens"] < record["est_output_tokens"] == 500
    assert record["est_base_tokens"] == plain["est_base_tokens"]
    assert record["est_memory_ratio"] > 1.5
    assert record["est_model"] == "knn:table"
    assert unremembered_tokens(record) == unbiased_tokens(plain)
    assert unbiased_tokens(record) == pytest.approx(unbiased_tokens(plain) * record["est_memory_ratio"])
    annotate(record, Table(print), NoCorrection())
    assert record == plain


# --- in a state folder ------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_known_and_no_text(tmp_path: Path) -> None:
    known = taught(*[seen(n, n, cut=n % 3 == 0, prompt="a secret of mine") for n in range(1, 80)])
    path = memory.write(tmp_path, known)
    assert b"secret" not in path.read_bytes()
    again = memory.read(tmp_path, OF)
    assert again is not None
    assert (again.pairs == known.pairs).all()
    assert (again.clock_s, again.max_age_s) == (known.clock_s, known.max_age_s)
    assert again.runs.to_json() == known.runs.to_json()
    assert (again.pairs[:, EXPECTED] > again.pairs[:, memory.ERROR]).any()
    assert memory.write(tmp_path, again).read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["memory.table.builtin.m.json"]


def packed(shape: tuple[int, ...], kind: str = "<f8") -> str:
    """An .npy that says it has that shape, and has one pair."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    whole = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return base64.b64encode(zlib.compress(whole + bytes(8 * len(memory.COLUMNS)))).decode()


def test_one_pair_of_zeros_is_one(tmp_path: Path) -> None:
    assert memory._unpacked(packed((1, len(memory.COLUMNS)))).shape == (1, len(memory.COLUMNS))


HUGE = packed((10**13, len(memory.COLUMNS)))  # a petabyte
OTHERS = [HUGE, packed((len(memory.COLUMNS),)), packed((1, len(memory.COLUMNS)), "<i8")]


@pytest.mark.parametrize("pairs", ["", "AAAA", "eJw=", None, 3, *OTHERS])
def test_pairs_that_are_none_are_refused_though_the_hash_is_right(tmp_path: Path, pairs: object) -> None:
    path = memory.write(tmp_path, taught(seen(9)))
    document = json.loads(path.read_bytes()) | {"pairs": pairs}
    path.write_text(json.dumps(hashed(document)))
    with pytest.raises(StateError, match="damaged memory"):
        memory.read(tmp_path, OF)


# --- the commands -----------------------------------------------------------------------------------


def completion(number: int, **fields: object) -> Record:
    """The table says 64 tokens of all; stories are ten times as long, answers in one word a tenth of it."""
    said = {"est_model": "table", "est_tokenizer": "builtin", "est_base_tokens": 64, "est_output_tokens": 64}
    return stories.completion(number, **{"served_model": SERVED, **said, **fields})


def fit(state: Path, *more: str | Path) -> list[str | Path]:
    return ["calibrate", "--fit", "knn", "--state", state, *more]


def estimate(state: Path, *more: str) -> list[str | Path]:
    return ["estimate", "--model", "knn", "--state", state, *more]


def estimates(state: Path, rows: list[Record], *more: str) -> list[Record]:
    result = run(estimate(state, *more), jsonl(rows))
    assert said(result, 0) == []
    return records(result.stdout)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with a memory of 120 completions of the table's."""
    state = tmp_path_factory.mktemp("state") / "learned"
    result = run(fit(state), jsonl(completion(number) for number in range(120)))
    assert result.stdout == b""
    assert said(result, 0) == [
        "remembered: 120 errors of table/builtin/qwen1.5-1.8b, 0 of outputs that were cut"
    ]
    return state


def test_the_tables_errors_are_corrected(learned: Path) -> None:
    rows = [request(number, max_tokens=200 if number < 2 else None) for number in range(12)]
    told = estimates(learned, rows)
    assert [row["est_base_tokens"] for row in told] == [64] * 12
    assert [row["est_model"] for row in told] == ["knn:table"] * 12
    assert [row["est_output_tokens"] for row in told[:1]] == [200]
    for number, row in enumerate(told[2:]):
        assert (500 < row["est_output_tokens"] <= 660) if number % 2 == 0 else (row["est_output_tokens"] < 10)
    assert estimates(learned, rows, "--base", "table") == told


def test_completions_that_a_memory_has_estimated_teach_it_its_bases_errors(tmp_path: Path) -> None:
    """The lengths do not change, so the second night finds the table as wrong as the first."""
    state = tmp_path / "state"
    said(run(fit(state), jsonl(completion(number) for number in range(60))), 0)
    first = estimates(state, [request(number) for number in range(60)])
    second = [
        {**completion(n, run_id="second"), **{k: v for k, v in row.items() if k.startswith("est_")}}
        for n, row in enumerate(first)
    ]
    assert {row["est_model"] for row in second} == {"knn:table"}
    (line,) = said(run(fit(state), jsonl(second)), 0)
    assert line.startswith("remembered: 120 errors of table/")
    for before, after in zip(first, estimates(state, [request(n) for n in range(60)]), strict=True):
        assert after["est_memory_ratio"] == pytest.approx(before["est_memory_ratio"], rel=0.1)
    # what was learned of estimates by the memory is of no use for another, and for the same as good as before
    calibrated = ["calibrate", "--state", state]
    ok(calibrated, jsonl(second))
    said(run(fit(state), jsonl(second)), 0)
    assert len(list(state.glob("knn*"))) == 1
    warning, *_ = said(run(fit(state), jsonl(completion(n, run_id="third") for n in range(9))), 0)
    assert "knn%3Atable.builtin.qwen1%2E5-1%2E8b.json: corrected what memory.table." in warning
    assert not list(state.glob("knn*"))


def test_a_run_is_learned_once(learned: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(learned, state)
    before = (state / FILE).read_bytes()
    lines = said(run(fit(state), jsonl(completion(number) for number in range(120))), 0)
    assert "run run was learned before: not again" in lines[0]
    assert (state / FILE).read_bytes() == before


def test_a_run_in_parts_is_learned_once(learned: Path, tmp_path: Path) -> None:
    state, rows = tmp_path / "state", [completion(number) for number in range(120)]
    said(run(fit(state), jsonl(rows[:70])), 0)
    warning, line = said(run(fit(state), jsonl(rows[50:] + rows[50:])), 0)
    assert warning == "driftkit calibrate: 90 completions of run run were learned before: not again"
    assert line.startswith("remembered: 120 errors of table/")
    kept, whole = (json.loads((folder / FILE).read_bytes()) for folder in (state, learned))
    assert [kept[name] for name in ("runs", "latest")] == [whole[name] for name in ("runs", "latest")]


def twice(told: list[Record]) -> list[Record]:
    """Completions twice as long as was said."""
    return [
        {**completion(n), **row, "kind": "completion", "actual_output_tokens": 2 * row["est_output_tokens"]}
        for n, row in enumerate(told)
    ]


@pytest.mark.parametrize("base", ["prompt-length", "oracle", "history"])
def test_any_base(tmp_path: Path, base: str) -> None:
    state = tmp_path / "state"
    rows = [completion(number) for number in range(60)]
    if base == "history":
        said(run(["calibrate", "--fit", base, "--state", state], jsonl(rows)), 0)
    asked = [request(number, trace_output_tokens=30) for number in range(60)]
    told = records(run(["estimate", "--model", base, "--state", state], jsonl(asked)).stdout)
    said(run(fit(state), jsonl(twice(told))), 0)
    for before, after in zip(told, estimates(state, asked), strict=True):
        assert after["est_output_tokens"] == pytest.approx(2 * before["est_output_tokens"], rel=0.08, abs=1)
        assert after["est_model"] == f"knn:{base}"
        if base == "history":
            low, high = before["est_base_tokens_p10"], before["est_base_tokens_p90"]
            assert (after["est_base_tokens_p10"], after["est_base_tokens_p90"]) == (low, high)
            assert after["est_output_tokens_p90"] == pytest.approx(2 * high, rel=0.08)


def test_a_base_that_was_fitted_since_is_another(tmp_path: Path) -> None:
    state = tmp_path / "state"
    rows, asked = [completion(number) for number in range(30)], jsonl(request(n) for n in range(30))
    fit_base = ["calibrate", "--fit", "history", "--state", state]
    said(run(fit_base, jsonl(rows)), 0)
    ended = twice(records(run(["estimate", "--model", "history", "--state", state], asked).stdout))
    said(run(fit(state), jsonl(ended)), 0)
    longer = jsonl(changed(row, actual_output_tokens=5 * row["actual_output_tokens"]) for row in rows)
    _, warning = said(run(fit_base, longer), 0)
    assert "qwen1%2E5-1%2E8b.json: remembers the errors of what was fitted before" in warning
    (line,) = said(run(fit_base, jsonl(changed(row, served_model="other") for row in rows)), 0)
    assert line.startswith("fitted to 30 completions of other, 0 of them cut; P10 6, ")
    lines = said(run(estimate(state), asked), 1)
    assert "remembers the errors of another history than the one here" in lines[0]
    late = jsonl(changed(row, run_id="late") for row in ended)  # what the first has estimated
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    warning, error, _ = said(run(fit(state), late), 1)
    assert "30 of 30 completions of run late were estimated by another history" in warning
    assert "nothing to remember: all was estimated before a fit" in error
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before
    told = records(run(["estimate", "--model", "history", "--state", state], asked).stdout)
    forgotten, line = said(run(fit(state), jsonl(twice(told))), 0)
    assert "history was fitted anew: what was remembered is forgotten" in forgotten
    assert line.startswith("remembered: 30 errors of history/")
    assert estimates(state, [request(0)])[0]["est_memory_ratio"] > 1.8
    # a folder of nights: one learned, some from before the fit, one new
    nights = jsonl(
        [
            *twice(told),
            *(changed(row, run_id=f"old {n}") for n in range(5) for row in ended),
            *(changed(row, run_id="new") for row in twice(told)),
        ]
    )
    known, outdated, line = said(run(fit(state), nights), 0)
    assert "run run was learned before" in known
    assert "30 of 30 completions of run old 2 and 2 runs more were estimated by another history" in outdated
    assert line.startswith("remembered: 60 errors of history/")
    *_, line = said(run(fit(state), nights), 0)
    assert line.startswith("remembered: 60 errors of history/")


def test_a_stale_memory_of_another_tokenizer_is_left_out(tmp_path: Path) -> None:
    """Two tokenizers' errors are remembered, history is fitted anew, and one of the two is learned again."""
    state = tmp_path / "state"
    history = ["calibrate", "--fit", "history", "--state", state]

    def remembered(tokenizer: str, run_id: str) -> None:
        counted = ["estimate", "--model", "history", "--state", state, "--tokenizer", tokenizer]
        told = records(run(counted, jsonl(request(n) for n in range(30))).stdout)
        answers = {"actual_output_words": 40, "run_id": run_id}
        said(run(fit(state), jsonl(changed(row, **answers) for row in twice(told))), 0)

    rows = [completion(number, actual_output_words=20) for number in range(30)]
    said(run(history, jsonl(rows)), 0)
    remembered("builtin", "one")
    remembered("whitespace", "two")
    said(run(history, jsonl(changed(row, actual_output_tokens=900) for row in rows)), 0)
    lines = said(run(estimate(state), jsonl([request(0)])), 1)
    assert "remembers the errors of another history" in lines[0]
    remembered("builtin", "three")
    result = run(estimate(state), jsonl([request(0)]))
    (line,) = said(result, 0)
    assert "memory.history.whitespace.qwen1%2E5-1%2E8b.json: remembers the errors of another" in line
    assert line.endswith("left out")
    assert records(result.stdout)[0]["est_memory_ratio"] > 1.8


def test_a_damaged_memory_of_another_base_is_not_read(learned: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(learned, state)
    (state / FILE.replace("table", "prompt-length")).write_text("damaged")
    assert estimates(state, [request(0)], "--base", "table")[0]["est_memory_ratio"] > 2
    assert "memories of prompt-length, table" in said(run(estimate(state), b""), 2)[0]


def test_the_regressor_as_a_base(tmp_path: Path) -> None:
    """Here the regressor is made in this process, which is quicker."""
    from driftkit.calibration.remembering import remember
    from driftkit.calibration.state import StateFolder
    from driftkit.estimation import store
    from driftkit.estimation.fitting import fit as fit_regressor
    from driftkit.estimation.regression import Regression

    rows = [completion(number) for number in range(60)]
    store.write(tmp_path, fit_regressor(rows))
    base = Regression.from_state(tmp_path, SERVED, print)
    told = [{**row, "est_tokenizer": "builtin"} for row in rows]
    for row in told:
        row["prompt_tokens"] = 6 if "word" in row["prompt"] else 8
        annotate(row, base, NoCorrection())
    (known,) = remember(twice(told), StateFolder(str(tmp_path)), None, print)
    assert known.base_is == json.loads((tmp_path / "regressor.json").read_bytes())["sha256"]
    for before, after in zip(told, estimates(tmp_path, [request(n) for n in range(60)]), strict=True):
        assert after["est_model"] == "knn:regressor"
        assert after["est_memory_ratio"] == pytest.approx(2, rel=0.08)
        assert after["est_base_tokens"] == pytest.approx(before["est_base_tokens"], rel=0.1)
        assert after["est_output_tokens_p90"] == pytest.approx(2 * before["est_base_tokens_p90"], rel=0.15)


def test_a_state_without_that_base(learned: Path, tmp_path: Path) -> None:
    (line, _) = said(run(estimate(learned, "--base", "prompt-length"), jsonl([request(0)])), 1)
    assert "no memory of errors of prompt-length" in line
    assert "there is of table" in line
    (line, _) = said(run(estimate(learned, "--served-model", "other"), jsonl([request(0)])), 1)
    assert "no memory of errors for other" in line
    state = tmp_path / "state"
    shutil.copytree(learned, state)
    other = {"est_model": "prompt-length", "est_base_tokens": 8, "est_output_tokens": 8, "run_id": "other"}
    said(run(fit(state), jsonl(completion(number, **other) for number in range(30))), 0)
    lines = said(run(estimate(state), jsonl([request(0)])), 2)
    assert "memories of prompt-length, table" in lines[0]
    assert estimates(state, [request(0)], "--base", "prompt-length")[0]["est_model"] == "knn:prompt-length"


def test_prompts_counted_otherwise_are_not_corrected_and_that_is_said(learned: Path) -> None:
    result = run(estimate(learned, "--tokenizer", "whitespace"), jsonl([request(0), request(1)]))
    assert "nothing remembered of prompts counted by whitespace, only by builtin" in said(result, 0)[0]
    assert [row["est_memory_ratio"] for row in records(result.stdout)] == [1.0, 1.0]


def test_strange_requests_are_estimated(learned: Path) -> None:
    rows = [
        request(1, category="never seen", tenant="new", tier="gold", turn=7),
        request(2, prompt="word " * 100_000),
        request(3, prompt=""),
        {"id": "chat", "arrival_s": 9.0, "messages": [{"role": "user", "content": "Tell a story."}]},
    ]
    assert all(1 <= row["est_output_tokens"] <= 1500 for row in estimates(learned, rows))


def test_without_text(tmp_path: Path) -> None:
    """A category is enough. The reports are a factor of 80 off, which counts as 20."""
    bare = [
        changed(without(completion(n), "prompt"), category=("summary", "report")[n % 2], est_base_tokens=b)
        for n in range(60)
        for b in [(256, 512)[n % 2]]
    ]
    rows = [changed(row, est_output_tokens=row["est_base_tokens"]) for row in bare]
    said(run(fit(tmp_path / "s"), jsonl(rows)), 0)
    asked = [{"id": c, "arrival_s": 0.0, "prompt_tokens": 8, "category": c, "est_tokenizer": "builtin"}
             for c in ("summary", "report")]  # fmt: skip
    summary, report = (row["est_output_tokens"] for row in estimates(tmp_path / "s", asked))
    assert summary > 500
    assert 26 <= report < 40


def test_in_flight_when_a_run_ended_was_going_to_be_longer(tmp_path: Path) -> None:
    """Ten stories of which 600 tokens had come count as cut; what had not begun, or failed, not at all."""
    rows = [completion(number) for number in range(60)]
    for row in rows[20:40:2]:
        row.update(status="cancelled", received_output_tokens=600, actual_output_tokens=None)
    rows[41].update(status="cancelled", actual_output_tokens=None)
    rows[43].update(status="error")
    warning, line = said(run(fit(tmp_path / "s"), jsonl(rows)), 0)
    assert "2 completions without an answer or an estimate are left out" in warning
    assert line == "remembered: 58 errors of table/builtin/qwen1.5-1.8b, 10 of outputs that were cut"
    assert estimates(tmp_path / "s", [request(0)])[0]["est_output_tokens"] > 550


def test_prompts_that_were_redacted_are_said_to_be_missing(tmp_path: Path) -> None:
    rows = [without(completion(number), "prompt") for number in range(60)]
    lines = said(run(fit(tmp_path / "s"), jsonl(rows)), 0)
    assert "60 of 60 completions of run run have no prompt: was it this table?" in lines[0]
    result = run(estimate(tmp_path / "s"), jsonl([request(0)]))
    assert "no completion that is remembered had its prompt" in said(result, 0)[0]
    messages = [{"role": "user", "content": 5}]
    result = run(fit(tmp_path / "t"), jsonl([changed(rows[0], messages=messages)]))
    assert "<stdin>:1: messages: expected objects with a text content" in said(result, 1)[0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no completions to remember"),
        ([completion(0, actual_output_tokens=None)], "no completions to remember"),
        ([completion(0, status="error")], "no completions to remember"),
        (
            [completion(n, finish_reason="length") for n in range(30)],
            "all 30 outputs were cut: nothing says how long they were going to be",
        ),
        ([completion(0, est_model="tabel")], "no estimator named 'tabel'"),
        ([without(completion(0), "est_model")], "<stdin>:1: est_model: expected a string, got nothing"),
        ([completion(0, est_model="knn:knn")], "a memory of the errors of a memory"),
        (
            [completion(0, est_model="oracle", trace_output_tokens="x")],
            "<stdin>:1: trace_output_tokens: expected an integer >= 1, got 'x'",
        ),
        ([completion(0, est_base_tokens=9)], "1 of 1 completions of run run were estimated by another table"),
    ],
)
def test_what_cannot_be_remembered(tmp_path: Path, rows: list[Record], says: str) -> None:
    result = run(fit(tmp_path / "state"), jsonl(rows))
    assert says in "\n".join(said(result, 2 if "tabel" in says or "a memory" in says else 1))
    assert not list((tmp_path / "state").glob("memory*"))


def damaged(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(change(path.read_text()))

    return damage


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (damaged(lambda text: text[:-9]), "damaged state"),
    "foreign": (damaged(lambda text: '{"kind": "terraform"}'), "not a driftkit state file"),
    "newer": (damaged(lambda text: text.replace('"version": 1', '"version": 2')), "state version 2"),
    "edited": (
        damaged(lambda text: text.replace('"completions": 120', '"completions": 9')),
        "edited by hand",
    ),
    "pairs edited": (damaged(lambda text: re.sub('"pairs": "eJ', '"pairs": "eK', text)), "edited by hand"),
    "another's": (
        lambda path: path.rename(path.parent / FILE.replace("table", "prompt-length")),
        "holds the memory of table",
    ),
    "gone": (Path.unlink, "no memory of errors for qwen1.5-1.8b"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_an_unusable_memory_is_refused_and_stays(learned: Path, tmp_path: Path, what: str) -> None:
    state = tmp_path / "state"
    shutil.copytree(learned, state)
    damage, says = UNUSABLE[what]
    damage(state / FILE)
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    assert says in said(run(estimate(state), jsonl([request(0)])), 1)[0]
    if what in ("newer", "edited"):
        assert says in said(run(fit(state), jsonl([completion(0, run_id="next")])), 1)[0]
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_another_feature_schema_is_refused(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Of("table", "builtin", SERVED)
    monkeypatch.setattr(memory, "FEATURE_SCHEMA", 99)
    with pytest.raises(StateError, match="feature schema 2, this driftkit computes 99"):
        memory.read(learned, of)
    monkeypatch.undo()
    monkeypatch.setattr(memory, "COLUMNS", (*memory.COLUMNS[:-1], "another"))
    with pytest.raises(StateError, match="its columns are others than this driftkit's"):
        memory.read(learned, of)


def test_calls_that_cannot_be(learned: Path) -> None:
    assert "kept in a state folder" in said(run(["estimate", "--model", "knn"], b""), 2)[0]
    assert "--fit knn needs --state" in said(run(["calibrate", "--fit", "knn"], b""), 2)[0]
    assert "--max-age goes with --fit knn" in said(run(["calibrate", "--max-age", "9"], b""), 2)[0]
    assert "nothing to do with --fit knn" in said(run([*fit(learned), "--live"], b""), 2)[0]
    assert "has no estimator below it" in said(run(["estimate", "--base", "table"], b""), 2)[0]
    assert "no estimator named 'tabel'" in said(run(estimate(learned, "--base", "tabel"), b""), 2)[0]
    assert "a memory of the errors of a memory" in said(run(estimate(learned, "--base", "knn"), b""), 2)[0]


def test_max_age_is_kept_until_another_is_given(tmp_path: Path) -> None:
    state = tmp_path / "state"
    lines = said(run(fit(state, "--max-age", "50"), jsonl(completion(n) for n in range(120))), 0)
    assert lines[0].startswith("remembered: 51 errors")
    # a slice of a day, which counts from its first request
    asked = [request(0, arrival_s=86_400 + after) for after in (0.0, 40.0, 51.0, 52.0)]
    result = run(estimate(state), jsonl(asked))
    (line,) = said(result, 0)
    assert "more than 50 s after the first: by --max-age all errors that are remembered are too old" in line
    ratios = [row["est_memory_ratio"] for row in records(result.stdout)]
    assert ratios[0] > ratios[1] > 2
    assert ratios[2:] == [1.0, 1.0]
    late = {"run_id": "next", "arrival_s": 86_400.0, "finished_s": 86_410.0}  # ten seconds later
    lines = said(run(fit(state), jsonl([completion(9, **late)])), 0)
    assert lines[0].startswith("remembered: 42 errors")
    assert "max-age" in said(run(fit(state, "--max-age", "0"), b""), 2)[0]


def test_one_writer_at_a_time(learned: Path, tmp_path: Path) -> None:
    from driftkit.calibration.state import StateFolder

    state = tmp_path / "state"
    shutil.copytree(learned, state)
    before = (state / FILE).read_bytes()
    more = jsonl(completion(n, run_id="more") for n in range(20))
    with StateFolder(str(state)).writing():
        assert "another driftkit is writing this state" in said(run(fit(state), more), 1)[0]
        assert estimates(state, [request(0)])[0]["est_output_tokens"] > 500  # readers do not wait
    assert (state / FILE).read_bytes() == before
    (line,) = said(run(fit(state), more), 0)
    assert line.startswith("remembered: 140 errors")
