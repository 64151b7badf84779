"""`driftkit run`: execute requests, record what happened."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, nullcontext
from itertools import chain, islice
from typing import Any, NoReturn

import click

from driftkit.commands import servers, simulator
from driftkit.commands.configuration import given
from driftkit.commands.keeping import Keeper
from driftkit.commands.ranges import Numbers
from driftkit.commands.servers import serving_options
from driftkit.commands.simulator import Simulating, setup_of, simulator_options
from driftkit.commands.stdio import Outcome, filter_options, output_options, reading, seed_option, stdout

#: the engines that an option is for, where it is not for all
ENGINES = {
    **dict.fromkeys(simulator.OWN, ("sim",)),
    **dict.fromkeys(simulator.VLLM, ("sim", "vllm")),
    **dict.fromkeys(servers.HTTP, ("http",)),
    **dict.fromkeys(servers.VLLM, ("vllm",)),
    **dict.fromkeys(servers.REAL, ("http", "vllm")),
    "steps": ("sim",),
    "seed": ("http", "vllm"),
}


@click.command(
    epilog="Latencies count from offered_s, the instant a request was due on the run's clock. A record with "
    "barrier true waits until everything before it has ended. Requests run by (priority, arrival, input "
    "order); weighted, and any policy under --feedback, is rebuilt from the policy field. Under fifo "
    "without priorities the engine's queue is vLLM's fcfs, else its priority queue. All input is read "
    "and sorted by arrival first, unless --follow is given. In the simulator a prompt begins with the "
    "blocks that prefix_hashes names and, in a session, with everything said before if it is as long; "
    "what of that is in the KV cache is not computed again, and cached_tokens says how much it was.\n\n"
    "A real engine gets each request when it is due, however many are in flight, or under --dispatch "
    "client at most --max-concurrency of them. client_lag_s says how much later than it should have "
    "been that was (under --follow also because it came late): it is in the latencies, and a P99 beyond "
    "--max-client-lag is warned of. A request that fails is a record too, with its status and error, "
    "and nothing is sent twice unless --retries says so. What the record has of messages, tools, "
    "temperature, top_p, top_k, min_p, seed, stop and penalties is sent as it is; a prompt of which "
    "only prompt_tokens is known is sent as that many token ids, which begin alike where prefix_hashes "
    "or session say so. Where priorities are to order, a few requests with long prompts find out first "
    "whether they do, because a server that does not says nothing.\n\n"
    "Interrupted once, a real run sends no more and waits for what is in flight; twice, or terminated, "
    "it ends those as cancelled. The run that -o FILE has the beginning of goes on with --resume: what "
    "was cancelled or cut off is sent again, and the clock starts at the first request that is left.\n\n"
    "One process sends thousands of requests a second. Where that is not enough, and there are cores "
    "for more, --workers N sends and reads in N processes, each with its own instants and router, while "
    "the queue, the policy and the output stay in one. What is due within a millisecond may then reach "
    "the server in another order. A worker that dies takes its requests with it, as errors."
)
@click.option(
    "--engine",
    type=click.Choice(["sim", "http", "vllm"]),
    default="sim",
    show_default=True,
    help="What executes: the simulator, servers with OpenAI's API, or vLLM in this process.",
)
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
    help="With --feedback: how to calibrate.  [default: the state's, or quantile]",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="With --feedback: start from what calibrate has learned there; it is changed only with --learn.",
)
@click.option(
    "--learn",
    is_flag=True,
    help="Keep in the --state what this run teaches, every second and at the end, as calibrate would.",
)
@click.option(
    "--steps",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write there every step of the engine, for plots: time, batch, tokens, KV blocks, queue, watts.",
)
@click.option(
    "--duration",
    type=Numbers(0, min_open=True),
    metavar="SECONDS",
    help="Take no request that is due at this instant of the run's clock, or later.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Take the first N requests.")
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write completions there, not to standard output.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="With -o, on a real engine: go on with the run that FILE has the beginning of.",
)
@serving_options
@simulator_options
@seed_option
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
    learn: bool,
    steps: str | None,
    duration: float | None,
    limit: int | None,
    path: str | None,
    resume: bool,
    seed: int,
    on_error: str,
    rejects: str | None,
    unbuffered: bool,
    redact_prompt: bool,
    **options: Any,
) -> int:
    """Execute requests and record what happened.

    Writes one completion a line, in order of finished_s. The simulator needs prompt_tokens (estimate counts
    them) and trace_output_tokens (gen and traces have them); it runs in virtual time. Real engines send each
    request when it is due.
    """
    from driftkit.calibration.feedback import OnlineCalibration
    from driftkit.calibration.learned import Learned
    from driftkit.calibration.state import StateFolder
    from driftkit.calibration.stream import Key, Learning, Stream
    from driftkit.commands.intake import Intake
    from driftkit.commands.serving import Serving
    from driftkit.commands.sink import output
    from driftkit.records.completion import completion, cut_by_the_engine, in_order_of_arrival
    from driftkit.records.io import Writer
    from driftkit.records.run_id import RunId
    from driftkit.records.stoppable import stoppable

    outcome = Outcome("run")
    _check_options(engine)
    kept = [*(files or ["-"]), *filter(None, (options["profile"], options["served_model"]))]
    by: Simulating | Serving
    if engine == "sim":
        by = Simulating(setup_of(options), steps, kept)
    else:
        by = Serving(engine, options, seed, outcome, kept, endless=follow)
    intake = Intake(by.length, RunId(engine, by.identity, label, feedback, method), feedback, follow)
    folder = StateFolder(state) if state is not None else None
    learned = Learned(folder, method)

    def start(key: Key) -> Learning:
        if state is not None and learned.known(key) is None:
            outcome.warn(f"{state}: nothing learned yet for {'/'.join(key)}")
        return learned.start(key)

    with ExitStack() as stack:
        keeper = None
        if folder is not None and learn:
            stack.enter_context(folder.writing())
            keeper = stack.enter_context(Keeper(folder, Stream(learned.start, live=True), outcome.warn_once))
        if folder is not None:  # the same requests on top of other knowledge are another run
            intake.identity.add({"learned": folder.digest()})
        wrapped = stoppable if follow and isinstance(by, Serving) else nullcontext
        reader = stack.enter_context(reading(outcome, files, on_error, rejects, wrapped=wrapped))
        if isinstance(by, Serving) and by.dry:
            requests = [job for job in reader.records("request", intake.job, lambda other: None) if job]
            taken = in_order_of_arrival(requests)[:limit]
            within = [job for job in taken if duration is None or job.arrival_s < duration]
            Writer(stdout()).write(by.planned_load(within))
            return outcome.status
        sink, done = stack.enter_context(
            output(path, kept, unbuffered or follow or learn, redact_prompt, resume, threaded=engine != "sim")
        )
        told = (lambda other: None) if done.begun else sink.write  # what is no request was passed on before
        read = (job for job in reader.records("request", intake.job, told) if job is not None)
        in_order = read if follow else iter(in_order_of_arrival(list(read)))
        jobs = (job for job in islice(in_order, limit) if job.record["id"] not in done.ids)
        first = next(jobs, None)
        if first is None:
            return outcome.status
        by.open(stack, intake, first, resumes=bool(done.ids))
        run = {
            "run_id": run_id or intake.identity.value(),
            "label": label or intake.policy_name,
            "engine": engine,
            "served_model": by.served_model,
        }
        done.check(run)
        if keeper is not None and done.ids:
            keeper.stream.resumed = run["run_id"]
        online = None
        if feedback:
            if intake.corrected and state is None:
                hint = "--feedback starts anew: give it their --state"
                outcome.warn(f"the estimates are corrected already; {hint}")
            online = OnlineCalibration(start, by.served_model, intake.planned)
        cut = unserved = 0
        ended = by.ended(chain([first], jobs), run, online, duration or math.inf, sink.check)
        for job in chain.from_iterable(ended):
            cut += cut_by_the_engine(job)
            if job.status != "ok":
                unserved += 1
                if unserved == 1:
                    outcome.warn(
                        f"request {job.record['id']} was {job.status}: {job.error}; see status, error"
                    )
            sink.write(completion(job, run), then=keeper.learn if keeper is not None else None)
    if cut and by.replays:
        outcome.warn(f"{cut} of {len(intake.unique)} outputs were cut at the engine's max_model_len")
    if unserved:
        outcome.warn(f"{unserved} of {len(intake.unique)} requests were not served")
    return by.status(outcome, unserved)


def _check_options(engine: str) -> None:
    """UsageError for options that contradict one another, or that the engine knows nothing of."""
    context = click.get_current_context()
    params = context.params

    def refuse(text: str) -> NoReturn:
        raise click.UsageError(text, context)

    for option in context.command.params:
        name = option.name or ""
        if given(name) and engine not in ENGINES.get(name, (engine,)):
            which = " or ".join(ENGINES[name])
            refuse(f"{option.opts[-1]} goes with --engine {which}, not with {engine}")
    files = [params[name] for name in ("path", "steps", "rejects", "telemetry") if params[name] is not None]
    if len({os.path.realpath(name) for name in files}) < len(files):
        refuse("--output, --steps, --telemetry and --rejects need a file each")
    if not params["feedback"] and (params["method"] or params["state"]):
        refuse("--method and --state go with --feedback")
    if params["learn"] and params["state"] is None:
        refuse("--learn goes with --state")
    if params["resume"] and (params["path"] is None or engine == "sim"):
        refuse("--resume goes with -o FILE, and with an engine that is not the simulator")
    if params["workers"] > 1 and params["max_rps"] and params["retries"]:
        refuse("--workers send again on their own: not with both --max-rps and --retries")
    if params["follow"] and (params["resume"] or params["limit"] or params["dry_run"]):
        refuse("--follow takes requests as they come: without --limit, --resume and --dry-run")
