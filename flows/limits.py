"""The concurrency limit of a tag, kept by the server: read it, set it, free its leaked slots.

Prefect 3 keeps a tag's limit as the global limit `tag:<tag>`: a counter of taken slots, which is what makes a task
wait, and leases, which name the holders. Prefect 2 keeps the list of the holders alone.

A global limit, of the kind "global", has a counter in both, and nobody can say who holds its slots.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from flows.api import endpoints, rest
from flows.settings import CannotRun

TAG = "database"
DEFAULT = 3  # how many connections the lab's database accepts from its queries, and so the limit that the kit teaches
Kind = Literal["tag", "global"]


@dataclass(frozen=True)
class Limit:
    """The limit of a tag, or a global one of that name; `holders` are the task runs that hold a tag's slots."""

    tag: str
    limit: int
    active_slots: int
    holders: list[dict[str, Any]] = field(default_factory=list)


def read(tag: str = TAG, kind: Kind = "tag") -> Limit | None:
    """The limit of `tag`, or None where the tag has no limit, and so its tasks run without one.

    Each holder is a dict of `task_run_id`, `name`, `flow_run_id` and `state` (None where the server knows no such
    run). Endpoints: GET /concurrency_limits/tag/{tag}, GET /v2/concurrency_limits/tag:{tag}, POST /task_runs/filter.
    """
    if kind == "global":
        found = rest.call("GET", _path(tag, kind), missing_ok=True)
        return Limit(tag, found["limit"], found["active_slots"]) if found and found["active"] else None
    found = rest.call("GET", f"concurrency_limits/tag/{_checked(tag)}", missing_ok=True)
    if found is None:
        return None
    ids = found["active_slots"]
    counter = _counter(tag)
    runs = rest.call("POST", "task_runs/filter", {"task_runs": {"id": {"any_": ids}}}) if ids else []
    known = {run["id"]: run for run in runs}
    holders = [
        {"task_run_id": id_} | {key: known.get(id_, {}).get(source) for key, source in _HOLDER.items()} for id_ in ids
    ]
    return Limit(tag, found["concurrency_limit"], len(ids) if counter is None else counter, holders)


def ensure(tag: str, limit: int, kind: Kind = "tag") -> bool:
    """Make the limit of `tag` be `limit`; return whether that changed anything. Taken slots stay taken.

    Raises CannotRun where the server does not then say that it is so. Endpoints: POST /concurrency_limits/; for a
    global limit POST /v2/concurrency_limits/, PATCH /v2/concurrency_limits/{name}.
    """
    if limit < 1:
        raise CannotRun(f"A limit of {limit} would let no task run, ever. Choose at least 1.")
    before = read(tag, kind)
    if before is not None and before.limit == limit:
        return False
    if kind == "tag":
        rest.call("POST", "concurrency_limits/", {"tag": tag, "concurrency_limit": limit})
    elif rest.call("GET", _path(tag, kind), missing_ok=True) is None:
        rest.call("POST", "v2/concurrency_limits/", {"name": tag, "limit": limit})
    else:
        rest.call("PATCH", _path(tag, kind), {"limit": limit, "active": True})
    after = read(tag, kind)
    if after is None or after.limit != limit:
        raise CannotRun(f"The server did not take the limit {limit} for {tag!r}: it now has {after}. Try again.")
    return True


def reset(tag: str = TAG, kind: Kind = "tag") -> Limit:
    """Free all slots of `tag`, and return the limit as it then is.

    A task that still runs goes on without its slot, so that for a while more than the limit may run.
    Raises CannotRun where the tag has no limit, or where slots stay taken.
    """
    limit = read(tag, kind)
    if limit is None:
        what = "The tag" if kind == "tag" else "The global limit"
        raise CannotRun(f"{what} {tag!r} has no limit, so it has no slots to free. Leave out --reset to create one.")
    if kind == "tag":
        rest.call("POST", f"concurrency_limits/tag/{tag}/reset", {})
    if kind == "global" or _counter(tag) is not None:
        # In Prefect 3 the call above drops the leases and leaves the counter, which would never come down again.
        rest.call("PATCH", _path(tag, kind), {"active_slots": 0})
    after = read(tag, kind)
    # A task that waited takes a freed slot at once; a slot that nobody holds must not be left.
    if after is None or (kind == "tag" and after.active_slots > len(after.holders)):
        raise CannotRun(
            f"The server still counts taken slots after the reset: {after}. Stop its clients and try again."
        )
    return after


def end(task_run_id: str, message: str) -> None:
    """End a task run whose process is gone, and so free its slots and nobody else's.

    It becomes Crashed; one that had ended keeps its state, which is set once more. A server of either version frees
    the slots of a task run that is forced into a final state. Nothing is done where the server does not know it.
    Endpoint: POST /task_runs/{id}/set_state.
    """
    found = rest.call("GET", f"task_runs/{task_run_id}", missing_ok=True)
    if found is None:
        return
    now = found["state"] or {}
    if now.get("type") in endpoints.FINAL:
        state = {key: now[key] for key in ("type", "name", "message")}
    else:
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
    rest.call("POST", f"task_runs/{task_run_id}/set_state", {"state": state, "force": True})


def give_back(name: str, slots: int) -> None:
    """Free `slots` of the global limit `name`, for a process that is gone, where nothing else would.

    Endpoint: POST /v2/concurrency_limits/decrement.
    """
    rest.call("POST", "v2/concurrency_limits/decrement", {"names": [name], "slots": slots})


_HOLDER = {"name": "name", "flow_run_id": "flow_run_id", "state": "state_name"}


def _counter(tag: str) -> int | None:
    """The number of taken slots by the server's counter, or None on a server that keeps none."""
    found = rest.call("GET", _path(tag, "tag"), missing_ok=True)
    return None if found is None else found["active_slots"]


def _path(tag: str, kind: Kind) -> str:
    """Where the counter is: in Prefect 3 a tag has one too."""
    return f"v2/concurrency_limits/{'tag:' if kind == 'tag' else ''}{_checked(tag)}"


def _checked(tag: str) -> str:
    """`tag`, if it can stand in a path: Prefect 3 answers 500 to a tag with a slash."""
    if not re.fullmatch(r"[^/?#%\s]+", tag):
        raise CannotRun(f"The tag {tag!r} cannot have a limit: choose one without slashes, spaces and ? # %.")
    return tag
