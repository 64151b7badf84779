"""`calibrate --fit history|regressor|knn`: what estimate goes by, learned from completions into a state."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from driftkit.commands.stdio import Outcome, reading

if TYPE_CHECKING:
    from pathlib import Path

    from driftkit.records.schema import Record


def fit_history(
    outcome: Outcome, state: str | None, files: tuple[str, ...], on_error: str, rejects: str | None
) -> int:
    from driftkit.calibration.state import StateFolder
    from driftkit.errors import DriftkitError, printable
    from driftkit.estimation.history import History, check_completion
    from driftkit.estimation.memory import files as memory_files

    if state is None:
        raise click.UsageError("--fit history needs --state", click.get_current_context())
    histories: dict[str, History] = {}

    left_out = 0

    once = Once()

    def learn(record: Record) -> None:
        nonlocal left_out
        check_completion(record)
        if once.repeats(record):
            return
        served_model = record.get("served_model") or "unknown"
        left_out += not histories.setdefault(served_model, History()).learn(record)

    folder = StateFolder(state)
    with folder.writing():
        with reading(outcome, files, on_error, rejects) as reader:
            for _ in reader.records("completion", learn, lambda record: None):
                pass
        once.tell(outcome)
        if left_out:
            outcome.warn(f"{left_out} completions that say nothing of their length are left out")
        known = {name: history for name, history in histories.items() if history.completions}
        if not known:
            raise DriftkitError("no completions that ended well: nothing to fit")
        for served_model in known:
            _warn_of_damage(outcome, partial(History.stored, folder.path, served_model))
        for served_model, history in known.items():
            before = History.identity(folder.path, served_model)
            history.save(folder.path, served_model)
            counted = f"fitted to {history.completions} completions of {served_model}"
            click.echo(printable(f"{counted}, {history.said()}"), err=True)
            if History.identity(folder.path, served_model) == before:
                continue
            for path in folder.begin_anew(History.name, served_model):
                outcome.warn(f"{path}: corrected the history before this one: taken away")
            _warn_of_memories(outcome, memory_files(folder.path, History.name, served_model))
    return outcome.status


class Once:
    """Knows which completions came before: a file may be given twice, or come packed and unpacked."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._repeated = 0

    def repeats(self, record: Record) -> bool:
        """Whether one of its run and id came before; of what has not both nobody knows."""
        run, name = record.get("run_id"), record.get("id")
        if run is None or name is None:
            return False
        found = (run, name) in self._seen
        self._seen.add((run, name))
        self._repeated += found
        return found

    def tell(self, outcome: Outcome) -> None:
        if self._repeated:
            outcome.warn(f"{self._repeated} completions came more than once: each counts once")


def _checked(
    outcome: Outcome,
    files: tuple[str, ...],
    on_error: str,
    rejects: str | None,
    check: Callable[[Record], None],
) -> list[Record]:
    """The completions, each checked."""

    def checked(record: Record) -> Record:
        check(record)
        return record

    with reading(outcome, files, on_error, rejects) as reader:
        found = reader.records("completion", checked, lambda other: None)
        return [one for one in found if one is not None]


def _warn_of_damage(outcome: Outcome, read: Callable[[], object]) -> None:
    """Of what a fit replaces although it cannot be read."""
    from driftkit.errors import NewerStateError, StateError

    try:
        read()
    except NewerStateError:  # nor is what a newer driftkit has learned to be lost to an older one
        raise
    except StateError as error:
        outcome.warn(f"{error.message}: it is replaced")


def _warn_of_memories(outcome: Outcome, paths: list[Path]) -> None:
    """Of errors that an estimator made before it was fitted anew, which estimate does not go by."""
    for path in paths:
        outcome.warn(f"{path}: remembers the errors of what was fitted before: of no use from now on")


def fit_regressor(
    outcome: Outcome,
    state: str | None,
    embed: bool,
    files: tuple[str, ...],
    on_error: str,
    rejects: str | None,
) -> int:
    from threadpoolctl import threadpool_limits

    from driftkit.calibration.state import StateFolder
    from driftkit.estimation import embeddings, store
    from driftkit.estimation.fitting import check_observed, fit
    from driftkit.estimation.memory import files as memory_files

    if state is None:
        raise click.UsageError("--fit regressor needs --state", click.get_current_context())
    terminal = sys.stderr.isatty()

    def progress(done: int, steps: int) -> None:
        if terminal:
            click.echo(
                f"\rlearning: {done} of {steps}" + ("\r\x1b[K" if done == steps else ""), nl=False, err=True
            )

    folder = StateFolder(state)
    with folder.writing():
        _warn_of_damage(outcome, partial(store.check, folder.path))
        once = Once()
        came = _checked(outcome, files, on_error, rejects, check_observed)
        found = [record for record in came if not once.repeats(record)]
        once.tell(outcome)
        with threadpool_limits(limits=1):  # where others are at work, BLAS's threads wait for each other
            fitted = fit(found, embed=embeddings.load() if embed else None, progress=progress)
        store.write(folder.path, fitted)
        scores, training = fitted.scores, fitted.training
        click.echo(
            f"fitted to {training.completions} completions, {training.censored} of them cut; out of fold: "
            f"tau {scores.tau:.3f}, mean error {scores.mae_tokens:.1f} tokens "
            f"({scores.constant_mae_tokens:.1f} of a constant), "
            f"{100 * scores.coverage:.1f} % between P10 and P90",
            err=True,
        )
        for path in folder.begin_anew("regressor"):
            outcome.warn(f"{path}: corrected the regressor before this one: taken away")
        _warn_of_memories(outcome, memory_files(folder.path, "regressor"))
    return outcome.status


def fit_knn(
    outcome: Outcome,
    state: str | None,
    max_age: float | None,
    files: tuple[str, ...],
    on_error: str,
    rejects: str | None,
) -> int:
    from driftkit.calibration.remembering import check_remembered, remember
    from driftkit.calibration.state import StateFolder

    if state is None:
        raise click.UsageError("--fit knn needs --state", click.get_current_context())
    folder = StateFolder(state)
    with folder.writing():
        found = _checked(outcome, files, on_error, rejects, check_remembered)
        for memory in remember(found, folder, max_age, outcome.warn_once):
            click.echo(memory.said(), err=True)
    return outcome.status
