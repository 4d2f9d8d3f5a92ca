"""Texts and times as a viewer sees them: in the viewer's time zone, safe in Markdown, safe in a spreadsheet."""

import re
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

# The first characters of a cell that make it a formula, as OWASP lists them; the last four are wide forms of the first.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def zone() -> str:
    """Return the viewer's time zone, or UTC if the browser does not name one."""
    name = st.context.timezone or "UTC"
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return "UTC"
    return name


def local(times: pd.Series) -> pd.Series:
    """Return `times` in the viewer's time zone."""
    return times.dt.tz_convert(zone())


def plain(text: object, most: int = 300) -> str:
    """Return `text` on one line, shortened, and escaped so that Markdown shows it as it is."""
    line = " ".join(str(text).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    # Streamlit replaces names of icons even if the colons are escaped, so an invisible joiner separates them. Times and
    # addresses have no such names in them, and have to be found by Ctrl+F and to work when they are copied.
    line = re.sub(r":(?=(?:100|1234|(?!\d+:)(?:material/)?[\w+-]+):)", ":\u2060", line)
    # One underscore between letters means nothing in Markdown; field labels are spoken as they are written here.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|[\\`*{}\[\]()<>#+\-.!|$:~^&]", r"\\\g<0>", line)


def code(text: str) -> str:
    """Return `text` as inline code for Markdown, which makes no link of an address."""
    return f"`{text.replace('`', '')}`"


def csv(frame: pd.DataFrame) -> str:
    """Return `frame` as CSV in which a spreadsheet finds no formula: anybody can choose the name of a run."""

    def guarded(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and cell[:1] in FORMULA else cell

    return frame.map(guarded).rename(columns=guarded).to_csv(index=False)
