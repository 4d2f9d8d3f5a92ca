"""The monitor's bar charts: how long task runs waited, and how many slots of each limit are taken."""

import altair as alt
import global_slots
import pandas as pd

from flows.monitor.charts import COLOURS, GREY, WAITING, WIDTH, labelled, styled

TAKEN = "#0072B266"  # a tint of the colour of what runs


def waiting(task_runs: pd.DataFrame, most: int = 30) -> alt.Chart:
    """Draw how long task runs waited: the `most` longest waits."""
    rows = labelled(task_runs.nlargest(most, "waited_seconds"))
    y = alt.Y("label:N").sort(None).title(None).axis(labelLimit=220, ticks=False, domain=False)
    x = alt.X("waited_seconds:Q").title("waited (seconds)")
    tooltip = [alt.Tooltip("label:N").title("task run"), alt.Tooltip("waited_seconds:Q").format(".2f"), "state:N"]
    chart = alt.Chart(rows).mark_bar(color=WAITING).encode(x, y, tooltip=tooltip)
    description = "No task run has waited."
    if len(rows):
        longest = rows.iloc[0]
        median = task_runs["waited_seconds"].median()
        description = (
            f"Waiting time by task run: {longest['label']} waited longest, {longest['waited_seconds']:.1f} s;"
            f" the median of all {len(task_runs)} is {median:.1f} s."
        )
    return styled(chart.properties(width=WIDTH, height=alt.Step(18), description=description))


def slots(limits: pd.DataFrame) -> alt.LayerChart:
    """Draw LIMITS: side by side the counter of taken slots and the slots that task runs hold, the limit as a tick."""
    names = [global_slots.label(tag, freed) for tag, freed in zip(limits["tag"], limits["freed"], strict=True)]
    rows = labelled(limits.drop(columns=["holders", "tag"]).assign(name=names)).rename(columns={"label": "tag"})
    kinds = {"taken": "counted by the server", "held": "held by a task run"}
    long = rows.rename(columns=kinds).melt("tag", list(kinds.values()), "kind", "slots")
    colour = alt.Color("kind:N").scale(domain=list(kinds.values()), range=[TAKEN, COLOURS["RUNNING"]])
    top = max([1, *limits["taken"], *limits["limit"]])
    x = alt.X("slots:Q").axis(tickCount=min(int(top), 10), format="d").title("slots; the tick is the limit")
    y = alt.Y("tag:N").title(None).axis(labelLimit=220)
    colour = colour.title(None).legend(orient="top")
    bars = (
        alt.Chart(long).mark_bar().encode(x, y, yOffset="kind:N", color=colour, tooltip=["tag:N", "kind:N", "slots:Q"])
    )
    limit = alt.Chart(rows).mark_tick(color=GREY, thickness=3, size=36).encode(x="limit:Q", y=y)
    parts = [
        f"{row['tag']} has {row['taken']} of {row['limit']} slots taken, {row['held']} held"
        for row in rows.head(5).to_dict("records")
    ] + [f"and {len(rows) - 5} more limits"] * (len(rows) > 5)
    description = "; ".join(parts) + "." if parts else "No limit is set."
    return styled(alt.layer(bars, limit).properties(width=WIDTH, height=alt.Step(20), description=description))
