"""What is said of a run once it has ended: the keys of the command's JSON, and the table for people."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from flows import mart, measures
from flows.api import server


def summary(state: Any, rows: Sequence[dict[str, Any]], wall: float, limit: int | None) -> dict[str, Any]:
    """The keys of the command's JSON, for a flow run that ended in `state` after `wall` seconds under `limit`."""
    ran = [row for row in rows if row["seconds"] is not None]
    return {
        "state": state.name,
        "queries": len(rows),
        "completed": sum(row["state"] == "Completed" for row in rows),
        "failed": sum(row["state"] != "Completed" for row in rows),
        "limit": limit,
        "peak_concurrency": measures.peak((row["started"], row["ended"]) for row in ran),
        "wall_seconds": round(wall, 3),
        "ideal_seconds": round(measures.ideal([row["seconds"] for row in ran], limit), 3),
        "flow_run_id": str(state.state_details.flow_run_id),
        "api_url": server.attach(),
        "mart": str(mart.path()),
    }


def show(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Print a line for each of `rows`, the errors, and the figures of `report`."""
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
