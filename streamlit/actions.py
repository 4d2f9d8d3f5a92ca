"""What the monitor can change on the server. With MONITOR_READ_ONLY each of these raises CannotRun, whoever calls."""

from typing import Any

import pandas as pd

from flows import limits, settings
from flows.api import endpoints, rest
from flows.settings import CannotRun


def allowed() -> bool:
    """Whether anything may be changed: not with MONITOR_READ_ONLY."""
    return not settings.read().monitor_read_only


def check(method: str, path: str) -> None:
    """Raise CannotRun for a request that would change something, where nothing may be changed."""
    if not rest.only_reads(method, path):
        _check()


def cancel(flow_runs: pd.DataFrame) -> list[str]:
    """Cancel `flow_runs` (FLOW_RUNS); return a sentence for each that was not cancelled.

    One that a worker runs becomes Cancelling, and its worker ends its process; any other one becomes Cancelled, and a
    process that runs it is told so when it next asks the server. One that has ended meanwhile keeps its state, which
    the server itself would give away.
    """
    _check()
    proposals, refused = {}, []
    for now in rest.gather([endpoints.flow_run(flow_run_id) for flow_run_id in flow_runs["flow_run_id"]]):
        if now is None:
            refused.append("One of the runs was deleted meanwhile.")
        elif now["state_type"] in endpoints.FINAL:
            refused.append(f"{now['name']} has ended meanwhile: {now['state_name']}.")
        else:
            worker = bool(now["work_pool_name"]) and now["state_type"] in ("RUNNING", "PENDING")
            kind = ("CANCELLING", "Cancelling") if worker else ("CANCELLED", "Cancelled")
            proposals[now["id"]] = endpoints.set_state(now["id"], *kind, "Cancelled from the monitor.")
    return refused + _propose(proposals)


def retry(flow_runs: pd.DataFrame) -> list[str]:
    """Schedule `flow_runs` (FLOW_RUNS) once more; return a sentence for each that was not scheduled.

    Only one that has a deployment can be, since a worker has to find its code, and only one that has ended: one that
    somebody else has retried meanwhile would run twice.
    """
    _check()
    proposals, refused = {}, []
    for now in rest.gather([endpoints.flow_run(flow_run_id) for flow_run_id in flow_runs["flow_run_id"]]):
        if now is None:
            refused.append("One of the runs was deleted meanwhile.")
        elif not now["deployment_id"]:
            refused.append(f"{now['name']} has no deployment, so no worker can run it. Start it where it was started.")
        elif now["state_type"] not in endpoints.FINAL:
            refused.append(f"{now['name']} has not ended: {now['state_name']}. Wait until it has, or cancel it first.")
        else:
            message = "Retried from the monitor."
            proposals[now["id"]] = endpoints.set_state(now["id"], "SCHEDULED", "AwaitingRetry", message, force=True)
    return refused + _propose(proposals)


def start(deployment: str, parameters: dict[str, Any]) -> str:
    """Start the deployment with the id `deployment`; return the id of its new flow run."""
    _check()
    return rest.send(endpoints.create_flow_run(deployment, parameters))["id"]


def set_limit(tag: str, limit: int) -> None:
    """Change the limit of `tag`. Raises CannotRun where it is gone meanwhile: it is not made anew behind one's back."""
    _check()
    if limits.read(tag) is None:
        raise CannotRun(
            f"The limit of the tag {tag!r} was deleted meanwhile, and its tasks run without one. Add it anew."
        )
    limits.ensure(tag, limit)


def add_limit(tag: str, limit: int) -> None:
    """Give `tag` a limit."""
    _check()
    limits.ensure(tag, limit)


def free_slots(tag: str) -> None:
    """Free all slots of `tag`, whoever holds them."""
    _check()
    limits.reset(tag)


def _check() -> None:
    if not allowed():
        raise CannotRun("This monitor is read-only (MONITOR_READ_ONLY). Use one that is not, or the commands.")


def _propose(proposals: dict[str, rest.Request]) -> list[str]:
    """Send the proposed states, by the ids of their runs; return a sentence for each that was not taken."""
    refused = []
    for flow_run_id, answer in zip(proposals, rest.gather(list(proposals.values())), strict=True):
        if answer["status"] != "ACCEPT":
            reason = (answer.get("details") or {}).get("reason") or "it gives no reason"
            refused.append(f"The server refused this for the run {flow_run_id} ({answer['status']}): {reason}")
    return refused
