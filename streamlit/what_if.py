"""What if the limit had been another one: a finished run beside its replay. The same functions as in lesson 02."""

import math
from typing import NamedTuple

import altair as alt
import display
import pandas as pd
import streamlit as st
from texts import plain

from flows.api import endpoints, rest
from flows.api.endpoints import FINAL
from flows.monitor import charts, frames, pages, replay

_LIKE = 0.3  # how far a replay may be from a real run of the same queries: those further off did other work


class Known(NamedTuple):
    """What a run's own times tell, and those of a run of the same queries, of which more or fewer ran at once.

    `others` is how many of that other run ran at once; `predicted` is what the replay gives for it, and `real` what it
    took, in seconds. If no such run helps to tell what shared cores cost, they are None, NaN and NaN.
    """

    costs: replay.Costs
    others: int | None = None
    predicted: float = math.nan
    real: float = math.nan


def show(page: pages.Run, tag: str | None) -> None:
    """Offer to replay the task runs of `tag` under another limit, if the run has ended and has at least two of them."""
    if tag is None or page.flow_run["state_type"] not in FINAL:
        return
    ran = frames.tagged(page.task_runs, tag).dropna(subset=["started", "ended"])
    if len(ran) < 2 or not st.toggle("What if the limit had been another one?", key="what_if"):
        return
    known, most = _known(page, tag, ran), _peak(ran)
    top = min(len(ran), max(10, 2 * most))
    limit = st.slider("Limit in the replay", 1, top, min(most + 2, top), key=f"what_if {len(ran)} {most}")
    replayed = replay.replay(ran, limit, known.costs)
    st.info(plain(sentence(ran, replayed, limit, known), 1500), icon=":material/replay:")
    display.chart(chart(ran, replayed, limit), "replayed", room=display.room(ran))


def sentence(ran: pd.DataFrame, replayed: pd.DataFrame, limit: int, known: Known) -> str:
    """Return what the run took, what its replay says for `limit`, and what the replay assumes."""
    most, costs = _peak(ran), known.costs
    handover, asking = (0 if math.isnan(cost) else cost for cost in (costs.handover, costs.asking))
    parts = [
        f"It took {_seconds(ran):.1f} s, with at most {most} at once; with a limit of {limit}, it would have taken"
        f" about {_seconds(replayed):.1f} s.",
        f"(With {most}, the replay takes {_seconds(replay.replay(ran, most, costs)):.1f} s.)",
        "It assumes that the task runs begin in the same order, that nothing else runs, and that a slot passes from one"
        f" to the next in {handover:.2f} s, as in this run.",
    ]
    if asking >= 0.05:
        parts.append(f"A process asks for one slot at a time, which took {asking:.2f} s each here.")
    if math.isnan(costs.cores):
        parts.append("What shared cores cost is not known: each task run takes as long as it really did.")
        parts.append("That is too long for a lower limit, and too short for a higher one.")
    elif math.isinf(costs.cores):
        parts.append("Task runs beside others were not slower than those with fewer others, so none is slowed down.")
    else:
        parts.append(f"It assumes that {costs.cores:.1f} can work at full speed at once, and that more share that.")
    if known.others:
        parts.append(
            f"It learned that from another run of the same names, with {known.others} at once, which really took"
            f" {known.real:.1f} s; for that one, the replay says {known.predicted:.1f} s."
        )
    if limit > max(most, known.others or 0):
        parts.append(f"Whether the machine or the database can bear {limit} at once, no run has shown.")
    return " ".join(parts)


def known_from(ran: pd.DataFrame, recent: pd.DataFrame) -> Known:
    """Return what `ran` tells, and what the newest run of the same names under another concurrency adds.

    `recent` are TASK_RUNS of other flow runs. One is of use if the replay of `ran` predicts about what it took:
    otherwise it did other work, as with another scale, or the machine was busier.
    """
    known, names, most = Known(replay.costs(ran)), sorted(ran["name"]), _peak(ran)
    if not math.isnan(known.costs.cores):
        return known
    for _, other in sorted(recent.groupby("flow_run_id"), key=lambda one: one[1]["submitted"].min(), reverse=True):
        if sorted(other["name"]) != names or other["ended"].isna().any() or _peak(other) == most:
            continue
        costs = known.costs._replace(cores=replay.costs(pd.concat([ran, other])).cores)
        predicted, real = _seconds(replay.replay(ran, _peak(other), costs)), _seconds(other)
        if not math.isnan(costs.cores) and abs(predicted / real - 1) < _LIKE:
            return Known(costs, _peak(other), predicted, real)
    return known


def _known(page: pages.Run, tag: str, ran: pd.DataFrame) -> Known:
    """Return what is known of a run, kept in the session: it has ended, and its page is drawn again and again."""
    run = page.flow_run
    key = run["flow_run_id"], tag, len(ran)
    kept = st.session_state.get("what_if_known")
    if kept is None or kept[0] != key:
        recent = endpoints.task_runs(flow=run["flow"], tag=tag, state=["COMPLETED", "FAILED"], sort="END_TIME_DESC")
        rows = frames.task_runs(rest.send(recent), page.read_at)
        kept = key, known_from(ran, rows[rows["flow_run_id"] != run["flow_run_id"]])
        st.session_state.what_if_known = kept
    return kept[1]


def chart(ran: pd.DataFrame, replayed: pd.DataFrame, limit: int) -> alt.HConcatChart:
    """Draw the real timeline and, beside it, the replayed one, with the same rows and the same seconds."""
    rows = charts.labelled(ran.sort_values(["started", "submitted"]))
    both = {f"real: {_peak(ran)} at once": ran, f"replayed: limit {limit}": replayed}
    both = {title: _elapsed(runs, rows) for title, runs in both.items()}
    scale = alt.Scale(domain=[0, max(runs["ended"].max() for runs in both.values())], nice=False)
    description = (
        f"Two timelines of {len(ran)} task runs: the real one took {_seconds(ran):.1f} s, the replayed one, with a"
        f" limit of {limit}, {_seconds(replayed):.1f} s. Grey waits, blue runs."
    )
    beside = [_timeline(runs, title, list(rows["label"]), scale) for title, runs in both.items()]
    return charts.styled(alt.hconcat(*beside, description=description))


def _elapsed(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the times of TASK_RUNS in seconds since the first of `rows` was submitted, with the labels of `rows`."""
    times = ["submitted", "started", "ended"]
    seconds = runs[times].apply(lambda time: (time - rows["submitted"].min()).dt.total_seconds().round(3))
    return seconds.assign(label=runs["task_run_id"].map(rows.set_index("task_run_id")["label"]))


def _timeline(runs: pd.DataFrame, title: str, labels: list[str], scale: alt.Scale) -> alt.LayerChart:
    few = len(labels) <= charts.MOST_LABELS
    y = alt.Y("label:N").sort(labels).title(None)
    y = y.axis(alt.Axis(labelLimit=220, ticks=False, domain=False) if few else None)
    base = alt.Chart(runs).encode(y=y, tooltip=["label:N", alt.Tooltip("started:Q"), alt.Tooltip("ended:Q")])
    waits = base.mark_bar(color=charts.WAITING, height=alt.RelativeBandSize(band=0.35))
    ran = base.mark_bar(color=charts.COLOURS["RUNNING"], height=alt.RelativeBandSize(band=0.8))
    x = alt.X("submitted:Q").scale(scale).title("seconds since the first was submitted").axis(titleAnchor="end")
    drawn = alt.layer(waits.encode(x, x2="started"), ran.encode(alt.X("started:Q"), x2="ended"))
    named = alt.Title(title, color=charts.GREY, fontSize=13, fontWeight="normal")
    return drawn.properties(height=alt.Step(18) if few else 600, title=named, description=title)


def _peak(runs: pd.DataFrame) -> int:
    return frames.peak(frames.concurrency(runs, runs["ended"].max()))


def _seconds(runs: pd.DataFrame) -> float:
    return (runs["ended"].max() - runs["started"].min()).total_seconds()
