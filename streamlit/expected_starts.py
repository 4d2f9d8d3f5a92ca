"""In about how long each waiting task run starts, as a text; what `waits` needs is asked for at most once a minute."""

import pandas as pd
import streamlit as st
import waits

from flows.api import endpoints, rest, server
from flows.monitor import frames, pages


def texts(task_runs: pd.DataFrame, limits: pd.DataFrame, now: pd.Timestamp, *, of_all_runs: bool) -> pd.Series:
    """Return by id, for each of `task_runs` that waits for a slot of exactly one limit, when it starts: `4 to 9 s`.

    `of_all_runs` is whether `task_runs` are those of all flow runs. If they are not, and others take slots, those are
    asked for as well.
    """
    shown: dict[str, str] = {}
    pending = task_runs[(task_runs["state_type"] == "PENDING") & task_runs["started"].isna()]
    limited = set(limits["tag"])
    for limit in limits.to_dict("records"):
        alone = pending[
            pending["tags"].map(lambda tags, tag=limit["tag"]: limited.intersection(tags) == {tag}).astype(bool)
        ]
        known = None if alone.empty else _past(server.attach(), limit["tag"])
        if known is None:
            continue
        active = task_runs
        if not of_all_runs and limit["taken"] > limit["held"]:
            others = rest.send(endpoints.task_runs(state=pages.ACTIVE, tag=limit["tag"]))
            active = pd.concat([task_runs, frames.task_runs(others, now)]).drop_duplicates("task_run_id")
        ranges = waits.ranges(active, limit["tag"], int(limit["limit"]), known, now)
        ranges = ranges[ranges.index.isin(alone["task_run_id"])]
        shown |= {str(id_): text(*row) for id_, row in zip(ranges.index, ranges.to_numpy(), strict=True)}
    return task_runs["task_run_id"].map(shown).astype(object).fillna("")


def text(soonest: float, latest: float) -> str:
    """Return the range in a few characters."""
    if latest < 1:
        return "now"
    unit, seconds = ("min", 60) if latest >= 120 else ("s", 1)
    low, high = (f"{time / seconds:.0f}" for time in (soonest, latest))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


@st.cache_data(ttl=60, max_entries=100, show_spinner=False)
def _past(address: str, tag: str) -> waits.Past | None:
    """Return what the 200 task runs with this tag that ended last tell, of the server at `address`."""
    ended = endpoints.task_runs(tag=tag, state=["COMPLETED", "FAILED"], sort="END_TIME_DESC")
    return waits.past(frames.task_runs(rest.send(ended), pd.Timestamp.now("UTC")))
