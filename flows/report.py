"""What a run of the main job reports: progress while it runs, then a row for each query, figures, a table."""

import contextlib
import itertools
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from flows import mart, notes, versions
from flows.api import server


class QueriesFailed(Exception):
    """Some queries of a run failed. The message names each of them."""


def peak_concurrency(spans: Iterable[tuple[float, float]]) -> int:
    """Return the largest number of the `(start, end)` spans that overlap. One may start as another ends."""
    events = sorted(event for start, end in spans for event in ((start, 1), (end, -1)))
    return max(itertools.accumulate(step for _, step in events), default=0)


def ideal_seconds(durations: Sequence[float], limit: int | None) -> float:
    """Return the seconds that any scheduler needs at least for tasks of these `durations`, at most `limit` at once."""
    longest = max(durations, default=0.0)
    if limit is None or not durations:
        return longest
    if math.isclose(longest, min(durations)):  # they run in whole rounds of `limit`
        return math.ceil(len(durations) / limit) * longest
    return max(sum(durations) / limit, longest)


@contextlib.contextmanager
def progress(staging: Path, names: Sequence[str], futures: Sequence[Any]) -> Generator[None]:
    """Show on a terminal how many queries run, wait and are done, until the block ends."""
    console, ends = Console(stderr=True, highlight=False), versions.states(futures)

    def line() -> Columns:
        done = sum(end.done() for end in ends)
        running = min(len(notes.unfinished(staging)), len(names) - done)
        counts = f"{running} run, {len(names) - done - running} wait, {done} done"
        return Columns([counts, ProgressBar(len(names), done, width=40)])

    shown = Live(get_renderable=line, console=console) if console.is_terminal else contextlib.nullcontext()
    with contextlib.suppress(OSError), shown:  # of a terminal that was closed
        yield


def rows(staging: Path, names: Sequence[str], futures: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what became of each query: `query rows seconds waited state error started ended`.

    `seconds` and `waited` are durations, `started` and `ended` Unix times; None if the query never began.
    """
    submitted, rows = notes.noted(staging, "owner")["opened"], []
    for name, end in zip(names, versions.states(futures), strict=True):
        note = notes.noted(staging, name)
        started, ended = note.get("started"), note.get("ended")
        try:
            state = end.result()
            outcome, error = state.name, None if state.is_completed() else state.message
        except BaseException as crash:  # also if the task was done, and only its slot could not be given back
            outcome, error = ("Crashed", repr(crash)) if note.get("rows") is None else ("Completed", None)
        row = {"query": name, "rows": note.get("rows"), "state": outcome, "error": error and " ".join(error.split())}
        row |= {"started": started, "waited": started - submitted if started else None}
        rows.append(row | {"ended": ended, "seconds": ended - started if ended else None})
    return rows


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
    formats = {"rows": "d", "seconds": ".2f", "waited": ".2f"}
    table = Table("query", *(Column(name, justify="right") for name in formats), "state")
    for row in rows:
        figures = ["-" if row[name] is None else format(row[name], style) for name, style in formats.items()]
        table.add_row(row["query"], *figures, row["state"])
    Console(file=file).print(table)
    errors = [f"{row['query']}: {row['error']}" for row in rows if row["error"]]
    queries = f"{report['completed']} of {report['queries']} queries"
    peak = f"peak concurrency {report['peak_concurrency']} (limit {report['limit'] or 'none'})"
    times = f"wall {report['wall_seconds']:.1f} s, ideal {report['ideal_seconds']:.1f} s"
    print(*errors, f"{report['state']}: {queries}, {peak}, {times}", f"Mart: {report['mart']}", sep="\n", file=file)
    print(f"Run:  {report['flow_run_id']} on {report['api_url']}", file=file)
