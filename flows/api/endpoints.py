"""The endpoints that the kit uses, as requests to be sent by `rest.send`, `rest.gather` or `rest.rows`.

They are the same in Prefect 2.13.7 and 3.8.8, unless the docstring says otherwise; `endpoints_3` has the others.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal
from urllib.parse import quote

from flows.api import rest
from flows.api.rest import Request

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # the types of the states in which a run has ended


def version() -> Request:
    """GET /admin/version: the server's version as text. (/version says 0.8.4 in both.) Prefect Cloud has none."""
    return Request("GET", "admin/version", missing_ok=True)


def health() -> Request:
    """GET /health: true. It needs no credentials."""
    return Request("GET", "health")


def ready() -> Request:
    """GET /ready: whether the server reaches its database; without one it answers 503. It needs no credentials."""
    return Request("GET", "ready")


def flow_run(flow_run_id: str) -> Request:
    """GET /flow_runs/{id}: one flow run, None where there is no such run."""
    return Request("GET", f"flow_runs/{flow_run_id}", missing_ok=True)


def flow_runs(
    *,
    flow: str | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    since: datetime | None = None,
    text: str | None = None,
    sort: str = "EXPECTED_START_TIME_DESC",
    limit: int = rest.PAGE,
) -> Request:
    """POST /flow_runs/filter: flow runs, the newest first.

    Those of the flow named `flow`; in one of the states `state`, by name (`Late`) or by type (`FAILED`); with the tag
    `tag`; due at or after `since`; whose name contains `text`. Runs due in the future only if `state` asks for them.
    """
    return Request(
        "POST", "flow_runs/filter", _of_flow_runs(flow, state, tag, since, text) | {"sort": sort, "limit": limit}
    )


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
    ids: Sequence[str] | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    or_started_since: datetime | None = None,
    changed_since: datetime | None = None,
    sort: str = "EXPECTED_START_TIME_ASC",
    limit: int = rest.PAGE,
) -> Request:
    """POST /task_runs/filter: task runs, the one submitted first first.

    `or_started_since`: those, or else started since. `changed_since` (3.x alone): submitted, started or ended since,
    or between two attempts.
    """
    those: dict[str, Any] = {}
    if ids is not None:
        those["id"] = {"any_": list(ids)}
    if tag is not None:
        those["tags"] = {"all_": [tag]}
    if state:
        those["state"] = _in_state(state)
    if or_started_since is not None:
        those |= {"start_time": {"after_": or_started_since.isoformat()}, "operator": "or_"}
    if changed_since is not None:
        after = {"after_": changed_since.isoformat()}
        times = {"expected_start_time": after, "start_time": after, "end_time": after}
        those |= times | {"state": _in_state(["SCHEDULED", "PAUSED"]), "operator": "or_"}
    body: dict[str, Any] = {"task_runs": those} if those else {}
    if flow_run is not None:
        body["flow_runs"] = {"id": {"any_": [flow_run]}}
    return Request("POST", "task_runs/filter", body | {"sort": sort, "limit": limit})


def count(chosen: Request) -> Request:
    """POST /flow_runs/count, /task_runs/count and the like: how many rows there are of those that `chosen` asks for.

    `chosen` is a request of `flow_runs` or `task_runs`, of which the order and the size of a page do not matter.
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


def flows(*, ids: Sequence[str] | None = None, flow_run: str | None = None) -> Request:
    """POST /flows/filter: flows, by name; those with the ids `ids`, or the one of a flow run."""
    those = {"flows": {"id": {"any_": list(ids)}}} if ids is not None else {}
    of = {"flow_runs": {"id": {"any_": [flow_run]}}} if flow_run is not None else {}
    return Request("POST", "flows/filter", those | of | {"sort": "NAME_ASC", "limit": rest.PAGE})


def deployments() -> Request:
    """POST /deployments/filter: deployments, by name."""
    return Request("POST", "deployments/filter", {"sort": "NAME_ASC", "limit": rest.PAGE})


def work_pools() -> Request:
    """POST /work_pools/filter: work pools."""
    return Request("POST", "work_pools/filter", {"limit": rest.PAGE})


def workers(work_pool: str) -> Request:
    """POST /work_pools/{name}/workers/filter: the workers that have polled a work pool; None without such a pool."""
    return Request(
        "POST", f"work_pools/{quote(work_pool, safe='')}/workers/filter", {"limit": rest.PAGE}, missing_ok=True
    )


def limits() -> Request:
    """POST /concurrency_limits/filter: the tags' limits with the task runs that hold their slots."""
    return Request("POST", "concurrency_limits/filter", {"limit": rest.PAGE})


def counters() -> Request:
    """POST /v2/concurrency_limits/filter: limits with the counters of their taken slots; in 3.x the tags' ones too."""
    return Request("POST", "v2/concurrency_limits/filter", {"limit": rest.PAGE})


def create_flow_run(deployment: str, parameters: dict[str, Any]) -> Request:
    """POST /deployments/{id}/create_flow_run: start a deployment; answers with the new flow run."""
    return Request("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})


def set_state(
    run: str,
    type_: str,
    name: str,
    message: str,
    *,
    force: bool = False,
    of: Literal["flow_runs", "task_runs"] = "flow_runs",
) -> Request:
    """POST /flow_runs/{id}/set_state, or that of task runs: propose a state.

    Whatever happens it answers 200 or 201: the answer's `status` says ACCEPT, REJECT, ABORT or WAIT.
    """
    state = {"type": type_, "name": name, "message": message}
    return Request("POST", f"{of}/{run}/set_state", {"state": state, "force": force})


def _of_flow_runs(
    flow: str | None, state: Sequence[str], tag: str | None, since: datetime | None, text: str | None
) -> dict[str, Any]:
    """The body that selects flow runs."""
    due = {"after_": since.isoformat()} if since else {}
    if not {"SCHEDULED", "Scheduled"} & set(state):
        # A deployment with a schedule has up to a hundred runs in the future, which would hide today's.
        due["before_"] = _soon().isoformat()
    those: dict[str, Any] = {"expected_start_time": due} if due else {}
    if state:
        those["state"] = _in_state(state)
    if tag:
        those["tags"] = {"all_": [tag]}
    if text:
        those["name"] = {"like_": text}
    return {"flow_runs": those} | ({"flows": {"name": {"any_": [flow]}}} if flow else {})


def _in_state(states: Sequence[str]) -> dict[str, Any]:
    """In one of the states, types in capitals, names as they are shown."""
    types = [state for state in states if state.isupper()]
    names = [state for state in states if not state.isupper()]
    both = {"type": {"any_": types}} if types else {}
    both |= {"name": {"any_": names}} if names else {}
    return both | ({"operator": "or_"} if types and names else {})


def _soon() -> datetime:
    """Now, and a little later, for a server whose clock is ahead."""
    return datetime.now(timezone.utc) + timedelta(minutes=1)
