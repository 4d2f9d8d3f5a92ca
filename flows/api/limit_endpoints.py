"""The endpoints of limits, as requests for `rest.send` and `rest.gather`; the same in both versions of Prefect.

A tag has a limit, with the task runs that hold its slots. A global limit has a counter of its taken slots and no
holders. In Prefect 3 the limit of a tag has a counter too, with the name `tag:<tag>`: it is what makes a task wait.
"""

from flows.api import endpoints, rest
from flows.api.rest import Request


def limit(tag: str) -> Request:
    """GET /concurrency_limits/tag/{tag}: the limit of a tag, with the holders of its slots; None if it has none."""
    return Request("GET", f"concurrency_limits/tag/{endpoints.quoted(tag)}", missing_ok=True)


def limits() -> Request:
    """POST /concurrency_limits/filter: the tags' limits with the task runs that hold their slots."""
    return Request("POST", "concurrency_limits/filter", {"limit": rest.PAGE})


def set_limit(tag: str, limit: int) -> Request:
    """POST /concurrency_limits/: create or change the limit of a tag."""
    return Request("POST", "concurrency_limits/", {"tag": tag, "concurrency_limit": limit})


def reset(tag: str) -> Request:
    """POST /concurrency_limits/tag/{tag}/reset: forget who holds slots. In Prefect 3 the counter stays as it is."""
    return Request("POST", f"concurrency_limits/tag/{endpoints.quoted(tag)}/reset", {})


def counter(name: str) -> Request:
    """GET /v2/concurrency_limits/{name}: a limit with the counter of its taken slots; None if there is none."""
    return Request("GET", f"v2/concurrency_limits/{endpoints.quoted(name)}", missing_ok=True)


def counters() -> Request:
    """POST /v2/concurrency_limits/filter: limits with their counters; in Prefect 3 those of the tags too."""
    return Request("POST", "v2/concurrency_limits/filter", {"limit": rest.PAGE})


def create_counter(name: str, limit: int) -> Request:
    """POST /v2/concurrency_limits/: create a global limit."""
    return Request("POST", "v2/concurrency_limits/", {"name": name, "limit": limit})


def change_counter(name: str, **changes: int) -> Request:
    """PATCH /v2/concurrency_limits/{name}: change the `limit`, the `active_slots`, or whether it is `active`."""
    return Request("PATCH", f"v2/concurrency_limits/{endpoints.quoted(name)}", changes)


def give_back(name: str, slots: int) -> Request:
    """POST /v2/concurrency_limits/decrement: free `slots` of a global limit, whoever holds them."""
    return Request("POST", "v2/concurrency_limits/decrement", {"names": [name], "slots": slots})
