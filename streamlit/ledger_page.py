"""The ledger: a limit over all runs, in time. Who held which slot, whether the limit held, and what leaked."""

from datetime import timedelta

import display
import ledger
import ledger_charts
import ledger_database
import ledger_source
import live_page
import pandas as pd
import streamlit as st
from texts import plain, zone

SPANS = {"1 hour": timedelta(hours=1), "6 hours": timedelta(hours=6), "1 day": timedelta(days=1)}
MARGIN = timedelta(seconds=10)
MOST_LEAKS = 10  # runs whose leaks are named, and names of each


def show() -> None:
    """Draw the page for the limit and the time in the address bar."""
    loaded = st.session_state.get("ledger")
    columns = st.columns([3, 3, 2], vertical_alignment="bottom")
    name = columns[0].selectbox(
        "Limit",
        loaded.page.names if loaded else [],
        index=None,
        placeholder="the first one",
        key="limit",
        bind="query-params",
        accept_new_options=True,
        help="`tag:NAME` is the limit of a tag, any other name a global limit.",
    )
    last = columns[1].segmented_control(
        "In the last", list(SPANS), default="1 hour", key="span", bind="query-params", required=True
    )
    span = SPANS[last or "1 hour"]
    key = (name, span)
    live_page.show("ledger", key, lambda: ledger_source.load(name, span), ledger_source.refresh, _body)


def _body(page: ledger_source.Page) -> None:
    lanes = page.lanes
    about = ledger.figures(lanes, page.start, page.read_at, page.limit)
    st.markdown(f"##### {plain(page.tag or page.name)} · {'tag' if page.tag else 'global limit'}")
    if page.source is None:
        st.info(_nothing(page), icon=":material/info:")
        ledger_database.look(page)  # somebody may go past Prefect all the same
        return
    _verdict(page, about)
    for sentence in _sentences(page, about):
        st.markdown(plain(sentence, 500))
    _leaks(lanes)
    seen = ledger_database.look(page)
    began = max(page.start, lanes["since"].min() - MARGIN)  # what is empty before is not drawn
    display.chart(ledger_charts.over_time(lanes, began, page.read_at, page.limit, seen), "lanes")
    st.caption(plain(_source(page), 1000))
    display.save(lanes.drop(columns="hold_id"), "ledger.csv")


def _nothing(page: ledger_source.Page) -> str:
    if page.tag:
        return "Nobody took a slot in this time."
    return (
        "The server has no event of this limit in this time. Prefect's `concurrency` sends one for each slot that it"
        " takes and gives back; Prefect 2, and programs that take slots over the REST API themselves, send none."
    )


def _verdict(page: ledger_source.Page, about: ledger.Figures) -> None:
    were = "slot was" if about.peak == 1 else "slots were"
    if about.exceeded > 0:
        st.warning(
            f"The limit did not hold for {_lasted(about.exceeded)}: up to {about.peak} {were} taken at once, and the"
            f" limit is {page.limit}.",
            icon=":material/rule:",
        )
    else:
        st.success(f"The limit held: at most {about.peak} {were} taken at once.", icon=":material/rule:")


def _sentences(page: ledger_source.Page, about: ledger.Figures) -> list[str]:
    """Return how full the limit was and how long people waited, in sentences."""
    whole = (page.read_at - page.start).total_seconds()
    share = f"{about.share:.0%}" if about.share >= 0.01 else "less than 1%"
    said = [
        f"Of the time of all slots, {share} was taken. No slot was free for {_lasted(about.full)} of {_lasted(whole)}."
    ]
    waited = page.task_runs[page.task_runs["started"].notna() & (page.task_runs["started"] >= page.start)]
    if len(waited):
        longest = waited.loc[waited["waited_seconds"].idxmax()]
        median = waited["waited_seconds"].median()
        said.append(
            f"Half of {len(waited)} task runs waited less than {_lasted(median)} for their inputs and their slot;"
            f" {longest['name']} waited longest, {_lasted(longest['waited_seconds'])}."
        )
    return said


def _leaks(lanes: pd.DataFrame) -> None:
    """Name the holders of leaked slots, a line for each flow run, the latest first."""
    leaks = lanes[lanes["leaked"]].sort_values("since")
    if leaks.empty:
        return
    lines = []
    for run, of_run in leaks.groupby(leaks["flow_run_id"].fillna(""), sort=False):
        names = ", ".join(f"**{plain(name, 80)}**" for name in of_run["holder"].head(MOST_LEAKS))
        flow_run = (
            f" of [{plain(of_run['flow_run'].iloc[0] or 'its run', 60)}]({display.link(str(run))})" if run else ""
        )
        last = _clock(of_run["seen"].max())
        lines.append(f"- {names}{flow_run}, since {_clock(of_run['since'].min())}; last sign of life {last}")
    number = f"{len(leaks)} slots" if len(leaks) > 1 else "A slot"
    st.error(
        f"{number} leaked: taken, never given back, and the server no longer names the holder.\n"
        + "\n".join(lines[: -MOST_LEAKS - 1 : -1]),
        icon=":material/water_drop:",
    )
    if len(lines) > MOST_LEAKS:
        st.caption(f"And leaks of {len(lines) - MOST_LEAKS} more runs, in the chart and in the CSV file.")


def _source(page: ledger_source.Page) -> str:
    if page.source == "events":
        source = (
            "Source: the server's events of each slot that was taken and given back, with the limit at that time and"
            " the clocks of the holders' machines. An event may arrive 5 seconds late."
        )
    else:
        source = (
            f"Source: the task runs with this tag, from their start to their end, because the server has no events of"
            f" the limit. The limit is taken to have been {page.limit} all the time."
        )
    since = "" if page.start <= page.read_at - page.span else f" It begins at {_clock(page.start)}."
    most = f" Only the newest {ledger_source.MOST:,} were read." if since and page.source == "events" else ""
    return source + most + since


def _lasted(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.1f} s"


def _clock(time: pd.Timestamp) -> str:
    return f"{time.tz_convert(zone()):%Y-%m-%d %H:%M:%S}"
