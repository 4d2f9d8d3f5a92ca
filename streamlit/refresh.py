"""Load a page of the monitor, and bring it up to date in 4 requests however much has changed.

The first page takes 2 more at most, for what is not always needed. That of a run takes one more, for events, if its
task runs take slots of global limits.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

import expected_starts
import global_slots
import pandas as pd
import streamlit as st
import workers

from flows import versions
from flows.api import endpoints, rest, server
from flows.api.rest import Request
from flows.api.slots import MARK
from flows.monitor import frames, pages

_Known = tuple[str | None, Mapping[str, str]]  # the version of a server, and its flows' names by their ids
_ROOM = 2  # requests of the first page beside the 4 that it always takes
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
class Overview(pages.Overview):
    """The first page; `starts` has by id, for waiting task runs, in about how long they start, as a text.

    `unasked` are the tags of the global limits whose holders the next refresh asks for.
    """

    starts: Mapping[str, str]
    unasked: Collection[str]


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


def first_overview(*, since: timedelta | None = timedelta(days=1), **filters: Any) -> Overview:
    """Load the first page in at most 6 requests, as `pages.overview` does.

    Once this process knows the server, the page takes as many as a refresh does. Before, and if `since` is None, those
    of `pages.overview` are all: what else the page shows comes with the first refresh.
    """
    known, address = _known(), server.attach()
    if address in known and since is not None:
        page = _loaded(known[address], filters, since, pd.Timestamp.now("UTC") - since)
    else:
        page = _completed(Overview(**vars(pages.overview(since=since, **filters)), starts={}, unasked=()), room=0)
    known[address] = page.version, page.flows
    return page


def overview(page: pages.Overview) -> Overview:
    """Return the first page as it is now, in 4 to 6 requests."""
    start = page.start if page.since is None else pd.Timestamp.now("UTC") - page.since
    return _loaded((page.version, page.flows), page.filters, page.since, start)


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


@st.cache_resource(ttl=timedelta(minutes=10), show_spinner=False)
def _known() -> dict[str, _Known]:
    """Return what hardly changes of each server, by its address; all visitors share it."""
    return {}


def _loaded(known: _Known, filters: Mapping[str, Any], since: timedelta | None, start: pd.Timestamp) -> Overview:
    (version, flows), now = known, pd.Timestamp.now("UTC")
    reads = [endpoints.flow_runs(**filters, since=start), endpoints.task_runs(state=pages.ACTIVE)]
    reads += [endpoints.taken_slots(version), endpoints.history(**filters, start=start)]
    runs, tasks, limits, history = rest.gather(reads)
    flow_runs, task_runs = frames.flow_runs(runs, flows, now), frames.task_runs(tasks, now)
    states, limits = frames.states(history), frames.held_by(task_runs, limits)
    page = Overview(
        version, flows, filters, since, start, now, flow_runs, states, task_runs, limits, starts={}, unasked=()
    )
    return _completed(page, _ROOM)


def _completed(page: Overview, room: int) -> Overview:
    """Return the page with the names of new flows, the holders of global limits, and `starts`.

    Each takes a request, if the page needs it and nothing has asked for it yet. What does not fit into `room` requests
    comes with the next refresh.
    """
    if room and (unnamed := list(page.flow_runs.loc[page.flow_runs["flow"].isna(), "flow_id"].unique())):
        names = dict.fromkeys(unnamed, "(deleted)")
        names |= {flow["id"]: flow["name"] for flow in rest.send(endpoints.flows(ids=unnamed))}
        flow = page.flow_runs["flow"].fillna(page.flow_runs["flow_id"].map(names))
        page = replace(page, flows={**page.flows, **names}, flow_runs=page.flow_runs.assign(flow=flow))
        room -= 1
    active = page.task_runs.loc[page.task_runs["started"].notna(), "task_run_id"]
    taken = global_slots.marked(page.task_runs).union(global_slots.names(page.limits))
    if not versions.is_3(page.version) or active.empty:
        taken = set()
    if taken and room:
        events = global_slots.read(sorted(taken), *(f"prefect.task-run.{id_}" for id_ in active))
        task_runs = global_slots.placed(page.task_runs, global_slots.spans(events), page.read_at)
        page = replace(page, task_runs=task_runs, limits=global_slots.holding(page.limits, task_runs))
        taken, room = set(), room - 1
    starts = expected_starts.texts(page.task_runs, page.limits, page.read_at, of_all_runs=True, room=room)
    return replace(page, starts=starts, unasked={MARK + name for name in taken})


def _in_slots(page: Run) -> Run:
    names, known = global_slots.marked(page.task_runs), page.events
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
