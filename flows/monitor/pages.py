"""What a page of the monitor needs, loaded from the server with few requests, sent together.

`overview` and `run` load a page; `refresh` and `refresh_run` bring it up to date with at most 4 requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

import pandas as pd

from flows import versions
from flows.api import endpoints, rest, server
from flows.api.rest import Request
from flows.monitor import frames, reasons
from flows.settings import CannotRun

ACTIVE = ("RUNNING", "PENDING", "SCHEDULED", "PAUSED")
MOST = 5000  # task runs that a run's page shows
_LAG = timedelta(seconds=15)  # by which the server may hear late of what a task run did
_OVERLAP = 50  # task runs: one that is between two attempts may leave the list while it is read in slices


class Gone(CannotRun):
    """The server answers, and has no such flow run."""


class Unread(NamedTuple):
    """The task runs that a page has yet to read: those changed after `since`, but for the first `skip` of them.

    Once they are read, those that changed after `then` are next.
    """

    since: pd.Timestamp
    skip: int
    then: pd.Timestamp


@dataclass(frozen=True)
class Overview:
    """The first page. `flows` are names by id, `chosen` is what the flow runs and their states were selected by.

    `task_runs` are the 200 oldest that run or wait, of all flow runs; `limits` counts those of them that run as
    holders. `start` is when `states` begins.
    """

    version: str | None
    flows: Mapping[str, str]
    chosen: Mapping[str, Any]
    start: pd.Timestamp
    read_at: pd.Timestamp
    flow_runs: pd.DataFrame
    states: pd.DataFrame
    task_runs: pd.DataFrame
    limits: pd.DataFrame

    @property
    def whole(self) -> bool:
        """Whether `task_runs` are all that run or wait: of 200 nobody knows whether there are more."""
        return len(self.task_runs) < rest.PAGE


@dataclass(frozen=True)
class Run:
    """A flow run's page: its row of FLOW_RUNS, its task runs, its first log lines, and the limits as they are now.

    `limits` have no other holders than its own task runs. `until` is when it was read, or ended: its task runs that
    have not ended are taken to go on until then, and no longer. `poll` is what is known of the workers that it may
    wait for.
    """

    version: str | None
    flow: Mapping[str, str]
    read_at: pd.Timestamp
    until: pd.Timestamp
    flow_run: pd.Series
    task_runs: pd.DataFrame
    logs: pd.DataFrame
    limits: pd.DataFrame
    poll: str | None
    unread: Unread

    @property
    def reason(self) -> str | None:
        """Why it waits; None if it does not."""
        return self.why()

    def why(self, zone: str = "UTC") -> str | None:
        """Why it waits, with the times in `zone`; None if it does not."""
        return reasons.why(self.flow_run, self.limits, self.task_runs, self.poll, zone=zone)


def overview(
    *,
    flow: str | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    since: timedelta | None = timedelta(days=1),
    text: str | None = None,
) -> Overview:
    """The first page, in 6 requests: up to 200 flow runs, all of them by state, what is active now, and the limits.

    `since` is how far back it goes (None: to the first run, which takes one request more on a server with 200 flows
    and more); the rest as in `endpoints.flow_runs`.
    """
    chosen = {"flow": flow, "state": tuple(state), "tag": tag, "text": text}
    now = _now()
    start = None if since is None else now - since
    reads = [endpoints.version(), endpoints.flows(), *_runs(chosen, start)]
    version, named, runs, tasks, *history = rest.gather(reads + ([_history(chosen, start)] if start else []))
    if start is None:
        start = _first(runs, named, now)
        counted, *history = rest.gather([_limits(version), _history(chosen, start)])
    else:
        counted = rest.send(_limits(version))
    flows = {flow["id"]: flow["name"] for flow in named}
    page = Overview(version, flows, chosen | {"since": since}, start, now, *[frames.states(*history)] * 4)
    return _fill(page, runs, tasks, counted)


def refresh(page: Overview) -> Overview:
    """`page` as it is now, in 4 requests."""
    chosen = {key: value for key, value in page.chosen.items() if key != "since"}
    since = page.chosen["since"]
    now = _now()
    start = page.start if since is None else now - since
    unnamed = page.flow_runs.loc[page.flow_runs["flow"].isna(), "flow_id"].unique()
    # A flow that is new is named first, and the counts follow the next time: together they would be 5 requests.
    third = endpoints.flows(ids=list(unnamed)) if len(unnamed) else _history(chosen, start)
    answer, *answers = rest.gather([third, *_runs(chosen, start), _limits(page.version)])
    if len(unnamed):
        named = dict.fromkeys(unnamed, "(deleted)") | {flow["id"]: flow["name"] for flow in answer}
        page = replace(page, flows={**page.flows, **named})
    else:
        page = replace(page, states=frames.states(answer))
    return _fill(replace(page, start=start, read_at=now), *answers)


def run(flow_run_id: str) -> Run:
    """A flow run's page, with its first 200 log lines, in 6 requests and one for each 200 task runs beyond the first.

    Raises Gone where there is no such run.
    """
    version = rest.send(endpoints.version())
    now = _now()
    first = endpoints.task_runs(flow_run=flow_run_id, sort="ID_DESC")
    reads = [endpoints.flow_run(flow_run_id), endpoints.flows(flow_run=flow_run_id), first]
    found, flows, tasks, lines, counted = rest.gather([*reads, endpoints.logs(flow_run=flow_run_id), _limits(version)])
    if found is None:
        raise _gone(flow_run_id)
    if len(tasks) == rest.PAGE:
        tasks += rest.rows(first, MOST, start=rest.PAGE)
    flow = {flow["id"]: flow["name"] for flow in flows}
    row = frames.flow_runs([found], flow, now).iloc[0]
    workers = rest.send(endpoints.workers(row["work_pool"])) if _waits_for_worker(row) else None
    until = _until(row, now)
    frame = frames.task_runs(tasks, until)
    page = Run(version, flow, now, until, row, frame, frames.logs(lines), frame, None, Unread(now, 0, now))
    return _reasoned(page, counted, workers)


def refresh_run(page: Run) -> Run:
    """`page` as it is now, in 4 requests: what has changed since, and up to 200 log lines more.

    Of the task runs that have changed 200 are read, and the others by the next refreshes.
    """
    flow_run_id, now = page.flow_run["flow_run_id"], _now()
    # A run that waits for a worker has no task runs yet.
    waits = _waits_for_worker(page.flow_run)
    second = endpoints.workers(page.flow_run["work_pool"]) if waits else _changed(page)
    last = None if page.logs.empty else page.logs["time"].iloc[-1]
    reads = [endpoints.flow_run(flow_run_id), second, endpoints.logs(flow_run=flow_run_id, since=last)]
    found, answer, lines, counted = rest.gather([*reads, _limits(page.version)])
    if found is None:
        raise _gone(flow_run_id)
    workers, tasks = (answer, []) if waits else (None, answer)
    row = frames.flow_runs([found], page.flow, now).iloc[0]
    new = frames.task_runs(tasks, now)
    kept = page.task_runs[~page.task_runs["task_run_id"].isin(new["task_run_id"])]
    frame = pd.concat([kept, new]).sort_values("submitted", ignore_index=True) if len(new) else kept
    more = frames.logs(lines)
    more = more[~more["log_id"].isin(page.logs["log_id"])]
    seen = pd.concat([page.logs, more], ignore_index=True) if len(more) else page.logs
    until = _until(row, now)
    unread = page.unread if page.unread.skip else page.unread._replace(then=now)
    more = len(tasks) == rest.PAGE
    unread = unread._replace(skip=unread.skip + rest.PAGE - _OVERLAP) if more else Unread(unread.then, 0, unread.then)
    page = replace(page, read_at=now, until=until, flow_run=row, task_runs=frames.timed(frame, until), logs=seen)
    page = replace(page, unread=unread)
    return _reasoned(page, counted, workers)


def limits() -> pd.DataFrame:
    """LIMITS with the holders that the server itself names, by its leases, 200 of them by name; 3 requests, or 4."""
    version = rest.send(endpoints.version())
    listed, counted = rest.gather([endpoints.limits(), _limits(version)])
    ids = [holder for limit in listed for holder in limit["active_slots"]]
    known = {run["id"]: run for run in rest.send(endpoints.task_runs(ids=ids))} if ids else {}
    holders = {
        limit["tag"]: [_holder(known.get(id_, {}) | {"id": id_}) for id_ in limit["active_slots"]] for limit in listed
    }
    return frames.limits(_counters(counted), holders)


def logs(flow_run_id: str, at_most: int | None = None) -> pd.DataFrame:
    """All LOGS of a flow run and its tasks, the oldest line first; one request for each 200."""
    return frames.logs(rest.rows(endpoints.logs(flow_run=flow_run_id), at_most))


def _runs(chosen: Mapping[str, Any], start: pd.Timestamp | None) -> list[Request]:
    return [endpoints.flow_runs(**chosen, since=start), endpoints.task_runs(state=ACTIVE)]


def _fill(page: Overview, flow_runs: Any, task_runs: Any, counted: Any) -> Overview:
    runs = frames.flow_runs(flow_runs, page.flows, page.read_at)
    tasks = frames.task_runs(task_runs, page.read_at)
    return replace(page, flow_runs=runs, task_runs=tasks, limits=_held(counted, tasks))


def _history(chosen: Mapping[str, Any], start: pd.Timestamp) -> Request:
    return endpoints.history(**chosen, start=start)


def _limits(version: str | None) -> Request:
    """Of the two endpoints the one that says how many slots are taken: Prefect 2 has the list of holders alone."""
    return endpoints.counters() if versions.line(version).leases else endpoints.limits()


def _counters(answer: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Dicts of `tag`, `limit` and `taken` from either endpoint; global limits, which have no tag, are left out."""
    found = []
    for limit in answer:
        if "tag" in limit:
            taken = len(limit["active_slots"])
            found.append({"tag": limit["tag"], "limit": limit["concurrency_limit"], "taken": taken})
        elif limit["name"].startswith("tag:") and limit["active"]:
            tag = limit["name"].removeprefix("tag:")
            found.append({"tag": tag, "limit": limit["limit"], "taken": limit["active_slots"]})
    return found


def _held(counted: Sequence[Mapping[str, Any]], task_runs: pd.DataFrame) -> pd.DataFrame:
    """LIMITS where those of `task_runs` that run, or are between two attempts, are taken for the holders."""
    counters = _counters(counted)
    running = task_runs[task_runs["started"].notna() & task_runs["ended"].isna()]
    columns = {"task_run_id": "id", "state": "state_name"}
    rows = running.rename(columns=columns).to_dict("records")
    holders = {c["tag"]: [_holder(row) for row in rows if c["tag"] in row["tags"]] for c in counters}
    return frames.limits(counters, holders)


def _holder(run: Mapping[str, Any]) -> dict[str, Any]:
    names = {"name": "name", "flow_run_id": "flow_run_id", "state": "state_name"}
    return {"task_run_id": run["id"]} | {key: run.get(source) for key, source in names.items()}


def _reasoned(page: Run, counted: Sequence[Mapping[str, Any]], workers: Sequence[Mapping[str, Any]] | None) -> Run:
    poll = None if workers is None else _polled(page.flow_run["work_pool"], workers, page.read_at)
    return replace(page, limits=_held(counted, page.task_runs), poll=poll)


def _changed(page: Run) -> Request:
    """The task runs of `page` that may be other than they were when it was read, the first 200 that are unread."""
    flow_run_id, since = page.flow_run["flow_run_id"], page.unread.since - _LAG
    if page.task_runs.empty:
        changed = endpoints.task_runs(flow_run=flow_run_id)
    elif versions.line(page.version).ends:
        changed = endpoints.task_runs(flow_run=flow_run_id, changed_since=since)
    else:
        # The filters of Prefect 2 do not know when a task run ended.
        unended = list(page.task_runs[page.task_runs["ended"].isna()]["task_run_id"])
        changed = endpoints.task_runs(flow_run=flow_run_id, ids=unended[: rest.PAGE], or_started_since=since)
    return changed._replace(body={**(changed.body or {}), "offset": page.unread.skip})


def _waits_for_worker(flow_run: pd.Series) -> bool:
    due = flow_run["state"] == "Late" or flow_run["state_type"] == "PENDING"
    return bool(due and flow_run["work_pool"])


def _polled(pool: str, workers: Sequence[Mapping[str, Any]], now: pd.Timestamp) -> str:
    """Whether a worker polls `pool`: one that is well is heard of every 30 seconds."""
    heard = [pd.to_datetime(worker["last_heartbeat_time"], utc=True) for worker in workers]
    if not any(now - time < timedelta(seconds=90) for time in heard):
        return f"No worker polls the work pool {pool!r}: start one with prefect worker start --pool {pool!r}."
    return f"A worker polls the work pool {pool!r}; it may have as many runs as it takes, or the pool may be paused."


def _until(flow_run: pd.Series, now: pd.Timestamp) -> pd.Timestamp:
    """When what has not ended is taken to have ended: no task run goes on after its flow run."""
    return now if pd.isna(flow_run["ended"]) else flow_run["ended"]


def _first(runs: Sequence[Mapping[str, Any]], flows: Sequence[Mapping[str, Any]], now: pd.Timestamp) -> pd.Timestamp:
    """When the first of all flow runs was due at the earliest; an hour ago where there is none.

    `runs` are the 200 newest of them. Where there are more, it is when the first of all `flows` was made.
    """
    times = [run["expected_start_time"] for run in runs]
    if len(runs) == rest.PAGE:
        if len(flows) == rest.PAGE:  # one that is not among them may be older
            first = rest.send(endpoints.flow_runs(sort="EXPECTED_START_TIME_ASC", limit=1))
            times += [run["expected_start_time"] for run in first]
        times += [flow["created"] for flow in flows]
    return min((pd.to_datetime(time, utc=True) for time in times), default=now - timedelta(hours=1))


def _gone(flow_run_id: str) -> Gone:
    return Gone(f"{server.attach()} has no flow run {flow_run_id}. It was deleted, or it is on another server.")


def _now() -> pd.Timestamp:
    return pd.Timestamp.now("UTC")
