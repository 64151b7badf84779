"""What `run` reads: each request checked, and what all of them together say of the run."""

from __future__ import annotations

from collections.abc import Callable

from driftkit.errors import FieldError
from driftkit.policies.base import Policy, of_run
from driftkit.records.completion import check_request, job_of
from driftkit.records.job import Job
from driftkit.records.run_id import RunId
from driftkit.records.schema import Check, Record, checker
from driftkit.records.unique import UniqueIds

_check_estimate = checker(
    ("est_output_tokens",),
    (
        *("est_base_tokens", "est_bias_ratio", "est_safety_ratio", "est_input_ratio", "est_memory_ratio"),
        *("est_base_tokens_p10", "est_base_tokens_p90"),
        *("est_category", "est_model", "est_tokenizer", "category"),
    ),
)


class Intake:
    """Makes jobs of records. `length` gives the tokens that the engine is to answer with, and checks what
    else it needs of a record; `identity` is told of every record, or under `follow` of the first.
    """

    def __init__(
        self, length: Callable[[Record], int], identity: RunId, feedback: bool, follow: bool
    ) -> None:
        self.unique = UniqueIds()
        #: somebody has written priorities
        self.prioritised = False
        #: estimate has applied a state
        self.corrected = False
        self._length = length
        self.identity = identity
        self._feedback = feedback
        self._follow = follow
        self._policies: dict[str, Policy] = {}
        self._check_policy: dict[str, Check] = {}
        self._planned = False
        self._last_arrival = 0.0

    @property
    def policy(self) -> Policy:
        """The run's, once a record was read."""
        return next(iter(self._policies.values()))

    @property
    def policy_name(self) -> str:
        """The same with its knobs, as the records have it."""
        return next(iter(self._policies))

    @property
    def planned(self) -> Policy | None:
        """The policy, if `schedule` has named one."""
        return self.policy if self._planned else None

    def job(self, record: Record) -> Job:
        """FieldError for a record that cannot be run."""
        check_request(record)
        tokens = self._length(record)
        if self._feedback:
            _check_estimate(record)
        asked = of_run(self._policies, record)
        if self._feedback or not asked.static:
            if asked.name not in self._check_policy:
                self._check_policy[asked.name] = checker(asked.reads)
            self._check_policy[asked.name](record)
        if self._follow:
            self._check_follows(record, asked)
        self.unique.add(record["id"])  # last: a line that is left out does not use up its id
        self._planned |= record.get("policy") is not None
        self.prioritised |= bool(record.get("priority"))
        self.corrected |= record.get("est_bias_ratio") not in (None, 1)
        self._last_arrival = record["arrival_s"]
        if not (self._follow and len(self.unique) > 1):
            self.identity.add(record)
        return job_of(record, tokens, len(self.unique))

    def _check_follows(self, record: Record, asked: Policy) -> None:
        if record["arrival_s"] < self._last_arrival:
            problem = (
                f"{record['arrival_s']:g} comes after {self._last_arrival:g}: --follow wants them in order"
            )
            raise FieldError("arrival_s", problem, hint="without --follow, run reads all and sorts")
        if record.get("priority") and asked.name == "fifo":
            raise FieldError("priority", "under --follow it needs a policy other than fifo to say its order")
