"""The events that a process sends when it takes a slot of a limit and when it gives it back; Prefect 3 keeps them."""

from collections.abc import Mapping
from typing import Any

from flows.api.rest import Request

ACQUIRED, RELEASED = "prefect.concurrency-limit.acquired", "prefect.concurrency-limit.released"
PAGE = 50  # the most that the server gives at once


def request(names: str | list[str], **chosen: Any) -> Request:
    """POST /events/filter: a page of events of the limits with these `names`; `chosen` are more keys of the filter."""
    of_limits = {"event": {"name": [ACQUIRED, RELEASED]}, "resource": {"labels": {"prefect.resource.name": names}}}
    return Request("POST", "events/filter", {"filter": of_limits | chosen, "limit": PAGE})


def next_page(answer: Mapping[str, Any]) -> Request | None:
    """GET /events/filter/next: the page after that of `answer`, or None if it was the last one."""
    # The address of the next page is the server's own, which may be another one behind a gateway.
    link = answer["next_page"]
    return Request("GET", f"events/filter/next?{link.rpartition('?')[2]}") if link else None


def runs_of(event: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the ids and names of the runs that an event is about: `task_run_id task_run flow_run_id flow_run`."""
    by_role = {resource["prefect.resource.role"]: resource for resource in event["related"]}
    shown: dict[str, str | None] = {}
    for kind, role in (("task_run", "task-run"), ("flow_run", "flow-run")):
        resource = by_role.get(role, {})
        shown[f"{kind}_id"] = resource.get("prefect.resource.id", "").rpartition(".")[2] or None
        shown[kind] = resource.get("prefect.resource.name")
    return shown
