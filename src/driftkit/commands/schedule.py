"""`driftkit schedule`: an order under a policy, and a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from driftkit.commands.configuration import Lines
from driftkit.commands.simulator import setup_of, simulator_options
from driftkit.commands.stdio import Outcome, filter_options, output_options, reading, stdout
from driftkit.registry import names

if TYPE_CHECKING:
    from driftkit.records.job import Job
    from driftkit.records.schema import Record


@click.command(
    epilog="Policies: fifo; priority (tier_level); weighted (a cycle of picks by weight, decided by run "
    "while it watches the queue); sjf (smallest est_total_tokens); aging (tier_level, less --param "
    "rate=0.01 levels per second waited); oracle-sjf (true lengths); random (--param seed=0).\n\n"
    "Static policies write vLLM's integer priority, lower first; anything may rewrite it before run. Without "
    "--follow all input is read before the first record is written."
)
@click.option(
    "--policy",
    required=True,
    metavar="NAME",
    help="Who is served next: " + ", ".join(names("policies")) + ".",
)
@click.option(
    "--param",
    "params",
    type=Lines(),
    multiple=True,
    metavar="KNOB=VALUE",
    help="A knob of the policy; repeatable.",
)
@click.option("--no-plan", is_flag=True, help="Rank by (priority, arrival) only; simulate nothing.")
@click.option("--follow", is_flag=True, help="Add policy and priority as records come, in input order.")
@simulator_options
@output_options
@filter_options
def command(
    files: tuple[str, ...],
    policy: str,
    params: tuple[str, ...],
    no_plan: bool,
    follow: bool,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
    **simulator: Any,
) -> int:
    """Order requests under a policy, and plan when each starts.

    Writes the records in planned order, with policy, priority (static policies), sched_rank, sched_start_s
    and sched_finish_s. The plan is a simulation in which every output is as long as it is estimated; give the
    engine's options here as to run.
    """
    from driftkit.engines.sim.plan import planned, ranked
    from driftkit.errors import FieldError
    from driftkit.policies.base import StaticPolicy, build, checked_key, describe, split_knobs
    from driftkit.records.completion import (
        check_prompt_tokens,
        check_request,
        in_order_of_arrival,
        job_of,
    )
    from driftkit.records.io import Writer
    from driftkit.records.schema import checker
    from driftkit.records.unique import UniqueIds

    outcome = Outcome("schedule")
    setup = setup_of(simulator)
    chosen = build(policy, split_knobs(params))
    static = chosen if isinstance(chosen, StaticPolicy) else None
    if follow and static is None:
        raise click.UsageError(
            f"--follow: {policy} watches the queue, so it has no priority to add", click.get_current_context()
        )
    writer = Writer(stdout(), unbuffered=unbuffered or follow, redact=redact_prompt)
    named = describe(chosen)
    true_lengths = policy.startswith("oracle")
    check_policy = checker(chosen.reads, ("est_output_tokens",))
    unique = UniqueIds()

    def prepared(record: Record) -> Record:
        check_request(record)
        check_policy(record)
        record.setdefault("kind", "request")
        record.setdefault("schema", 1)
        record["policy"] = named
        for stale in ("priority", "sched_rank", "sched_start_s", "sched_finish_s"):
            record.pop(stale, None)
        if static is not None:
            record["priority"] = checked_key(static, record)
        return record

    def job(record: Record) -> Job:
        prepared(record)
        if no_plan:
            unique.add(record["id"])
            return job_of(record, 0)
        check_prompt_tokens(record)
        length = record.get("trace_output_tokens" if true_lengths else "est_output_tokens")
        if length is None:
            hint = "`driftkit estimate` adds it; --no-plan does without"
            raise FieldError("est_output_tokens", "expected an integer >= 0, got nothing", hint=hint)
        unique.add(record["id"])  # last: a line that is left out does not use up its id
        return job_of(record, max(1, length))

    def untouched(record: Record) -> None:
        writer.write(record)

    with reading(outcome, files, on_error, rejects) as reader:
        if follow:
            for record in reader.records("request", prepared, lambda record: record):
                writer.write(record)
            jobs = []
        else:
            jobs = [read for read in reader.records("request", job, untouched) if read is not None]
    jobs = in_order_of_arrival(jobs)
    ordered = ranked(jobs, chosen) if no_plan else planned(jobs, setup, chosen)
    for rank, ended in enumerate(ordered):
        ended.record["sched_rank"] = rank
        if ended.started_s is not None:
            ended.record["sched_start_s"] = ended.started_s
            ended.record["sched_finish_s"] = ended.finished_s
        writer.write(ended.record)
    return outcome.status
