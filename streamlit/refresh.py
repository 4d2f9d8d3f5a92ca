"""Bring a page of the monitor up to date, in at most 4 requests however much has changed."""

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

import pandas as pd
import workers

from flows import versions
from flows.api import endpoints, rest
from flows.api.rest import Request
from flows.monitor import frames, pages
from flows.monitor.pages import Overview

_DELAY = timedelta(seconds=15)  # after which the server certainly knows what a task run did
_STEP = 3 / 4  # of a slice; the rest is read twice, because a task run between two attempts may leave the list


class Unread(NamedTuple):
    """The task runs that a page has yet to read: those changed after `since`, except the first `skip` of them.

    Once they are read, those that changed after `then` are next.
    """

    since: pd.Timestamp
    skip: int
    then: pd.Timestamp


@dataclass(frozen=True)
class Run(pages.Run):
    """The page of one flow run; `poll` says whether a worker polls the work pool that it waits for."""

    poll: str | None
    unread: Unread


def first(flow_run_id: str) -> Run:
    """Load the page of a flow run as `pages.run` does; one that waits for a worker takes one more request."""
    page, poll = pages.run(flow_run_id), None
    if workers.awaited(page.flow_run):
        pool = page.flow_run["work_pool"]
        poll = workers.polling(pool, rest.send(workers.request(pool)), page.read_at)
    return Run(**vars(page), poll=poll, unread=Unread(page.read_at, 0, page.read_at))


def overview(page: Overview) -> Overview:
    """Return the first page as it is now."""
    now = pd.Timestamp.now("UTC")
    start = page.start if page.since is None else now - page.since
    unnamed = list(page.flow_runs.loc[page.flow_runs["flow"].isna(), "flow_id"].unique())
    # A new flow gets its name first, and the counts follow with the next refresh: together they would be 5 requests.
    extra = endpoints.flows(ids=unnamed) if unnamed else endpoints.history(**page.filters, start=start)
    reads = [endpoints.flow_runs(**page.filters, since=start), endpoints.task_runs(state=pages.ACTIVE)]
    runs, tasks, limits, rows = rest.gather([*reads, endpoints.taken_slots(page.version), extra])
    if unnamed:
        names = dict.fromkeys(unnamed, "(deleted)") | {flow["id"]: flow["name"] for flow in rows}
        page = replace(page, flows={**page.flows, **names})
    else:
        page = replace(page, states=frames.states(rows))
    task_runs = frames.task_runs(tasks, now)
    return replace(
        page,
        start=start,
        read_at=now,
        flow_runs=frames.flow_runs(runs, page.flows, now),
        task_runs=task_runs,
        limits=frames.held_by(task_runs, limits),
    )


def run(page: Run) -> Run:
    """Return the page of a flow run as it is now, with up to 200 changed task runs and 200 more log lines.

    What does not fit comes with the next refreshes.
    """
    flow_run_id, now = page.flow_run["flow_run_id"], pd.Timestamp.now("UTC")
    # A run that waits for a worker has no task runs yet.
    waits = workers.awaited(page.flow_run)
    changes = workers.request(page.flow_run["work_pool"]) if waits else _changed(page)
    lines = endpoints.logs(flow_run=flow_run_id, since=None if page.logs.empty else page.logs["time"].iloc[-1])
    reads = [endpoints.flow_run(flow_run_id), changes, lines, endpoints.taken_slots(page.version)]
    answer, rows, lines, limits = rest.gather(reads)
    names = {page.flow_run["flow_id"]: page.flow_run["flow"]}
    flow_run, until = pages.flow_run_row(flow_run_id, answer, names, now)
    task_runs = frames.timed(_merged(page.task_runs, frames.task_runs([] if waits else rows, now)), until)
    new_lines = frames.logs(lines)
    new_lines = new_lines[~new_lines["log_id"].isin(page.logs["log_id"])]
    return replace(
        page,
        read_at=now,
        until=until,
        flow_run=flow_run,
        task_runs=task_runs,
        logs=pd.concat([page.logs, new_lines], ignore_index=True) if len(new_lines) else page.logs,
        limits=frames.held_by(task_runs, limits),
        poll=workers.polling(page.flow_run["work_pool"], rows, now) if waits else None,
        unread=_unread(page.unread, now, more=not waits and len(rows) == rest.page()),
    )


def _changed(page: Run) -> Request:
    """Return a request for the first 200 unread task runs that may have changed since `page` was read."""
    flow_run_id, since = page.flow_run["flow_run_id"], page.unread.since - _DELAY
    if page.task_runs.empty:
        changed = endpoints.task_runs(flow_run=flow_run_id)
    elif versions.is_3(page.version):
        changed = endpoints.task_runs(flow_run=flow_run_id, changed_since=since)
    else:
        # The filters of Prefect 2 do not know when a task run ended.
        unended = list(page.task_runs[page.task_runs["ended"].isna()]["task_run_id"])
        changed = endpoints.task_runs(flow_run=flow_run_id, ids=unended[: rest.page()], or_started_since=since)
    return changed._replace(body={**(changed.body or {}), "offset": page.unread.skip})


def _merged(task_runs: pd.DataFrame, changed: pd.DataFrame) -> pd.DataFrame:
    unchanged = task_runs[~task_runs["task_run_id"].isin(changed["task_run_id"])]
    return pd.concat([unchanged, changed]).sort_values("submitted", ignore_index=True) if len(changed) else unchanged


def _unread(unread: Unread, now: pd.Timestamp, more: bool) -> Unread:
    then = unread.then if unread.skip else now
    return Unread(unread.since, unread.skip + math.ceil(_STEP * rest.page()), then) if more else Unread(then, 0, then)
