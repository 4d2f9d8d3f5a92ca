"""Measure what a limit costs: the same tasks under each way to limit them, against the least time possible.

    python scripts/bench.py [--tasks 20] [--seconds 1.0] [--limit 3] [--json]

The tasks sleep, so that what is measured is the waiting and not the work.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.table import Table

from flows import cli, limits, report, versions
from flows.api import endpoints, rest, server

with cli.importing(__name__):  # after `flows`, which keeps it from sending usage data
    from prefect import flow, task, task_runners

NAME = "flows-bench"  # the tag and the global limit are the benchmark's own, and are removed afterwards
Span = tuple[float, float]


def nap(seconds: float) -> Span:
    """Sleep, and return when it began and when it ended."""
    started = time.time()
    time.sleep(seconds)
    return started, time.time()


tagged = task(tags=[NAME])(nap)
plain = task(nap)


@task
def inside_global_limit(seconds: float) -> Span:
    """Sleep inside a slot of the global limit."""
    with versions.slot(NAME):
        return nap(seconds)


def thread_pool(tasks: int, seconds: float, limit: int) -> list[Span]:
    """Use no Prefect at all: the ceiling, within one process."""
    with ThreadPoolExecutor(limit) as pool:
        return list(pool.map(nap, [seconds] * tasks))


def tag_limit(tasks: int, seconds: float, limit: int) -> list[Span]:
    """Use the server's limit on a tag."""

    @flow(name="bench tag limit")
    def run() -> list[Span]:
        return [future.result() for future in [tagged.submit(seconds) for _ in range(tasks)]]

    return run()


def global_limit(tasks: int, seconds: float, limit: int) -> list[Span]:
    """Use the server's global limit, asked for inside the task."""

    @flow(name="bench global limit")
    def run() -> list[Span]:
        versions.ready_slots(NAME)
        return [future.result() for future in [inside_global_limit.submit(seconds) for _ in range(tasks)]]

    return run()


def task_runner_cap(tasks: int, seconds: float, limit: int) -> list[Span]:
    """Use a cap of the flow's own thread pool, which no other process shares. Prefect 2 has none."""
    runner: Any = task_runners.ThreadPoolTaskRunner(max_workers=limit)

    @flow(name="bench task runner", task_runner=runner)
    def run() -> list[Span]:
        return [future.result() for future in [plain.submit(seconds) for _ in range(tasks)]]

    return run()


ENGINES: dict[str, Callable[[int, float, int], list[Span]]] = {
    "thread pool": thread_pool,
    "task runner cap": task_runner_cap,
    "tag limit": tag_limit,
    "global limit": global_limit,
}


def measure(tasks: int, seconds: float, limit: int) -> dict:
    """Return the keys of the command's JSON, with a row for each of ENGINES that this version of Prefect has."""
    ideal = report.ideal_seconds([seconds] * tasks, limit)
    engines = dict(ENGINES)
    _remove_limits()  # a benchmark that was interrupted may have left them
    limits.ensure(NAME, limit)
    limits.ensure(NAME, limit, "global")
    if not versions.is_3(versions.here()):
        engines.pop("task runner cap")
    try:
        rows = []
        for engine, run in engines.items():
            called = time.time()
            spans = run(tasks, seconds, limit)
            wall = time.time() - called
            row = {"engine": engine, "wall_seconds": round(wall, 3), "ratio": round(wall / ideal, 3)}
            rows.append(row | {"peak": report.peak_concurrency(spans)})
    finally:
        _remove_limits()
    return {"tasks": tasks, "seconds": seconds, "limit": limit, "ideal_seconds": ideal, "rows": rows}


def _remove_limits() -> None:
    rest.send(endpoints.delete("concurrency_limits/tag", NAME))
    rest.send(endpoints.delete("v2/concurrency_limits", NAME))


def main() -> int:
    """Measure every engine on the server in use, one after the other. Return 1 if one let more run than allowed."""
    parser = cli.Arguments(description="Measure what a limit costs.")
    parser.add_argument("--tasks", type=cli.whole_number, default=20, help="how many tasks (default 20)")
    parser.add_argument("--seconds", type=cli.number(0.001, 3600), default=1.0, help="each one sleeps (default 1.0)")
    parser.add_argument("--limit", type=cli.whole_number, default=3, help="how many at once (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    server.check_prefect(server.use())
    cli.quiet_prefect()
    figures = measure(arguments.tasks, arguments.seconds, arguments.limit)
    if arguments.json:
        cli.print_json(figures)
    else:
        table = Table("engine", "wall s", "ratio", "peak", title=f"ideal: {figures['ideal_seconds']:.2f} s")
        for row in figures["rows"]:
            table.add_row(row["engine"], f"{row['wall_seconds']:.2f}", f"{row['ratio']:.2f}", str(row["peak"]))
        Console().print(table)
    return 0 if all(row["peak"] <= arguments.limit for row in figures["rows"]) else 1


if __name__ == "__main__":
    cli.run(main)
