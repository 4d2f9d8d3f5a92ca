"""The middle of the first page: what runs now, what waits and why, and the limits with their holders."""

from typing import Any

import display
import global_slots
import pandas as pd
import refresh
import streamlit as st
from texts import plain, zone

from flows.api import rest
from flows.monitor import pages, reasons


def show_runs(page: refresh.Overview) -> None:
    """Show the task runs and flow runs that run or wait now, and why those that wait do."""
    st.markdown("##### What runs, and what waits and why")
    rows = _rows(page)
    if rows.empty:
        some = f"No task run is active, and none of the {rest.page()} newest flow runs is running or waiting."
        st.caption(some if len(page.flow_runs) == rest.page() else "Nothing is running and nothing is waiting.")
        return
    for why, count in rows.loc[rows["why"] != "", "why"].value_counts().head(3).items():
        st.caption(plain(f"{count} {'waits' if count == 1 else 'wait'}: {why}", 600))
    shown = rows.assign(open=rows["flow_run_id"].map(display.link))
    starts = ["starts"] if shown["starts"].any() else []
    shown = shown[["name", "state", *starts, "open", "seconds", "flow_run", "why"]]
    display.table(
        display.coloured(shown, rows["state_type"]),
        hide_index=True,
        height=display.height(len(shown), 320),
        column_config={
            "name": st.column_config.TextColumn("run", width="medium"),
            "state": st.column_config.TextColumn(width="small"),
            "flow_run": st.column_config.TextColumn("of the flow run", width="small"),
            "seconds": st.column_config.NumberColumn("for (s)", format="%.0f", width="small"),
            "starts": st.column_config.TextColumn("starts in", width="small", help="About, from past durations."),
            "open": st.column_config.LinkColumn("", display_text="open", width="small"),
            "why": st.column_config.TextColumn("why it waits", width="large"),
        },
        alt="Task runs and flow runs that run or wait now, and why those that wait do.",
    )


def _rows(page: refresh.Overview) -> pd.DataFrame:
    states = page.flow_runs["state_type"]
    # A flow run that runs is represented by its task runs, unless none of them is active.
    without_tasks = ~page.flow_runs["flow_run_id"].isin(page.task_runs["flow_run_id"])
    running = states.isin(["RUNNING", "CANCELLING"]) & without_tasks
    flow_runs = page.flow_runs[states.isin(["SCHEDULED", "PENDING", "PAUSED"]) | running]
    columns = ["name", "state", "state_type", "starts", "why", "seconds", "flow_run_id"]
    starts = [page.starts.get(id_, "") for id_ in page.task_runs["task_run_id"]]
    rows = pd.concat(
        [
            runs.assign(
                why=[_why(run, page) for _, run in runs.iterrows()],
                seconds=runs["ran_seconds"].fillna(runs["waited_seconds"]),  # that it has run, or else waited
            )[columns]
            for runs in (page.task_runs.assign(starts=starts), flow_runs.assign(starts=""))
        ],
        ignore_index=True,
    )
    names = page.flow_runs.set_index("flow_run_id")["name"]
    rows["flow_run"] = rows["flow_run_id"].map(names).astype(object).fillna("")
    return rows.sort_values("why", key=lambda reasons: reasons != "", kind="stable", ignore_index=True)


def _why(run: pd.Series, page: pages.Overview) -> str:
    return reasons.why(run, page.limits, page.task_runs, complete=page.complete, zone=zone()) or ""


def show_limits(page: refresh.Overview) -> None:
    """Show for each limit how many slots are taken, which task runs run with it, and whether it is exceeded."""
    st.markdown("##### Limits")
    if page.limits.empty:
        st.caption(global_slots.NO_LIMIT)
        return
    for limit in page.limits.to_dict("records"):
        share = max(0.0, min(1.0, limit["taken"] / limit["limit"])) if limit["limit"] > 0 else 1.0
        label = plain(global_slots.label(limit["tag"], limit["freed"]))
        st.progress(share, f"{label}: {limit['taken']} of {limit['limit']} slots taken")
        alarming = not limit["freed"] and (limit["limit"] <= 0 or limit["taken"] > limit["limit"])
        (st.warning if alarming else st.caption)(plain(" ".join(about(limit, page)), 600))


def about(limit: dict[str, Any], page: refresh.Overview) -> list[str]:
    """Return sentences about a limit. The server's counter decides, since a task run of a dead process says it runs."""
    if limit["freed"]:
        return [f"It lets {limit['freed']:g} more through each second."]
    names = [holder["name"] or holder["task_run_id"] for holder in limit["holders"]]
    lines = [f"Running with it: {', '.join(names)}."] if names else []
    more = limit["taken"] - limit["held"]
    if limit["taken"] > max(0, limit["limit"]):
        lines.append(f"The limit is exceeded: {limit['taken']} slots are taken, {limit['limit']} are allowed.")
    elif limit["limit"] <= 0:
        lines.append(f"The limit is {limit['limit']}, so nothing may start.")
    elif more >= 0 and page.complete:
        lines.append("The limit is respected.")
    if limit["tag"] in page.unasked:
        lines.append("Who holds them is shown at the next refresh.")
    elif more < 0:
        counted = f"The server counts {limit['taken']} slots as taken, and {limit['held']} task runs say that they run."
        lines += [counted, "If that lasts, some of them are dead or lost their slots: see the page Limits."]
    elif more > 0:
        surplus = f"The server counts {more} more slots as taken than there are running task runs"
        if page.complete:
            lines.append(f"{surplus}. If that lasts, see the page Limits.")
        else:
            lines.append(f"{surplus} among the {len(page.task_runs)} oldest active ones.")
    return lines
