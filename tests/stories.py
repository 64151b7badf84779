"""Completions of requests for stories, which are long, and for answers in one word, by turns."""

from __future__ import annotations

from cli import Record

SUBJECTS = ("rivers", "bridges", "the moon", "bread", "a small garden", "clocks", "the sea", "trains")


def completion(number: int, **fields: object) -> Record:
    """`fields` replace what it has or come after."""
    story = number % 2 == 0
    subject = SUBJECTS[number // 2 % len(SUBJECTS)]
    return {
        "kind": "completion",
        "schema": 1,
        "id": f"r{number}",
        "run_id": "run",
        "arrival_s": float(number),
        "finished_s": number + 1.0,
        "status": "ok",
        "finish_reason": "stop",
        "prompt": f"Tell a long story about {subject}." if story else f"In one word: what are {subject}?",
        "prompt_tokens": 8,
        "tenant": f"t{number % 3}",
        "served_model": "m",
        "actual_output_tokens": (640 if story else 6) + number % 3,
        **fields,
    }


def request(number: int, **fields: object) -> Record:
    """What was asked of it."""
    row = completion(number)
    return {**{name: row[name] for name in ("id", "arrival_s", "prompt", "tenant")}, **fields}
