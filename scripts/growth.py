"""Measure how the cost of a tag's limit grows: with the tasks, with the limit, and with the processes that share it.

    python scripts/growth.py [--json]

It takes a quarter of an hour. docs/performance.md explains the columns.
"""

import logging
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from logging.handlers import BufferingHandler
from multiprocessing import get_context
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from flows import cli, lab, report, versions
from flows.api import server

with cli.importing(__name__):  # after `flows`, which keeps it from sending usage data
    from engines import Span, run_tagged, tag_limit

# Tasks in all, seconds of each, the limit, and the processes that share it.
CASES = [(tasks, 0.05, 10, 1) for tasks in (10, 100, 1000, 5000)]
CASES += [(100, 0.2, limit, 1) for limit in (1, 3, 10, 50)]
CASES += [(96, 0.2, 3, processes) for processes in (1, 2, 4, 8)]


def run_in_process(tasks: int, seconds: float, begin: float) -> tuple[list[float], list[Span], Counter[str], float]:
    """Run the flow at the time `begin`; return waits, spans, requests, and this process's memory in MB."""
    cli.quiet_prefect()
    with versions.no_heartbeats():
        run_tagged(1, 0.01)
        requests = BufferingHandler(1_000_000)
        logging.getLogger("httpx").setLevel(logging.INFO)  # httpx logs each request, and the status of its answer
        logging.getLogger("httpx").addHandler(requests)
        time.sleep(max(0, begin - time.time()))
        called = time.time()
        spans = run_tagged(tasks, seconds)
    waits = [start - called for start, _ in spans]
    answers = Counter("423" if " 423 " in record.getMessage() else "others" for record in requests.buffer)
    return waits, spans, answers, psutil.Process().memory_info().rss / 1e6


def measure(tasks: int, seconds: float, limit: int, processes: int) -> dict[str, Any]:
    """Return a row of figures for so many tasks of so many seconds, spread over processes that share a limit."""
    prefect = psutil.Process(lab.status().pids["prefect"])
    with tag_limit(limit), ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        begin = time.time() + 8 + 2 * processes  # when all of them have imported Prefect
        running = [pool.submit(run_in_process, tasks // processes, seconds, begin) for _ in range(processes)]
        time.sleep(max(0, begin - time.time()))
        before = sum(prefect.cpu_times()[:2])
        results = [future.result() for future in running]
        used = sum(prefect.cpu_times()[:2]) - before
    spans = [span for _, own, *_ in results for span in own]
    starts, ends = zip(*spans, strict=True)
    answers = sum((counted for *_, counted, _ in results), Counter[str]())
    means = [statistics.mean(waits) for waits, *_ in results]
    span = max(ends) - min(starts)
    return {
        "tasks": tasks,
        "seconds": seconds,
        "limit": limit,
        "processes": processes,
        "span_seconds": round(span, 2),
        "span_ratio": round(span / report.ideal_seconds([seconds] * tasks, limit), 2),
        "peak": report.peak_concurrency(spans),
        "requests_per_task": round(answers.total() / tasks, 1),
        "refused_per_task": round(answers["423"] / tasks, 1),
        "server_cpu_ms_per_task": round(1000 * used / tasks),
        "client_mb": round(max(memory for *_, memory in results)),
        "server_mb": round(prefect.memory_info().rss / 1e6),
        "mean_wait_ratio": round(max(means) / min(means), 2),
        "longest_wait": round(max(max(waits) for waits, *_ in results), 2),
    }


def main() -> int:
    """Measure CASES on the lab, one after the other. Return 1 if the limit did not hold in one of them."""
    parser = cli.Arguments(description="Measure how the cost of a limit grows.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not server.is_lab(server.use()):
        parser.error("this needs the lab, because it measures the server's process: unset PREFECT_API_URL")
    cli.quiet_prefect()
    rows = [measure(*case) for case in CASES]
    if arguments.json:
        cli.print_json({"rows": rows})
    else:
        shown = Table(*rows[0])
        for row in rows:
            shown.add_row(*map(str, row.values()))
        Console(width=200).print(shown)
    return 0 if all(row["peak"] <= row["limit"] for row in rows) else 1


if __name__ == "__main__":
    cli.run(main)
