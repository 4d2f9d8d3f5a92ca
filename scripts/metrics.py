"""Print the slots and waits of all limits as metrics for Prometheus, write them to a file, or serve them.

python scripts/metrics.py [--file PATH | --port PORT]
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flows import cli
from flows.api import endpoints, rest
from flows.api.slots import MARK
from flows.monitor import pages
from flows.settings import CannotRun

HELP = {
    "flows_slots": "Slots of the limit: so many may be taken at once.",
    "flows_slots_taken": "Slots that the server counts as taken, which is what makes task runs wait.",
    "flows_slots_held": "Slots of a tag's limit that task runs hold, by the server's leases.",
    "flows_task_runs_waiting": "Task runs with the tag that are submitted and have not started.",
    "flows_task_runs_longest_wait_seconds": "How long the one that was submitted first has waited.",
    "flows_task_runs_retrying": "Task runs with the tag that were refused or failed, and wait or run again.",
}
AGAIN = ("AwaitingRetry", "Retrying")


class Limits(Collector):
    """The limits of the server, read again each time that they are collected; `problem` is why they could not be."""

    problem: CannotRun | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield flows_server_up and, if the server answers, a family for each of HELP with a sample for each limit."""
        self.problem, samples = None, []
        try:
            samples = _samples()
        except CannotRun as error:
            self.problem = error
        yield GaugeMetricFamily("flows_server_up", "Whether the server answered.", value=int(self.problem is None))
        families = {name: GaugeMetricFamily(name, about, labels=("limit", "kind")) for name, about in HELP.items()}
        for name, limit, kind, value in samples:
            families[name].add_metric((limit, kind), value)
        if samples:
            yield from families.values()


def _samples() -> list[tuple[str, str, str, float]]:
    """Return for each limit the metrics that it has: name, limit, kind of limit, value."""
    samples: list[tuple[str, str, str, float]] = []
    rows = pages.limits(named=False)
    for row in rows.to_dict("records"):
        name = row["tag"].removeprefix(MARK)
        kind = "tag" if name == row["tag"] else "deployment" if name.startswith("deployment:") else "global"
        name = name.removeprefix("deployment:") if kind == "deployment" else name
        samples += [("flows_slots", name, kind, row["limit"]), ("flows_slots_taken", name, kind, row["taken"])]
        if kind == "tag":
            samples.append(("flows_slots_held", name, kind, row["held"]))
    tags = [tag for tag in rows["tag"] if not tag.startswith(MARK)]
    reads = [read for tag in tags for read in _reads(tag)]
    answers = iter(rest.gather(reads))
    for tag, first, waiting, retrying in zip(tags, answers, answers, answers, strict=False):
        samples.append(("flows_task_runs_waiting", tag, "tag", waiting))
        samples.append(("flows_task_runs_longest_wait_seconds", tag, "tag", _waited(first)))
        samples.append(("flows_task_runs_retrying", tag, "tag", retrying))
    return samples


def _reads(tag: str) -> list[rest.Request]:
    waiting, retrying = (endpoints.task_runs(state=state, tag=tag) for state in (["PENDING"], AGAIN))
    first = waiting._replace(body={**(waiting.body or {}), "limit": 1})
    return [first, endpoints.count(waiting), endpoints.count(retrying)]


def _waited(first: list[dict[str, Any]]) -> float:
    now = pd.Timestamp.now("UTC")
    return max(
        ((now - pd.to_datetime(run["expected_start_time"], utc=True)).total_seconds() for run in first), default=0
    )


def main() -> int:
    """Print, write or serve the metrics."""
    parser = cli.Arguments(description="Print the slots and waits of all limits as metrics for Prometheus.")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--file", type=Path, help="replace this file, such as /var/lib/node_exporter/flows.prom")
    ways.add_argument("--port", type=cli.whole_number, help="serve them on 127.0.0.1 at this port, until Ctrl-C")
    arguments = parser.parse_args()
    registry, limits = CollectorRegistry(), Limits()
    registry.register(limits)
    if arguments.port:
        try:
            _, thread = start_http_server(arguments.port, "127.0.0.1", registry)
        except (OSError, OverflowError) as error:
            raise CannotRun(
                f"Nothing can listen on 127.0.0.1:{arguments.port}: {error}. Choose another port."
            ) from None
        print(f"Serving http://127.0.0.1:{arguments.port}/metrics", file=sys.stderr, flush=True)
        thread.join()
    elif arguments.file:
        try:
            write_to_textfile(str(arguments.file), registry)
        except OSError as error:
            raise CannotRun(f"{arguments.file} cannot be written: {error}. Name a file in a folder of yours.") from None
    else:
        print(generate_latest(registry).decode(), end="")
    if limits.problem:
        raise limits.problem
    return 0


if __name__ == "__main__":
    cli.run(main)
