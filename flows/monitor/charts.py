"""Altair charts of the data frames in `frames`. No requests are sent here.

Each chart's `description` says in a sentence what it shows, for readers who cannot see it. Colour-blind readers can
tell the colours (by Okabe and Ito) apart; they and the grey of the text can be read on white and on black.
"""

import re
from typing import Any

import altair as alt
import pandas as pd

from flows.api.endpoints import FAILED
from flows.monitor import frames

WAITING = "#999999"
GREY = "#7a7a7a"  # of text and of limits, which are not states
COLOURS = {
    "RUNNING": "#0072B2",
    "COMPLETED": "#009E73",
    "FAILED": "#D55E00",
    "CRASHED": "#CC79A7",
    "CANCELLED": "#E69F00",
    "CANCELLING": "#E69F00",
    "PENDING": WAITING,
    "SCHEDULED": WAITING,
    "PAUSED": "#F0E442",
}
WIDTH = 640
_CLOCK = "hours(datum.value) + minutes(datum.value) + seconds(datum.value) ? timeFormat(datum.value, '%H:%M')"
_CLOCK += " : timeFormat(datum.value, '%d %b')"
MOST_LABELS = 60  # more rows have no room for their names


def run(task_runs: pd.DataFrame, steps: pd.DataFrame, limit: int | None) -> alt.VConcatChart:
    """Draw the timeline of TASK_RUNS, and below it STEPS against the `limit`, on the same time axis."""
    rows, at = _elapsed(task_runs), (steps["time"] - task_runs["submitted"].min()).dt.total_seconds()
    times = pd.concat([at, rows["submitted_at"], rows["started_at"], rows["ended_at"]]).dropna()
    scale = alt.Scale(domain=[min(times, default=0), max(times, default=1)], nice=False)
    above = _timeline(rows, scale).properties(description=_describe_timeline(task_runs))
    below = _concurrency(steps.assign(at=at), limit, scale)
    return styled(alt.vconcat(above, below, description=f"{above.description} {below.description}"))


def states(counts: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp) -> alt.Chart:
    """Draw STATES from `start` to `end`: a stacked bar for each interval, in the viewer's time zone."""
    kinds = [kind for kind in COLOURS if kind in set(counts["state_type"])]
    colour = alt.Color("state_type:N").scale(domain=kinds, range=[COLOURS[kind] for kind in kinds]).title(None)
    x = alt.X("time:T").bin("binned").title("due (your local time)").axis(labelExpr=_CLOCK)
    x = x.scale(domain=[start.isoformat(), end.isoformat()])
    top = max(counts.groupby("time")["runs"].sum(), default=1)
    y = alt.Y("runs:Q").title("flow runs").axis(tickCount=min(int(top), 5), format="d")
    tooltip = [alt.Tooltip("state:N"), alt.Tooltip("runs:Q"), alt.Tooltip("time:T").format("%Y-%m-%d %H:%M:%S")]
    chart = alt.Chart(counts).mark_bar().encode(x, x2="until", y=y, color=colour.legend(orient="top"), tooltip=tooltip)
    totals = counts.groupby("state", sort=False)["runs"].sum().sort_values(ascending=False)
    parts = ", ".join(f"{count} {state}" for state, count in totals.items()) or "none"
    return styled(chart.properties(width=WIDTH, height=140, description=f"Flow runs by state over time: {parts}."))


def _timeline(rows: pd.DataFrame, scale: alt.Scale) -> alt.LayerChart:
    few = len(rows) <= MOST_LABELS
    axis = alt.Axis(labelLimit=220, ticks=False, domain=False) if few else None
    x = alt.X("submitted_at:Q").scale(scale).title("seconds since the first was submitted").axis(titleAnchor="end")
    y = alt.Y("label:N").sort(None).axis(axis).title(None)
    tooltip = [alt.Tooltip("label:N").title("task run"), alt.Tooltip("state:N")]
    tooltip += [alt.Tooltip(f"{what}_seconds:Q").format(".2f").title(f"{what} (s)") for what in ("waited", "ran")]
    tooltip += [alt.Tooltip("started:T").format("%Y-%m-%d %H:%M:%S"), alt.Tooltip("message:N")]
    kinds, colours = ["waits", "runs", "failed"], [WAITING, COLOURS["RUNNING"], COLOURS["FAILED"]]
    colour = alt.Color("kind:N").scale(domain=kinds, range=colours).title(None).legend(orient="top")
    thin, thick = (alt.RelativeBandSize(band=share if few else 1) for share in (0.35, 0.8))
    base = alt.Chart(rows).encode(y=y, tooltip=tooltip)
    waits = base.transform_calculate(kind="'waits'").mark_bar(height=thin).encode(x, x2="started_at")
    ran = base.transform_filter("datum.ended_at != null").mark_bar(height=thick)
    chart = alt.layer(waits.encode(color=colour), ran.encode(x="started_at:Q", x2="ended_at", color=colour))
    return chart.properties(width=WIDTH, height=alt.Step(18) if few else 600)


def _concurrency(steps: pd.DataFrame, limit: int | None, scale: alt.Scale) -> alt.LayerChart:
    peak = frames.peak(steps)
    top = max(peak, limit or 0) + 1
    x = alt.X("at:Q").scale(scale).title("seconds").axis(titleAnchor="end")
    axis = alt.Axis(tickCount=min(top, 5), format="d", titleAngle=0, titleAlign="left", titleX=0, titleY=-8)
    y = alt.Y("running:Q").title("running at once").axis(axis).scale(domain=[0, top])
    tooltip = [alt.Tooltip("at:Q").format(".2f").title("seconds"), alt.Tooltip("running:Q")]
    line = alt.Chart(steps).mark_line(interpolate="step-after", color=COLOURS["RUNNING"])
    layers = [line.encode(x, y, tooltip=tooltip)]
    if limit is not None:
        layers += limit_line(limit)
    bounded = "there is no limit" if limit is None else f"the limit is {limit}"
    description = f"Up to {peak} task runs ran at once; {bounded}." if len(steps) else "No task run has started."
    return alt.layer(*layers).properties(width=WIDTH, height=140, description=description)


def limit_line(limit: int) -> list[alt.Chart]:
    """Return a dashed line at `limit` and the words beside it, as layers."""
    bound = alt.Chart(pd.DataFrame({"limit": [limit], "text": [f"limit {limit}"]})).encode(y="limit:Q")
    text = bound.mark_text(color=GREY, align="right", dy=-8).encode(text="text:N", x=alt.value("width"))
    return [bound.mark_rule(color=GREY, strokeDash=[6, 4], strokeWidth=1.5), text]


def _elapsed(task_runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the timeline, in seconds since the first submission; `ended_at` is missing if not started."""
    rows = labelled(task_runs.sort_values(["started", "submitted"]))
    submitted = (rows["submitted"] - rows["submitted"].min()).dt.total_seconds()
    began = submitted + rows["waited_seconds"]
    kind = rows["state_type"].isin(FAILED).map({True: "failed", False: "runs"})
    columns = rows[["label", "state", "started", "waited_seconds", "ran_seconds", "message"]]
    times = {"submitted_at": submitted, "started_at": began, "ended_at": began + rows["ran_seconds"]}
    return columns.assign(kind=kind, **{name: time.round(3) for name, time in times.items()})


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """Return `runs` with a unique `label` each: its name on one line, shortened, and numbered if there are several."""
    names = runs["name"].astype(str).map(lambda name: re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", name))
    labels = names.map(lambda name: name if len(name) <= 40 else name[:39] + "…")
    number = labels.groupby(labels).cumcount() + 1
    unique = labels.where(number == 1, labels + " (" + number.astype(str) + ")")
    short = {"message": runs["message"].astype(object).fillna("").str.slice(0, 200)} if "message" in runs else {}
    return runs.assign(label=unique, **short)


def _describe_timeline(task_runs: pd.DataFrame) -> str:
    if task_runs.empty:
        return "No task run has been submitted."
    states = ", ".join(f"{count} {state}" for state, count in task_runs["state"].value_counts().items())
    waited, ran = task_runs["waited_seconds"].max(), task_runs["ran_seconds"].max()
    longest = f" and ran up to {ran:.1f} s" if pd.notna(ran) else ""
    return f"Timeline of {len(task_runs)} task runs ({states}): they waited up to {waited:.1f} s{longest}."


def styled(chart: Any) -> Any:
    """Return `chart` without a background, with text in a grey that can be read on white and on black."""
    faint, text = "#80808030", {"labelColor": GREY, "titleColor": GREY}
    axis = {**text, "gridColor": faint, "domainColor": faint, "tickColor": faint}
    # Leave room for labels: the viewer's font may be wider than the one they were measured in.
    padding = {"left": 25, "top": 5, "right": 5, "bottom": 5}
    return chart.configure(background="transparent", padding=padding, axis=axis, legend=text, view={"stroke": None})
