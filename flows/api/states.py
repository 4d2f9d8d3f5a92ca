"""States that the server is told to accept."""

from flows.api import endpoints, rest


def end(task_run_id: str, message: str) -> None:
    """End a task run whose process is gone, and so free its slots, but no others.

    It becomes Crashed, or its own final state is set once more: either version of the server then frees its slots.
    Endpoints: GET /task_runs/{id}, and POST …/set_state. Does nothing if there is no such task run.
    """
    task_run = rest.call("GET", f"task_runs/{task_run_id}", missing_ok=True)
    state = ("CRASHED", "Crashed", message)
    if task_run and task_run["state_type"] in endpoints.FINAL:
        state = (task_run["state"][key] for key in ("type", "name", "message"))
    rest.send(endpoints.set_state(task_run_id, *state, force=True, of="task_runs")._replace(missing_ok=True))
