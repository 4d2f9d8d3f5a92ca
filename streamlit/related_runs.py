"""The runs that a flow run belongs with: the one that called it, those that it called, and earlier ones of its flow."""

import altair as alt
import display
import pandas as pd
import streamlit as st
from texts import plain

from flows.api import endpoints, rest
from flows.monitor import charts, frames

MOST = 20  # called runs that are listed
EARLIER = 50
FEWEST = 8  # of which it can be said what is usual


def show_family(flow_run_id: str) -> None:
    """Show links to the flow run that called this one, and to those that this one called."""
    parents, children = _family(flow_run_id)
    for title, runs in (("Called by", parents), ("Called", children)):
        links = [f"[{plain(run['name'], 60)}]({display.link(run['id'])}) ({plain(run['state_name'])})" for run in runs]
        more = [f"and {len(links) - MOST} more"] if len(links) > MOST else []
        if links:
            st.caption(f"{title}: {', '.join(links[:MOST] + more)}")


@st.cache_data(ttl=10, max_entries=100, show_spinner=False)
def _family(flow_run_id: str) -> tuple[frames.Rows, frames.Rows]:
    flow_run, children = rest.gather(
        [endpoints.flow_run(flow_run_id), _flow_runs({"flow_runs": {"parent_flow_run_id": {"any_": [flow_run_id]}}})]
    )
    task_run = flow_run and flow_run["parent_task_run_id"]
    return rest.send(_flow_runs({"task_runs": {"id": {"any_": [task_run]}}})) if task_run else [], children


def _flow_runs(chosen: dict) -> rest.Request:
    return rest.Request("POST", "flow_runs/filter", chosen | {"sort": "START_TIME_ASC", "limit": rest.PAGE})


def show_earlier(flow_run: pd.Series) -> None:
    """Offer to show how long the last runs of the flow took, and which took unusually long."""
    if not flow_run["flow"] or not st.toggle(f"Show how long the last {EARLIER} runs of this flow took", key="earlier"):
        return
    runs = _earlier(flow_run["flow"])
    if runs.empty:
        st.caption("No run of this flow has completed yet.")
        return
    usual = fence(runs["ran_seconds"])
    display.chart(chart(runs, usual, flow_run["flow_run_id"]), "earlier_chart")
    outliers = runs[runs["ran_seconds"] > usual].to_dict("records")
    links = [
        f"[{plain(run['name'], 60)}]({display.link(run['flow_run_id'])}) {run['ran_seconds']:.1f} s" for run in outliers
    ]
    if links:
        st.caption(f"Outliers: {', '.join(links)}")


@st.cache_data(ttl=30, max_entries=20, show_spinner=False)
def _earlier(flow: str) -> pd.DataFrame:
    """Return FLOW_RUNS, the last completed ones of `flow`, the oldest first."""
    answer = rest.send(endpoints.flow_runs(flow=flow, state=["COMPLETED"], limit=EARLIER))
    return frames.flow_runs(answer, {}, pd.Timestamp.now("UTC")).sort_values("submitted", ignore_index=True)


def fence(seconds: pd.Series) -> float:
    """Return the duration above which one of `seconds` is an outlier, by Tukey's rule; infinite if they are too few."""
    low, high = seconds.quantile(0.25), seconds.quantile(0.75)
    return high + 1.5 * (high - low) if len(seconds) >= FEWEST else float("inf")


def chart(runs: pd.DataFrame, usual: float, flow_run_id: str) -> alt.Chart:
    """Draw how long `runs` (FLOW_RUNS) took; those longer than `usual`, and the run with this id, stand out."""
    kind = (runs["ran_seconds"] > usual).map({True: "outlier", False: "usual"})
    kind = kind.mask(runs["flow_run_id"] == flow_run_id, "this run")
    rows = charts.labelled(runs)[["label", "submitted", "ran_seconds"]].assign(kind=kind, order=range(len(runs)))
    kinds = {"usual": charts.WAITING, "outlier": charts.COLOURS["FAILED"], "this run": charts.COLOURS["RUNNING"]}
    colour = alt.Color("kind:N").scale(domain=list(kinds), range=list(kinds.values())).title(None)
    x = alt.X("order:O").axis(None)
    y = alt.Y("ran_seconds:Q").title("ran (seconds)")
    due = alt.Tooltip("submitted:T").format("%Y-%m-%d %H:%M:%S").title("due")
    tooltip = [alt.Tooltip("label:N").title("run"), due, alt.Tooltip("ran_seconds:Q").format(".1f"), "kind:N"]
    bars = alt.Chart(rows).mark_bar().encode(x, y, color=colour.legend(orient="top"), tooltip=tooltip)
    count = int((runs["ran_seconds"] > usual).sum())
    median = runs["ran_seconds"].median()
    description = f"The last {len(runs)} completed runs, the oldest first: the median ran {median:.1f} s"
    if len(runs) < FEWEST:
        description += f"; with fewer than {FEWEST}, none can be called an outlier."
    else:
        description += f", and {count} ran longer than {usual:.1f} s, which is unusual for this flow."
    return charts.styled(bars.properties(width=charts.WIDTH, height=120, description=description))
