"""Charts, tables and errors as every page shows them."""

import inspect
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import altair as alt
import pandas as pd
import streamlit as st
from texts import csv, plain

from flows.monitor import charts
from flows.settings import CannotRun


@contextmanager
def errors_shown(shown: CannotRun | None = None) -> Generator[None]:
    """Show the message of a CannotRun that is raised inside the block, unless it is `shown`, and continue after it."""
    try:
        yield
    except CannotRun as error:
        if str(error) != str(shown):
            st.error(plain(error, 2000), icon=":material/error:")


def chart(drawn: Any, key: str, *, room: int = 30) -> None:
    """Show an Altair chart as wide as the page, and below it its description, which screen readers read as well.

    Those that are put together, below or beside each other, are as wide as the page only if they are taken apart. Their
    axes begin at the same place because each leaves `room`, in pixels, for the labels of its rows.
    """
    parts, places = [drawn], [st]
    if isinstance(drawn, alt.VConcatChart):
        parts, places = drawn.vconcat, [st] * len(drawn.vconcat)
    elif isinstance(drawn, alt.HConcatChart):
        parts, places = drawn.hconcat, st.columns(len(drawn.hconcat))
    for number, (part, place) in enumerate(zip(parts, places, strict=True)):
        if part is not drawn:
            part = charts.styled(part).configure_axisY(minExtent=room, maxExtent=room)
            if isinstance(part.height, int):  # Streamlit takes the axes off it
                part = part.properties(height=part.height + 60)
        place.altair_chart(part, key=f"{key} {number}", theme=None, width="stretch")
    st.caption(plain(drawn.description, 1000))


def room(runs: pd.DataFrame) -> int:
    """Return how many pixels the labels of a timeline of `runs` take; those of many have none."""
    if runs.empty or len(runs) > charts.MOST_LABELS:
        return 30
    return min(20 + 6 * int(charts.labelled(runs)["label"].str.len().max()), 220)


def table(frame: Any, *, alt: str, **options: Any) -> Any:
    """Show a table, with `alt` for screen readers if this Streamlit supports that. Missing values are empty cells."""
    spoken = {"alt": alt} if "alt" in inspect.signature(st.dataframe).parameters else {}
    return st.dataframe(frame, placeholder="", **options, **spoken)


def save(frame: pd.DataFrame, name: str, place: Any = st) -> None:
    """Show in `place` a button that saves `frame` as a CSV file with this name, in which no cell is a formula."""
    place.download_button("Save as CSV", csv(frame), name, "text/csv", on_click="ignore", icon=":material/download:")


def height(rows: int, most: int) -> int:
    """Return the height of a table with so many rows, `most` pixels at the most."""
    return min(38 + 35 * rows, most)


def coloured(frame: pd.DataFrame, state_types: pd.Series) -> Any:
    """Return `frame` with its column `state` on a tint of the charts' colours, which as text could not all be read."""
    colours = state_types.map(charts.COLOURS).fillna(charts.WAITING)
    return frame.style.apply(lambda _: [f"background-color: {colour}40" for colour in colours], subset=["state"])


def warn_of_unknown(parameter: str, known: Collection[str]) -> None:
    """Warn of values of a parameter in the address that are not `known`; Streamlit drops them without a word."""
    unknown = [value for value in st.query_params.get_all(parameter) if value not in known]
    if unknown:
        about = f"The address asks for {parameter}={', '.join(unknown)}, which does not exist, so it was left out."
        st.warning(plain(f"{about} There is: {', '.join(known)}.", 1000), icon=":material/warning:")


def link(flow_run_id: str) -> str:
    """Return the address of the page of a flow run, relative to any page: the app may be below a path of a proxy."""
    return f"run?id={flow_run_id}"


def ledger_link(limit: str) -> str:
    """Return the address of the ledger of a limit, by the name of its counter, relative as in `link`."""
    return f"ledger?{urlencode({'limit': limit})}"
