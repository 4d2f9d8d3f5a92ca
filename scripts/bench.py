"""Measure what a limit costs: the same tasks under each way to limit them, against the least time possible.

    python scripts/bench.py [--tasks 20] [--seconds 1.0] [--limit 3] [--engines a,b,…] [--repeat 1] [--json] [--svg F]
    uv run --with distributed python scripts/bench.py        # with Dask as well

The tasks sleep, so that what is measured is the waiting and not the work. Each engine runs a few tasks before it is
measured. "wall" is the whole call, with the flow's own start and end; "span" lasts from the first task's start to the
last one's end. docs/performance.md explains the figures.
"""

import json
import os
import subprocess
import tempfile
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.table import Table

from flows import cli, report, settings, versions
from flows.api import server

with cli.importing(__name__):  # after `flows`, which keeps it from sending usage data
    from engines import ENGINES

OTHER = settings.PROJECT / ".venv-prefect2" / "bin" / "python"
BOTH = ["tag limit", "global limit"]  # what is measured in the environment OTHER


def here() -> list[str]:
    """Return the names of the engines that this environment has."""
    if not versions.is_3(versions.here()):
        return ["thread pool", *BOTH]
    return [name for name in ENGINES if name != "Dask semaphore" or find_spec("distributed")]


def measure(engine: str, tasks: int, seconds: float, limit: int, repeat: int) -> dict[str, Any]:
    """Return the row of `engine`: of `repeat` runs, the one whose wall time is the median, and the highest peak."""
    ideal, runs = report.ideal_seconds([seconds] * tasks, limit), []
    with ENGINES[engine](limit) as run:
        run(limit, 0.01)
        for _ in range(repeat):
            called = time.time()
            spans = run(tasks, seconds)
            starts, ends = zip(*spans, strict=True)
            runs.append((time.time() - called, max(ends) - min(starts), report.peak_concurrency(spans)))
    wall, span, _ = sorted(runs)[len(runs) // 2]
    row = {"engine": engine, "wall_seconds": round(wall, 3), "span_seconds": round(span, 3)}
    row |= {"ratio": round(wall / ideal, 3), "span_ratio": round(span / ideal, 3)}
    return row | {"peak": max(peak for *_, peak in runs)}


def measure_other(chosen: Namespace) -> list[dict[str, Any]]:
    """Return the rows of Prefect 2.13.7, on a lab of its own."""
    size = [f"--{name}={getattr(chosen, name)}" for name in ("tasks", "seconds", "limit", "repeat")]
    with tempfile.TemporaryDirectory() as folder:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWS_"))}
        own["FLOWS_LAB_DIR"] = f"{folder}/lab"
        command = [OTHER, Path(__file__), "--json", "--engines", ",".join(BOTH), *size]
        try:
            done = subprocess.run(command, env=own, stdout=subprocess.PIPE, text=True)
        finally:
            subprocess.run([OTHER, settings.PROJECT / "scripts/lab.py", "reset"], env=own, capture_output=True)
    rows = json.loads(done.stdout)["rows"]
    return [row | {"engine": f"{row['engine']}, Prefect 2.13.7"} for row in rows]


def table(figures: dict[str, Any]) -> Table:
    """Return the rows of `figures` as a table. An engine that let more run than allowed has no ratio."""
    title = f"{figures['tasks']} tasks of {figures['seconds']:g} s, limit {figures['limit']}"
    shown = Table("engine", "wall s", "span s", "wall / ideal", "span / ideal", "peak", title=title)
    shown.caption = f"ideal: {figures['ideal_seconds']:.2f} s"
    for row in figures["rows"]:
        times = [f"{row[name]:.2f}" for name in ("wall_seconds", "span_seconds", "ratio", "span_ratio")]
        held = row["peak"] <= figures["limit"]
        shown.add_row(row["engine"], *times[:2], *(times[2:] if held else ["broke the limit", ""]), str(row["peak"]))
    return shown


def picture(figures: dict[str, Any]) -> alt.LayerChart:
    """Return the wall and span of each engine over the ideal, as bars."""
    rows = [row for row in figures["rows"] if row["peak"] <= figures["limit"]]
    described = ", ".join(f"{row['engine']} {row['ratio']:.2f}" for row in rows)
    base = alt.Chart(
        alt.Data(values=rows), width=560, height=alt.Step(26), description=f"Wall time over ideal time: {described}."
    ).encode(y=alt.Y("engine:N", sort=None, title=None, axis=alt.Axis(labelLimit=300)))
    scale = alt.Scale(domainMin=1, type="log", nice=False)
    ratio = alt.X("ratio:Q", scale=scale, title="time over the least time possible (logarithmic)")
    bars = base.mark_bar(opacity=0.5, color="#4c78a8").encode(x=ratio, x2=alt.datum(1))
    spans = base.mark_tick(color="#1f3b5c", thickness=3, height=18).encode(x="span_ratio:Q")
    texts = base.mark_text(align="left", dx=5).encode(x="ratio:Q", text=alt.Text("ratio:Q", format=".2f"))
    return bars + spans + texts


def arguments() -> Namespace:
    """Return the command's arguments. Raises CannotRun for one that is wrong."""
    parser = cli.Arguments(description="Measure what a limit costs.")
    parser.add_argument("--tasks", type=cli.whole_number, default=20, help="how many tasks (default 20)")
    parser.add_argument("--seconds", type=cli.number(0.001, 3600), default=1.0, help="each one sleeps (default 1.0)")
    parser.add_argument("--limit", type=cli.whole_number, default=3, help="how many at once (default 3)")
    parser.add_argument("--engines", type=lambda text: text.split(","), help=f"of {','.join(ENGINES)} (all)")
    parser.add_argument("--repeat", type=cli.whole_number, default=1, help="show the median of so many runs (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--svg", type=Path, help="draw a picture into this file")
    chosen = parser.parse_args()
    if unknown := set(chosen.engines or ()) - set(here()):
        parser.error(f"{min(unknown)!r} is not an engine of this environment, which has {', '.join(here())}")
    return chosen


def main() -> int:
    """Measure every engine, one after the other. Return 1 if one let more run than allowed."""
    chosen = arguments()
    server.check_prefect(server.use())
    cli.quiet_prefect()
    size = (chosen.tasks, chosen.seconds, chosen.limit, chosen.repeat)
    rows, others = [], []
    with versions.no_heartbeats(), ThreadPoolExecutor() as beside:
        for engine in chosen.engines or here():
            if engine == "Prefect's defaults" and chosen.engines is None and OTHER.exists():
                others = [beside.submit(measure_other, chosen)]  # beside this one, since both do little but wait
            rows.append(measure(engine, *size))
        for other in others:
            rows += other.result()
    ideal = report.ideal_seconds([chosen.seconds] * chosen.tasks, chosen.limit)
    figures = {name: getattr(chosen, name) for name in ("tasks", "seconds", "limit", "repeat")}
    figures |= {"ideal_seconds": ideal, "rows": rows}
    if chosen.json:
        cli.print_json(figures)
    else:
        Console().print(table(figures))
    if chosen.svg:
        picture(figures).save(chosen.svg)
    return 0 if all(row["peak"] <= chosen.limit for row in rows) else 1


if __name__ == "__main__":
    cli.run(main)
