"""The main job: 20 SQL queries submitted at once, as many at a time as the server's limit on their tag allows.

python flows/prefect_flow.py [--scale F] [--limit N] [--limit-by tag|global] [--queries a,b,…] [--json]
"""

import argparse
import concurrent.futures
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, get_args

import httpx
import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flows import cli, files, limits, mart, report, versions, warehouse
from flows.api import endpoints, rest, server
from flows.settings import CannotRun

with cli.importing_prefect(__name__):  # after `flows`, which keeps it from sending usage data
    from prefect import flow, get_run_logger, task
    from prefect.runtime import flow_run
    from prefect.states import Cancelled

PERMANENT = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied")


class QueriesFailed(Exception):
    """Some queries of a run failed. The message names each of them."""


def worth_retrying(error: BaseException) -> bool:
    """Whether a query failed for a reason that may pass: a refused or broken connection, not an error in it."""
    passing = isinstance(error, psycopg.OperationalError) and not isinstance(
        error, (psycopg.errors.QueryCanceled, psycopg.errors.DiskFull)
    )
    return passing and not any(reason in str(error) for reason in PERMANENT)


DELAYS = (0.5, 1, 2, 4, 8, 16)  # short, since a task keeps its slot meanwhile


@versions.task(worth_retrying, DELAYS, task_run_name="{query}", tags=[limits.TAG])
def sql_query(query: str, staging: Path) -> Any:
    """Run one query over a connection of its own, write its rows to staging, and return how many there are.

    The server runs as many at a time as the limit of the tag allows.
    """
    return _run(query, staging)


@versions.task(worth_retrying, DELAYS, task_run_name="{query}")
def sql_query_in_slot(query: str, staging: Path) -> Any:
    """As `sql_query`, with no tag: it waits for a slot of the global limit that has the tag's name."""
    with versions.slot(limits.TAG):
        return _run(query, staging)


def _run(query: str, staging: Path) -> Any:
    if _interrupted(staging):
        return Cancelled(message="The run was interrupted before this query began.")
    started = time.time()
    outcome: dict[str, Any] = {}
    mart.note(staging, query, started=started)
    try:
        with psycopg.connect(warehouse.url(), application_name=f"flows {query}") as connection:
            _open[connection] = staging
            outcome["rows"] = mart.stage(staging, query, connection.execute(warehouse.query(query).encode()))
    except psycopg.errors.QueryCanceled:
        if not _interrupted(staging):
            raise
        return Cancelled(message="The run was interrupted while this query ran.")
    finally:
        for connection in [connection for connection in list(_open) if connection.closed]:
            _open.pop(connection, None)
        mart.note(staging, query, started=started, ended=time.time(), **outcome)
    return outcome["rows"]


def check_version(url: str) -> None:
    """Raise CannotRun where the server at `url`, which is the one in use, and the Prefect here are of two lines."""
    theirs, ours = rest.send(endpoints.version()), versions.here()
    line = versions.line(theirs)
    if line is not versions.line(ours):
        right = ".venv-prefect2" if line is versions.PREFECT_2 else ".venv"
        raise CannotRun(
            f"The server at {url} is Prefect {theirs or 'Cloud'}, and this environment has {ours}, whose flows it does"
            f" not run. Use the environment {right}, as docs/versions.md says."
        )


@task
def load(staging: Path, queries: Sequence[str]) -> None:
    """Put the rows of the queries that succeeded into the mart; the other queries keep the tables they had."""
    mart.load(staging, [query for query in queries if "rows" in mart.noted(staging, query)])


@task
def cleanup(staging: Path) -> None:
    """Remove the run's staging folder."""
    shutil.rmtree(staging)


@flow(name="main_etl", task_runner=versions.task_runner())
def main_etl(queries: list[str] | None = None, scale: float = warehouse.SCALE, limit_by: limits.Kind = "tag") -> Any:
    """Run `queries` (all for None) against TPC-H at `scale`, and load their rows into the mart.

    How many run at a time is up to the server: the limit of their tag, or the "global" limit of that name.
    Raises QueriesFailed once all have ended and the mart holds what succeeded. After Ctrl-C it ends Cancelled.
    """
    _clear_abandoned()
    names = warehouse.choose(queries)
    _set_limit(server.attach(), None, limit_by, get_run_logger().warning)  # a worker comes by no `main`
    with warehouse.prepared(scale):
        staging = mart.open_staging(str(flow_run.id), _server())
        submitted = time.time()
        run = sql_query
        if limit_by == "global":
            versions.ready_slots(limits.TAG)
            run = sql_query_in_slot
        task_runs = [run.submit(name, staging) for name in names]
        mart.note_task_runs(staging, versions.task_run_ids(task_runs))
        futures = versions.states(task_runs)
        try:
            _watch(names, staging, futures)
        except KeyboardInterrupt:
            _stop.set()
        interrupted = _stop.is_set()
        _stop.clear()
        if interrupted:
            _interrupt(staging)
            if limit_by == "tag":
                waiting = [one for name, one in zip(names, task_runs, strict=True) if not mart.noted(staging, name)]
                versions.cancel(waiting, limits.TAG)
        # Waiting here, and not `wait_for=[allow_failure(…)]`, since that gives up on the first query that was
        # cancelled or crashed: it allows for failure alone, and cleanup would come before the last query's end.
        concurrent.futures.wait(futures)
    try:
        load(staging, names)
    finally:
        rows = [_row(name, staging, submitted, future) for name, future in zip(names, futures, strict=True)]
        try:
            mart.record(str(flow_run.id), rows=rows)
        finally:
            cleanup(staging)
    if interrupted:
        return Cancelled(message="Interrupted. The mart keeps the tables of the queries that had not ended.")
    failed = [f"{row['query']} ({row['error']})" for row in rows if row["state"] != "Completed"]
    get_run_logger().info("%d of %d queries completed", len(rows) - len(failed), len(rows))
    if failed:
        raise QueriesFailed(f"{len(failed)} of {len(rows)} queries failed: {'; '.join(failed)}")
    return rows


_stop = threading.Event()
_open: dict[psycopg.Connection, Path] = {}


def _interrupted(staging: Path) -> bool:
    return (staging / "interrupted").exists()


def _interrupt(staging: Path) -> None:
    """Let the queries that wait end before they begin, and cancel those that run."""
    (staging / "interrupted").touch()
    for connection, owner in list(_open.items()):
        if owner == staging:
            connection.cancel()


def _clear_abandoned() -> None:
    """Finish what a run that was killed left behind: its state on the server, its slots, its staging folder."""
    message = "Its process was killed; a later run found out."
    for staging, task_runs in mart.abandoned(_server()).items():
        run = staging.stem  # a process that was killed while it made the folder left RUN.new
        limit = limits.read()
        # One may have been killed after its end was known, and before it gave its slot back.
        holding = task_runs & {holder["task_run_id"] for holder in limit.holders} if limit else set()
        running = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        for task_run in holding | {task_run["id"] for task_run in rest.call("POST", "task_runs/filter", running)}:
            limits.end(task_run, message)
        # It was killed before the server had heard of the task run that took the slot. Asked twice, since the counter
        # and the holders are two questions, and one who lives may have taken a slot between them.
        if all(_holds_alone(task_runs) for _ in range(2)):
            limits.reset()
        known = rest.send(endpoints.flow_run(run)) or {"parameters": {}}
        left = mart.unfinished(staging)
        if left and known["parameters"].get("limit_by") == "global" and not versions.line(versions.here()).leases:
            limits.give_back(limits.TAG, left)
        if known.get("state_type") not in endpoints.FINAL:
            state = {"type": "CRASHED", "name": "Crashed", "message": message}
            rest.call("POST", f"flow_runs/{run}/set_state", {"state": state, "force": True}, missing_ok=True)
        shutil.rmtree(staging, ignore_errors=True)


def _holds_alone(task_runs: set[str]) -> bool:
    """Whether slots are taken, and none by others than `task_runs`."""
    limit = limits.read()
    return bool(limit and limit.active_slots and {holder["task_run_id"] for holder in limit.holders} <= task_runs)


def _server() -> str:
    """What tells the server in use from others: its address, which the lab's may change."""
    url = server.attach()
    return "the lab" if server.is_lab(url) else url


def _watch(names: Sequence[str], staging: Path, futures: Sequence[Future[Any]]) -> None:
    """Show how many queries run, wait and are done until all are, or until `_stop` is set."""
    console = Console(stderr=True)  # in a notebook no terminal, and so no bar
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}")
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        job = bar.add_task("", total=len(names))
        left: Collection[Future[Any]] = futures
        while left and not _stop.is_set():
            _, left = concurrent.futures.wait(left, timeout=0.1)
            notes = [mart.noted(staging, name) for name in names]
            running = sum("started" in note and "ended" not in note for note in notes)
            done = len(names) - len(left)
            text = f"{running} run, {max(0, len(left) - running)} wait, {done} done"
            bar.update(job, completed=done, description=text)


def _row(name: str, staging: Path, submitted: float, future: Future[Any]) -> dict[str, Any]:
    """What became of one query; times in seconds, `started` and `ended` as Unix times, None where it never began."""
    note = mart.noted(staging, name)
    started, ended = note.get("started"), note.get("ended")
    try:
        state = future.result()
        outcome, error = state.name, None if state.is_completed() else state.message
    except BaseException as crash:  # the thread died of it; whatever it was, the other queries' rows count
        outcome, error = "Crashed", repr(crash)
    return {
        "query": name,
        "rows": note.get("rows"),
        "seconds": ended - started if ended else None,
        "waited": started - submitted if started else None,
        "state": outcome,
        "error": " ".join(error.split()) if error else None,
        "started": started,
        "ended": ended,
    }


def _set_limit(url: str, wanted: int | None, kind: limits.Kind, say: Callable[[str], object]) -> int | None:
    """The limit in force, set first on the kit's own lab where it has none or another one is wanted.

    `say` is called with what the user should know.
    """
    limit = limits.read(kind=kind)
    script = f"python scripts/setup_concurrency_limit.py{' --global' if kind == 'global' else ''} sets it"
    if server.is_lab(url) and (wanted is not None or limit is None):
        limits.ensure(limits.TAG, wanted or limits.DEFAULT, kind)
        limit = limits.read(kind=kind)
        if wanted is not None and wanted > limits.DEFAULT:
            taken = f"The lab's database takes {limits.DEFAULT} connections"
            say(f"{taken}: with a limit of {wanted} it refuses some queries, which try again.")
    elif limit is None:
        what = "The tag" if kind == "tag" else "The global limit"
        say(f"{what} {limits.TAG!r} has no limit on {url}: all queries run at once. {script}.")
    elif wanted not in (None, limit.limit):
        say(f"--limit is for the kit's own lab; {url} keeps {limit.limit}. {script}.")
    return limit.limit if limit else None


def _arguments() -> argparse.Namespace:
    parser = cli.Arguments(description="Run the SQL queries in parallel, under the server's limit.")
    parser.add_argument("--scale", type=_scale, default=warehouse.SCALE, help="TPC-H's size in GB (default 0.1)")
    parser.add_argument(
        "--limit", type=cli.whole_number, help="how many may run at once (default: as it is, 3 on a new lab)"
    )
    parser.add_argument(
        "--limit-by",
        choices=get_args(limits.Kind),
        default="tag",
        help="whose limit: the tag's, or the global one of that name, which is quicker on Prefect 2 (default: tag)",
    )
    parser.add_argument(
        "--queries", type=lambda text: text.split(","), help="names, separated by commas (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = -1
    if not 0.001 <= scale <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.001 to 100")
    return scale


def main() -> int:
    """Start what is needed, run the flow and show what happened. Returns 1 where it did not complete."""
    arguments = _arguments()
    warehouse.choose(arguments.queries)
    files.folder()  # where the results go, even if neither the server nor the warehouse is the lab's
    url = server.use()
    check_version(url)
    limit = _set_limit(url, arguments.limit, arguments.limit_by, lambda text: print(text, file=sys.stderr))
    warehouse.prepare(arguments.scale)
    for handler in logging.getLogger().handlers + logging.getLogger("prefect").handlers:
        handler.setLevel(logging.CRITICAL)  # the table says it, and the server has the logs

    def stop(*_: object) -> None:
        print("Interrupted: cancelling what runs.", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends it at once
        _stop.set()

    signal.signal(signal.SIGINT, stop)
    called = time.time()
    try:
        state = main_etl(arguments.queries, arguments.scale, arguments.limit_by, return_state=True)
    except httpx.HTTPError as error:
        raise CannotRun(f"The server at {url} failed in the middle of the run: {error}. Run it again.") from None
    wall = time.time() - called
    rows = mart.recorded(str(state.state_details.flow_run_id)).get("rows", [])
    found = report.summary(state, rows, wall, limit)
    report.show(found, rows, sys.stderr if arguments.json else sys.stdout)
    if state.name == "Failed" and found["failed"] == 0:
        print(f"The run failed: {state.message}", file=sys.stderr)
    if arguments.json:
        cli.print_json(found)
    return 0 if state.name == "Completed" else 1


if __name__ == "__main__":
    cli.run(main)
