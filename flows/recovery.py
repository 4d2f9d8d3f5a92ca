"""What a killed run of the main job leaves behind, and how a later run puts it right."""

import shutil
from typing import Any

from flows import limits, notes, versions
from flows.api import endpoints, rest, slots

KILLED = "Its process was killed; a later run found out."


def clear_abandoned(own: str) -> None:
    """Put right what killed runs, or earlier attempts of the flow run `own`, left: states, slots, staging folders."""
    for staging, owner in notes.abandoned():
        run = staging.stem  # a process that was killed while it made the folder left RUN.new
        flow_run: dict[str, Any] = rest.send(endpoints.flow_run(run)) or {"parameters": {}, "state_type": None}
        unended = run != own and flow_run["state_type"] in ("RUNNING", "CANCELLING")  # and is not to be tried again
        _end_task_runs(set(owner.get("task_runs", [])), run if unended else None)
        counted = flow_run["parameters"].get("limit_by") == "global" and not versions.is_3(versions.here())
        if counted and (slots := len(notes.unfinished(staging))):  # in Prefect 2 nothing else would free them
            rest.call("POST", "v2/concurrency_limits/decrement", {"names": [limits.TAG], "slots": slots})
        if unended:
            state = "CANCELLED" if flow_run["state_type"] == "CANCELLING" else "CRASHED"
            rest.send(endpoints.set_state(run, state, state.title(), KILLED, force=True)._replace(missing_ok=True))
        shutil.rmtree(staging, ignore_errors=True)


def _end_task_runs(task_runs: set[str], flow_run: str | None) -> None:
    """End the `task_runs` of a killed run, or all of its `flow_run`, and so free their slots and nobody else's."""
    limit = limits.read()
    # A process may have been killed after the end of its task run was known, and before it gave the slot back.
    holding = task_runs & {holder["task_run_id"] for holder in limit.holders} if limit else set()
    ids = None if flow_run else sorted(task_runs)
    running = rest.rows(endpoints.task_runs(flow_run=flow_run, ids=ids, state=["RUNNING"]))
    for task_run in holding | {task_run["id"] for task_run in running}:
        slots.end_task_run(task_run, KILLED)
    # Or before the server had heard of the task run that took the slot. Asked twice, since the counter and the holders
    # are two questions, and a live run may have taken a slot between them.
    if all(_only_holders(task_runs) for _ in range(2)):
        limits.reset()


def _only_holders(task_runs: set[str]) -> bool:
    """Return whether slots are taken, and all of them by `task_runs` or by nobody."""
    limit = limits.read()
    return bool(limit and limit.active_slots and {holder["task_run_id"] for holder in limit.holders} <= task_runs)
