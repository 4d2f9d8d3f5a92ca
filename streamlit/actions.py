"""Everything the monitor can change on the server. If MONITOR_READ_ONLY is set, each function raises CannotRun."""

from typing import Any

import openapi
import pandas as pd

from flows import limits, settings
from flows.api import endpoints, rest
from flows.settings import CannotRun


def allowed() -> bool:
    """Return whether anything may be changed: not if MONITOR_READ_ONLY is set."""
    return not settings.read().monitor_read_only


def may_send(method: str, path: str) -> bool:
    """Return whether the explorer may send a request: if nothing may be changed, only one that reads."""
    return allowed() or openapi.only_reads(method, path)


def check_request(method: str, path: str) -> None:
    """Raise CannotRun if the explorer may not send a request."""
    if not may_send(method, path):
        _check_allowed()


def cancel(flow_runs: pd.DataFrame) -> list[str]:
    """Cancel `flow_runs` (FLOW_RUNS); return a sentence for each run that was not cancelled.

    A run that a worker runs becomes Cancelling, and the worker ends its process; any other run becomes Cancelled, and
    its process learns that when it next contacts the server. A run that has ended in the meantime keeps its state; the
    server itself would overwrite it.
    """
    _check_allowed()
    proposals, problems = {}, []
    for run in _as_it_is_now(flow_runs):
        if run is None:
            problems.append("One of the runs was deleted in the meantime.")
        elif run["state_type"] in endpoints.FINAL:
            problems.append(f"{run['name']} has already ended: {run['state_name']}.")
        else:
            by_worker = bool(run["work_pool_name"]) and run["state_type"] in ("RUNNING", "PENDING")
            state = ("CANCELLING", "Cancelling") if by_worker else ("CANCELLED", "Cancelled")
            proposals[run["id"]] = endpoints.set_state(run["id"], *state, "Cancelled from the monitor.")
    return problems + _propose(proposals)


def retry(flow_runs: pd.DataFrame) -> list[str]:
    """Schedule `flow_runs` (FLOW_RUNS) again; return a sentence for each run that was not scheduled.

    Only a run of a deployment can be retried, because a worker must find its code, and only one that has ended: one
    that somebody else has retried in the meantime would run twice.
    """
    _check_allowed()
    proposals, problems = {}, []
    for run in _as_it_is_now(flow_runs):
        if run is None:
            problems.append("One of the runs was deleted in the meantime.")
        elif not run["deployment_id"]:
            problems.append(
                f"{run['name']} has no deployment, so no worker can run it. Start it again as it was first started."
            )
        elif run["state_type"] not in endpoints.FINAL:
            problems.append(
                f"{run['name']} has not ended: {run['state_name']}. Wait until it has ended, or cancel it first."
            )
        else:
            message = "Retried from the monitor."
            proposals[run["id"]] = endpoints.set_state(run["id"], "SCHEDULED", "AwaitingRetry", message, force=True)
    return problems + _propose(proposals)


def start(deployment: str, parameters: dict[str, Any]) -> str:
    """Start the deployment with the id `deployment`; return the id of its new flow run."""
    _check_allowed()
    return rest.send(endpoints.create_flow_run(deployment, parameters))["id"]


def set_limit(tag: str, limit: int) -> None:
    """Change the limit of `tag`. Raises CannotRun if it was deleted in the meantime, and does not create it again."""
    _check_allowed()
    if limits.read(tag) is None:
        raise CannotRun(
            f"The limit of the tag {tag!r} was deleted in the meantime, so its tasks run without a limit."
            " Use Add a limit to create it again."
        )
    limits.ensure(tag, limit)


def add_limit(tag: str, limit: int) -> None:
    """Give `tag` a limit."""
    _check_allowed()
    limits.ensure(tag, limit)


def free_slots(tag: str) -> None:
    """Free all slots of `tag`, including those of task runs that are still running."""
    _check_allowed()
    limits.reset(tag)


def _check_allowed() -> None:
    if not allowed():
        raise CannotRun(
            "This monitor is read-only because MONITOR_READ_ONLY is set. Use a monitor without it, or the commands."
        )


def _as_it_is_now(flow_runs: pd.DataFrame) -> list[dict[str, Any] | None]:
    """Return the server's current answers for FLOW_RUNS, which may be old; None for a run that is gone."""
    return rest.gather([endpoints.flow_run(flow_run_id) for flow_run_id in flow_runs["flow_run_id"]])


def _propose(proposals: dict[str, rest.Request]) -> list[str]:
    """Propose the new states, given by the ids of their runs; return a sentence for each that was not accepted."""
    problems = []
    for flow_run_id, answer in zip(proposals, rest.gather(list(proposals.values())), strict=True):
        if answer["status"] != "ACCEPT":
            reason = (answer.get("details") or {}).get("reason") or "it gives no reason"
            problems.append(f"The server did not accept this for the run {flow_run_id} ({answer['status']}): {reason}")
    return problems
