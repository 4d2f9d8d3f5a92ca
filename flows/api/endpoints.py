"""The endpoints that the kit uses, as requests for `rest.send`, `rest.gather` or `rest.rows`.

They are the same in Prefect 2.13.7 and in Prefect 3, unless the docstring says otherwise.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal
from urllib.parse import quote

from flows.api import rest
from flows.api.rest import Request

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # the types of the states in which a run has ended
FAILED = ("FAILED", "CRASHED")  # those of them in which it has failed
Kind = Literal["flows", "flow_runs", "work_pools", "concurrency_limits/tag", "v2/concurrency_limits"]


def version() -> Request:
    """GET /admin/version: the server's version. (/version is always 0.8.4.) None from Prefect Cloud, which has none."""
    return Request("GET", "admin/version", missing_ok=True)


def description() -> Request:
    """GET /openapi.json below the API's address: the server's own description of its endpoints."""
    return Request("GET", "openapi.json")


def delete(kind: Kind, name: str) -> Request:
    """DELETE /{kind}/{name}: remove what has this id or name, with what belongs to it; None if there is none."""
    return Request("DELETE", f"{kind}/{quoted(name)}", missing_ok=True)


def quoted(name: str) -> str:
    """Return `name` as a part of a path."""
    return quote(name, safe=":")


# Runs


def flow_run(flow_run_id: str) -> Request:
    """GET /flow_runs/{id}: one flow run, None if there is no such run."""
    return Request("GET", f"flow_runs/{flow_run_id}", missing_ok=True)


def task_run(task_run_id: str) -> Request:
    """GET /task_runs/{id}: one task run, None if there is no such run."""
    return Request("GET", f"task_runs/{task_run_id}", missing_ok=True)


def flow_runs(
    *,
    flow: str | Sequence[str] | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    since: datetime | None = None,
    text: str | None = None,
    future: bool = False,
    sort: str = "EXPECTED_START_TIME_DESC",
    limit: int = rest.PAGE,
) -> Request:
    """POST /flow_runs/filter: flow runs, the newest first.

    Select those of the flow, or flows, named `flow`; in one of the states `state`, by name (`Late`) or type (`FAILED`);
    with the tag `tag`; due at or after `since`; whose name contains `text`. Runs that are due in the future are left
    out, unless they are `future` or `state` asks for scheduled ones.
    """
    body = _of_flow_runs(flow, state, tag, since, text, future)
    return Request("POST", "flow_runs/filter", body | {"sort": sort, "limit": limit})


def history(
    *,
    start: datetime,
    flow: str | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    text: str | None = None,
    intervals: int = 60,
) -> Request:
    """POST /flow_runs/history: how many of the flow runs of `flow_runs` were due in each of `intervals`, by state."""
    end = _soon()
    body = _of_flow_runs(flow, state, tag, start, text)
    seconds = max(1.0, (end - start).total_seconds() / intervals)
    times = {"history_start": start.isoformat(), "history_end": end.isoformat(), "history_interval_seconds": seconds}
    return Request("POST", "flow_runs/history", body | times)


def task_runs(
    *,
    flow_run: str | None = None,
    flow: str | Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    name: str | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    started: tuple[datetime, datetime] | None = None,
    or_started_since: datetime | None = None,
    changed_since: datetime | None = None,
    sort: str = "EXPECTED_START_TIME_ASC",
    limit: int = rest.PAGE,
) -> Request:
    """POST /task_runs/filter: task runs, in the order in which they were submitted.

    Select those of one `flow_run` or of the flow, or flows, named `flow`; `started` between two times;
    `or_started_since`: also those started since, whatever else is asked for; `changed_since` (Prefect 3 only):
    submitted, started or ended since, or between two attempts. The rest is as in `flow_runs`.
    """
    those: dict[str, Any] = {}
    if ids is not None:
        those["id"] = {"any_": list(ids)}
    if name is not None:
        those["name"] = {"any_": [name]}
    if tag is not None:
        those["tags"] = {"all_": [tag]}
    if state:
        those["state"] = _in_state(state)
    if started is not None:
        those["start_time"] = {"after_": started[0].isoformat(), "before_": started[1].isoformat()}
    if or_started_since is not None:
        those |= {"start_time": {"after_": or_started_since.isoformat()}, "operator": "or_"}
    if changed_since is not None:
        after = {"after_": changed_since.isoformat()}
        times = {"expected_start_time": after, "start_time": after, "end_time": after}
        those |= times | {"state": _in_state(["SCHEDULED", "PAUSED"]), "operator": "or_"}
    body: dict[str, Any] = _of_flow(flow) | ({"task_runs": those} if those else {})
    if flow_run is not None:
        body["flow_runs"] = {"id": {"any_": [flow_run]}}
    return Request("POST", "task_runs/filter", body | {"sort": sort, "limit": limit})


def count(chosen: Request) -> Request:
    """POST /flow_runs/count or /task_runs/count: how many rows `chosen` asks for, whatever its order and page size.

    `chosen` is a request of `flow_runs` or `task_runs`.
    """
    body = {key: value for key, value in (chosen.body or {}).items() if key not in ("sort", "limit", "offset")}
    return chosen._replace(path=chosen.path.replace("/filter", "/count"), body=body)


def logs(
    *, flow_run: str | None = None, since: datetime | None = None, level: int = 0, limit: int = rest.PAGE
) -> Request:
    """POST /logs/filter: log lines of a flow run and its tasks, of at least `level`, the oldest first."""
    those: dict[str, Any] = {"level": {"ge_": level}}
    if flow_run is not None:
        those["flow_run_id"] = {"any_": [flow_run]}
    if since is not None:
        those["timestamp"] = {"after_": since.isoformat()}
    return Request("POST", "logs/filter", {"logs": those, "sort": "TIMESTAMP_ASC", "limit": limit})


def set_state(
    run: str,
    type_: str,
    name: str,
    message: str | None = None,
    *,
    force: bool = False,
    of: Literal["flow_runs", "task_runs"] = "flow_runs",
    missing_ok: bool = False,
) -> Request:
    """POST /flow_runs/{id}/set_state, or that of task runs: propose a state.

    The server answers 200 or 201 in any case: the answer's `status` is ACCEPT, REJECT, ABORT or WAIT.
    """
    state = {"type": type_, "name": name, "message": message}
    return Request("POST", f"{of}/{run}/set_state", {"state": state, "force": force}, missing_ok)


def record_flow_run(flow_id: str, name: str, state: str) -> Request:
    """POST /flow_runs/: record a flow run in a state of the type `state` that no process runs; answers with it."""
    return Request("POST", "flow_runs/", {"flow_id": flow_id, "name": name, "state": _state(state)})


def record_task_run(flow_run_id: str, name: str, tag: str, state: str) -> Request:
    """POST /task_runs/: record a task run in a state of the type `state` that no process runs; answers with it."""
    body = {"flow_run_id": flow_run_id, "task_key": name, "dynamic_key": name, "name": name, "tags": [tag]}
    return Request("POST", "task_runs/", body | {"state": _state(state)})


# Flows, deployments, work pools


def flows(
    *,
    ids: Sequence[str] | None = None,
    name: str | Sequence[str] | None = None,
    text: str | None = None,
    flow_run: str | None = None,
) -> Request:
    """POST /flows/filter: flows, by name: those with the `ids`, named `name`, with `text` in it, or of a `flow_run`."""
    those: dict[str, Any] = {}
    if ids is not None:
        those["id"] = {"any_": list(ids)}
    if name is not None:
        those["name"] = {"any_": _list(name)}
    if text is not None:
        those["name"] = {"like_": text}
    body = {"flows": those} if those else {}
    of = {"flow_runs": {"id": {"any_": [flow_run]}}} if flow_run is not None else {}
    return Request("POST", "flows/filter", body | of | {"sort": "NAME_ASC", "limit": rest.PAGE})


def create_flow(name: str) -> Request:
    """POST /flows/: make sure that there is a flow with this name; answers with it."""
    return Request("POST", "flows/", {"name": name})


def deployment(deployment_id: str) -> Request:
    """GET /deployments/{id}: one deployment, None if there is no such deployment."""
    return Request("GET", f"deployments/{deployment_id}", missing_ok=True)


def deployments() -> Request:
    """POST /deployments/filter: deployments, by name."""
    return Request("POST", "deployments/filter", {"sort": "NAME_ASC", "limit": rest.PAGE})


def create_flow_run(
    deployment: str, parameters: Mapping[str, Any], *, name: str | None = None, due: datetime | None = None
) -> Request:
    """POST /deployments/{id}/create_flow_run: start a deployment, now or when it is `due`; answers with the run."""
    body: dict[str, Any] = {"parameters": parameters} | ({"name": name} if name else {})
    if due is not None:
        body["state"] = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
    return Request("POST", f"deployments/{deployment}/create_flow_run", body)


def work_pools() -> Request:
    """POST /work_pools/filter: work pools, by name."""
    return Request("POST", "work_pools/filter", {"limit": rest.PAGE})


def workers(work_pool: str) -> Request:
    """POST /work_pools/{name}/workers/filter: the workers that have polled a work pool, None without such a pool."""
    return Request("POST", f"work_pools/{quoted(work_pool)}/workers/filter", {"limit": rest.PAGE}, missing_ok=True)


def _of_flow_runs(
    flow: str | Sequence[str] | None,
    state: Sequence[str],
    tag: str | None,
    since: datetime | None,
    text: str | None,
    future: bool = False,
) -> dict[str, Any]:
    """Return the body that selects flow runs."""
    due = {"after_": since.isoformat()} if since else {}
    if not future and not {"SCHEDULED", "Scheduled"} & set(state):
        # A deployment with a schedule has up to a hundred runs in the future, which would hide today's.
        due["before_"] = _soon().isoformat()
    those: dict[str, Any] = {"expected_start_time": due} if due else {}
    if state:
        those["state"] = _in_state(state)
    if tag:
        those["tags"] = {"all_": [tag]}
    if text:
        those["name"] = {"like_": text}
    return {"flow_runs": those} | _of_flow(flow)


def _of_flow(flow: str | Sequence[str] | None) -> dict[str, Any]:
    """Return the part of a body that selects what belongs to the flow, or flows, with this name."""
    return {} if flow is None or flow == "" else {"flows": {"name": {"any_": _list(flow)}}}


def _in_state(states: Sequence[str]) -> dict[str, Any]:
    """Return the filter for any of these states: types in capitals, names as the server shows them."""
    types = [state for state in states if state.isupper()]
    names = [state for state in states if not state.isupper()]
    both = {"type": {"any_": types}} if types else {}
    both |= {"name": {"any_": names}} if names else {}
    return both | ({"operator": "or_"} if types and names else {})


def _state(type_: str) -> dict[str, str]:
    """Return a state of this type, with the name that Prefect gives it."""
    return {"type": type_, "name": type_.title()}


def _list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _soon() -> datetime:
    """Return the time in a minute, for a server whose clock is ahead."""
    return datetime.now(timezone.utc) + timedelta(minutes=1)
