"""Draw a run of the main job as docs/run.svg: its timeline and its concurrency against the limit.

    python scripts/draw_run.py [--run ID] [--tag TAG] [--out FILE]

Without --run, the script draws the newest completed run of `main_etl` on the server in use.
"""

import argparse
from pathlib import Path

import vl_convert

from flows import cli, limits, settings
from flows.monitor import charts, frames, pages
from flows.settings import CannotRun


def main() -> int:
    """Draw the picture, and print the sentence that describes it."""
    parser = cli.Arguments(description="Draw a run's timeline and its concurrency as SVG.")
    parser.add_argument("--run", help="the flow run's id (default: the newest completed one)")
    parser.add_argument("--tag", default=limits.TAG, help=f"draw only task runs with this tag (default {limits.TAG})")
    parser.add_argument("--out", type=Path, default=settings.PROJECT / "docs" / "run.svg", help="the file to write")
    arguments: argparse.Namespace = parser.parse_args()
    page = pages.run(arguments.run or _newest())
    limit = limits.read(arguments.tag)
    task_runs = frames.tagged(page.task_runs, arguments.tag)
    steps = frames.concurrency(task_runs, page.until)
    chart = charts.run(task_runs, steps, limit.limit if limit else None)
    arguments.out.write_text(vl_convert.vegalite_to_svg(chart.to_json()))
    print(f"{arguments.out}: {chart.description}")
    return 0


def _newest() -> str:
    runs = pages.overview(flow="main_etl", state=["COMPLETED"], since=None).flow_runs
    if runs.empty:
        raise CannotRun("The server has no completed run of main_etl. Run python flows/prefect_flow.py first.")
    return runs["flow_run_id"].iloc[0]


if __name__ == "__main__":
    cli.run(main)
