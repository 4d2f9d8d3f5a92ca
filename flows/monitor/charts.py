"""Altair charts of the frames of `views`. No requests here.

Each chart's `description` says in a sentence what it shows, for those who do not see it. The colours are Okabe and
Ito's, which colour-blind readers can tell apart; they and the grey of the text stand out on white and on black.
"""

import re
from typing import Any, TypeVar

import altair as alt
import pandas as pd

WAITING = "#999999"
COLOURS = {
    "RUNNING": "#0072B2",
    "COMPLETED": "#009E73",
    "FAILED": "#D55E00",
    "CRASHED": "#CC79A7",
    "CANCELLED": "#E69F00",
    "CANCELLING": "#E69F00",
    "PENDING": "#56B4E9",
    "SCHEDULED": WAITING,
    "PAUSED": "#F0E442",
}
WIDTH = 640
Drawn = TypeVar("Drawn", bound=alt.TopLevelMixin)
_CLOCK = "hours(datum.value) + minutes(datum.value) + seconds(datum.value) ? timeFormat(datum.value, '%H:%M')"
_CLOCK += " : timeFormat(datum.value, '%d %b')"
_LABELLED = 60  # so many rows have room for their names


def timeline(task_runs: pd.DataFrame) -> alt.LayerChart:
    """TASK_RUNS, a line each, by their start: grey while it waits, blue while it runs, red if it failed or crashed."""
    return _styled(_timeline(task_runs))


def concurrency(steps: pd.DataFrame, limit: int | None) -> alt.LayerChart:
    """STEPS as a step line against the `limit`, a dashed rule; in seconds since the first step."""
    return _styled(_concurrency(steps, limit, None if steps.empty else steps["time"].iloc[0]))


def run(task_runs: pd.DataFrame, steps: pd.DataFrame, limit: int | None) -> alt.VConcatChart:
    """A run's timeline, and below it, on the same time axis, its concurrency against the limit."""
    origin = None if task_runs.empty else task_runs["submitted"].min()
    above, below = _timeline(task_runs), _concurrency(steps, limit, origin)
    both = alt.vconcat(above, below).resolve_scale(x="shared")
    return _styled(both.properties(description=f"{above.description} {below.description}"))


def states(counts: pd.DataFrame, start: pd.Timestamp | None = None, end: pd.Timestamp | None = None) -> alt.Chart:
    """STATES over time, from `start` to `end` if given: a stacked bar for each interval, in the viewer's time."""
    kinds = [kind for kind in COLOURS if kind in set(counts["state_type"])]
    colour = alt.Color("state_type:N").scale(domain=kinds, range=[COLOURS[kind] for kind in kinds]).title(None)
    x = alt.X("time:T").bin("binned").title("due (your local time)").axis(labelExpr=_CLOCK)
    if start is not None and end is not None:
        x = x.scale(domain=[start.isoformat(), end.isoformat()])
    y = alt.Y("runs:Q").title("flow runs").axis(tickMinStep=1, format="d")
    tooltip = [alt.Tooltip("state:N"), alt.Tooltip("runs:Q"), alt.Tooltip("time:T").format("%Y-%m-%d %H:%M:%S")]
    chart = alt.Chart(counts).mark_bar().encode(x, x2="until", y=y, color=colour.legend(orient="top"), tooltip=tooltip)
    totals = counts.groupby("state", sort=False)["runs"].sum().sort_values(ascending=False)
    said = ", ".join(f"{count} {state}" for state, count in totals.items()) or "none"
    return _styled(chart.properties(width=WIDTH, height=140, description=f"Flow runs by state over time: {said}."))


def waiting(task_runs: pd.DataFrame, most: int = 30) -> alt.Chart:
    """How long each task run waited, the `most` longest waits alone."""
    rows = _labelled(task_runs.nlargest(most, "waited_seconds"))
    y = alt.Y("label:N").sort(None).title(None).axis(labelLimit=220, ticks=False, domain=False)
    x = alt.X("waited_seconds:Q").title("waited (seconds)")
    tooltip = [alt.Tooltip("label:N").title("task run"), alt.Tooltip("waited_seconds:Q").format(".2f"), "state:N"]
    chart = alt.Chart(rows).mark_bar(color=WAITING).encode(x, y, tooltip=tooltip)
    said = "No task run has waited."
    if len(rows):
        longest = rows.iloc[0]
        middle = task_runs["waited_seconds"].median()
        said = (
            f"Waiting time by task run: {longest['label']} waited longest, {longest['waited_seconds']:.1f} s;"
            f" the median of all {len(task_runs)} is {middle:.1f} s."
        )
    return _styled(chart.properties(width=WIDTH, height=alt.Step(18), description=said))


def slots(limits: pd.DataFrame) -> alt.LayerChart:
    """LIMITS: the counter of taken slots and the slots that somebody holds, side by side, the limit as a tick."""
    rows = _labelled(limits.drop(columns="holders").rename(columns={"tag": "name"})).rename(columns={"label": "tag"})
    kinds = {"taken": "counted by the server", "held": "held by a task run"}
    long = rows.rename(columns=kinds).melt("tag", list(kinds.values()), "kind", "slots")
    colour = alt.Color("kind:N").scale(domain=list(kinds.values()), range=[COLOURS["RUNNING"], COLOURS["CANCELLED"]])
    y = alt.Y("tag:N").title(None).axis(labelLimit=220)
    tooltip = ["tag:N", "kind:N", "slots:Q"]
    bars = alt.Chart(long).mark_bar().encode(
        x=alt.X("slots:Q").axis(tickMinStep=1, format="d").title("slots; the tick is the limit"),
        y=y, yOffset="kind:N", tooltip=tooltip,
        color=colour.title(None).legend(orient="top"),
    )  # fmt: skip
    bound = alt.Chart(rows).mark_tick(color=COLOURS["FAILED"], thickness=3, size=36).encode(x="limit:Q", y=y)
    each = rows.to_dict("records")
    parts = [f"{row['tag']} has {row['taken']} of {row['limit']} slots taken, {row['held']} held" for row in each]
    said = "; ".join(parts) + "." if parts else "No tag has a limit."
    return _styled(alt.layer(bars, bound).properties(width=WIDTH, height=alt.Step(20), description=said))


def _timeline(task_runs: pd.DataFrame) -> alt.LayerChart:
    rows = _elapsed(task_runs)
    few = len(rows) <= _LABELLED
    axis = alt.Axis(labelLimit=220, ticks=False, domain=False) if few else None
    x = alt.X("submitted_at:Q").title("seconds since the first was submitted")
    y = alt.Y("label:N").sort(None).axis(axis).title(None)
    tooltip = [
        alt.Tooltip("label:N").title("task run"),
        alt.Tooltip("state:N"),
        alt.Tooltip("waited_seconds:Q").format(".2f").title("waited (s)"),
        alt.Tooltip("ran_seconds:Q").format(".2f").title("ran (s)"),
        alt.Tooltip("started:T").format("%Y-%m-%d %H:%M:%S"),
        alt.Tooltip("message:N"),
    ]
    kinds, colours = ["waits", "runs", "failed"], [WAITING, COLOURS["RUNNING"], COLOURS["FAILED"]]
    colour = alt.Color("kind:N").scale(domain=kinds, range=colours).title(None).legend(orient="top")
    base = alt.Chart(rows).encode(y=y, tooltip=tooltip)
    waits = base.transform_calculate(kind="'waits'").mark_bar(height=_thickness(few, 0.35)).encode(x, x2="started_at")
    ran = base.transform_filter("datum.ended_at != null").mark_bar(height=_thickness(few, 0.8))
    chart = alt.layer(waits.encode(color=colour), ran.encode(x="started_at:Q", x2="ended_at", color=colour))
    height = alt.Step(18) if few else 600
    return chart.properties(width=WIDTH, height=height, description=_said_timeline(task_runs))


def _concurrency(steps: pd.DataFrame, limit: int | None, origin: pd.Timestamp | None) -> alt.LayerChart:
    rows = steps.assign(at=_seconds(steps["time"], origin))
    x = alt.X("at:Q").title("seconds")
    peak = 0 if rows.empty else int(rows["running"].max())
    y = alt.Y("running:Q").title("running at once").axis(tickMinStep=1, format="d")
    y = y.scale(domain=[0, max(peak, limit or 0) + 1])
    tooltip = [alt.Tooltip("at:Q").format(".2f").title("seconds"), alt.Tooltip("running:Q")]
    line = alt.Chart(rows).mark_line(interpolate="step-after", color=COLOURS["RUNNING"]).encode(x, y, tooltip=tooltip)
    layers = [line]
    if limit is not None:
        bound = alt.Chart(pd.DataFrame({"limit": [limit], "text": [f"limit {limit}"]})).encode(y="limit:Q")
        layers.append(bound.mark_rule(color=COLOURS["FAILED"], strokeDash=[6, 4], strokeWidth=1.5))
        layers.append(
            bound.mark_text(color=COLOURS["FAILED"], align="right", dy=-8).encode(text="text:N", x=alt.value(WIDTH))
        )
    above = f"up to {peak} at once" + (f", where the limit is {limit}" if limit is not None else ", without a limit")
    said = f"How many task runs ran at once: {above}." if len(rows) else "No task run has started."
    return alt.layer(*layers).properties(width=WIDTH, height=140, description=said)


def _elapsed(task_runs: pd.DataFrame) -> pd.DataFrame:
    """What the timeline draws, in seconds since the first submission; `ended_at` is missing for what never began."""
    rows = _labelled(task_runs.sort_values(["started", "submitted"]))
    submitted = _seconds(rows["submitted"], rows["submitted"].min())
    began = submitted + rows["waited_seconds"]
    kind = rows["state_type"].isin(["FAILED", "CRASHED"]).map({True: "failed", False: "runs"})
    kept = rows[["label", "state", "started", "waited_seconds", "ran_seconds", "message"]]
    times = {"submitted_at": submitted, "started_at": began, "ended_at": began + rows["ran_seconds"]}
    return kept.assign(kind=kind, **{name: time.round(3) for name, time in times.items()})


def _labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with a `label` each: its name, shortened, on one line, and numbered where two would be the same."""
    names = runs["name"].astype(str).map(lambda name: re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", name))
    labels = names.map(lambda name: name if len(name) <= 40 else name[:39] + "…")
    again = labels.groupby(labels).cumcount() + 1
    numbered = labels.where(again == 1, labels + " (" + again.astype(str) + ")")
    short = {"message": runs["message"].astype(object).fillna("").str.slice(0, 200)} if "message" in runs else {}
    return runs.assign(label=numbered, **short)


def _seconds(times: pd.Series, origin: pd.Timestamp | None) -> pd.Series:
    return (times - (pd.NaT if origin is None else origin)).dt.total_seconds()


def _thickness(few: bool, share: float) -> alt.RelativeBandSize:
    return alt.RelativeBandSize(band=share if few else 1)


def _said_timeline(task_runs: pd.DataFrame) -> str:
    if task_runs.empty:
        return "No task run has been submitted."
    counts = task_runs["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    waited, ran = task_runs["waited_seconds"].max(), task_runs["ran_seconds"].max()
    longest = f" and ran up to {ran:.1f} s" if pd.notna(ran) else ""
    return f"Timeline of {len(task_runs)} task runs ({states}): they waited up to {waited:.1f} s{longest}."


def _styled(chart: Drawn) -> Drawn:
    """`chart` on no background of its own, its text in a grey that can be read on white and on black."""
    grey, faint = "#7a7a7a", "#80808030"
    axis = {"labelColor": grey, "titleColor": grey, "gridColor": faint, "domainColor": faint, "tickColor": faint}
    drawn: Any = chart
    return (
        # Room for labels that a viewer's font makes wider than the one by which they were measured.
        drawn.configure(background="transparent", padding={"left": 25, "top": 5, "right": 5, "bottom": 5})
        .configure_axis(**axis)
        .configure_legend(labelColor=grey, titleColor=grey)
        .configure_view(stroke=None)
    )
