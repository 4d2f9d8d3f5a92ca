"""In about how long each waiting task run starts, as a text; what `waits` needs is asked for at most once a minute."""

import math
from datetime import timedelta

import pandas as pd
import streamlit as st
import waits

from flows.api import endpoints, rest, server
from flows.monitor import frames, pages

_KEPT = timedelta(minutes=1)


def texts(
    task_runs: pd.DataFrame, limits: pd.DataFrame, now: pd.Timestamp, *, of_all_runs: bool, room: float = math.inf
) -> dict[str, str]:
    """Return by id, for each of `task_runs` that waits for a slot of exactly one limit, when it starts: `4 to 9 s`.

    `of_all_runs` is whether `task_runs` are those of all flow runs. If they are not, and others take slots, those are
    asked for as well. There is `room` for so many requests for past task runs.
    """
    shown: dict[str, str] = {}
    pasts = _pasts(server.attach())
    pending = task_runs[(task_runs["state_type"] == "PENDING") & task_runs["started"].isna()]
    limited = set(limits["tag"])
    for limit in limits.to_dict("records"):
        tag = limit["tag"]
        alone = pending[pending["tags"].map(lambda tags, tag=tag: limited.intersection(tags) == {tag}).astype(bool)]
        if alone.empty:
            continue
        if room and (tag not in pasts or now - pasts[tag][0] > _KEPT):
            pasts[tag], room = (now, _past(tag)), room - 1
        _, known = pasts.get(tag, (now, None))
        if known is None:
            continue
        active = task_runs
        if not of_all_runs and limit["taken"] > limit["held"]:
            others = rest.send(endpoints.task_runs(state=pages.ACTIVE, tag=tag))
            active = pd.concat([task_runs, frames.task_runs(others, now)]).drop_duplicates("task_run_id")
        ranges = waits.ranges(active, tag, int(limit["limit"]), known, now)
        ranges = ranges[ranges.index.isin(alone["task_run_id"])]
        shown |= {str(id_): text(*row) for id_, row in zip(ranges.index, ranges.to_numpy(), strict=True)}
    return shown


def text(soonest: float, latest: float) -> str:
    """Return the range in a few characters."""
    if latest < 1:
        return "now"
    unit, seconds = ("min", 60) if latest >= 120 else ("s", 1)
    low, high = (f"{time / seconds:.0f}" for time in (soonest, latest))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


@st.cache_resource(ttl=timedelta(hours=1), max_entries=10, show_spinner=False)
def _pasts(address: str) -> dict[str, tuple[pd.Timestamp, waits.Past | None]]:
    """Return by tag what `_past` returned for the server at `address`, and when."""
    return {}


def _past(tag: str) -> waits.Past | None:
    """Return what can be learned from the 200 task runs with this tag that ended last."""
    ended = endpoints.task_runs(tag=tag, state=["COMPLETED", "FAILED"], sort="END_TIME_DESC")
    return waits.past(frames.task_runs(rest.send(ended), pd.Timestamp.now("UTC")))
