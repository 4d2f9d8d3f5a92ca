"""The limits of all tags as LIMITS: the slots that the server counts as taken, and the task runs that hold them.

In LIMITS, `taken` is the server's counter of taken slots, which is what makes a task wait. `holders` are dicts of
`task_run_id`, `name`, `flow_run_id` and `state`, and `held` is their number. If `taken` is more than `held`, the server
counts slots that no task run holds: reset the limit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flows import versions
from flows.api import endpoints
from flows.api.rest import Request
from flows.monitor import frames

Rows = Sequence[Mapping[str, Any]]
_HOLDER = ("task_run_id", "name", "flow_run_id", "state")


def request(version: str | None) -> Request:
    """Return the request whose answer has the number of taken slots; Prefect 2 has only the list of holders."""
    return endpoints.counters() if versions.is_3(version) else endpoints.limits()


def held_by(task_runs: pd.DataFrame, answer: Rows) -> pd.DataFrame:
    """Return LIMITS from the answer to `request`, with those of `task_runs` as holders that have started."""
    # One that is between two attempts keeps its slot, and so counts as well.
    running = task_runs[task_runs["started"].notna() & task_runs["ended"].isna()]
    return _limits(answer, [(tag, run) for run in running.to_dict("records") for tag in run["tags"]])


def held_by_leases(leases: Rows, task_runs: pd.DataFrame, answer: Rows) -> pd.DataFrame:
    """Return LIMITS from the answer to `request`, with the holders that the server itself lists.

    `leases` is the answer to `endpoints.limits`, and `task_runs` are those that it lists, as far as they exist.
    """
    by_id = {run["task_run_id"]: run for run in task_runs.to_dict("records")}
    slots = [(limit["tag"], id_) for limit in leases for id_ in limit["active_slots"]]
    return _limits(answer, [(tag, by_id.get(id_, {"task_run_id": id_})) for tag, id_ in slots])


def _limits(answer: Rows, holders: Sequence[tuple[str, Mapping[Any, Any]]]) -> pd.DataFrame:
    """Return LIMITS, sorted by tag, without global limits, which have none. `holders` are pairs of a tag and a run."""
    rows = []
    for limit in answer:
        if "tag" in limit:
            row = {"tag": limit["tag"], "limit": limit["concurrency_limit"], "taken": len(limit["active_slots"])}
        elif limit["name"].startswith("tag:") and limit["active"]:
            tag = limit["name"].removeprefix("tag:")
            row = {"tag": tag, "limit": limit["limit"], "taken": limit["active_slots"]}
        else:
            continue
        of_tag = [{key: run.get(key) for key in _HOLDER} for tag, run in holders if tag == row["tag"]]
        rows.append(row | {"held": len(of_tag), "holders": of_tag})
    return frames.typed(sorted(rows, key=lambda row: row["tag"]), frames.LIMITS)
