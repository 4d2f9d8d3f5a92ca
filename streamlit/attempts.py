"""The attempts of task runs that were tried more than once: when each began and ended, and how."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import display
import pandas as pd
import streamlit as st

from flows.api import rest
from flows.api.endpoints import FAILED
from flows.monitor import charts, frames

MOST = 40  # task runs whose states are read, with a request each
ATTEMPTS = {"task_run_id": "object", "attempt": "Int64", "began": "datetime64[ns, UTC]"}
ATTEMPTS |= {"ended": "datetime64[ns, UTC]", "outcome": "object"}


def show(task_runs: pd.DataFrame, until: pd.Timestamp) -> None:
    """Offer to show the attempts of TASK_RUNS if some were tried more than once; those under way count to `until`."""
    several = task_runs[(task_runs["attempts"] > 1).fillna(False)]
    label = f"Show the attempts of task runs that were tried more than once ({len(several)})"
    if several.empty or not st.toggle(label, key="attempts"):
        return
    if len(several) > MOST:
        st.caption(f"The first {MOST} of them, in the order of their submission.")
    several = several.head(MOST)
    states = _states(tuple(several[["task_run_id", "attempts", "state"]].itertuples(index=False, name=None)))
    origin = task_runs["submitted"].min()
    display.chart(chart(several, attempts(states, until), origin), "attempts_chart")


@st.cache_data(max_entries=20, show_spinner=False)
def _states(chosen: tuple[tuple[str, int, str], ...]) -> list[frames.Rows]:
    """Return the states of each task run; read again when the number of its attempts or its state has changed."""
    return rest.gather([rest.Request("GET", f"task_run_states/?task_run_id={id_}") for id_, _, _ in chosen])


def attempts(states: list[frames.Rows], until: pd.Timestamp) -> pd.DataFrame:
    """Return ATTEMPTS from the states of some task runs: each state in which one runs begins an attempt."""
    rows = []
    for of_one in states:
        ordered = sorted(of_one, key=lambda state: pd.Timestamp(state["timestamp"]))
        begun = [place for place, state in enumerate(ordered) if state["type"] == "RUNNING"]
        for number, place in enumerate(begun, 1):
            state, after = ordered[place], ordered[place + 1] if place + 1 < len(ordered) else None
            rows.append(
                {"task_run_id": state["state_details"]["task_run_id"], "attempt": number, "began": state["timestamp"]}
                | {"ended": after["timestamp"] if after else until.isoformat(), "outcome": _outcome(after)}
            )
    return frames.typed(rows, ATTEMPTS)


def _outcome(after: Mapping[str, Any] | None) -> str:
    """Return how an attempt ended, by the state that followed it."""
    if after is None:
        return "runs"
    return "failed" if after["type"] in (*FAILED, "SCHEDULED", "RUNNING") else after["name"].lower()


def chart(task_runs: pd.DataFrame, attempts: pd.DataFrame, origin: pd.Timestamp) -> alt.Chart:
    """Draw ATTEMPTS of TASK_RUNS as bars, in seconds since `origin`."""
    rows = attempts.merge(charts.labelled(task_runs)[["task_run_id", "label"]], on="task_run_id")
    since = {name: (rows[name] - origin).dt.total_seconds().round(3) for name in ("began", "ended")}
    rows = rows.assign(**since, seconds=since["ended"] - since["began"])
    kinds = {"failed": charts.COLOURS["FAILED"], "completed": charts.COLOURS["COMPLETED"]}
    kinds |= {"runs": charts.COLOURS["RUNNING"], "cancelled": charts.COLOURS["CANCELLED"]}
    colour = alt.Color("outcome:N").scale(domain=list(kinds), range=list(kinds.values())).title(None)
    x = alt.X("began:Q").title("seconds since the first was submitted")
    y = alt.Y("label:N").sort(None).title(None).axis(labelLimit=220, ticks=False, domain=False)
    tooltip = [
        alt.Tooltip("label:N").title("task run"),
        "attempt:Q",
        "outcome:N",
        alt.Tooltip("seconds:Q", format=".2f"),
    ]
    bars = alt.Chart(rows).mark_bar(stroke="white", strokeWidth=1)
    bars = bars.encode(x, y, x2="ended", color=colour.legend(orient="top"), tooltip=tooltip)
    failed = int((rows["outcome"] == "failed").sum())
    counts = ", ".join(f"{label} {count}" for label, count in rows.groupby("label", sort=False).size().head(10).items())
    description = f"{len(rows)} attempts, of which {failed} failed: {counts}."
    return charts.styled(bars.properties(width=charts.WIDTH, height=alt.Step(18), description=description))
