"""The situations that some exercises begin with, made on the server."""

import random
from datetime import datetime, timedelta, timezone

import psycopg

import records
from flows import lab, limits, versions
from flows.api import endpoints, limit_endpoints, rest, server


def move_to_yesterday(flow_run_id: str) -> tuple[datetime, datetime]:
    """Move a flow run of the lab and its task runs back by a day; return two times between which it now began.

    On a server that the user named, nothing is moved, and the two times are those of the run today.
    """
    now = datetime.now(timezone.utc)
    if not server.is_lab(server.attach()):
        return now - timedelta(hours=12), now
    columns = ("expected_start_time", "start_time", "end_time")
    moved = ", ".join(f"{column} = {column} - interval '1 day'" for column in columns)
    with psycopg.connect(str(lab.status().database)) as connection:
        for table, key in (("flow_run", "id"), ("task_run", "flow_run_id")):
            connection.execute(f"update {table} set {moved} where {key} = %s", [flow_run_id])
    return now - timedelta(hours=36), now - timedelta(hours=12)


def waiting_runs(deployment: str) -> dict[str, str]:
    """Make four flow runs that wait, each for another reason; return their ids by name. The names are random."""
    due_now, due_later, paused, running = random.sample(["amber", "basil", "clove", "dill"], 4)
    flow_id = rest.send(endpoints.deployment(deployment))["flow_id"]
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    requests = [
        endpoints.create_flow_run(deployment, {}, name=due_now),
        endpoints.create_flow_run(deployment, {}, name=due_later, due=tomorrow),
        endpoints.record_flow_run(flow_id, paused, "PAUSED"),
        endpoints.record_flow_run(flow_id, running, "RUNNING"),
    ]
    runs = {run["name"]: run["id"] for run in rest.gather(requests)}
    limits.ensure("lesson-full", 1)
    hold_slot("lesson-full", runs[running])
    rest.send(endpoints.record_task_run(runs[running], "waiting one", "lesson-full", "PENDING"))
    return runs


def hold_slot(tag: str, flow_run_id: str | None = None) -> None:
    """Take a slot of `tag` for a task run that no process runs, in the flow run `flow_run_id` or else in a new one."""
    if flow_run_id is None:
        flow = rest.send(endpoints.create_flow(records.PREFIX))
        flow_run_id = str(rest.send(endpoints.record_flow_run(flow["id"], "gone", "RUNNING"))["id"])
    leases = versions.line(rest.send(endpoints.version())).leases
    state = "RUNNING" if leases else "PENDING"
    task_run = rest.send(endpoints.record_task_run(flow_run_id, "running one", tag, state))
    if leases:
        rest.send(limit_endpoints.take_slot(tag, task_run["id"]))
    else:  # Prefect 2 takes the slot when the task run changes to Running
        rest.send(endpoints.set_state(task_run["id"], "RUNNING", "Running", of="task_runs"))
