"""The concurrency limit of a tag, which the server enforces: read it, set it, free its leaked slots.

Prefect 3 keeps it as the global limit `tag:<tag>`: a counter, which makes tasks wait, and leases, which name holders;
Prefect 2 keeps only a list of holders. Other global limits have only a counter, in both.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from flows import versions
from flows.api import endpoints, rest, server
from flows.settings import CannotRun

TAG = "database"
DEFAULT = 3  # how many connections the lab's database accepts from its queries, and so the limit that the kit teaches
Kind = Literal["tag", "global"]
NAMES = {"tag": "The tag", "global": "The global limit"}


class Limit(NamedTuple):
    """The limit of a tag, or a global one of that name; `holders` are the task runs that hold a tag's slots."""

    tag: str
    limit: int
    active_slots: int
    holders: list[dict[str, Any]]


def read(tag: str = TAG, kind: Kind = "tag") -> Limit | None:
    """Return the limit of `tag`, or None if it has none: its tasks then run all at once.

    Each holder is a dict of `task_run_id`, `name`, `flow_run_id` and `state` (None if the server knows no such run).
    Endpoints: GET /concurrency_limits/tag/{tag}, GET /v2/concurrency_limits/tag:{tag}, POST /task_runs/filter.
    """
    counter = rest.send(endpoints.counter(_counter_name(tag, kind)))
    if kind == "global":
        return Limit(tag, counter["limit"], counter["active_slots"], []) if counter and counter["active"] else None
    listed = rest.send(endpoints.limit(tag))
    if listed is None:
        return None
    ids = listed["active_slots"]
    runs = {run["id"]: run for run in rest.rows(endpoints.task_runs(ids=ids))} if ids else {}
    keys = {"name": "name", "flow_run_id": "flow_run_id", "state": "state_name"}  # ours, and the server's
    holders = [{"task_run_id": id_} | {key: runs.get(id_, {}).get(keys[key]) for key in keys} for id_ in ids]
    return Limit(tag, listed["concurrency_limit"], counter["active_slots"] if counter else len(ids), holders)


def ready(kind: Kind, wanted: int | None = None, *, warn: Callable[[str], object]) -> int | None:
    """Return the limit of TAG before a task needs it; in the lab, set it first if none is set or another is `wanted`.

    `warn` is called with what the user should know: that there is no limit, or that it cannot be as wanted.
    """
    url, limit = server.attach(), read(kind=kind)
    if server.is_lab(url) and (wanted or limit is None):
        ensure(TAG, wanted or DEFAULT, kind)
        if wanted and wanted > DEFAULT:
            accepts = f"The lab's database accepts {DEFAULT} connections"
            warn(f"{accepts}: with a limit of {wanted} it refuses some queries, which then try again.")
        return wanted or DEFAULT
    script = f"python scripts/setup_concurrency_limit.py{' --global' if kind == 'global' else ''} sets it"
    if limit is None:
        warn(f"{NAMES[kind]} {TAG!r} has no limit on {url}: all queries run at once. {script}.")
    elif wanted not in (None, limit.limit):
        warn(f"--limit is for the kit's own lab; {url} keeps {limit.limit}. {script}.")
    return limit.limit if limit else None


def ensure(tag: str, limit: int, kind: Kind = "tag") -> bool:
    """Make the limit of `tag` be `limit`; return whether that changed anything. Taken slots stay taken.

    Raises CannotRun if it is not confirmed. Endpoints: POST /concurrency_limits/; POST, PATCH /v2/concurrency_limits/.
    """
    if limit < 1:
        raise CannotRun(f"With a limit of {limit}, no task would ever run. Choose at least 1.")
    before = read(tag, kind)
    if before is not None and before.limit == limit:
        return False
    _counter_name(tag, kind, "/" if before else "/%&<>")  # of which Prefect 3 would keep half a limit
    if kind == "tag":
        rest.call("POST", "concurrency_limits/", {"tag": tag, "concurrency_limit": limit})
    elif rest.send(endpoints.counter(tag)) is None:
        rest.call("POST", "v2/concurrency_limits/", {"name": tag, "limit": limit})
    else:
        rest.send(endpoints.change_counter(tag, limit=limit, active=True))
    after = read(tag, kind)
    if after is None or after.limit != limit:
        raise CannotRun(f"The server did not set the limit of {tag!r} to {limit}: it is now {after}. Try again.")
    return True


def reset(tag: str = TAG, kind: Kind = "tag") -> Limit:
    """Free all slots of `tag`, and return its limit as it is afterwards.

    Tasks that still run continue without one. Raises CannotRun if the tag has no limit, or if slots stay taken.
    """
    if read(tag, kind) is None:
        raise CannotRun(f"{NAMES[kind]} {tag!r} has no limit, so it has no slots. Leave out --reset to create one.")
    if kind == "tag":
        rest.send(endpoints.reset_limit(tag))
    if rest.send(endpoints.counter(_counter_name(tag, kind))) is not None:
        # In Prefect 3 the request above drops the leases and leaves the counter, which would then never come down.
        rest.send(endpoints.change_counter(_counter_name(tag, kind), active_slots=0))
    after = read(tag, kind)
    # A task that waited takes a freed slot at once, so some may be taken again; but not by nobody.
    if after is None or (kind == "tag" and after.active_slots > len(after.holders)):
        raise CannotRun(f"The server still counts taken slots: {after}. Stop its clients and try again.")
    return after


def forget(task_runs: set[str]) -> None:
    """Free the slots of TAG that Prefect 2 goes on counting for `task_runs`, which were deleted on the server."""
    if not versions.is_3(versions.here()) and (limit := read()):
        others = [holder["task_run_id"] for holder in limit.holders if holder["task_run_id"] not in task_runs]
        rest.send(endpoints.reset_limit(TAG)._replace(body={"slot_override": others}))


def _counter_name(tag: str, kind: Kind, but_not: str = "/") -> str:
    """Return the name of the counter. Raises CannotRun for a tag that cannot be in a path, or has one of `but_not`."""
    if tag in ("", ".", "..") or re.search(rf"[\n\ud800-\udfff{but_not}]", tag):
        choose = f"Choose a name other than . and .., without {' '.join(but_not)} and line breaks."
        raise CannotRun(f"The tag {tag!r} cannot have a limit. {choose}")
    return f"tag:{tag}" if kind == "tag" else tag
