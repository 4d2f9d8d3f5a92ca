"""Who holds the slots of global limits, and when each was taken and given back, from the events that Prefect 3 stores.

The server names the holders of tags' slots only. For a global limit, Prefect's `concurrency` and the kit's own flow
send an event when they take a slot and another one when they give it back. Prefect 2 stores no events.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import slot_events

from flows.api import rest
from flows.api.slots import MARK
from flows.monitor import frames

NO_LIMIT = "No limit is set, so all submitted tasks run at once."
EVENTS = {"event_id": "object", "time": "datetime64[ns, UTC]", "phase": "object", "tag": "object"}
EVENTS |= {"task_run_id": "object", "name": "object", "flow_run_id": "object"}
SPANS = {"tag": "object", "task_run_id": "object", "name": "object", "flow_run_id": "object"}
SPANS |= {"started": "datetime64[ns, UTC]", "ended": "datetime64[ns, UTC]"}
MOST_PAGES = 20  # of 50 events each


def read(names: Sequence[str], *related: str, since: pd.Timestamp | None = None, pages: int = 1) -> pd.DataFrame:
    """Return EVENTS of the global limits `names`, the newest first, from up to `pages` pages of the server's answer.

    `related` are resources, such as a flow run, of which one has to belong to an event, if any are given.
    """
    chosen: dict[str, Any] = {"related": {"id": list(related)}} if related else {}
    if since is not None:
        chosen["occurred"] = {"since": since.isoformat()}
    following: rest.Request | None = slot_events.request(list(names), **chosen)._replace(missing_ok=True)
    events: list[Any] = []
    while following and pages:
        answer: dict[str, Any] = rest.send(following) or {"events": [], "next_page": None}
        events += answer["events"]
        following, pages = slot_events.next_page(answer), pages - 1
    return frames.typed([_event(event) for event in events], EVENTS)


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    runs = slot_events.runs_of(event)
    return {
        "event_id": event["id"],
        "time": event["occurred"],
        "phase": event["event"].rpartition(".")[2],
        "tag": MARK + event["resource"]["prefect.resource.name"],
        "name": runs["task_run"] or runs["flow_run"],
    } | runs


def spans(events: pd.DataFrame) -> pd.DataFrame:
    """Return SPANS from EVENTS: for each slot that a run took, when it did and when it gave it back, if it has."""
    rows: list[dict[str, Any]] = []
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events.sort_values("time").to_dict("records"):
        holder = event["tag"], event["task_run_id"] or event["flow_run_id"]
        if event["phase"] == "acquired":
            last[holder] = event | {"started": event["time"], "ended": pd.NaT}
            rows.append(last[holder])
        elif holder in last:
            last[holder]["ended"] = event["time"]
    return frames.typed(rows, SPANS)


def of_ended(slots: pd.DataFrame, task_runs: pd.DataFrame) -> pd.DataFrame:
    """Return SPANS in which a slot that was not given back ended with its task run: the lease of a dead one expires."""
    ends = task_runs.set_index("task_run_id")["ended"].reindex(slots["task_run_id"]).set_axis(slots.index)
    return slots.assign(ended=slots["ended"].fillna(ends))


def placed(task_runs: pd.DataFrame, slots: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """Return TASK_RUNS in which one that takes its slot itself has started when it took its first one, in `slots`.

    Its tags say that it does. Another task run gets the tag for as long as it holds a slot.
    """
    marked = pd.Series([any(tag.startswith(MARK) for tag in tags) for tags in task_runs["tags"]], task_runs.index, bool)
    first = slots.groupby("task_run_id")["started"].min().reindex(task_runs["task_run_id"]).set_axis(task_runs.index)
    # Of one that has ended without an event, nothing else is known than its own times.
    began = first.where(first.notna() | task_runs["ended"].isna(), task_runs["started"])
    holds = slots[slots["ended"].isna()].groupby("task_run_id")["tag"].agg(list)
    tags = [
        [*one, *(tag for tag in holds.get(id_, []) if tag not in one)]
        for id_, one in zip(task_runs["task_run_id"], task_runs["tags"], strict=True)
    ]
    tags = pd.Series(tags, task_runs.index, object)
    return frames.timed(task_runs.assign(started=task_runs["started"].mask(marked, began), tags=tags), now)


def holding(limits: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return LIMITS in which `runs` that have started and not ended hold slots of the global limits in their tags."""
    running = runs[runs["started"].notna() & runs["ended"].isna()]
    rows = limits.to_dict("records")
    for row in rows:
        if row["tag"].startswith(MARK):
            of_limit = frames.tagged(running, row["tag"])
            row["holders"] = of_limit[["task_run_id", "name", "flow_run_id", "state"]].to_dict("records")
            row["held"] = len(of_limit)
    return frames.typed(rows, frames.LIMITS)


def marked(task_runs: pd.DataFrame) -> set[str]:
    """Return the names of the global limits of which `task_runs` take slots themselves, by their tags."""
    return {tag.removeprefix(MARK) for tags in task_runs["tags"] for tag in tags if tag.startswith(MARK)}


def names(limits: pd.DataFrame) -> list[str]:
    """Return the names of the global limits whose slots somebody holds; a rate limit's are held by nobody."""
    taken = limits[(limits["taken"] > 0) & (limits["freed"] == 0)]
    return [tag.removeprefix(MARK) for tag in taken["tag"] if tag.startswith(MARK)]


def label(tag: str, freed: float = 0) -> str:
    """Return what the pages call the limit with this `tag` in LIMITS, which frees so many slots a second by itself."""
    kind = "rate limit" if freed else "global limit"
    return f"{tag.removeprefix(MARK)} ({kind})" if tag.startswith(MARK) else tag
