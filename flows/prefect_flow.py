"""The main job: 20 SQL queries submitted at once, as many at a time as the server's limit on their tag allows.

python flows/prefect_flow.py [--scale F] [--limit N] [--limit-by tag|global] [--queries a,b,…] [--runner dask] [--json]
"""

import argparse
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx

from flows import cli, files, limits, mart, notes, report, versions, warehouse
from flows.api import dask, server, slots
from flows.settings import CannotRun

with cli.importing(__name__):  # after `flows`, which keeps it from sending usage data
    from prefect import flow, get_run_logger
    from prefect.exceptions import ObjectNotFound
    from prefect.runtime import flow_run
    from prefect.states import Cancelled
    from prefect.tasks import exponential_backoff

    from flows import interruption, recovery
    from flows.versions import task, wait


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Return whether a query failed for a reason that may pass, such as a refused connection, and not by its SQL."""
    return warehouse.may_pass(state.result(raise_on_failure=False))


query_task = partial(
    task,
    retries=6,
    retry_delay_seconds=exponential_backoff(0.5),  # short at first, since a task keeps its slot between attempts
    retry_jitter_factor=1,
    retry_condition_fn=worth_retrying,
)


@interruption.cancellable
def run_query(query: str, staging: Path) -> int:
    """Run one query over a connection of its own, stage its rows, and return how many there are."""
    with notes.noting(staging, query), files.writable(staging), interruption.connection(query, staging) as connection:
        return mart.stage(staging, query, connection.execute(warehouse.query(query).encode()))


@query_task(tags=[limits.TAG])
def sql_query(query: str, staging: Path) -> Any:
    """Do `run_query`; the server runs as many of these at a time as the limit of the tag allows."""
    return run_query(query, staging)


@query_task(tags=[f"{slots.MARK}{limits.TAG}"])
def sql_query_in_slot(query: str, staging: Path) -> Any:
    """Do `run_query` in a slot of the global limit that has the tag's name; its own tag is only a mark."""
    with interruption.slot(staging):
        return run_query(query, staging)


@task(retries=3, retry_delay_seconds=2)  # for as long as another program may take to close the mart
def load(staging: Path, queries: list[str]) -> None:
    """Put the rows of the queries that succeeded into the mart; the other queries keep the tables they had."""
    mart.load(staging, queries)


@task
def cleanup(staging: Path) -> None:
    """Remove the run's staging folder."""
    shutil.rmtree(staging)


@flow(name="main_etl", task_runner=versions.task_runner())
def main_etl(queries: list[str] | None = None, scale: float = warehouse.SCALE, limit_by: limits.Kind = "tag") -> Any:
    """Run `queries` (all of them if None) against TPC-H at `scale`, and load their rows into the mart.

    How many run at a time is up to the server: the limit of their tag, or the "global" limit of that name.
    Raises QueriesFailed once all have ended and the mart holds what succeeded. Told to stop, it ends Cancelled.
    """
    names, run = warehouse.choose(queries), str(flow_run.id)
    recovery.clear_abandoned(run)
    limits.ready(limit_by, warn=get_run_logger().warning)
    query = sql_query if limit_by == "tag" else sql_query_in_slot
    with warehouse.prepared(scale), notes.staging(run) as staging:
        futures = [query.with_options(name=name, task_run_name=name).submit(name, staging) for name in names]
        with interruption.interruptible(staging, names, futures, limit_by), report.progress(staging, names, futures):
            wait(futures)
        rows, interrupted = report.rows(staging, names, futures), interruption.why(staging)
        deleted = interrupted == interruption.DELETED  # and so cannot have any more task runs
        try:
            (load.fn if deleted else load)(staging, names)
        finally:
            (cleanup.fn if deleted else cleanup)(staging)
            notes.record(run, rows)
            versions.send_task_runs(True)
    if interrupted:
        return Cancelled(message=f"{interrupted}. The mart keeps the tables of the queries that had not ended.")
    report.raise_for_failures(rows)
    return rows


def arguments() -> argparse.Namespace:
    """Return the command's arguments. Raises CannotRun for one that is wrong."""
    parser = cli.Arguments(description="Run the SQL queries in parallel, under the server's limit.")
    parser.add_argument("--scale", type=cli.number(0.001, 100), default=warehouse.SCALE, help="size in GB (0.1)")
    parser.add_argument("--limit", type=cli.whole_number, help="how many may run at once (default: 3 on a new lab)")
    parser.add_argument("--limit-by", choices=get_args(limits.Kind), default="tag", help="whose limit (default: tag)")
    parser.add_argument("--queries", type=lambda text: warehouse.choose(text.split(",")), help="some, comma-separated")
    parser.add_argument("--runner", choices=("threads", "dask"), help="what runs the tasks (default: threads)")
    parser.add_argument("--address", default="tcp://127.0.0.1:8786", help="of the Dask scheduler (default: here)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def main() -> int:
    """Start what is needed, run the flow and show what happened. Return 1 if it did not complete."""
    chosen = arguments()
    folder = files.folder()  # where the results go, even if neither the server nor the warehouse is the lab's
    job = dask.on_cluster(main_etl, chosen.address, folder) if chosen.runner == "dask" else main_etl
    with mart.kept():  # rather refused now than after the queries
        pass
    server.check_prefect(url := server.use())
    limit = limits.ready(chosen.limit_by, chosen.limit, warn=partial(print, file=sys.stderr))
    warehouse.prepare(chosen.scale)
    cli.quiet_prefect()  # the table says it, and the server has the logs
    called = time.time()
    try:
        with versions.no_heartbeats():  # a worker needs them to notice that a run has died; a user sees it
            state = job(chosen.queries, chosen.scale, chosen.limit_by, return_state=True)
    except ObjectNotFound as error:
        state = interruption.deleted(error)
    except httpx.HTTPError as error:
        raise CannotRun(f"The server at {url} failed in the middle of the run: {error}. Run it again.") from None
    answer = report.summary(state, time.time() - called, limit)
    report.show(answer, sys.stderr if chosen.json else sys.stdout)
    if state.name != "Completed":
        print(f"{state.name}: {state.message}", file=sys.stderr)
    if chosen.json:
        cli.print_json(answer)
    return 0 if state.name == "Completed" else 1


if __name__ == "__main__":
    cli.run(main)
