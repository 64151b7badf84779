"""From a recorded request with timings to a completion: what follows from what, and what cannot be."""

from __future__ import annotations

from typing import Any

from driftkit.errors import FieldError
from driftkit.records.schema import FIELDS, SCHEMA, STATUSES, Record, shown

#: each latency counts from offered_s to an instant, so that either gives the other
LATENCIES = {"started_s": "queue_wait_s", "first_token_s": "ttft_s", "finished_s": "e2e_s"}
INSTANTS = ("arrival_s", "offered_s", "dispatched_s", "started_s", "first_token_s", "finished_s")
#: what a server says by HTTP that is neither success nor plain failure
_BY_HTTP = {408: "timeout", 429: "rejected", 499: "cancelled", 503: "rejected", 504: "timeout"}
_NANOSECONDS = 9  # digits kept of what is computed: what is beyond them is the noise of binary fractions


def completion(record: Record, run_id: str, label: str) -> Record:
    """The completion of a request with `arrival_s` and at least `finished_s` or `e2e_s`.

    `offered_s` is the arrival unless it was recorded. A request that failed at a time that was not recorded
    ended at once: no table counts the latency of one that is not ok. Raises FieldError for instants that are
    out of order.
    """
    done: Record = {**record, "kind": "completion", "schema": SCHEMA}
    done.setdefault("run_id", run_id)
    done.setdefault("label", label)
    offered = done.setdefault("offered_s", record["arrival_s"])
    done["status"] = status(done.get("status"), done.get("error"))
    if "error" in done:
        error = done.pop("error")
        if failed(error):
            done["error"] = str(error)
    if done["status"] != "ok" and "finished_s" not in done and "e2e_s" not in done:
        done["finished_s"] = offered
    _check_order(done)
    for instant, latency in LATENCIES.items():
        if instant in done:
            done.setdefault(latency, max(0.0, round(done[instant] - offered, _NANOSECONDS)))
        elif latency in done:
            done[instant] = round(offered + done[latency], _NANOSECONDS)
    if "finished_s" not in done:
        raise FieldError("finished_s", "expected when it ended, or e2e_s, got neither")
    if "started_s" in done:
        done.setdefault("inference_s", round(done["finished_s"] - done["started_s"], _NANOSECONDS))
    produced = done.get("actual_output_tokens") or done.get("trace_output_tokens") or 0
    if done["status"] == "ok" and produced:
        done.setdefault("actual_output_tokens", produced)
        done.setdefault("trace_output_tokens", produced)
        if "first_token_s" in done and produced > 1:
            after_first = done["finished_s"] - done["first_token_s"]
            done.setdefault("tpot_s", round(after_first / (produced - 1), _NANOSECONDS))
    return done


def status(value: Any, error: Any) -> str:
    """One of driftkit's statuses, from its name, an HTTP status, or whether there is an error."""
    if value is None:
        return "error" if failed(error) else "ok"
    text = str(value).lower()
    if text in STATUSES:
        return text
    if text.isdecimal() and 100 <= int(text) <= 599:
        return "ok" if 200 <= int(text) <= 299 else _BY_HTTP.get(int(text), "error")
    if text in ("success", "succeeded", "completed", "true"):
        return "ok"
    if text in ("failed", "failure", "false"):
        return "error"
    expected = f"expected {FIELDS['status'].expected}, or an HTTP status"
    raise FieldError("status", f"{expected}, got {shown(value)}")


def failed(error: Any) -> bool:
    """Whether a log's error column says that there was one; many write that there was none."""
    return bool(error) and str(error).strip().lower() not in ("", "0", "false", "none", "null", "no", "-")


def _check_order(done: Record) -> None:
    """Raise FieldError for the first instant that was recorded before the one it must follow."""
    before, name_before = done["offered_s"], "its arrival"
    for instant, latency in LATENCIES.items():
        if instant in done and latency in done:
            apart = abs(done[instant] - done["offered_s"] - done[latency])
            if apart > 0.01 + 0.01 * done[latency]:  # more than what rounding explains
                problem = (
                    f"{done[latency]:g} s, but by {instant} it took {done[instant] - done['offered_s']:g} s"
                )
                raise FieldError(latency, problem, hint="map one of the two")
        name = instant if instant in done else latency
        at = done["offered_s"] + done[latency] if name == latency and latency in done else done.get(instant)
        if at is not None:
            if at < before - 1e-9:  # what rounding may have done
                problem = f"{at:g} s is before {name_before}, {before:g} s"
                raise FieldError(name, problem, hint="both must be on one clock, and in one unit")
            before, name_before = at, name


def as_request(record: Record) -> Record:
    """The request that a completion was: without what `run` and `calibrate` added. Others as they are."""
    if record.get("kind") != "completion":
        return record
    kept = {
        name: value
        for name, value in record.items()
        if name not in FIELDS or FIELDS[name].stage not in ("run", "calibrate")
    }
    return {**kept, "kind": "request"}


def shift(record: Record, by: float) -> None:
    """Count every instant of a record from `by` seconds later on."""
    for name in INSTANTS:
        if (value := record.get(name)) is not None:
            record[name] = round(value - by, _NANOSECONDS)
