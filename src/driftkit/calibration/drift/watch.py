"""Watching the tenants of one estimator, tokenizer and model: completions in, alarm records out.

What to do follows from what has drifted (FedDAA, arXiv 2506.21054: real drift makes old data wrong, where
drift of inputs leaves it right). Inputs alone: `warn`. Residuals: `refit`, on all data when inputs have
lately drifted too, since it is there that the estimator was wrong; else the same requests get other
answers than before (real drift), and it is `refit-recent`, without the data from before.

Residuals are taken in the order in which requests started, inputs in that in which they arrived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from driftkit import registry
from driftkit.calibration.base import category_of, observed_output
from driftkit.calibration.censored import was_cut
from driftkit.calibration.drift.base import Alarm, Detector
from driftkit.calibration.drift.hold_back import HoldBack
from driftkit.calibration.drift.residuals import Residuals, tie_breaker
from driftkit.calibration.drift.windows import SIZE
from driftkit.estimation.base import unbiased_tokens
from driftkit.records.schema import SCHEMA, Record

#: what of a request the detectors of inputs may see; None is not seen
INPUTS: dict[str, Callable[[Record], Any]] = {
    "category": category_of,
    "prompt_tokens": lambda record: record.get("prompt_tokens"),
    "est_output_tokens": unbiased_tokens,
}
VERSION = 2  # of what `to_json` gives; 1 is whatever had no version
RESIDUAL = "residual"
RANK = "rank"
_LATELY = SIZE  # completions of the tenant since an alarm on its inputs
_OF_THE_RUN = ("run_id", "est_model", "est_tokenizer", "served_model")


#: tenant, category, log(actual / estimate), whether it was cut, and when it began
Residual = tuple[str, str, float, bool, float]
#: tenant, when it arrived, and the values of its inputs
Inputs = tuple[str, float, list[Any]]


class _Tenant:
    def __init__(self, classes: Sequence[type[Detector]]) -> None:
        self._classes = classes
        self.residual: dict[str, list[Detector]] = {}
        self.inputs: dict[str, list[Detector]] = {}
        self.seen = 0
        self.inputs_drifted_at = -math.inf  # in residuals seen
        self.begin_residual()
        self.begin_inputs()

    def begin_residual(self) -> None:
        """What comes is held against what comes, not against what was before an alarm."""
        self.residuals = Residuals()
        self.residual = self._new((RESIDUAL, RANK))

    def begin_inputs(self) -> None:
        self.inputs = self._new(INPUTS)

    def _new(self, quantities: Iterable[str]) -> dict[str, list[Detector]]:
        return {name: [new() for new in self._classes if name in new.watches] for name in quantities}

    @property
    def detectors(self) -> dict[str, list[Detector]]:
        """All, by what they see."""
        return {**self.residual, **self.inputs}


class Watch:
    def __init__(self, names: Sequence[str]) -> None:
        self._classes: list[type[Detector]] = [registry.load("detectors", name) for name in names]
        seen = {quantity for new in self._classes for quantity in new.watches}
        self._inputs = {name: read for name, read in INPUTS.items() if name in seen}
        self._tenants: dict[str, _Tenant] = {}
        self._residuals = HoldBack[Residual]()
        self._requests = HoldBack[Inputs]()
        self._run: Record = {}

    def observe(self, record: Record) -> list[Record]:
        """The alarms that a completion raises."""
        if not self._run:
            self._run = {field: record[field] for field in _OF_THE_RUN if record.get(field) is not None}
        get = record.get
        ended_s, tenant, name = record["finished_s"], get("tenant") or "", record["id"]
        due_s = _known(get("offered_s"), get("arrival_s"), ended_s)
        began_s = _known(get("started_s"), get("dispatched_s"), due_s)
        alarms: list[Record] = []
        actual, estimate = observed_output(record), unbiased_tokens(record)
        if actual and estimate > 0:
            one = (tenant, category_of(record), math.log(actual / estimate), was_cut(record), began_s)
            for residual in self._residuals.push(began_s, due_s, name, ended_s, one):
                alarms += self._see_residual(residual, ended_s)
        if self._inputs:
            inputs = (tenant, due_s, [read(record) for read in self._inputs.values()])
            for request in self._requests.push(due_s, due_s, name, ended_s, inputs):
                alarms += self._see_inputs(request, ended_s)
        return alarms

    def end_run(self, at_s: float) -> list[Record]:
        """The alarms of what was held back; another clock begins."""
        alarms = [alarm for held in self._residuals.end() for alarm in self._see_residual(held, at_s)]
        alarms += [alarm for held in self._requests.end() for alarm in self._see_inputs(held, at_s)]
        for tenant in self._tenants.values():
            for detectors in tenant.detectors.values():
                for detector in detectors:
                    detector.start_run()
        self._run = {}
        return alarms

    def _see_residual(self, residual: Residual, at_s: float) -> list[Record]:
        name, category, log_ratio, cut, began_s = residual
        tenant = self._tenant(name)
        tenant.seen += 1
        rank = tenant.residuals.rank(category, log_ratio, cut, tie_breaker(tenant.seen))
        for quantity, value in ((RANK, rank), (RESIDUAL, rank.drawn)):
            for detector in tenant.residual[quantity]:
                alarm = detector.update(value, began_s)
                if alarm is not None:
                    real = tenant.seen - tenant.inputs_drifted_at > _LATELY
                    tenant.begin_residual()
                    action = "refit-recent" if real else "refit"
                    # one drift, one alarm
                    return [self._record(name, at_s, detector, RESIDUAL, alarm, action)]
        return []

    def _see_inputs(self, inputs: Inputs, at_s: float) -> list[Record]:
        name, due_s, values = inputs
        tenant = self._tenant(name)
        for quantity, value in zip(self._inputs, values, strict=True):
            if value is None:
                continue
            for detector in tenant.inputs[quantity]:
                alarm = detector.update(value, due_s)
                if alarm is not None:
                    tenant.inputs_drifted_at = tenant.seen
                    tenant.begin_inputs()
                    return [self._record(name, at_s, detector, quantity, alarm, "warn")]
        return []

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(self._classes)
        return tenant

    def to_json(self) -> dict[str, Any]:
        tenants = {name: self._tenant_json(tenant) for name, tenant in sorted(self._tenants.items())}
        return {"version": VERSION, "tenants": tenants}

    def _tenant_json(self, tenant: _Tenant) -> dict[str, Any]:
        detectors = {
            quantity: {detector.name: detector.to_json() for detector in each}
            for quantity, each in tenant.detectors.items()
            if each
        }
        return {"seen": tenant.seen, "residuals": tenant.residuals.to_json(), "detectors": detectors}

    def load_json(self, state: dict[str, Any]) -> None:
        """Restore what `to_json` gave; detectors that were not there begin anew."""
        for name, of_tenant in state["tenants"].items():
            tenant = self._tenant(name)
            tenant.seen = int(of_tenant["seen"])
            tenant.residuals.load_json(of_tenant["residuals"])
            for quantity, detectors in tenant.detectors.items():
                known = of_tenant["detectors"].get(quantity, {})
                for detector in detectors:
                    if detector.name in known:
                        detector.load_json(known[detector.name])

    def _record(
        self, tenant: str, at_s: float, detector: Detector, quantity: str, alarm: Alarm, action: str
    ) -> Record:
        return {
            "kind": "alarm",
            "schema": SCHEMA,
            **self._run,
            **({"tenant": tenant} if tenant else {}),
            "at_s": at_s,
            "detector": detector.name,
            "drift_of": quantity,
            "statistic": round(alarm.statistic, 6),
            "threshold": round(alarm.threshold, 6),
            "since_s": alarm.since_s,
            "action": action,
        }


def _known(first: float | None, second: float | None, last: float) -> float:
    """The first instant that is known."""
    if first is not None:
        return first
    return second if second is not None else last
