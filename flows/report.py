"""What a run of the main job reports: progress while it runs, then a row for each query, figures, a table."""

import concurrent.futures
import contextlib
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from flows import mart, notes, versions
from flows.api import server


class QueriesFailed(Exception):
    """Some queries of a run failed. The message names each of them."""


def peak_concurrency(spans: Iterable[tuple[float, float]]) -> int:
    """Return the largest number of the `(start, end)` spans that overlap. One may start as another ends."""
    running = highest = 0
    for _, step in sorted(event for start, end in spans for event in ((start, 1), (end, -1))):
        running += step
        highest = max(highest, running)
    return highest


def ideal_seconds(durations: Sequence[float], limit: int | None) -> float:
    """Return the least time in which any scheduler could run tasks of these `durations` under `limit`.

    All in seconds; a limit of None is no limit. Equal durations run in whole rounds of `limit`.
    """
    longest = max(durations, default=0.0)
    if limit is None or not durations:
        return longest
    if longest - min(durations) <= 1e-9 * longest:
        return math.ceil(len(durations) / limit) * longest
    return max(sum(durations) / limit, longest)


@contextlib.contextmanager
def progress(staging: Path, names: Sequence[str], futures: Sequence[Any]) -> Generator[None]:
    """Show on a terminal how many queries run, wait and are done, until the block ends."""
    console, ends = Console(stderr=True), versions.states(futures)

    def line() -> Table:
        done = sum(end.done() for end in ends)
        running = min(len(notes.unfinished(staging)), len(names) - done)
        grid = Table.grid(padding=(0, 1))
        counts = f"{running} run, {len(names) - done - running} wait, {done} done"
        grid.add_row(counts, ProgressBar(len(names), done, width=40))
        return grid

    with Live(get_renderable=line, console=console) if console.is_terminal else contextlib.nullcontext():
        yield


def rows(staging: Path, names: Sequence[str], futures: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what became of each query: `query rows seconds waited state error started ended`.

    `seconds` and `waited` are durations, `started` and `ended` Unix times; None if the query never began.
    """
    ends, submitted = versions.states(futures), notes.noted(staging, "owner")["opened"]
    return [_row(name, notes.noted(staging, name), end, submitted) for name, end in zip(names, ends, strict=True)]


def _row(name: str, note: dict[str, Any], end: concurrent.futures.Future[Any], submitted: float) -> dict[str, Any]:
    started, ended = note.get("started"), note.get("ended")
    try:
        state = end.result()
        outcome, error = state.name, None if state.is_completed() else state.message
    except BaseException as crash:  # the thread died of it; the other queries' rows count all the same
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


def raise_for_failures(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise QueriesFailed, which names each query of `rows` that did not complete, if there are any."""
    failed = [f"{row['query']} ({row['error']})" for row in rows if row["state"] != "Completed"]
    if failed:
        raise QueriesFailed(f"{len(failed)} of {len(rows)} queries failed: {'; '.join(failed)}")


def summary(state: Any, wall: float, limit: int | None) -> dict[str, Any]:
    """Return the keys of the command's JSON, for a flow run that ended in `state` after `wall` seconds."""
    run = str(state.state_details.flow_run_id)
    rows = notes.recorded(run)
    ran = [row for row in rows if row["seconds"] is not None]
    return {
        "state": state.name,
        "queries": len(rows),
        "completed": sum(row["state"] == "Completed" for row in rows),
        "failed": sum(row["state"] != "Completed" for row in rows),
        "limit": limit,
        "peak_concurrency": peak_concurrency((row["started"], row["ended"]) for row in ran),
        "wall_seconds": round(wall, 3),
        "ideal_seconds": round(ideal_seconds([row["seconds"] for row in ran], limit), 3),
        "flow_run_id": run,
        "api_url": server.attach(),
        "mart": str(mart.path()),
    }


def show(report: Mapping[str, Any], file: TextIO) -> None:
    """Print a line for each query of the run of `report`, the errors, and the figures of `report`."""
    rows = notes.recorded(report["flow_run_id"])
    table = Table("query", "rows", "seconds", "waited", "state")
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in rows:
        times = [f"{row[key]:.2f}" if row[key] is not None else "-" for key in ("seconds", "waited")]
        table.add_row(row["query"], str(row["rows"] if row["rows"] is not None else "-"), *times, row["state"])
    Console(file=file).print(table)
    for row in rows:
        if row["error"]:
            print(f"{row['query']}: {row['error']}", file=file)
    print(
        f"{report['state']}: {report['completed']} of {report['queries']} queries,"
        f" peak concurrency {report['peak_concurrency']} (limit {report['limit'] or 'none'}),"
        f" wall {report['wall_seconds']:.1f} s, ideal {report['ideal_seconds']:.1f} s",
        f"Mart: {report['mart']}",
        f"Run:  {report['flow_run_id']} on {report['api_url']}",
        sep="\n",
        file=file,
    )
