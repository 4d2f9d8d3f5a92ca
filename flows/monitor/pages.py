"""What a page of the monitor shows, loaded from the server with few requests that are sent together.

`overview`, `run` and `limits` load a page; the app's module `refresh` brings one up to date.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd

from flows.api import endpoints, rest, server
from flows.monitor import frames
from flows.settings import CannotRun

ACTIVE = ("RUNNING", "PENDING", "SCHEDULED", "PAUSED")
MOST_TASK_RUNS = 5000  # that the page of a run shows


class Gone(CannotRun):
    """The server answers, but has no such flow run."""


@dataclass(frozen=True)
class Overview:
    """The first page of the monitor.

    `flows` maps ids to names; `filters` and `since` are those of `overview`, and `states` begin at `start`.
    `task_runs` are the 200 oldest active ones; those of them that run are the holders in `limits`.
    """

    version: str | None
    flows: Mapping[str, str]
    filters: Mapping[str, Any]
    since: timedelta | None
    start: pd.Timestamp
    read_at: pd.Timestamp
    flow_runs: pd.DataFrame
    states: pd.DataFrame
    task_runs: pd.DataFrame
    limits: pd.DataFrame

    @property
    def complete(self) -> bool:
        """Whether `task_runs` are all the active ones: if there are 200, there may be more."""
        return len(self.task_runs) < rest.page()


@dataclass(frozen=True)
class Run:
    """The page of one flow run: its row of FLOW_RUNS, its task runs, and its first log lines.

    Its unended task runs count as running `until` it ended or was read. In `limits` only its own are holders.
    """

    version: str | None
    read_at: pd.Timestamp
    until: pd.Timestamp
    flow_run: pd.Series
    task_runs: pd.DataFrame
    logs: pd.DataFrame
    limits: pd.DataFrame


def overview(
    *,
    flow: str | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    since: timedelta | None = timedelta(days=1),
    text: str | None = None,
) -> Overview:
    """Load the first page in 6 requests: flow runs, their states over time, active task runs, and limits.

    `since` is how far back it goes; None goes back to the first run, which takes one more request if the server has
    200 flows or more. The other filters are those of `endpoints.flow_runs`.
    """
    filters: dict[str, Any] = {"flow": flow, "state": tuple(state), "tag": tag, "text": text}
    now = pd.Timestamp.now("UTC")
    start = None if since is None else now - since
    reads = [endpoints.flow_runs(**filters, since=start), endpoints.task_runs(state=ACTIVE)]
    version, flows, runs, tasks = rest.gather([endpoints.version(), endpoints.flows(), *reads])
    if start is None:
        start = _first_due(runs, flows, now)
    limits, history = rest.gather([endpoints.taken_slots(version), endpoints.history(**filters, start=start)])
    names = {flow["id"]: flow["name"] for flow in flows}
    flow_runs, task_runs = frames.flow_runs(runs, names, now), frames.task_runs(tasks, now)
    states, limits = frames.states(history), frames.held_by(task_runs, limits)
    return Overview(version, names, filters, since, start, now, flow_runs, states, task_runs, limits)


def run(flow_run_id: str) -> Run:
    """Load a flow run's page in 6 requests, and one more for each further 200 task runs. Raises Gone if it is gone."""
    version = rest.send(endpoints.version())
    now = pd.Timestamp.now("UTC")
    first = endpoints.task_runs(flow_run=flow_run_id, sort="ID_DESC")
    reads = [endpoints.flow_run(flow_run_id), endpoints.flows(flow_run=flow_run_id), first]
    reads += [endpoints.logs(flow_run=flow_run_id), endpoints.taken_slots(version)]
    answer, flows, tasks, lines, limits = rest.gather(reads)
    if len(tasks) == rest.page():
        tasks += rest.rows(first, MOST_TASK_RUNS, start=rest.page())
    flow_run, until = flow_run_row(flow_run_id, answer, {flow["id"]: flow["name"] for flow in flows}, now)
    task_runs = frames.task_runs(tasks, until)
    limits = frames.held_by(task_runs, limits)
    return Run(version, now, until, flow_run, task_runs, frames.logs(lines), limits)


def flow_run_row(
    flow_run_id: str, answer: Mapping[str, Any] | None, flows: Mapping[str, str], now: pd.Timestamp
) -> tuple[pd.Series, pd.Timestamp]:
    """Return the row of FLOW_RUNS, and until when its unended task runs count as running. Raises Gone if it is gone."""
    if answer is None:
        raise Gone(f"{server.attach()} has no flow run {flow_run_id}. It was deleted, or it is on another server.")
    flow_run = frames.flow_runs([answer], flows, now).iloc[0]
    return flow_run, now if pd.isna(flow_run["ended"]) else flow_run["ended"]


def limits(*, named: bool = True) -> pd.DataFrame:
    """Load LIMITS with the holders that the leases name, those of tags; only their ids, unless they are `named`."""
    leases, counters = rest.rows(endpoints.limits()), rest.rows(endpoints.counters())
    counted = {counter["name"] for counter in counters}
    counters += [limit for limit in leases if f"tag:{limit['tag']}" not in counted]  # in Prefect 2, no tag is counted
    ids = [task_run_id for limit in leases for task_run_id in limit["active_slots"] if named]
    task_runs = frames.task_runs(rest.rows(endpoints.task_runs(ids=ids)) if ids else [], pd.Timestamp.now("UTC"))
    return frames.held_by(task_runs, counters, leases)


def _first_due(runs: frames.Rows, flows: frames.Rows, now: pd.Timestamp) -> pd.Timestamp:
    """Return a time at or shortly before the first flow run was due; an hour ago if there is none."""
    times = [run["expected_start_time"] for run in runs]
    if len(runs) == rest.page():  # there may be older ones, but none older than the first of all flows
        if len(flows) == rest.page():  # a flow that is not among them may be older
            first = rest.send(endpoints.flow_runs(sort="EXPECTED_START_TIME_ASC", limit=1))
            times += [run["expected_start_time"] for run in first]
        times += [flow["created"] for flow in flows]
    return min((pd.to_datetime(time, utc=True) for time in times), default=now - timedelta(hours=1))
