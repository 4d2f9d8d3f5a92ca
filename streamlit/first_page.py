"""The first page: what runs and waits now, the limits, what failed, and the flow runs of the chosen time."""

from datetime import timedelta
from typing import Any

import actions
import live
import pandas as pd
import run_changes
import shell
import streamlit as st

from flows.api import rest
from flows.monitor import charts, frames, pages, reasons

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
# Types of states in capitals, and two states that are of a type with others.
STATES = {
    "Running": "RUNNING",
    "Pending": "PENDING",
    "Scheduled": "SCHEDULED",
    "Late": "Late",
    "Awaiting retry": "AwaitingRetry",
    "Paused": "PAUSED",
    "Completed": "COMPLETED",
    "Failed": "FAILED",
    "Crashed": "CRASHED",
    "Cancelled": "CANCELLED",
}


def show() -> None:
    """Draw the page for the filters in the address bar."""
    chosen = _filters()
    key = repr(chosen)
    live.page("runs", key, lambda: pages.overview(**chosen), pages.refresh, _body)


def _filters() -> dict[str, Any]:
    known = st.session_state.get("runs")
    names = sorted(known.page.flows.values()) if known else []
    columns = st.columns([3, 4, 2, 2, 3], vertical_alignment="bottom")
    flow = columns[0].selectbox(
        "Flow", names, index=None, placeholder="any", key="flow", bind="query-params", accept_new_options=True
    )
    states = columns[1].multiselect("State", list(STATES), placeholder="any", key="state", bind="query-params")
    tag = columns[2].text_input("Tag", placeholder="any", key="tag", bind="query-params")
    since = columns[3].selectbox("Due in the last", list(SINCE), index=4, key="since", bind="query-params")
    text = columns[4].text_input("Name contains", placeholder="any text", key="text", bind="query-params")
    return {
        "flow": flow or None,
        "state": [STATES[state] for state in states],
        "tag": tag.strip() or None,
        "since": SINCE.get(since or "all"),
        "text": text.strip() or None,
    }


def _body(page: pages.Overview) -> None:
    _counts(page)
    left, right = st.columns([2, 1], gap="large")
    with left:
        _now(page)
    with right:
        _limits(page)
    _failed(page)
    if len(page.states):
        shell.chart(charts.states(page.states, page.start, page.read_at), "states")
    _runs(page)


def _counts(page: pages.Overview) -> None:
    by_type = page.states.groupby("state_type")["runs"].sum()
    late = int(page.states.loc[page.states["state"] == "Late", "runs"].sum())
    running = int((page.task_runs["state_type"] == "RUNNING").sum())
    columns = st.columns(6)
    columns[0].metric("flow runs", int(by_type.sum()))
    columns[1].metric("running", int(by_type.get("RUNNING", 0)))
    columns[2].metric("late", late)
    columns[3].metric("failed or crashed", int(by_type.get("FAILED", 0) + by_type.get("CRASHED", 0)))
    more = "" if page.whole else "+"
    columns[4].metric("task runs running", f"{running}{more}")
    columns[5].metric("task runs waiting", f"{len(page.task_runs) - running}{more}")


def _now(page: pages.Overview) -> None:
    st.markdown("##### What runs, and what waits and why")
    runs = page.flow_runs.set_index("flow_run_id")["name"]
    tasks = page.task_runs.assign(
        why=[_why(row, page) for _, row in page.task_runs.iterrows()],
        run=page.task_runs["flow_run_id"].map(runs),
    )
    kinds = page.flow_runs["state_type"]
    # One that runs is there by its task runs, unless it has none that is active.
    alone = kinds.isin(["RUNNING", "CANCELLING"]) & ~page.flow_runs["flow_run_id"].isin(page.task_runs["flow_run_id"])
    active = page.flow_runs[kinds.isin(["SCHEDULED", "PENDING", "PAUSED"]) | alone]
    flows = active.assign(
        why=[_why(row, page) for _, row in active.iterrows()],
        run=active["name"],
    )
    rows = pd.concat([frame[["name", "state", "state_type", "why", "run", "flow_run_id"]] for frame in (tasks, flows)])
    if rows.empty:
        some = "No task run is active, and none of the 200 newest flow runs runs or waits."
        st.caption(some if len(page.flow_runs) == rest.PAGE else "Nothing runs and nothing waits.")
        return
    rows = rows.sort_values("state_type", key=lambda kinds: kinds != "RUNNING", kind="stable").reset_index(drop=True)
    for why, count in rows.loc[rows["why"] != "", "why"].value_counts().head(3).items():
        st.caption(shell.plain(f"{count} wait{'s' if count == 1 else ''}: {why}", 600))
    shown = rows.assign(open=_links(rows["flow_run_id"]))[["name", "state", "why", "open"]]
    shell.table(
        shell.coloured(shown, rows["state_type"]),
        hide_index=True,
        height=min(38 + 35 * len(shown), 320),
        column_config={
            "name": st.column_config.TextColumn("run", width="medium"),
            "state": st.column_config.TextColumn(width="small"),
            "why": st.column_config.TextColumn("why it waits", width="large"),
            "open": st.column_config.LinkColumn("", display_text="open", width="small"),
        },
        alt="Task runs and flow runs that run or wait now, and why those that wait do.",
    )


def _why(row: pd.Series, page: pages.Overview) -> str:
    return reasons.why(row, page.limits, page.task_runs, whole=page.whole, zone=shell.zone()) or ""


def _limits(page: pages.Overview) -> None:
    st.markdown("##### Limits")
    if page.limits.empty:
        st.caption("No tag has a limit: tasks run as many at once as they are submitted.")
        return
    for limit in page.limits.to_dict("records"):
        share = max(0.0, min(1.0, limit["taken"] / limit["limit"])) if limit["limit"] > 0 else 1.0
        st.progress(share, f"{shell.plain(limit['tag'])}: {limit['taken']} of {limit['limit']} slots taken")
        names = [holder["name"] or holder["task_run_id"] for holder in limit["holders"]]
        lines = [f"Running with it: {', '.join(names)}."] if names else []
        if limit["held"] > max(0, limit["limit"]):
            lines.append(f"It does not hold: {limit['held']} run, and {limit['limit']} may.")
        elif limit["taken"] <= limit["limit"] and page.whole:
            lines.append("It holds.")
        if limit["taken"] > limit["held"]:
            known = "are said to run; see Limits if that lasts" if page.whole else "run among the 200 oldest"
            lines.append(f"{limit['taken'] - limit['held']} more counted than {known}.")
        st.caption(shell.plain(" ".join(lines), 600))


def _failed(page: pages.Overview) -> None:
    failed = frames.failures(page.flow_runs).head(50)
    total = int(page.states.loc[page.states["state_type"].isin(["FAILED", "CRASHED"]), "runs"].sum())
    if failed.empty and not total:
        return
    st.markdown("##### What failed")
    if total > len(failed):
        st.caption(f"{len(failed)} of {total}: for others choose the states Failed and Crashed, or a shorter time.")
    if failed.empty:
        return
    shown = pd.DataFrame(
        {
            "ended": shell.local(failed["ended"]),
            "run": failed["name"],
            "flow": failed["flow"],
            "message": failed["message"].fillna("no message").str.slice(0, 500),
            "open": _links(failed["flow_run_id"]),
        }
    )
    shell.table(
        shown,
        hide_index=True,
        height=min(38 + 35 * len(shown), 180),
        column_config={
            "ended": st.column_config.DatetimeColumn(format="D MMM HH:mm:ss", width=130),
            "run": st.column_config.TextColumn(width="small"),
            "flow": st.column_config.TextColumn(width="small"),
            "message": st.column_config.TextColumn(width="large"),
            "open": st.column_config.LinkColumn("", display_text="open", width="small"),
        },
        alt="Flow runs that failed or crashed, with their messages.",
    )


def _runs(page: pages.Overview) -> None:
    runs = page.flow_runs.reset_index(drop=True)
    total = int(page.states["runs"].sum())
    st.markdown("##### Flow runs")
    if runs.empty:
        if any(page.chosen[one] for one in ("flow", "state", "tag", "text")):
            st.caption("No flow run fits these filters. Take one away, choose a longer time, or start one.")
        else:
            st.caption("No runs yet in this time. Choose a longer one, or start one: python flows/prefect_flow.py")
        return
    counted = f"the {len(runs)} newest of {total}" if total > len(runs) else f"all {len(runs)}"
    st.caption(f"{counted[0].upper()}{counted[1:]}; read at {page.read_at.tz_convert(shell.zone()):%H:%M:%S}.")
    shown = pd.DataFrame(
        {
            "due": shell.local(runs["submitted"]),
            "run": runs["name"],
            "flow": runs["flow"],
            "state": runs["state"],
            "waited": runs["waited_seconds"],
            "ran": runs["ran_seconds"],
            "tags": runs["tags"],
            "open": _links(runs["flow_run_id"]),
        }
    )
    event = shell.table(
        shell.coloured(shown, runs["state_type"]),
        hide_index=True,
        height=min(38 + 35 * len(shown), 420),
        on_select="rerun" if actions.allowed() else "ignore",
        selection_mode="multi-row",
        # Ticks are kept by position: among other runs they would mean others.
        key=f"{live.CHOSEN} {hash(tuple(runs['flow_run_id']))} {live.acted()}",
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
        alt="Flow runs that fit the filters.",
    )
    columns = st.columns([1, 1, 1, 4])
    table = shell.csv(runs.drop(columns=["parameters"]))
    columns[0].download_button(
        "Save as CSV", table, "flow-runs.csv", "text/csv", on_click="ignore", icon=":material/download:"
    )
    if actions.allowed():
        rows = [row for row in event["selection"]["rows"] if row < len(runs)]
        run_changes.buttons(runs.iloc[rows], columns[1], columns[2])


def _links(flow_run_ids: pd.Series) -> pd.Series:
    return "/run?id=" + flow_run_ids.astype(str)
