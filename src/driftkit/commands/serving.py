"""How a run on a real engine is got ready, watched and ended."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import resource
import signal
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driftkit.calibration.feedback import OnlineCalibration
from driftkit.commands.configuration import given
from driftkit.commands.intake import Intake
from driftkit.commands.progress import REFRESH_S, Progress
from driftkit.commands.servers import API_KEY, FEWEST
from driftkit.commands.simulator import DISPATCHING, VLLM
from driftkit.commands.stdio import Outcome
from driftkit.engines.dispatcher import Arrivals, Dispatching, dispatched
from driftkit.engines.http.body import endpoint_of
from driftkit.engines.http.connection import Origin, tls_of
from driftkit.engines.http.engine import Http, Service
from driftkit.engines.http.server import PATIENCE_S, models
from driftkit.engines.http.workers import Workers
from driftkit.engines.live import Live
from driftkit.engines.real_time import RealTime
from driftkit.engines.telemetry.gpus import gpus
from driftkit.engines.telemetry.processes import processes
from driftkit.engines.telemetry.sampler import Telemetry
from driftkit.engines.telemetry.servers import Server
from driftkit.engines.telemetry.source import Source
from driftkit.engines.warmup import orders_by_priority, warm_up
from driftkit.errors import DriftkitError, FieldError, UsageError
from driftkit.records.io import records_beside
from driftkit.records.job import Job
from driftkit.records.schema import SCHEMA, Record, check_prompt, checker

INTERRUPTED, TERMINATED = 130, 143

check_sent = checker((), ("prompt", "messages", "max_tokens", "temperature"))
check_truth = checker(("trace_output_tokens",))


def api_key(path: str | None) -> str | None:
    """From the file, else from the environment; never shown, nor kept anywhere."""
    if path is None:
        key, where = os.environ.get(API_KEY, ""), API_KEY
    else:
        where = f"--api-key-file: {path}"
        try:
            key = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not a text file"
            raise UsageError(f"{where}: {why.lower()}") from None
        if not key.strip():
            raise UsageError(f"{where}: it is empty")
    key = key.strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{where}: not a key: one line of printable ASCII is expected")
    return key or None


def raise_open_files() -> None:
    """As many open connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle(*, endless: bool) -> None:
    """Keep the garbage collector from stopping a run: it took 300 ms and more to look through all requests.

    What is there stays uncollected; a run that has an end does without collecting.
    """
    gc.collect()
    gc.freeze()
    if not endless:
        gc.disable()


@dataclass
class Watch:
    """What ends a run early, and how it is getting on."""

    engine: RealTime
    arrivals: Arrivals
    progress: Progress
    outcome: Outcome
    max_failed: int | None
    abort_error_ratio: float | None
    ends_s: float
    #: called now and then, to find out about trouble elsewhere
    check: Callable[[], None]
    #: the exit status of a run that a signal ended
    stopped_by: int | None = None
    #: why no more was sent
    gave_up: str | None = None
    #: what `check` has raised
    failure: BaseException | None = None
    _timer: asyncio.TimerHandle | None = None

    def note(self, job: Job) -> None:
        """A job has ended."""
        progress = self.progress
        progress.ended += 1
        if job.status == "ok":
            return
        progress.failed += 1
        if self.stopped_by is not None:
            return  # no more is sent anyhow, and what was cancelled is no failure of the server's
        failed, ended = progress.failed, progress.ended
        if self.max_failed is not None and failed > self.max_failed:
            self._give_up(f"{failed} requests have failed, more than --max-failed {self.max_failed}")
        ratio = self.abort_error_ratio
        if ratio is not None and ended >= FEWEST and failed > ratio * ended:
            self._give_up(
                f"{failed} of {ended} requests have failed: more than --abort-error-ratio {ratio:g}"
            )

    def _give_up(self, why: str) -> None:
        if self.gave_up is None:
            self.gave_up = why
            self.arrivals.stop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Signals end the run in good order while this lasts; the progress is shown."""
        loop = self.engine.loop
        terminate = signal.getsignal(signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        self._timer = loop.call_later(REFRESH_S, self._look)
        self.outcome.before_warning = self.progress.clear
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.progress.clear()
            self.outcome.before_warning = None
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, terminate)
        if self.failure is not None:
            raise self.failure

    def _look(self) -> None:
        try:
            self.check()
        except BaseException as error:  # which a callback of the loop cannot raise
            self.failure = error
            self._cancel("the output failed")
            return
        now_s = self.engine.now()
        self.progress.show(now_s, len(self.engine.in_flight))
        if now_s >= self.ends_s:
            self.engine.loop.stop()  # so that what has not come is no longer waited for
        self._timer = self.engine.loop.call_later(REFRESH_S, self._look)

    def _interrupted(self) -> None:
        if self.stopped_by is None and self.engine.in_flight:
            self.outcome.warn(
                f"interrupted: no more is sent, {len(self.engine.in_flight)} in flight are waited for; "
                "once more to stop at once"
            )
            self.stopped_by = INTERRUPTED
            self.arrivals.stop()
            self.engine.loop.stop()
        else:
            self.stopped_by = INTERRUPTED
            self._cancel("interrupted")

    def _terminated(self) -> None:
        self.stopped_by = TERMINATED
        self._cancel("terminated")

    def _cancel(self, why: str) -> None:
        self.arrivals.stop()
        self.engine.cancel(why)
        self.engine.loop.stop()


class Serving:
    """A real engine, as the command uses one."""

    def __init__(
        self,
        engine: str,
        options: dict[str, Any],
        seed: int,
        outcome: Outcome,
        kept: Sequence[str],
        endless: bool,
    ) -> None:
        self._kind = engine
        self._options = options
        self._seed = seed
        self._outcome = outcome
        self._kept = kept
        self._endless = endless
        self._way = Dispatching(**{name: options[name] for name in DISPATCHING})
        self._lags = array("d")
        self._uncounted = 0
        self._live: Live | None = None
        self.replays: bool = options["replay_lengths"]
        self.dry: bool = options["dry_run"]
        #: two runs of the same requests are two runs
        self.identity = time.time_ns()
        self.served_model = ""

    def length(self, record: Record) -> int:
        """The tokens that the answer is to have, 0 when that is the model's affair; FieldError when the
        record has not what the engine needs."""
        check_sent(record)
        check_prompt(record)
        endpoint = endpoint_of(record, self._options["endpoint"])
        most = record.get("max_tokens")
        if self.replays:
            check_truth(record)
            tokens: int = record["trace_output_tokens"]
            return tokens if most is None else min(tokens, most)
        if most is None and endpoint == "completions" and self._kind == "http":
            hint = "a server cuts at a default of its own, vLLM at 16; or --replay-lengths"
            raise FieldError("max_tokens", "expected an integer >= 1, got nothing", hint=hint)
        return 0

    def open(self, stack: ExitStack, intake: Intake, first: Job, *, resumes: bool) -> None:
        """Get the engine ready: found or started, probed, warmed up."""
        raise_open_files()
        by_priority = self._way.by_priority(intake.policy, intake.prioritised)
        engine = self._engine(by_priority)
        stack.callback(engine.close)
        by_client = self._way.batching == "continuous" and not self._way.by_engine(intake.policy)
        if by_client and not (self._way.max_concurrency or engine.max_num_seqs):
            hint = "how many it may have at once: the server's --max-num-seqs, or fewer"
            raise UsageError("--dispatch client needs --max-concurrency", hint=hint)
        warm_up(engine, self._options["warmup"], self._seed, first.record)
        if by_priority and not self._options["no_probe"]:
            self._probe(engine, first.record)
        self._stack = stack
        self._running = engine
        self._intake = intake
        self._resumes = resumes
        self._starts_at = first.arrival_s if resumes else 0.0

    def ended(
        self,
        jobs: Iterable[Job],
        run: dict[str, str],
        online: OnlineCalibration | None,
        ends_s: float,
        check: Callable[[], None],
    ) -> Iterator[list[Job]]:
        """The jobs as they end."""
        engine, options = self._running, self._options
        total = last_s = None
        source: Iterable[Job | None] = jobs
        if self._endless:
            source = self._live = Live(jobs, engine.wake, lambda: engine.now() >= ends_s)
        else:
            waiting = list(jobs)
            total, last_s, source = len(waiting), waiting[-1].arrival_s, waiting
        settle(endless=self._endless)
        engine.start(self._starts_at)
        run["run_started_at"] = _rfc3339(time.time() - self._starts_at)
        if options["telemetry"] is not None:
            self._stack.enter_context(self._telemetry(options["telemetry"], run))
        arrivals = Arrivals(source, online, ends_s)
        self._watch = watch = Watch(
            engine,
            arrivals,
            Progress(total, last_s),
            self._outcome,
            options["max_failed"],
            options["abort_error_ratio"],
            ends_s,
            check,
        )
        with watch.watching():
            for together in dispatched(arrivals, engine, self._intake.policy, self._way):
                if watch.failure is not None:
                    break  # there is nowhere to write it
                for job in together:
                    watch.note(job)
                    self._uncounted += job.status == "ok" and not job.counted
                    if job.client_lag_s is not None:
                        self._lags.append(job.client_lag_s)
                yield together

    def status(self, outcome: Outcome, unserved: int) -> int:
        """Say what was out of order, and the exit status."""
        watch, options = self._watch, self._options
        if watch.gave_up is not None:
            outcome.warn(f"{watch.gave_up}: no more was sent")
        if watch.gave_up is not None or unserved > (options["max_failed"] or 0):
            outcome.failed += unserved
        if self._uncounted:
            outcome.warn(
                f"the lengths of {self._uncounted} answers are not known: no usage came with them, and "
                "events are not counted, for one may hold several tokens"
            )
        if self._running.held_back:
            outcome.warn(f"{self._running.held_back} requests were held back by --max-rps")
        lag = p99(self._lags)
        if lag > options["max_client_lag"]:
            outcome.warn(
                f"requests were sent late: the P99 of client_lag_s is {lag:.3g} s, more than "
                f"{options['max_client_lag']:g}; latencies have that in them"
            )
            outcome.failed += options["strict"]
        if watch.stopped_by is not None:
            outcome.warn("terminated" if watch.stopped_by == TERMINATED else "interrupted")
            return watch.stopped_by
        if self._live is not None and not watch.arrivals.stopped:
            self._live.check()
        return outcome.status

    def planned_load(self, jobs: list[Job]) -> Record:
        """What a run would send, as a summary record: for somebody's production server."""
        gap, free = 1 / (self._options["max_rps"] or math.inf), -math.inf
        arrivals = []
        for job in jobs:
            arrivals.append(max(free, job.arrival_s))
            free = arrivals[-1] + gap
        peak = first = 0
        for last, arrival in enumerate(arrivals):
            while arrivals[first] <= arrival - 1:
                first += 1
            peak = max(peak, last - first + 1)
        longest = [job.output_tokens if self.replays else job.record.get("max_tokens") for job in jobs]
        prompts = [job.prompt_tokens for job in jobs]
        return {
            "kind": "summary",
            "schema": SCHEMA,
            "table": "dry_run",
            "requests": len(jobs),
            "seconds": arrivals[-1] - arrivals[0] if arrivals else 0.0,
            "peak_rps": peak,
            "prompt_tokens": sum(prompts) if all(prompts) else None,
            "max_output_tokens": None if None in longest else sum(filter(None, longest)),
        }

    def _engine(self, by_priority: bool) -> RealTime:
        if self._kind == "vllm":
            return self._vllm(by_priority)
        engine = http_engine(self._options, by_priority, self._seed)
        self.served_model = engine.service.model
        self._max_model_len = engine.service.max_model_len
        return engine

    def _vllm(self, by_priority: bool) -> RealTime:
        """vLLM in this process, with the simulator's options where vLLM has them under the same names."""
        from driftkit.engines.vllm import Vllm

        options = self._options
        if options["model"] is None:
            raise UsageError("--engine vllm needs --model", hint="a folder with config.json, or a name")
        arguments = [f"{name}={options[name]}" for name in VLLM if given(name)]
        renamed = [text.replace("num_gpu_blocks=", "num_gpu_blocks_override=") for text in arguments]
        engine = Vllm(
            options["model"],
            [*renamed, *options["engine_args"]],
            endpoint=options["endpoint"],
            by_priority=by_priority,
            replay=self.replays,
            keep_text=options["save_output"],
            max_rps=options["max_rps"],
        )
        self.served_model = engine.served_model
        self._max_model_len = engine.max_model_len
        return engine

    def _telemetry(self, path: str, run: dict[str, str]) -> Telemetry:
        """Samples what there is to sample here, and at the servers, into `path`."""
        write = self._stack.enter_context(
            records_beside("--telemetry", path, self._kept, unbuffered=True, append=self._resumes)
        )
        sources: list[Source] = [*gpus(self._outcome.warn), *processes()]
        if isinstance(self._running, Http | Workers):
            service = self._running.service
            headers = {"Authorization": f"Bearer {service.api_key}"} if service.api_key else {}
            for origin in service.origins:
                tls = tls_of(origin, verify=service.verify)
                sources.append(Server(origin.url, headers=headers, context=tls))
        head = {name: run[name] for name in ("run_id", "label")}
        return Telemetry(sources, head, self._running.now, write, warn=self._outcome.warn)

    def _probe(self, engine: RealTime, like: Record) -> None:
        orders = orders_by_priority(
            engine, max(1, len(self._options["base_url"])), self._max_model_len, self._seed, like
        )
        if orders is None:
            self._outcome.warn("could not see whether the engine orders by priority; going on")
        elif not orders:
            hint = "vllm serve --scheduling-policy priority; or --dispatch client; or --no-probe"
            raise DriftkitError("the engine takes requests as they come, whatever their priority", hint=hint)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def p99(values: Sequence[float]) -> float:
    """The smallest that 99 in 100 do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


def http_engine(options: dict[str, Any], by_priority: bool, seed: int) -> Http | Workers:
    """The engine that `--base-url` and the like describe; DriftkitError when there is no such server."""
    origins = [Origin.of(url) for url in options["base_url"]]
    if not origins:
        raise UsageError("--engine http needs --base-url", hint="for example http://localhost:8000")
    key, verify, model = api_key(options["api_key_file"]), not options["insecure"], options["model"]
    longest: list[int] = []
    for origin in origins:
        served = models(origin, key, verify=verify, patience_s=min(PATIENCE_S, options["timeout"]))
        names = [one.name for one in served or []]
        if model is None:
            if not names:
                raise DriftkitError(f"{origin.url}/models: it lists none", hint="--model NAME asks for one")
            model = names[0]
        if served is None:
            continue  # not every gateway has a list
        if model not in names:
            known = ", ".join(names[:5])
            raise DriftkitError(f"{origin.url} does not serve {model!r}", hint=f"it serves: {known}")
        longest += [one.max_model_len for one in served if one.name == model and one.max_model_len]
    service = Service(
        origins,
        model,
        max_model_len=min(longest, default=None),
        endpoint=options["endpoint"],
        api_key=key,
        verify=verify,
        by_priority=by_priority,
        replay=options["replay_lengths"],
        keep_text=options["save_output"],
        timeout_s=options["timeout"],
        retries=options["retries"],
        route=options["route"],
        seed=seed,
    )
    if options["workers"] > 1:
        without_key = {name: value for name, value in os.environ.items() if name != API_KEY}
        return Workers(service, options["workers"], without_key, options["max_rps"])
    return Http(service, options["max_rps"])
