"""Results of `vllm bench serve --save-result --save-detailed`: one JSON object, or one a line when appended.

Per request it has `input_lens`, `output_lens`, `ttfts`, `itls` (seconds between outputs) and `errors`, and,
from vLLM 0.12 or so, `start_times` (when the client sent it). So each request becomes a completion that
ended a time to first token and all its gaps after it was sent. What it waited in the client, under
`--max-concurrency`, is not in the file. `--as requests` makes a workload of it. The file is read whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import orjson

from driftkit.errors import DriftkitError, FieldError
from driftkit.records.io import parse_json
from driftkit.records.schema import Record, check_prompt, shown
from driftkit.workload.traces import Options, Trace
from driftkit.workload.traces.cells import number, tokens
from driftkit.workload.traces.timings import completion

_COLUMNS = ("input_lens", "output_lens", "ttfts", "itls", "errors", "start_times", "generated_texts")
_NEEDED = ("input_lens", "output_lens", "ttfts", "itls")


class VllmBench(Trace):
    """Arrivals count from the earliest start; a file of several results holds several runs."""

    name: ClassVar[str] = "vllm-bench"
    element: ClassVar[str] = "request "

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._requests = 0

    def elements(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        data = b"".join(lines).removeprefix(b"\xef\xbb\xbf").strip()
        if not data:
            return
        for result in self._results(data):
            run: Record = {
                "run_id": "vllm-bench-" + hashlib.blake2b(orjson.dumps(result), digest_size=6).hexdigest(),
                "label": self.options.label or result.get("label") or self.label,
                "engine": result.get("backend") or "vllm",
                "served_model": result.get("model_id"),
            }
            columns = self._columns(result)
            starts = columns.pop("start_times", None)
            first = min(starts) if starts else 0.0
            if starts is None:
                self.remarks["no start_times: every arrival is 0; latencies hold, throughput does not"] = None
            for place in range(len(columns["input_lens"])):
                element = {name: values[place] for name, values in columns.items()}
                element["start"] = starts[place] - first if starts else 0.0
                yield orjson.dumps({**element, "run": run})

    def _results(self, data: bytes) -> list[Record]:
        """The object that the file is, or one a line."""
        try:
            whole = orjson.loads(data)
            return [whole] if type(whole) is dict else self._refuse(f"expected an object, got {shown(whole)}")
        except orjson.JSONDecodeError as error:
            lines = [line for line in data.splitlines() if line.strip()]
            if len(lines) < 2 or not lines[0].rstrip().endswith(b"}"):
                raise DriftkitError(
                    f"{self.source}:{error.lineno}: not JSON: {error.msg} (column {error.colno})"
                ) from None
        results = []
        for place, line in enumerate(lines, start=1):
            try:
                results.append(parse_json(line))
            except DriftkitError as error:
                raise DriftkitError(
                    f"{self.source}: result {place}: {error.message}", hint=error.hint
                ) from None
        return results

    def _columns(self, result: Record) -> dict[str, list[Any]]:
        """The per-request arrays, all of one length."""
        missing = [name for name in _NEEDED if name not in result]
        if missing:
            hint = "vllm bench serve writes it with --save-result --save-detailed"
            self._refuse(f"{missing[0]}: expected an array, got nothing", hint)
        columns = {name: result[name] for name in _COLUMNS if result.get(name) is not None}
        for name, values in columns.items():
            if type(values) is not list or len(values) != len(columns["input_lens"]):
                self._refuse(f"{name}: expected an array as long as input_lens")
        for place, start in enumerate(columns.get("start_times", []), start=1):
            if type(start) not in (int, float):
                self._refuse(f"request {place}: start_times: expected a number, got {shown(start)}")
        return columns

    def _refuse(self, problem: str, hint: str | None = None) -> Any:
        raise DriftkitError(f"{self.source}: {problem}", hint=hint)

    def parse(self, line: bytes) -> list[Record]:
        self._requests += 1
        row = parse_json(line)
        run = row["run"]
        record: Record = {
            "id": f"vllm-bench-{self._requests:06d}",
            "arrival_s": round(row["start"], 9),
            "prompt_tokens": tokens("input_lens", row["input_lens"]),
            **{name: value for name, value in run.items() if name not in ("run_id", "label") and value},
        }
        check_prompt(record)
        if error := row.get("errors"):
            record["error"] = str(error)
            return [completion(record, run["run_id"], run["label"])]
        record["actual_output_tokens"] = tokens("output_lens", row["output_lens"], minimum=0)
        if not record["actual_output_tokens"] and not row["ttfts"]:
            record["error"] = "no output"
            return [completion(record, run["run_id"], run["label"])]
        gaps = row["itls"]
        if type(gaps) is not list or not {type(gap) for gap in gaps} <= {float, int}:
            raise FieldError("itls", f"expected an array of seconds, got {shown(gaps)}")
        ttft = number("ttfts", row["ttfts"])
        e2e = ttft + sum(gaps)
        if ttft < 0 or e2e < ttft:
            raise FieldError("ttfts", f"expected seconds >= 0, got {shown(row['ttfts'])}")
        if ttft:
            record["ttft_s"] = round(ttft, 9)
        record["e2e_s"] = round(e2e, 9)
        return [completion(record, run["run_id"], run["label"])]
