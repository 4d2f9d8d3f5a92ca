"""What an interrupted or a killed run of the main job leaves behind, and how it is put right."""

import contextlib
import functools
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from prefect.states import Cancelled

from flows import limits, mart, versions, warehouse
from flows.api import endpoints, limit_endpoints, rest

KILLED = "Its process was killed; a later run found out."


def cancellable(run_query: Callable[[str, Path], int]) -> Callable[[str, Path], Any]:
    """Return `run_query` such that it ends Cancelled if the run of its staging folder is interrupted."""

    @functools.wraps(run_query)
    def run(query: str, staging: Path) -> Any:
        if interrupted(staging):
            return Cancelled(message="The run was interrupted before this query began.")
        try:
            return run_query(query, staging)
        except psycopg.errors.QueryCanceled:
            if not interrupted(staging):
                raise
            return Cancelled(message="The run was interrupted while this query ran.")

    return run


@contextlib.contextmanager
def connection(query: str, staging: Path) -> Generator[psycopg.Connection]:
    """Yield a connection to the warehouse whose `query` is cancelled as soon as the run is interrupted."""
    over = threading.Event()
    with psycopg.connect(warehouse.url(), application_name=f"flows {query}") as opened:

        def cancel_if_interrupted() -> None:
            while not over.wait(0.1):
                if interrupted(staging):
                    opened.cancel()

        watching = threading.Thread(target=cancel_if_interrupted, daemon=True)
        watching.start()
        try:
            yield opened
        finally:
            over.set()
            watching.join()


@contextlib.contextmanager
def interruptible(
    staging: Path, names: Sequence[str], futures: Sequence[Any], limit_by: limits.Kind
) -> Generator[None]:
    """Let Ctrl-C end the queries of `futures`, by their `names`, instead of the process, until the block ends.

    Those that run are cancelled in the database, those that wait do not begin. A second Ctrl-C ends the process.
    """
    mart.note_task_runs(staging, versions.task_run_ids(futures))
    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield
        return

    def end_waits() -> None:
        waiting = [future for name, future in zip(names, futures, strict=True) if not mart.noted(staging, name)]
        versions.end_waits(waiting, limits.TAG)

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("Interrupted: cancelling what runs.", file=sys.stderr)
        (staging / "interrupted").touch()
        if limit_by == "tag":  # a task that waits for a global limit does so in its own code
            threading.Thread(target=end_waits, daemon=True).start()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(staging: Path) -> bool:
    """Return whether the run of this staging folder was interrupted."""
    return (staging / "interrupted").exists()


def clear_abandoned() -> None:
    """Put right what killed runs left: their states on the server, their slots, their staging folders."""
    for staging, task_runs in mart.abandoned():
        run = staging.stem  # a process that was killed while it made the folder left RUN.new
        _end_task_runs(run, task_runs)
        flow_run = rest.send(endpoints.flow_run(run)) or {"parameters": {}}
        counted = flow_run["parameters"].get("limit_by") == "global" and not versions.line(versions.here()).leases
        if counted and (slots := mart.unfinished(staging)):  # in Prefect 2 nothing else would free them
            rest.send(limit_endpoints.give_back(limits.TAG, slots))
        if flow_run.get("state_type") not in endpoints.FINAL:
            rest.send(endpoints.set_state(run, "CRASHED", "Crashed", KILLED, force=True, missing_ok=True))
        shutil.rmtree(staging, ignore_errors=True)


def _end_task_runs(run: str, task_runs: set[str]) -> None:
    """End the task runs of a killed flow run, and so free their slots and nobody else's."""
    limit = limits.read()
    # A process may have been killed after the end of its task run was known, and before it gave the slot back.
    holding = task_runs & {holder["task_run_id"] for holder in limit.holders} if limit else set()
    running = rest.rows(endpoints.task_runs(flow_run=run, state=["RUNNING"]))
    for task_run in holding | {task_run["id"] for task_run in running}:
        limits.end(task_run, KILLED)
    # Or before the server had heard of the task run that took the slot. Asked twice, since the counter and the holders
    # are two questions, and a live run may have taken a slot between them.
    if all(_only_holders(task_runs) for _ in range(2)):
        limits.reset()


def _only_holders(task_runs: set[str]) -> bool:
    """Return whether slots are taken, and all of them by `task_runs` or by nobody."""
    limit = limits.read()
    return bool(limit and limit.active_slots and {holder["task_run_id"] for holder in limit.holders} <= task_runs)
