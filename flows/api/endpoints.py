"""The endpoints that the kit uses, as requests for `rest`: the same in Prefect 2 and 3, unless a docstring differs."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal
from urllib.parse import quote

from flows import versions
from flows.api import rest
from flows.api.rest import Request

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # the types of the states in which a run has ended
FAILED = ("FAILED", "CRASHED")  # those of them in which it has failed
_AHEAD = timedelta(minutes=1)  # how far the server's clock may be
Kind = Literal["flows", "flow_runs", "task_runs", "work_pools", "concurrency_limits/tag", "v2/concurrency_limits"]


def version() -> Request:
    """GET /admin/version: the server's version. (/version is always 0.8.4.) None from Prefect Cloud, which has none."""
    return Request("GET", "admin/version", missing_ok=True)


def delete(kind: Kind, name: str) -> Request:
    """DELETE /{kind}/{name}: remove what has this id or name, with what belongs to it; None if there is none."""
    return Request("DELETE", f"{kind}/{quoted(name)}", missing_ok=True)


def quoted(name: str) -> str:
    """Return `name` as a part of a path."""
    return quote(name, safe=":")


def flow_run(flow_run_id: str) -> Request:
    """GET /flow_runs/{id}: one flow run, None if there is no such run."""
    return Request("GET", f"flow_runs/{flow_run_id}", missing_ok=True)


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
    due = {"after_": since and since.isoformat()}
    if not future and not {"SCHEDULED", "Scheduled"} & set(state):
        # A deployment with a schedule has up to a hundred runs in the future, which would hide today's.
        due["before_"] = (datetime.now(timezone.utc) + _AHEAD).isoformat()
    those = {"expected_start_time": due, "state": _in_state(state), "tags": {"all_": tag and [tag]}}
    return _filter("flow_runs", sort, limit, flows=_named(flow), flow_runs=those | {"name": {"like_": text}})


def history(*, start: datetime, **chosen: Any) -> Request:
    """POST /flow_runs/history: how many flow runs, `chosen` as in `flow_runs`, were due in each 60th since `start`."""
    end = datetime.now(timezone.utc) + _AHEAD
    seconds = max(1.0, (end - start).total_seconds() / 60)
    times = {"history_start": start.isoformat(), "history_end": end.isoformat(), "history_interval_seconds": seconds}
    return Request("POST", "flow_runs/history", _selection(flow_runs(since=start, **chosen)) | times)


def task_runs(
    *,
    flow_run: str | None = None,
    flow: str | Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    name: str | None = None,
    state: Sequence[str] = (),
    tag: str | None = None,
    or_started_since: datetime | None = None,
    changed_since: datetime | None = None,
    sort: str = "EXPECTED_START_TIME_ASC",
) -> Request:
    """POST /task_runs/filter: task runs, in the order in which they were submitted.

    Select those of one `flow_run` or of the flow, or flows, named `flow`; `or_started_since`: also those started since,
    whatever else is asked for; `changed_since` (Prefect 3 only): submitted, started or ended since, or between two
    attempts. The rest is as in `flow_runs`.
    """
    those: dict[str, Any] = {"id": _any(ids), "name": _any(name), "state": _in_state(state)}
    those["tags"] = {"all_": tag and [tag]}
    if or_started_since:
        those |= {"start_time": {"after_": or_started_since.isoformat()}, "operator": "or_"}
    if changed_since:
        after = {"after_": changed_since.isoformat()}
        those |= {"expected_start_time": after, "start_time": after, "end_time": after}
        those |= {"state": _in_state(["SCHEDULED", "PAUSED"]), "operator": "or_"}
    return _filter("task_runs", sort, flows=_named(flow), flow_runs={"id": _any(flow_run)}, task_runs=those)


def count(chosen: Request) -> Request:
    """POST /flow_runs/count or /task_runs/count: how many rows a request of `flow_runs` or `task_runs` selects."""
    return chosen._replace(path=chosen.path.replace("/filter", "/count"), body=_selection(chosen))


def logs(*, flow_run: str, since: datetime | None = None) -> Request:
    """POST /logs/filter: log lines of a flow run and its tasks, the oldest first; `since` leaves out older ones."""
    those = {"flow_run_id": _any(flow_run), "timestamp": {"after_": since and since.isoformat()}}
    return _filter("logs", "TIMESTAMP_ASC", logs=those)


def set_state(
    run: str, type_: str, name: str, message: str | None = None, *, force: bool = False, of: Kind = "flow_runs"
) -> Request:
    """POST /flow_runs/{id}/set_state, or that of task runs: propose a state.

    The server answers 200 or 201 in any case: the answer's `status` is ACCEPT, REJECT, ABORT or WAIT.
    """
    body = {"state": {"type": type_, "name": name, "message": message}, "force": force}
    return Request("POST", f"{of}/{run}/set_state", body)


def flows(*, ids: Sequence[str] | None = None, text: str | None = None, flow_run: str | None = None) -> Request:
    """POST /flows/filter: flows, by name: those with the `ids`, with `text` in the name, or of a `flow_run`."""
    those = {"id": _any(ids), "name": {"like_": text}}
    return _filter("flows", "NAME_ASC", flows=those, flow_runs={"id": _any(flow_run)})


def create_flow_run(deployment: str, parameters: Mapping[str, Any]) -> Request:
    """POST /deployments/{id}/create_flow_run: start a deployment now; answers with the flow run."""
    return Request("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})


def limit(tag: str) -> Request:
    """GET /concurrency_limits/tag/{tag}: the limit of a tag, with the holders of its slots; None if it has none."""
    return Request("GET", f"concurrency_limits/tag/{quoted(tag)}", missing_ok=True)


def limits() -> Request:
    """POST /concurrency_limits/filter: the tags' limits with the task runs that hold their slots."""
    return Request("POST", "concurrency_limits/filter", {"limit": rest.PAGE})


def reset_limit(tag: str) -> Request:
    """POST /concurrency_limits/tag/{tag}/reset: forget who holds slots. In Prefect 3 the counter stays as it is."""
    return Request("POST", f"concurrency_limits/tag/{quoted(tag)}/reset", {})


def counter(name: str) -> Request:
    """GET /v2/concurrency_limits/{name}: a limit with the counter of its taken slots; None if there is none."""
    return Request("GET", f"v2/concurrency_limits/{quoted(name)}", missing_ok=True)


def counters() -> Request:
    """POST /v2/concurrency_limits/filter: limits with their counters; in Prefect 3 those of the tags too."""
    return Request("POST", "v2/concurrency_limits/filter", {"limit": rest.PAGE})


def taken_slots(version: str | None) -> Request:
    """Return the request for limits with the number of taken slots: Prefect 2 has only `limits`, with their holders."""
    return counters() if versions.is_3(version) else limits()


def change_counter(name: str, **changes: int) -> Request:
    """PATCH /v2/concurrency_limits/{name}: change the `limit`, the `active_slots`, or whether it is `active`."""
    return Request("PATCH", f"v2/concurrency_limits/{quoted(name)}", changes)


def _filter(kind: str, sort: str, limit: int = rest.PAGE, **chosen: Any) -> Request:
    """Return the request for the rows of this kind that match the filters `chosen`."""
    return Request("POST", f"{kind}/filter", _given(chosen) | {"sort": sort, "limit": limit})


def _given(filters: dict[str, Any]) -> dict[str, Any]:
    """Return `filters` without those that have no value, on any level. An empty list is a value: it selects nothing."""
    inner = {key: _given(value) if isinstance(value, dict) else value for key, value in filters.items()}
    return {key: value for key, value in inner.items() if value not in (None, "", {})}


def _selection(request: Request) -> dict[str, Any]:
    """Return the body of `request` without its order and page."""
    return {key: value for key, value in (request.body or {}).items() if key not in ("sort", "limit", "offset")}


def _any(values: str | Sequence[str] | None) -> dict[str, Any]:
    return {"any_": [values] if isinstance(values, str) else values}


def _named(names: str | Sequence[str] | None) -> dict[str, Any]:
    """Return the filter for the flow, or flows, with this name. No names select nothing; an empty name selects all."""
    return {"name": _any(names or None if isinstance(names, str) else names)}


def _in_state(states: Sequence[str]) -> dict[str, Any]:
    """Return the filter for any of these states: types in capitals, names as the server shows them."""
    types = [state for state in states if state.isupper()]
    names = [state for state in states if not state.isupper()]
    return {"type": _any(types or None), "name": _any(names or None), "operator": "or_" if types and names else None}
