"""How things look on every page: texts and times, tables and charts, and what is said when something is wrong."""

import inspect
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

from flows.monitor import charts
from flows.settings import CannotRun

# How a cell begins that is a formula, as OWASP lists it; the last four are the wide forms of the first.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def zone() -> str:
    """The viewer's time zone."""
    name = st.context.timezone or "UTC"
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return "UTC"
    return name


def local(times: pd.Series) -> pd.Series:
    """`times` in the viewer's zone."""
    return times.dt.tz_convert(zone())


def plain(text: object, most: int = 300) -> str:
    """`text` on one line, shortened, and such that Markdown shows it as it is."""
    line = " ".join(str(text).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    # Streamlit finds the names of icons even where the colons are escaped; a joiner of no width parts them.
    line = re.sub(r":(?=[\w/+-]+:)", ":\u2060", line)
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$:~^&])", r"\\\1", line)


@contextmanager
def told() -> Generator[None]:
    """What cannot be done is said in a sentence with the next step."""
    try:
        yield
    except CannotRun as error:
        st.error(plain(error, 2000), icon=":material/error:")


def chart(drawn: Any, key: str, *, stretch: bool = True) -> None:
    """An Altair chart, and below it its description, which is also what a screen reader says of it."""
    st.altair_chart(drawn, key=key, theme=None, width="stretch" if stretch else "content")
    st.caption(plain(drawn.description, 1000))


def table(frame: Any, *, alt: str, **options: Any) -> Any:
    """Streamlit's table of `frame`, with what a screen reader says of it where this Streamlit can tell it."""
    spoken = {"alt": alt} if "alt" in inspect.signature(st.dataframe).parameters else {}
    return st.dataframe(frame, **options, **spoken)


def csv(frame: pd.DataFrame) -> str:
    """`frame` as CSV, in which no text is one that a spreadsheet would take for a formula: names are anybody's."""
    return frame.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell[:1] in FORMULA else cell).to_csv(
        index=False
    )


def coloured(frame: pd.DataFrame, kinds: pd.Series) -> Any:
    """`frame` with its column `state` in the colours of the charts; `kinds` are the types of the states."""
    colours = kinds.map(charts.COLOURS).fillna(charts.WAITING)
    return frame.style.apply(lambda _: [f"color: {colour}; font-weight: 600" for colour in colours], subset=["state"])
