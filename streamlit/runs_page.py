"""The first page: what runs and waits now, the limits, what failed, and the flow runs of the chosen time."""

from datetime import timedelta
from typing import Any

import actions
import active_runs
import dialogs
import display
import live_page
import pandas as pd
import refresh
import run_buttons
import streamlit as st
from texts import local, plain, zone

from flows.api import rest
from flows.api.endpoints import FAILED
from flows.monitor import charts, frames, pages

SINCE = {
    "5 minutes": timedelta(minutes=5),
    "15 minutes": timedelta(minutes=15),
    "1 hour": timedelta(hours=1),
    "6 hours": timedelta(hours=6),
    "1 day": timedelta(days=1),
    "7 days": timedelta(days=7),
    "30 days": timedelta(days=30),
    "all": None,
}
# Types of states in capitals; the others are names of states that share a type with others.
STATES = {
    "Running": "RUNNING",
    "Pending": "PENDING",
    "Scheduled": "SCHEDULED",
    "Late": "Late",
    "Awaiting retry": "AwaitingRetry",
    "Paused": "PAUSED",
    "Suspended": "Suspended",
    "Retrying": "Retrying",
    "Cancelling": "CANCELLING",
    "Completed": "COMPLETED",
    "Failed": "FAILED",
    "Crashed": "CRASHED",
    "Cancelled": "CANCELLED",
    "Timed out": "TimedOut",
}


def show() -> None:
    """Draw the page for the filters in the address bar."""
    filters = _filters()
    live_page.show("runs", repr(filters), lambda: refresh.first_overview(**filters), refresh.overview, _body)


def _filters() -> dict[str, Any]:
    loaded = st.session_state.get("runs")
    names = sorted(loaded.page.flows.values()) if loaded else []
    display.warn_of_unknown("state", STATES)
    display.warn_of_unknown("since", SINCE)
    narrow = st.session_state.get("narrow")
    place = st.popover("Filters", icon=":material/filter_list:", width="stretch") if narrow else st.container()
    columns = place.columns([3, 4, 2, 2, 3], vertical_alignment="bottom")
    flow = columns[0].selectbox(
        "Flow", names, index=None, placeholder="any", key="flow", bind="query-params", accept_new_options=True
    )
    states = columns[1].multiselect("State", list(STATES), placeholder="any", key="state", bind="query-params")
    tag = columns[2].text_input("Tag", placeholder="any", key="tag", bind="query-params")
    since = columns[3].selectbox("Due in the last", list(SINCE), index=4, key="since", bind="query-params")
    text = columns[4].text_input("Name contains", placeholder="any text", key="text", bind="query-params")
    chosen = [*filter(None, [flow, *states, tag, text, since != "1 day" and since])]
    if narrow and chosen:
        st.caption(plain(f"Only: {', '.join(chosen)}"))
    return {
        "flow": flow or None,
        "state": [STATES[state] for state in states],
        "tag": tag.strip() or None,
        "since": SINCE.get(since or "all"),
        "text": text.strip() or None,
    }


def _body(page: refresh.Overview) -> None:
    _counts(page)
    left, right = st.columns([2, 1], gap="large")
    with left:
        active_runs.show_runs(page)
    with right:
        active_runs.show_limits(page)
    _failed(page)
    if len(page.states):
        display.chart(_states(page), "states")
    _runs(page)


def _counts(page: pages.Overview) -> None:
    by_type = page.states.groupby("state_type")["runs"].sum()
    late = int(page.states.loc[page.states["state"] == "Late", "runs"].sum())
    # One that has not started waits in its process, for a slot of a global limit.
    running = int(((page.task_runs["state_type"] == "RUNNING") & page.task_runs["started"].notna()).sum())
    more = "" if page.complete else "+"
    counts = {
        "flow runs": f"{by_type.sum():,}",
        "running": f"{by_type.get('RUNNING', 0):,}",
        "late": f"{late:,}",
        "failed or crashed": f"{sum(by_type.get(state, 0) for state in FAILED):,}",
        "task runs running": f"{running}{more}",
        "task runs waiting": f"{len(page.task_runs) - running}{more}",
    }
    for column, (label, count) in zip(st.container(key="counts").columns(6), counts.items(), strict=True):
        column.metric(label, count)


def _states(page: pages.Overview) -> Any:
    """Draw the lesson's chart with room for axes and legend, which Streamlit counts, and bars that can be spoken."""
    spoken = "datum.runs + ' ' + datum.state + ', due from ' + timeFormat(datum.time, '%d %b %H:%M')"
    drawn = charts.states(page.states, page.start, page.read_at).properties(height=240)
    return drawn.transform_calculate(spoken=spoken).encode(description="spoken:N")


def _failed(page: pages.Overview) -> None:
    failed = frames.failures(page.flow_runs)
    total = int(page.states.loc[page.states["state_type"].isin(FAILED), "runs"].sum())
    if failed.empty and not total:
        return
    st.markdown("##### What failed")
    if len(failed) < len(page.flow_runs) and total > len(failed):
        st.caption(f"{len(failed)} of {total:,}: those among the {rest.page()} newest flow runs.")
        if st.button("Show all that failed", on_click=_only_failed, icon=":material/filter_list:"):
            st.rerun()  # for the filters, which are not part of what is kept up to date
    elif total > len(failed):
        st.caption(f"The {len(failed)} newest of {total:,}. To see others, choose a flow, a tag or a part of the name.")
    if failed.empty:
        return
    shown = pd.DataFrame(
        {
            "ended": local(failed["ended"]),
            "run": failed["name"],
            "flow": failed["flow"],
            "message": failed["message"].fillna("no message").str.slice(0, 500),
            "open": failed["flow_run_id"].map(display.link),
        }
    )
    display.table(
        shown,
        hide_index=True,
        height=display.height(len(shown), 180),
        column_config={
            "ended": st.column_config.DatetimeColumn(format="D MMM HH:mm:ss", width=130),
            "run": st.column_config.TextColumn(width="small"),
            "flow": st.column_config.TextColumn(width="small"),
            "message": st.column_config.TextColumn(width="large"),
            "open": st.column_config.LinkColumn("", display_text="open", width="small"),
        },
        alt="Flow runs that failed or crashed, with their messages.",
    )


def _only_failed() -> None:
    st.session_state.state = ["Failed", "Crashed"]


def _runs(page: pages.Overview) -> None:
    runs = page.flow_runs.reset_index(drop=True)
    total = int(page.states["runs"].sum())
    st.markdown("##### Flow runs")
    if runs.empty:
        if any(page.filters.values()):
            st.caption("No flow run matches these filters. Remove a filter, choose a longer time, or start a run.")
        else:
            st.caption("No runs yet in this time. Choose a longer time, or start one: python flows/prefect_flow.py")
        return
    count = f"The {len(runs)} newest of {total:,}" if total > len(runs) else f"All {len(runs)}"
    st.caption(f"{count}; read at {page.read_at.tz_convert(zone()):%H:%M:%S}.")
    shown = pd.DataFrame(
        {
            "due": local(runs["submitted"]),
            "run": runs["name"],
            "flow": runs["flow"],
            "state": runs["state"],
            "waited": runs["waited_seconds"],
            "ran": runs["ran_seconds"],
            "tags": runs["tags"],
            "open": runs["flow_run_id"].map(display.link),
        }
    )
    event = display.table(
        display.coloured(shown, runs["state_type"]),
        hide_index=True,
        height=display.height(len(shown), 420),
        on_select="rerun" if actions.allowed() else "ignore",
        selection_mode="multi-row",
        # Streamlit keeps the selection by position: with the same key, it would select other runs later.
        key=f"{live_page.SELECTION} {hash(tuple(runs['flow_run_id']))} {dialogs.confirmations()}",
        column_config={
            "due": st.column_config.DatetimeColumn(format="D MMM HH:mm:ss", width=130),
            "run": st.column_config.TextColumn(width="medium"),
            "flow": st.column_config.TextColumn(width="medium"),
            "state": st.column_config.TextColumn(width="small"),
            "waited": st.column_config.NumberColumn("waited (s)", format="%.1f", width="small"),
            "ran": st.column_config.NumberColumn("ran (s)", format="%.1f", width="small"),
            "tags": st.column_config.ListColumn(width="small"),
            "open": st.column_config.LinkColumn("", display_text="open", width="small"),
        },
        alt="Flow runs that match the filters.",
    )
    columns = st.columns([1, 1, 1, 4])
    display.save(runs.drop(columns=["parameters"]), "flow-runs.csv", columns[0])
    if actions.allowed():
        rows = [row for row in event["selection"]["rows"] if row < len(runs)]
        run_buttons.show(runs.iloc[rows], columns[1], columns[2])
