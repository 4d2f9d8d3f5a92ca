"""The limits of all tags as LIMITS: the slots that the server counts as taken, and the task runs that hold them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flows import versions
from flows.api import endpoints
from flows.api.rest import Request
from flows.monitor import frames

Rows = Sequence[Mapping[str, Any]]


def request(version: str | None) -> Request:
    """Return the request whose answer has the number of taken slots; Prefect 2 has only the list of holders."""
    return endpoints.counters() if versions.is_3(version) else endpoints.limits()


def held_by(task_runs: pd.DataFrame, answer: Rows) -> pd.DataFrame:
    """Return LIMITS from the answer to `request`, with those of `task_runs` as holders that have started.

    One that is between two attempts keeps its slot, and so counts as well.
    """
    counters = _counters(answer)
    running = task_runs[task_runs["started"].notna() & task_runs["ended"].isna()]
    rows = running.rename(columns={"task_run_id": "id", "state": "state_name"}).to_dict("records")
    holders = {tag: [_holder(row) for row in rows if tag in row["tags"]] for tag in (row["tag"] for row in counters)}
    return frames.limits(counters, holders)


def held_by_leases(leases: Rows, task_runs: Rows, answer: Rows) -> pd.DataFrame:
    """Return LIMITS from the answer to `request`, with the holders that the server itself lists.

    `leases` is the answer to `endpoints.limits`, and `task_runs` are those that it lists, as far as they exist.
    """
    by_id = {run["id"]: run for run in task_runs}
    holders = {
        limit["tag"]: [_holder({"id": id_, **by_id.get(id_, {})}) for id_ in limit["active_slots"]] for limit in leases
    }
    return frames.limits(_counters(answer), holders)


def _counters(answer: Rows) -> list[dict[str, Any]]:
    """Return dicts of `tag`, `limit` and `taken` from either endpoint, without global limits, which have no tag."""
    counters = []
    for limit in answer:
        if "tag" in limit:
            taken = len(limit["active_slots"])
            counters.append({"tag": limit["tag"], "limit": limit["concurrency_limit"], "taken": taken})
        elif limit["name"].startswith("tag:") and limit["active"]:
            tag = limit["name"].removeprefix("tag:")
            counters.append({"tag": tag, "limit": limit["limit"], "taken": limit["active_slots"]})
    return counters


def _holder(run: Mapping[str, Any]) -> dict[str, Any]:
    sources = {"name": "name", "flow_run_id": "flow_run_id", "state": "state_name"}
    return {"task_run_id": run["id"]} | {key: run.get(source) for key, source in sources.items()}
