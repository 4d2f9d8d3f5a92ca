"""The situations that some exercises begin with, made on the server."""

import contextlib
import random
from collections.abc import Generator
from datetime import datetime, timedelta, timezone

import psycopg

import records
from flows import lab, limits, versions
from flows.api import endpoints, rest, server
from flows.api.rest import Request


def move_to_yesterday(flow_run_id: str) -> tuple[datetime, datetime]:
    """Move a flow run of the lab and its task runs back by a day; return two times between which it now began.

    A run that was moved before stays where it is. On a server that the user named, nothing is moved, and the two
    times are those of the run today.
    """
    now = datetime.now(timezone.utc)
    if not server.is_lab(server.attach()):
        return now - timedelta(hours=12), now
    columns = ("expected_start_time", "start_time", "end_time")
    moved = ", ".join(f"{column} = {column} - interval '1 day'" for column in columns)
    with psycopg.connect(str(lab.status().database)) as connection:
        for table, key in (("flow_run", "id"), ("task_run", "flow_run_id")):
            today = f"{key} = %s and expected_start_time > now() - interval '12 hours'"
            connection.execute(f"update {table} set {moved} where {today}", [flow_run_id])
    return now - timedelta(hours=36), now - timedelta(hours=12)


def waiting_runs(deployment: str) -> dict[str, str]:
    """Make four flow runs that wait, each for another reason; return their ids by name. The names are random."""
    due_now, due_later, paused, running = random.sample(["amber", "basil", "clove", "dill"], 4)
    flow_id = rest.call("GET", f"deployments/{deployment}")["flow_id"]
    tomorrow = {"scheduled_time": (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()}
    started = f"deployments/{deployment}/create_flow_run"
    requests = [
        Request("POST", started, {"name": due_now}),
        Request("POST", started, {"name": due_later, "state": {"type": "SCHEDULED", "state_details": tomorrow}}),
        record_flow_run(flow_id, paused, "PAUSED"),
        record_flow_run(flow_id, running, "RUNNING"),
    ]
    runs = {run["name"]: run["id"] for run in rest.gather(requests)}
    limits.ensure("lesson-full", 1)
    hold_slot("lesson-full", runs[running])
    rest.send(record_task_run(runs[running], "waiting one", "lesson-full", "PENDING"))
    return runs


@contextlib.contextmanager
def unseen_runs(flow: str) -> Generator[None]:
    """Until the block ends, let a new flow named `flow` have two runs in each final state, and one that timed out."""
    made = rest.send(create_flow(flow))["id"]
    runs = [record_flow_run(made, f"{flow} {state}", state) for state in 2 * endpoints.FINAL]
    rest.gather([*runs, record_flow_run(made, f"{flow} timed out", "FAILED", "TimedOut")])
    try:
        yield
    finally:
        rest.send(endpoints.delete("flows", made))


def hold_slot(tag: str, flow_run_id: str | None = None, name: str = "running one") -> None:
    """Take a slot of `tag` for a task run that no process runs, in the flow run `flow_run_id` or else in a new one."""
    if flow_run_id is None:
        flow = rest.send(create_flow(records.PREFIX))
        flow_run_id = str(rest.send(record_flow_run(flow["id"], "gone", "RUNNING"))["id"])
    leases = versions.is_3(rest.send(endpoints.version()))
    state = "RUNNING" if leases else "PENDING"
    task_run = rest.send(record_task_run(flow_run_id, name, tag, state))
    if leases:
        rest.call("POST", "concurrency_limits/increment", {"names": [tag], "task_run_id": task_run["id"]})
    else:  # Prefect 2 takes the slot when the task run changes to Running
        rest.send(endpoints.set_state(task_run["id"], "RUNNING", "Running", of="task_runs"))


def create_flow(name: str) -> Request:
    """POST /flows/: make sure that there is a flow with this name; answers with it."""
    return Request("POST", "flows/", {"name": name})


def record_flow_run(flow_id: str, name: str, state: str, state_name: str | None = None) -> Request:
    """POST /flow_runs/: record a flow run in a state of the type `state` that no process runs; answers with it."""
    return Request("POST", "flow_runs/", {"flow_id": flow_id, "name": name, "state": _state(state, state_name)})


def record_task_run(flow_run_id: str, name: str, tag: str, state: str) -> Request:
    """POST /task_runs/: record a task run in a state of the type `state` that no process runs; answers with it."""
    body = {"flow_run_id": flow_run_id, "task_key": name, "dynamic_key": name, "name": name, "tags": [tag]}
    return Request("POST", "task_runs/", body | {"state": _state(state)})


def _state(type_: str, name: str | None = None) -> dict[str, str]:
    """Return a state of this type, with `name` or else the name that Prefect usually gives it."""
    return {"type": type_, "name": name or type_.title()}
