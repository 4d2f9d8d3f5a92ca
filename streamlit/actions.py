"""Everything the monitor can change on the server. If MONITOR_READ_ONLY is set, each function raises CannotRun."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import openapi
import pandas as pd

from flows import limits, settings
from flows.api import endpoints, rest
from flows.settings import CannotRun


class Way(NamedTuple):
    """A way to cancel a flow run: the type and name of the state to propose, and what happens then.

    The state is None if no process would obey it.
    """

    state: tuple[str, str] | None
    effect: str


CANCELLED = ("CANCELLED", "Cancelled")
NOT_STARTED = Way(CANCELLED, "It has not started, so it is Cancelled at once.")
_BY_RUNNER = "The worker or the .serve() process that runs it stops it, which takes up to half a minute."
BY_RUNNER = Way(("CANCELLING", "Cancelling"), _BY_RUNNER)
# Of a run that waits in its process for its next attempt, Prefect 3 accepts Cancelling only as the name of a state.
BY_RUNNER_LATER = Way(("CANCELLED", "Cancelling"), _BY_RUNNER)
BY_ITSELF = Way(("CANCELLING", "Cancelling"), "It looks at its own state and stops within a few seconds.")
BY_NOBODY = Way(
    None,
    "No worker and no .serve() process runs it, so nothing stops it from here: it goes on to its end, and its tasks"
    " keep their slots. Stop it where it runs.",
)
UNDER_WAY = Way(None, "It is already Cancelling, and has not ended yet.")
OBEDIENT = "main_etl"  # the flow that looks at its own state


def allowed() -> bool:
    """Return whether anything may be changed: not if MONITOR_READ_ONLY is set."""
    return not settings.read().monitor_read_only


def may_send(method: str, path: str, query: Any = None, body: Any = None) -> bool:
    """Return whether the explorer may send a request: if nothing may be changed, only one that reads, and no secret."""
    return allowed() or (openapi.only_reads(method, path) and not openapi.reveals([query, body]))


def check_request(method: str, path: str, query: Any = None, body: Any = None) -> None:
    """Raise CannotRun if the explorer may not send a request."""
    if not may_send(method, path, query, body):
        _check_allowed()


def ways_to_cancel(flow_runs: pd.DataFrame) -> list[Way | None]:
    """Return how each of `flow_runs` (FLOW_RUNS) can be cancelled now; None if it has ended or was deleted."""
    return _ways(_as_it_is_now(flow_runs))


def cancel(flow_runs: pd.DataFrame, *, gone: bool = False) -> list[str]:
    """Cancel `flow_runs` (FLOW_RUNS); return a sentence for each run that was not cancelled.

    A run whose process obeys becomes Cancelling, and Cancelled when that process has ended. A run whose process does
    not obey becomes Cancelled only if the user says that it is `gone`: the server gives back the slots of a run that is
    Cancelled, whether its tasks still run or not. A run that has ended in the meantime keeps its state; the server
    itself would overwrite it.
    """
    _check_allowed()
    proposals, problems = {}, []
    runs = _as_it_is_now(flow_runs)
    for run, way in zip(runs, _ways(runs), strict=True):
        if run is None:
            problems.append("One of the runs was deleted in the meantime.")
        elif way is None:
            problems.append(f"{run['name']} has already ended: {run['state_name']}.")
        elif (state := way.state or (CANCELLED if gone else None)) is None:
            problems.append(f"{run['name']} was left as it is. {way.effect}")
        else:
            proposals[run["id"]] = endpoints.set_state(run["id"], *state, "Cancelled from the monitor.")
    return problems + _propose(proposals)


def retry(flow_runs: pd.DataFrame) -> list[str]:
    """Schedule `flow_runs` (FLOW_RUNS) again; return a sentence for each run that was not scheduled.

    Only a run of a deployment can be retried, because its code must be found, and only one that has ended: one
    that somebody else has retried in the meantime would run twice.
    """
    _check_allowed()
    proposals, problems = {}, []
    for run in _as_it_is_now(flow_runs):
        if run is None:
            problems.append("One of the runs was deleted in the meantime.")
        elif not run["deployment_id"]:
            problems.append(
                f"{run['name']} has no deployment, so nothing can run it again. Start it again as it was first started."
            )
        elif run["state_type"] not in endpoints.FINAL:
            problems.append(
                f"{run['name']} has not ended: {run['state_name']}. Wait until it has ended, or cancel it first."
            )
        else:
            message = "Retried from the monitor."
            proposals[run["id"]] = endpoints.set_state(run["id"], "SCHEDULED", "AwaitingRetry", message, force=True)
    return problems + _propose(proposals)


def resume(flow_runs: pd.DataFrame) -> list[str]:
    """Resume `flow_runs` (FLOW_RUNS), which are paused; return a sentence for each run that was not resumed."""
    _check_allowed()
    ids = list(flow_runs["flow_run_id"])
    return _propose({id_: rest.Request("POST", f"flow_runs/{id_}/resume", {}) for id_ in ids})


def start(deployment: str, parameters: dict[str, Any]) -> str:
    """Start the deployment with the id `deployment`; return the id of its new flow run."""
    _check_allowed()
    return rest.send(endpoints.create_flow_run(deployment, parameters))["id"]


def set_limit(name: str, kind: limits.Kind, limit: int, before: int) -> None:
    """Change the limit `name`, which was `before` when the user looked.

    Raises CannotRun if somebody else has changed or deleted it since, and leaves that as it is.
    """
    _check_allowed()
    now = limits.read(name, kind)
    if now is None:
        raise CannotRun(
            f"{limits.NAMES[kind]} {name!r} lost its limit in the meantime: it was deleted, so tasks run without it."
            " Use Add a limit to create it again."
        )
    if now.limit != before:
        raise CannotRun(
            f"Somebody else changed this limit from {before} to {now.limit} in the meantime, so it was left as it is."
            " Close this dialog, and change the limit again if it is still wrong."
        )
    limits.ensure(name, limit, kind)


def add_limit(name: str, kind: limits.Kind, limit: int) -> None:
    """Create the limit `name`. Raises CannotRun if there is one, and leaves it as it is."""
    _check_allowed()
    if (now := limits.read(name, kind)) is not None:
        raise CannotRun(
            f"{limits.NAMES[kind]} {name!r} already has a limit of {now.limit}. Close this dialog and use Change."
        )
    limits.ensure(name, limit, kind)


def delete_limit(name: str, kind: limits.Kind) -> None:
    """Delete the limit `name`; its tasks then run without a limit."""
    _check_allowed()
    rest.send(endpoints.delete("concurrency_limits/tag" if kind == "tag" else "v2/concurrency_limits", name))


def free_slots(name: str, kind: limits.Kind) -> None:
    """Free all slots of the limit `name`, including those of task runs that are still running."""
    _check_allowed()
    limits.reset(name, kind)


def _check_allowed() -> None:
    if not allowed():
        raise CannotRun(
            "This monitor is read-only because MONITOR_READ_ONLY is set. Use a monitor without it, or the commands."
        )


def _as_it_is_now(flow_runs: pd.DataFrame) -> list[dict[str, Any] | None]:
    """Return the server's current answers for FLOW_RUNS, which may be old; None for a run that is gone."""
    return rest.gather([endpoints.flow_run(flow_run_id) for flow_run_id in flow_runs["flow_run_id"]])


def _ways(runs: Sequence[dict[str, Any] | None]) -> list[Way | None]:
    """Return how each of the flow runs, as the server answered, can be cancelled; None if it has ended or is gone."""
    ids = list({run["flow_id"] for run in runs if run})
    flows = {flow["id"]: flow["name"] for flow in rest.send(endpoints.flows(ids=ids))}
    return [_way(run, flows.get(run["flow_id"])) if run else None for run in runs]


def _way(run: dict[str, Any], flow: str | None) -> Way | None:
    if run["state_type"] in endpoints.FINAL:
        return None
    if run["state_type"] == "CANCELLING":
        return UNDER_WAY
    # It waits in its process, which would overwrite Cancelled; any other scheduled run has no process.
    retries_itself = (run.get("empirical_policy") or {}).get("retry_type") == "in_process"
    if run["state_type"] == "SCHEDULED" and not retries_itself:
        return NOT_STARTED
    if run["deployment_id"]:
        return BY_RUNNER_LATER if run["state_type"] == "SCHEDULED" else BY_RUNNER
    if run["state_type"] != "RUNNING" and not run["start_time"]:
        return NOT_STARTED
    return BY_ITSELF if flow == OBEDIENT else BY_NOBODY


def _propose(proposals: dict[str, rest.Request]) -> list[str]:
    """Propose the new states, given by the ids of their runs; return a sentence for each that was not accepted."""
    problems = []
    for flow_run_id, answer in zip(proposals, rest.gather(list(proposals.values())), strict=True):
        # The server itself turns Cancelling into Cancelled if there is no process, as for a suspended run.
        if answer["status"] != "ACCEPT" and (answer["state"] or {}).get("type") != "CANCELLED":
            reason = (answer.get("details") or {}).get("reason") or "it gives no reason"
            problems.append(f"The server did not accept this for the run {flow_run_id} ({answer['status']}): {reason}")
    return problems
