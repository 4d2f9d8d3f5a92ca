"""Measure the same tasks in one process, in several, on a Dask cluster, and on two API servers.

    uv run --group dask --group redis python scripts/scaling.py [--json]

docs/scaling.md shows and explains the figures.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import psycopg
import servers
from rich.console import Console
from rich.table import Table

from flows import cli, files, lab, report
from flows.api import dask, server

with cli.importing(__name__):  # after `flows`, which keeps it from sending usage data
    from engines import Span, own_limit, run_tagged
    from growth import run_in_process

TASKS, SECONDS, LIMITS = 96, 0.2, (3, 10)
TABLES = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "events", "event_resources")


def in_processes(count: int) -> list[Span]:
    """Run the tasks in so many processes, as so many workers do."""
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        begin = time.time() + 8 + 2 * count  # when all of them have imported Prefect
        running = [pool.submit(run_in_process, TASKS // count, SECONDS, begin) for _ in range(count)]
        return [span for each in running for span in each.result()[1]]


@contextlib.contextmanager
def dask_cluster() -> Generator[str]:
    """Yield the address of a Dask cluster with two worker processes."""
    # The workers find the tasks there.
    os.environ |= {"PYTHONPATH": str(Path(__file__).parent), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    distributed: Any = import_module("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=8, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def busy(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the seconds of processor time that each of the `processes` has taken, with its children."""
    seconds = dict.fromkeys(processes, 0.0)
    for name, pid in processes.items():
        parent = psutil.Process(pid)
        seconds[name] = sum(parent.cpu_times()[:4]) + sum(sum(each.cpu_times()[:2]) for each in parent.children(True))
    return seconds


def stored() -> tuple[int, int]:
    """Return how many rows the lab's server has stored about runs, and how many bytes its database has."""
    with psycopg.connect(lab.database("prefect3")) as connection:
        counts = " + ".join(f"(select count(*) from {table})" for table in TABLES)
        return connection.execute(f"select {counts}, pg_database_size('prefect3')".encode()).fetchone() or (0, 0)


def main() -> int:
    """Measure each set-up with each of LIMITS. Return 1 if a limit did not hold."""
    parser = cli.Arguments(description="Measure the same tasks in several set-ups.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen, rows = parser.parse_args(), list[dict[str, Any]]()
    if not server.is_lab(server.use()):
        parser.error("this needs the lab, because it measures the server's process: unset PREFECT_API_URL")
    cli.quiet_prefect()

    def measure(name: str, run: Any, processes: Mapping[str, int]) -> None:
        for limit in LIMITS:
            with own_limit(limit, "tag"):
                before = busy(processes)
                spans: list[Span] = run()
                used = {name: seconds - before[name] for name, seconds in busy(processes).items()}
            starts, ends = zip(*spans, strict=True)
            span, peak = max(ends) - min(starts), report.peak_concurrency(spans)
            shares = {name: round(seconds / span, 2) for name, seconds in used.items()}
            ratio = span / report.ideal_seconds([SECONDS] * TASKS, limit)
            row = {"set_up": name, "limit": limit, "span_seconds": round(span, 1), "span_ratio": round(ratio, 2)}
            rows.append(row | {"tasks_per_second": round(TASKS / span, 1), "peak": peak, "busy": shares})

    of_lab = {"server": lab.status().pids["prefect"], "database": lab.status().pids["postgres"]}
    before = stored()
    measure("one process", lambda: in_processes(1), of_lab)
    measure("four processes", lambda: in_processes(4), of_lab)
    with dask_cluster() as address:
        on_dask = dask.on_cluster(run_tagged, address, files.folder())
        with own_limit(LIMITS[0], "tag"):  # without one, the workers would remember for 5 seconds that there is none
            on_dask(4, 0.01)  # they import Prefect
        measure("Dask, two workers", lambda: on_dask(TASKS, SECONDS), of_lab)
    tasks = TASKS * len(rows)
    growth = [round((now - then) / tasks) for now, then in zip(stored(), before, strict=True)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, servers.running(Path(folder)) as two:
        os.environ |= two.client
        names = {"first": "first server", "second": "second server", "background": "services", "redis": "Redis"}
        parts = {names[name]: two.processes[name].pid for name in names} | {"database": of_lab["database"]}
        measure("four processes, two servers", lambda: in_processes(4), parts)
    if chosen.json:
        cli.print_json({"tasks": TASKS, "seconds": SECONDS, "rows_and_bytes_per_task": growth, "rows": rows})
    else:
        shown = Table(*rows[0])
        for row in rows:
            shown.add_row(*map(str, row.values()))
        Console().print(shown, f"The database has grown by {growth[0]} rows and {growth[1]} bytes for each task.")
    return 0 if all(row["peak"] <= row["limit"] for row in rows) else 1


if __name__ == "__main__":
    cli.run(main)
