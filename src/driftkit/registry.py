"""The names a user may give, and where each is implemented. A new one is one file and one line here.

Other packages add theirs by entry points in the group `driftkit.<table>.v1`; those are looked up only
for a name that is not ours, because reading every installed package's metadata is slow.
"""

from __future__ import annotations

import importlib
from typing import Any

from driftkit.errors import UsageError, near_or_known

TABLES: dict[str, dict[str, str]] = {
    "policies": {
        "fifo": "driftkit.policies.fifo:Fifo",
        "priority": "driftkit.policies.priority:Priority",
        "weighted": "driftkit.policies.weighted:Weighted",
        "sjf": "driftkit.policies.sjf:Sjf",
        "aging": "driftkit.policies.aging:Aging",
        "oracle-sjf": "driftkit.policies.oracle_sjf:OracleSjf",
        "random": "driftkit.policies.random:Random",
    },
    "estimators": {
        "table": "driftkit.estimation.table:Table",
        "prompt-length": "driftkit.estimation.prompt_length:PromptLength",
        "history": "driftkit.estimation.history:History",
        "regressor": "driftkit.estimation.regression:Regression",
        "knn": "driftkit.estimation.knn:Knn",
        "oracle": "driftkit.estimation.oracle:Oracle",
    },
    "traces": {
        "azure": "driftkit.workload.traces.azure:Azure",
        "burstgpt": "driftkit.workload.traces.burstgpt:BurstGpt",
        "mooncake": "driftkit.workload.traces.mooncake:Mooncake",
        "servegen": "driftkit.workload.traces.servegen:ServeGen",
        "sharegpt": "driftkit.workload.traces.sharegpt:ShareGpt",
        "openai-batch": "driftkit.workload.traces.openai_batch:OpenAiBatch",
        "vllm-bench": "driftkit.workload.traces.vllm_bench:VllmBench",
        "csv": "driftkit.workload.traces.csv:Csv",
        "jsonl": "driftkit.workload.traces.jsonl:Jsonl",
    },
    "exports": {
        "mooncake": "driftkit.workload.exports.mooncake:Mooncake",
        "openai-batch": "driftkit.workload.exports.openai_batch:OpenAiBatch",
    },
    "calibrators": {
        "quantile": "driftkit.calibration.quantile:Quantile",
        "ratio": "driftkit.calibration.ratio:Ratio",
        "isotonic": "driftkit.calibration.isotonic:Isotonic",
        "ema": "driftkit.calibration.ema:Ema",
    },
    "detectors": {
        "sprt": "driftkit.calibration.drift.sprt:Sprt",
        "adwin": "driftkit.calibration.drift.adwin:Adwin",
        "psi": "driftkit.calibration.drift.psi:Psi",
        "ks": "driftkit.calibration.drift.ks:Ks",
        "page-hinkley": "driftkit.calibration.drift.page_hinkley:PageHinkley",
        "kswin": "driftkit.calibration.drift.kswin:Kswin",
    },
}

_NOUNS = {
    "policies": "policy",
    "estimators": "estimator",
    "traces": "trace format",
    "exports": "export format",
    "calibrators": "calibration method",
    "detectors": "drift detector",
}


def names(table: str) -> list[str]:
    """The names that ship with driftkit, in the order in which the help lists them."""
    return list(TABLES[table])


def load(table: str, name: str) -> Any:
    """The object registered as `name`; UsageError with the nearest names when there is none."""
    target = TABLES[table].get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)
    from importlib.metadata import entry_points

    for point in entry_points(group=f"driftkit.{table}.v1", name=name):
        return point.load()
    raise UsageError(f"no {_NOUNS[table]} named {name!r}", hint=near_or_known(name, TABLES[table]))
