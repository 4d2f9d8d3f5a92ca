"""Load a page of the monitor, and bring it up to date in at most 4 requests however much has changed.

Another request, for events, asks who holds the slots of global limits, if there is a run that takes such slots.
"""

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

import global_slots
import pandas as pd
import workers

from flows import versions
from flows.api import endpoints, rest
from flows.api.rest import Request
from flows.api.slots import MARK
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
    """The page of one flow run; `poll` says whether a worker polls the work pool that it waits for.

    `events` are the EVENTS of its task runs that take slots of a global limit themselves.
    """

    poll: str | None
    unread: Unread
    events: pd.DataFrame

    @property
    def slots(self) -> pd.DataFrame:
        """SPANS: the slots of global limits that its task runs took, and until when they had them."""
        return global_slots.of_ended(global_slots.spans(self.events), self.task_runs)


def first(flow_run_id: str) -> Run:
    """Load the page of a flow run as `pages.run` does; one that waits for a worker takes one more request."""
    page, poll = pages.run(flow_run_id), None
    if workers.awaited(page.flow_run):
        pool = page.flow_run["work_pool"]
        poll = workers.polling(pool, rest.send(workers.request(pool)), page.read_at)
    nothing = frames.typed([], global_slots.EVENTS)
    return _in_slots(Run(**vars(page), poll=poll, unread=Unread(page.read_at, 0, page.read_at), events=nothing))


def first_overview(**filters: Any) -> Overview:
    """Load the first page as `pages.overview` does, with the holders of global limits."""
    return _with_holders(pages.overview(**filters))


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
    refreshed = replace(
        page,
        start=start,
        read_at=now,
        flow_runs=frames.flow_runs(runs, page.flows, now),
        task_runs=task_runs,
        limits=frames.held_by(task_runs, limits),
    )
    return _with_holders(refreshed)


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
    refreshed = replace(
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
    return _in_slots(refreshed)


def limits() -> pd.DataFrame:
    """Return LIMITS as `pages.limits` does, in up to 2 requests more with the holders of global limits."""
    limits, now = pages.limits(), pd.Timestamp.now("UTC")
    if names := global_slots.names(limits):
        slots = global_slots.spans(global_slots.read(names))
        slots = slots[slots["ended"].isna()]
        ids = list(slots["task_run_id"].dropna())
        runs = frames.task_runs(rest.rows(endpoints.task_runs(ids=ids)) if ids else [], now)
        limits = global_slots.holding(limits, global_slots.placed(runs, slots, now))
    return limits


def _with_holders(page: Overview) -> Overview:
    runs = page.task_runs
    names = {tag.removeprefix(MARK) for tags in runs["tags"] for tag in tags if tag.startswith(MARK)}
    names |= {*global_slots.names(page.limits)}
    active = runs.loc[runs["started"].notna(), "task_run_id"]
    if not names or active.empty or not versions.is_3(page.version):
        return page
    events = global_slots.read(sorted(names), *(f"prefect.task-run.{id_}" for id_ in active))
    task_runs = global_slots.placed(runs, global_slots.spans(events), page.read_at)
    return replace(page, task_runs=task_runs, limits=global_slots.holding(page.limits, task_runs))


def _in_slots(page: Run) -> Run:
    names = {tag.removeprefix(MARK) for tags in page.task_runs["tags"] for tag in tags if tag.startswith(MARK)}
    known = page.events
    over = pd.notna(page.flow_run["ended"]) and page.read_at - page.flow_run["ended"] > 2 * _DELAY
    if not names or not versions.is_3(page.version) or (over and len(known)):
        return page
    of_run = f"prefect.flow-run.{page.flow_run['flow_run_id']}"
    since = None if known.empty else known["time"].max() - _DELAY
    events = global_slots.read(sorted(names), of_run, since=since, pages=global_slots.MOST_PAGES)
    page = replace(page, events=pd.concat([known, events]).drop_duplicates("event_id") if len(known) else events)
    task_runs = global_slots.placed(page.task_runs, page.slots, page.until)
    return replace(page, task_runs=task_runs, limits=global_slots.holding(page.limits, task_runs))


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
