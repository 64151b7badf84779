"""`driftkit run`: execute requests, record what happened."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import click

from driftkit.commands.simulator import setup_of, simulator_options
from driftkit.commands.stdio import Outcome, filter_options, output_options, reading, stdout

if TYPE_CHECKING:
    from driftkit.engines.sim.steps import StepTaken
    from driftkit.records.job import Job
    from driftkit.records.schema import Record


@click.command(
    epilog="Latencies count from offered_s, the instant a request was due on the run's clock. A record with "
    "barrier true waits until everything before it has ended. Requests run by (priority, arrival, input "
    "order); weighted, and any policy under --feedback, is rebuilt from the policy field. Under "
    "fifo without priorities the engine's queue is vLLM's fcfs, else its priority queue. All input is read "
    "and sorted by arrival first, unless --follow is given. In the simulator a prompt begins with the blocks "
    "that prefix_hashes names and, in a session, with everything said before if it is as long; what of that "
    "is in the KV cache is not computed again, and cached_tokens says how much it was."
)
@click.option("--engine", type=click.Choice(["sim"]), default="sim", show_default=True, help="What executes.")
@click.option("--label", metavar="NAME", help="Name of the run in reports.  [default: the policy]")
@click.option("--run-id", metavar="NAME", help="The run's identity.  [default: from its input and options]")
@click.option(
    "--follow",
    is_flag=True,
    help="Take requests as they come, in order of arrival, in flat memory; the run's identity is that of the "
    "options and the first request.",
)
@click.option("--feedback", is_flag=True, help="Calibrate online, and order by the calibrated estimates.")
@click.option(
    "--method",
    metavar="NAME",
    help="With --feedback: how to calibrate.  [default: the state's, or ratio]",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="With --feedback: start from what calibrate has learned there (it is not changed).",
)
@click.option(
    "--steps",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write there every step of the engine, for plots: time, batch, tokens, KV blocks, queue, watts.",
)
@simulator_options
@output_options
@filter_options
def command(
    files: tuple[str, ...],
    engine: str,
    label: str | None,
    run_id: str | None,
    follow: bool,
    feedback: bool,
    method: str | None,
    state: str | None,
    steps: str | None,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
    **simulator: Any,
) -> int:
    """Execute requests and record what happened.

    Writes one completion a line, in order of finished_s. The simulator needs prompt_tokens (estimate counts
    them) and trace_output_tokens (gen and traces have them); it runs in virtual time.
    """
    from driftkit.calibration.feedback import OnlineCalibration
    from driftkit.calibration.learned import Learned
    from driftkit.calibration.state import StateFolder
    from driftkit.calibration.stream import Key, Learning
    from driftkit.engines.sim.simulation import simulate
    from driftkit.errors import FieldError
    from driftkit.policies.base import Policy, of_run
    from driftkit.records.completion import (
        check_prompt_tokens,
        check_request,
        check_truth,
        completion,
        cut_by_the_engine,
        in_order_of_arrival,
        job_of,
    )
    from driftkit.records.io import Writer, records_beside
    from driftkit.records.run_id import RunId
    from driftkit.records.schema import SCHEMA, Check, checker
    from driftkit.records.unique import UniqueIds

    outcome = Outcome("run")
    if steps is not None and steps == rejects:
        raise click.UsageError("--steps and --rejects need a file each", click.get_current_context())
    kept = [*(files or ["-"]), *filter(None, (simulator["profile"], simulator["served_model"]))]
    setup = setup_of(simulator)
    if not feedback and (method or state):
        raise click.UsageError("--method and --state go with --feedback", click.get_current_context())
    writer = Writer(stdout(), unbuffered=unbuffered or follow, redact=redact_prompt)
    unique = UniqueIds()
    identity = RunId(engine, setup, label, feedback, method)
    policies: dict[str, Policy] = {}
    check_policy: dict[str, Check] = {}
    # whether schedule has named a policy, somebody has written priorities, estimate has applied a state
    planned = prioritised = corrected = False
    last_arrival = 0.0
    check_estimate = checker(
        ("est_output_tokens",),
        (
            *("est_base_tokens", "est_bias_ratio", "est_safety_ratio", "est_input_ratio"),
            *("est_category", "est_model", "est_tokenizer", "category"),
        ),
    )

    def read(record: Record) -> Job:
        nonlocal planned, prioritised, corrected, last_arrival
        check_request(record)
        check_prompt_tokens(record)
        check_truth(record)
        if feedback:
            check_estimate(record)
        asked = of_run(policies, record)
        if feedback or not asked.static:
            if asked.name not in check_policy:
                check_policy[asked.name] = checker(asked.reads)
            check_policy[asked.name](record)
        if follow:
            check_follows(record, asked)
        unique.add(record["id"])  # last: a line that is left out does not use up its id
        planned |= record.get("policy") is not None
        prioritised |= bool(record.get("priority"))
        corrected |= record.get("est_bias_ratio") not in (None, 1)
        last_arrival = record["arrival_s"]
        if not (follow and len(unique) > 1):
            identity.add(record)
        return job_of(record, record["trace_output_tokens"], len(unique))

    def check_follows(record: Record, asked: Policy) -> None:
        if record["arrival_s"] < last_arrival:
            problem = f"{record['arrival_s']:g} comes after {last_arrival:g}: --follow wants them in order"
            raise FieldError("arrival_s", problem, hint="without --follow, run reads all and sorts")
        if record.get("priority") and asked.name == "fifo":
            raise FieldError("priority", "under --follow it needs a policy other than fifo to say its order")

    def untouched(record: Record) -> None:
        writer.write(record)

    def start(key: Key) -> Learning:
        if state is not None and learned.known(key) is None:
            outcome.warn(f"{state}: nothing learned yet for {'/'.join(key)}")
        return learned.start(key)

    folder = StateFolder(state) if state is not None else None
    learned = Learned(folder, method)
    if folder is not None:  # the same requests on top of other knowledge are another run
        identity.add({"learned": folder.digest()})
    cut = unserved = 0
    with ExitStack() as stack:
        reader = stack.enter_context(reading(outcome, files, on_error, rejects))
        write_step = None
        if steps is not None:
            unbuffered |= follow
            write_step = stack.enter_context(records_beside("--steps", steps, kept, unbuffered))
        read_jobs = (job for job in reader.records("request", read, untouched) if job is not None)
        jobs = read_jobs if follow else iter(in_order_of_arrival(list(read_jobs)))
        first = next(jobs, None)
        if first is not None:
            jobs = chain([first], jobs)
            named, policy = next(iter(policies.items()))
            online = None
            if feedback:
                if corrected and state is None:
                    hint = "--feedback starts anew: give it their --state"
                    outcome.warn(f"the estimates are corrected already; {hint}")
                online = OnlineCalibration(start, setup.served_model.name, policy if planned else None)
            run = {
                "run_id": run_id or identity.value(),
                "label": label or named,
                "engine": engine,
                "served_model": setup.served_model.name,
            }
            numbers = count(1)

            def on_step(step: StepTaken) -> None:
                assert write_step is not None
                known = {name: value for name, value in step._asdict().items() if value is not None}
                head = {"kind": "step", "schema": SCHEMA, "run_id": run["run_id"], "label": run["label"]}
                write_step({**head, "step": next(numbers), **known})

            for together in simulate(
                *(jobs, setup, policy, online),
                prioritised=prioritised,
                on_step=None if write_step is None else on_step,
            ):
                for job in together:
                    cut += cut_by_the_engine(job)
                    if job.status != "ok":
                        unserved += 1
                        if unserved == 1:
                            outcome.warn(
                                f"request {job.record['id']} was {job.status}: {job.error}; see status, error"
                            )
                    writer.write(completion(job, run))
    outcome.failed += unserved
    if cut:
        outcome.warn(f"{cut} of {len(unique)} outputs were cut at the engine's max_model_len")
    if unserved:
        outcome.warn(f"{unserved} of {len(unique)} requests were not served")
    return outcome.status
