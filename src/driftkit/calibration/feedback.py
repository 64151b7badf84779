"""Calibration while a run goes on: the same steps as `calibrate` takes over the completions afterwards."""

from __future__ import annotations

from collections.abc import Callable

from driftkit.calibration.base import Calibrator, add_calibrated
from driftkit.calibration.stream import Key, Learning, key_of
from driftkit.policies.base import Policy, StaticPolicy
from driftkit.records.completion import outcome
from driftkit.records.job import Job
from driftkit.records.schema import Record


class OnlineCalibration:
    """Estimates each job when it arrives, with what had finished before, and sets its priority by that.

    `start(key)` gives the calibrator to start from, as it does for `calibrate`. Without a policy the jobs
    keep the priorities they have.
    """

    def __init__(self, start: Callable[[Key], Learning], served_model: str, policy: Policy | None) -> None:
        self._start = start
        self._served_model = served_model
        self._policy = policy if isinstance(policy, StaticPolicy) else None
        self._calibrators: dict[Key, Calibrator] = {}

    def admit(self, job: Job) -> None:
        record = job.record
        add_calibrated(record, self._calibrator(record), job.offered_s)
        if self._policy is not None:
            tokens = record["cal_output_tokens"]
            total = record["prompt_tokens"] + tokens
            job.priority = self._policy.key(
                {**record, "est_output_tokens": tokens, "est_total_tokens": total}
            )

    def learn(self, job: Job) -> None:
        if job.status == "ok":
            record = {**job.record, **outcome(job)}
            self._calibrator(record).learn(record, job.finished_s)

    def _calibrator(self, record: Record) -> Calibrator:
        key = key_of(record, self._served_model)
        calibrator = self._calibrators.get(key)
        if calibrator is None:
            calibrator = self._calibrators[key] = self._start(key).calibrator
        return calibrator
