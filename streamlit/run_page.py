"""One flow run: its timeline, its concurrency against the limit, its task runs, and its logs."""

import actions
import attempts
import bar_charts
import display
import expected_starts
import global_slots
import live_page
import pandas as pd
import refresh
import related_runs
import run_buttons
import saved_run
import server_status
import streamlit as st
import what_if
from texts import local, plain, zone

from flows.api import endpoints, rest
from flows.api.endpoints import FAILED, FINAL
from flows.api.slots import MARK
from flows.monitor import charts, frames, pages, reasons

LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def show() -> None:
    """Draw the page of the flow run whose id is in the address bar."""
    flow_run_id = st.text_input(
        "Flow run", key="id", bind="query-params", placeholder="its id, as in the address of its page"
    ).strip()
    if flow_run_id:
        live_page.show("run", flow_run_id, lambda: refresh.first(flow_run_id), refresh.run, _body)
    elif server_status.responds():
        st.caption("Open a run from the page Runs, or paste its id.")


def _body(page: refresh.Run) -> None:
    run = page.flow_run
    st.set_page_config(f"{run['name'][:80]} · Monitor")
    st.markdown(f"#### {plain(run['name'], 80)} · {plain(run['state'])}")
    started = run["started"]
    when = f"{started.tz_convert(zone()):%d %b %Y %H:%M:%S}" if pd.notna(started) else "not started"
    st.caption(plain(f"{run['flow']} · {when} · waited {run['waited_seconds']:.1f} s · ran {_ran(run)}", 500))
    related_runs.show_family(run["flow_run_id"])
    why = reasons.why(run, page.limits, page.task_runs, page.poll, zone=zone())
    if why:
        st.info(plain(why, 1000), icon=":material/hourglass_top:")
    if run["message"] and run["state_type"] in (*FAILED, "CANCELLED"):
        st.error(plain(run["message"], 2000), icon=":material/report:")
    if actions.allowed():
        columns = st.columns([1, 1, 1, 5])
        run_buttons.show(run.to_frame().T, columns[0], columns[1])
        run_buttons.show_resume(run.to_frame().T, columns[2])
    if page.task_runs.empty:
        st.caption(f"This run has no task runs{'' if run['state_type'] in FINAL else ' yet'}.")
    else:
        _timeline(page)
        _tasks(page)
    related_runs.show_earlier(run)
    _logs(page)


def _timeline(page: refresh.Run) -> None:
    limited = [tag for tag in page.limits["tag"] if len(frames.tagged(page.task_runs, tag))]
    tag = None
    if limited:
        tag = st.segmented_control(
            "Task runs under the limit",
            limited,
            default=limited[0],
            format_func=lambda tag: plain(global_slots.label(tag)),
            key="of_tag",
        )
    tasks = frames.tagged(page.task_runs, tag) if tag else page.task_runs
    in_slots = page.slots[page.slots["tag"] == tag] if tag and tag.startswith(MARK) else tasks
    steps = frames.concurrency(in_slots, page.until)
    limit = int(page.limits.set_index("tag").loc[tag, "limit"]) if tag else None
    _verdict(page, steps, limit)
    drawn = charts.run(tasks, steps, limit)
    display.chart(drawn, "timeline", room=display.room(tasks))
    saved_run.offer(page, frames.verdict(steps, limit), drawn)
    with st.expander("How long each task run waited"):
        display.chart(bar_charts.waiting(tasks), "waiting")
    attempts.show(tasks, page.until)
    what_if.show(page, tag)


def _verdict(page: refresh.Run, steps: pd.DataFrame, limit: int | None) -> None:
    marked = any(tag.startswith(MARK) for tags in page.task_runs["tags"] for tag in tags)
    if limit is None and marked:
        st.info("The server does not show who held the slots of a global limit, so this page cannot say if it held.")
        return
    verdict, most = plain(frames.verdict(steps, limit)), frames.peak(steps)
    if limit is None:
        st.info(verdict, icon=":material/rule:")
        return
    if not most:
        st.info(f"Nothing has run yet; the limit is {limit}.", icon=":material/rule:")
        return
    compared = "This compares only this run, and with the limit as it is now; it may have been different then."
    if most > limit:
        st.warning(f"{verdict} {compared}")
    elif page.flow_run["state_type"] in FINAL:
        st.success(f"{verdict} {compared}", icon=":material/rule:")
    else:  # it may yet turn out otherwise
        st.info(f"{verdict} {compared}", icon=":material/rule:")


def _tasks(page: pages.Run) -> None:
    tasks = page.task_runs.reset_index(drop=True)
    st.markdown(f"##### {len(tasks)} task runs")
    shown = pd.DataFrame(
        {
            "task run": tasks["name"],
            "state": tasks["state"],
            "waited": tasks["waited_seconds"],
            "ran": tasks["ran_seconds"],
            "attempts": tasks["attempts"],
            "why": [_why(row, page) for _, row in tasks.iterrows()] if len(tasks) <= 500 else tasks["message"],
        }
    )
    starts = expected_starts.texts(tasks, page.limits, page.read_at, of_all_runs=False)
    if starts:
        shown.insert(2, "starts", [starts.get(id_, "") for id_ in tasks["task_run_id"]])
    display.table(
        display.coloured(shown, tasks["state_type"]) if len(tasks) <= 500 else shown,
        hide_index=True,
        height=display.height(len(shown), 420),
        column_config={
            "task run": st.column_config.TextColumn(width="medium"),
            "state": st.column_config.TextColumn(width="small"),
            "starts": st.column_config.TextColumn("starts in", width="small", help="About, from past durations."),
            "waited": st.column_config.NumberColumn("waited (s)", format="%.1f", width="small"),
            "ran": st.column_config.NumberColumn("ran (s)", format="%.1f", width="small"),
            "attempts": st.column_config.NumberColumn(width="small"),
            "why": st.column_config.TextColumn("why it waits, or its message", width="large"),
        },
        alt="The task runs of this flow run.",
    )
    display.save(tasks, "task-runs.csv")


def _logs(page: pages.Run) -> None:
    st.markdown("##### Logs")
    columns = st.columns([3, 3, 2], vertical_alignment="bottom")
    text = columns[0].text_input("Search", key="log_text", placeholder="text in a line")
    level = columns[1].segmented_control("From level", LEVELS, default="DEBUG", key="log_level", required=True)
    columns[2].download_button(
        "Save all lines",
        lambda: _log_file(frames.logs(rest.rows(endpoints.logs(flow_run=page.flow_run["flow_run_id"])))),
        "run.log",
        "text/plain",
        on_click="ignore",
        icon=":material/download:",
    )
    if len(page.logs) >= rest.page():
        st.caption(f"Only the first {len(page.logs)} lines are shown and searched. Save all lines saves all of them.")
    lines = page.logs[page.logs["level"].isin(LEVELS[LEVELS.index(level) :])]
    if text:
        lines = lines[lines["message"].str.contains(text, case=False, regex=False)]
    if lines.empty:
        st.caption("No line matches." if len(page.logs) else "Nothing was logged.")
        return
    names = page.task_runs.set_index("task_run_id")["name"]
    shown = pd.DataFrame(
        {
            "time": local(lines["time"]),
            "level": lines["level"],
            "task run": lines["task_run_id"].map(names).astype(object).fillna(""),
            "message": lines["message"].str.slice(0, 2000),
        }
    )
    display.table(
        shown,
        hide_index=True,
        height=display.height(len(shown), 420),
        column_config={
            "time": st.column_config.DatetimeColumn(format="HH:mm:ss.SSS", width="small"),
            "level": st.column_config.TextColumn(width="small"),
            "task run": st.column_config.TextColumn(width="small"),
            "message": st.column_config.TextColumn(width="large"),
        },
        alt="Log lines of this flow run and its tasks.",
    )


def _why(row: pd.Series, page: pages.Run) -> str:
    # The page's limits name only those holders that are its own task runs.
    return reasons.why(row, page.limits, page.task_runs, complete=False, zone=zone()) or row["message"] or ""


def _ran(run: pd.Series) -> str:
    return f"{run['ran_seconds']:.1f} s" if pd.notna(run["ran_seconds"]) else "not yet"


def _log_file(logs: pd.DataFrame) -> str:
    lines = zip(logs["time"], logs["level"], logs["message"], strict=True)
    return "".join(f"{time.isoformat()} {level} {message}\n" for time, level, message in lines)
