"""vLLM in this process: its AsyncLLM, which `vllm serve` runs too, without the server around it.

The scheduler and the model run in processes of their own; here requests are handed over and tokens come in,
on the same event loop that waits for the next arrival. Only integers go out as priorities: a float kills the
thread that reads vLLM's input, every later request hangs, and its health check passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

from driftkit.engines.http.body import SAMPLING, Endpoint, endpoint_of
from driftkit.engines.prompt_ids import token_ids
from driftkit.engines.real_time import RealTime
from driftkit.errors import DriftkitError, FieldError, UsageError
from driftkit.records.job import Job
from driftkit.records.schema import HIGHEST_PRIORITY, Record

# What is in the environment already is left as it is. vLLM's log goes to stdout otherwise, which is data, and
# begins with a page of advice.
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-torch._library.triton",  # the minus is for errors only: a CPU has no Triton
}


class Vllm(RealTime):
    """AsyncLLM of `model`, with vLLM's own arguments as `key=value`.

    `endpoint`: whether prompts are chats, as a server has it. `by_priority`: its queue is ordered by the
    jobs' priorities. `replay`: a job gets `output_tokens` tokens, whatever the model would say. `keep_text`:
    the answer's text stays with the job. Starting takes as long as loading the model; UsageError for
    arguments that vLLM refuses, DriftkitError when it does not start.
    """

    name = "vllm"

    def __init__(
        self,
        model: str,
        arguments: Sequence[str] = (),
        *,
        endpoint: Endpoint | None = None,
        by_priority: bool = False,
        replay: bool = False,
        keep_text: bool = False,
        max_rps: float | None = None,
    ) -> None:
        super().__init__(max_rps)
        self.endpoint = endpoint
        self.by_priority = by_priority
        self.replay = replay
        self.keep_text = keep_text
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # read when vLLM is imported, and by processes that start
        with _stdout_to_stderr(), _interrupts_kept_from_children(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.loop.run_until_complete(self._start_vllm(model, arguments))
        config = self._llm.vllm_config
        self.served_model: str = config.model_config.served_model_name
        self.max_num_seqs: int = config.scheduler_config.max_num_seqs
        self.max_model_len: int = config.model_config.max_model_len
        self._defaults: dict[str, Any] = config.model_config.get_diff_sampling_param()

    def close(self) -> None:
        self._llm.shutdown(timeout=0)  # nothing is in flight
        self.loop.run_until_complete(_end_tasks())
        # it is part of cycles: gone now, while there is still all that its __del__ calls
        del self._llm
        gc.unfreeze()
        gc.collect()
        super().close()

    def _send(self, job: Job) -> None:
        self._tasks[job] = self.loop.create_task(self._execute(job))

    def _abort(self, job: Job) -> None:
        if (task := self._tasks.pop(job, None)) is not None:
            task.cancel()  # which AsyncLLM passes on

    async def _start_vllm(self, model: str, arguments: Sequence[str]) -> None:
        try:
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise UsageError(
                f"--engine vllm: cannot import vLLM: {reason(error)}",
                hint="pip install vllm, in the environment of this driftkit",
            ) from error
        from driftkit.engines.vllm_arguments import engine_args

        args = engine_args(model, arguments, by_priority=self.by_priority)
        try:
            config = args.create_engine_config(UsageContext.LLM_CLASS)
        except (ValueError, OSError) as error:  # what huggingface_hub raises is an OSError
            raise UsageError(f"--engine vllm: vLLM refuses: {reason(error)}") from error
        try:
            # in no variable: tracebacks that some module keeps would keep it alive, too
            self._llm: Any = AsyncLLM.from_vllm_config(config, disable_log_stats=False)
            await self._llm.get_supported_tasks()
            # its traceback of an engine's death, which every job's error tells
            logging.getLogger("vllm.v1.engine.async_llm").setLevel(logging.CRITICAL)
        except Exception as error:
            raise DriftkitError(
                f"--engine vllm: vLLM did not start: {reason(error)}", hint="the lines above are its own"
            ) from error

    async def _execute(self, job: Job) -> None:
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        status, error = "ok", None
        wanted, job.output_tokens = job.output_tokens, 0
        try:
            prompt, params = await self._request(job, wanted)
            await self._answer(job, prompt, params)
        except (
            _RefusedError,
            FieldError,
            VLLMClientError,
            GracefulHTTPError,
            ValueError,
            TypeError,
        ) as refusal:
            status, error = "rejected", reason(refusal)
        except EngineDeadError:
            status, error = "error", "vLLM's engine has died"
        except Exception as failure:  # AsyncLLM wraps whatever else goes wrong with one request
            status, error = "error", reason(failure.__cause__ or failure)
        self._tasks.pop(job, None)
        if job.finish_reason == "abort" and status == "ok":
            status, error = "error", "vLLM aborted it"
        self.end(job, status, error)

    async def _request(self, job: Job, wanted: int) -> tuple[Any, Any]:
        """What AsyncLLM is given: the tokens of the prompt, and how to sample."""
        if self.by_priority and not (
            type(job.priority) is int and -HIGHEST_PRIORITY <= job.priority <= HIGHEST_PRIORITY
        ):
            raise _RefusedError(f"priority: expected a 64-bit integer, got {job.priority!r}")
        record = job.record
        prompt = await self._prompt(record)
        length, room = len(prompt["prompt_token_ids"]), self.max_model_len
        if length >= room:
            raise _RefusedError(f"a prompt of {length} tokens, where prompt and answer have {room}")
        if self.replay and length + wanted > room:
            raise _RefusedError(
                f"{length} tokens in and {wanted} out to replay, where both together have {room}"
            )
        return prompt, self._sampling(record, wanted)

    async def _prompt(self, record: Record) -> Any:
        """vLLM's TokensInput: of the messages by the model's chat template, of the text, or of a length."""
        from vllm.inputs.engine import tokens_input
        from vllm.renderers.params import ChatParams

        renderer, text = self._llm.renderer, record.get("prompt")
        if endpoint_of(record, self.endpoint) == "chat":
            options = {"add_generation_prompt": True, **(record.get("chat_template_kwargs") or {})}
            if (tools := record.get("tools")) is not None:
                options["tools"] = tools
            messages = record.get("messages") or [{"role": "user", "content": text}]
            _, (prompt,) = await renderer.render_chat_async(
                [messages], ChatParams(chat_template_kwargs=options)
            )
            return prompt
        if text is not None:
            (prompt,) = await renderer.render_cmpl_async([{"prompt": text}])
            return prompt
        return tokens_input(token_ids(record))

    def _sampling(self, record: Record, wanted: int) -> Any:
        """Of the record, else as the model's generation_config.json recommends, as vLLM's server does."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        asked = {name: record[name] for name in SAMPLING if record.get(name) is not None}
        options = {**self._defaults, "max_tokens": record.get("max_tokens"), **asked}
        if self.replay:
            options |= {"max_tokens": wanted, "min_tokens": wanted, "ignore_eos": True}
        try:
            return SamplingParams.from_optional(
                **options,
                output_kind=RequestOutputKind.DELTA,
                detokenize=self.keep_text or bool(options.get("stop")),
                skip_clone=True,
            )
        except TypeError as error:  # its own checks compare before they look
            wrong = ", ".join(f"{name} {value!r}" for name, value in asked.items())
            raise _RefusedError(f"one of {wrong} is of the wrong type: {reason(error)}") from error

    async def _answer(self, job: Job, prompt: Any, params: Any) -> None:
        """Take in the answer. vLLM's instants are of this machine's monotonic clock, as the run's are."""
        outputs: AsyncIterator[Any] = self._llm.generate(
            prompt, params, job.record["id"], priority=job.priority if self.by_priority else 0
        )
        pieces = []
        async for output in outputs:
            (part,) = output.outputs
            if part.token_ids:
                if job.first_token_s is None:
                    job.first_token_s = self.now()
                job.output_tokens += len(part.token_ids)
                job.received_tokens = job.output_tokens
            pieces.append(part.text)
            metrics = output.metrics
            if job.started_s is None and metrics.scheduled_ts:
                job.started_s = self.on_clock(metrics.scheduled_ts)
            job.preemptions = metrics.num_preemptions
            job.cached_tokens = output.num_cached_tokens
            job.finish_reason = part.finish_reason
        if self.keep_text:
            job.output_text = "".join(pieces)
            job.output_words = len(job.output_text.split())


class _RefusedError(Exception):
    """vLLM would not take the request in, or would do something else."""


def reason(error: BaseException) -> str:
    """One line of what vLLM says, which may be many: pydantic's own comes after a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("Value error, ")), lines[0] if lines else "")
    said = said.removeprefix("Value error, ").partition(" [type=")[0]
    return said[:500] or type(error).__name__


async def _end_tasks() -> None:
    """AsyncLLM's own, and those of jobs that were cancelled."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What is printed by this process, and for ever by those that it starts, goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


@contextlib.contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C goes to everybody in the terminal's foreground, and vLLM's processes would end with all that is
    in flight. They inherit that this thread blocks it; another one takes it here.
    """
    resource_tracker.ensure_running()  # which lets it through again
    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        over.set()
