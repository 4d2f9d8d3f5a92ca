"""A page that is kept up to date: how often it is refreshed, and when that pauses."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import actions
import dialogs
import pandas as pd
import server_status
import streamlit as st
from display import errors_shown, warn_of_unknown
from texts import plain

from flows import settings
from flows.api import server
from flows.settings import CannotRun

SELECTION = "selected_runs"  # the keys of tables whose rows can be selected begin with this
INTERVALS = {"2 s": 2, "5 s": 5, "15 s": 15, "60 s": 60, "off": None}

# Reports whether the tab is hidden: then nobody looks at the page, and the server need not be asked. And whether it is
# so narrow that Streamlit puts columns below each other.
_viewer = st.components.v2.component(
    "viewer",
    js="""
    export default function ({ setStateValue }) {
      const phone = window.matchMedia("(max-width: 640px)")
      const hidden = () => setStateValue("hidden", document.hidden)
      const narrow = () => setStateValue("narrow", phone.matches)
      if (document.hidden) hidden()  // opened in the background
      if (phone.matches) narrow()
      document.addEventListener("visibilitychange", hidden)
      phone.addEventListener("change", narrow)
      return () => {
        document.removeEventListener("visibilitychange", hidden)
        phone.removeEventListener("change", narrow)
      }
    }
    """,
)


class _Loaded(NamedTuple):
    """A page, the key it was loaded for, and when it was last read: as a time, and by `time.monotonic`."""

    key: object
    page: Any
    at: pd.Timestamp
    read: float


def interval() -> None:
    """Show in the sidebar how often pages are refreshed, and watch whether the tab is hidden, and whether narrow."""
    with st.sidebar:
        warn_of_unknown("pace", INTERVALS)
        st.segmented_control(
            "Refresh every", list(INTERVALS), default="5 s", key="pace", bind="query-params", required=True
        )
        usual = {"hidden": False, "narrow": False}
        viewer = _viewer(key="viewer", default=usual, on_hidden_change=_noted, on_narrow_change=_noted)
        st.session_state.hidden, st.session_state.narrow = bool(viewer.hidden), bool(viewer.narrow)


def _noted() -> None:
    """Do nothing: a component reports a value only if a function takes its changes."""


def show(
    name: str, key: object, load: Callable[[], Any], refresh: Callable[[Any], Any], draw: Callable[[Any], None]
) -> None:
    """Load a page, draw it, and refresh it at the viewer's interval.

    The page stays in the session under `name` and is loaded again when `key` changes. Refreshing pauses while the tab
    is hidden, a dialog is open, or rows are selected. If the server is lost, the last data stays, with the reason
    above it.
    """
    seconds = INTERVALS.get(st.session_state.get("pace") or "off")
    # Made here, in a container: the Streamlit that goes with Prefect 2 lets no fragment write to the sidebar itself.
    status = st.sidebar.container().empty()
    pause = _pause()

    @st.fragment(run_every=None if pause else seconds)
    def part() -> None:
        if _pause() != pause:
            st.rerun()  # to stop or to continue: a refresh in between would swallow a click on a busy machine
        loaded: _Loaded | None = st.session_state.get(name)
        lost = None
        try:
            if loaded is None or loaded.key != key:
                st.session_state.pop(name, None)
                loaded = None
                loaded = _Loaded(key, load(), pd.Timestamp.now("UTC"), time.monotonic())
            elif st.session_state.pop("again", False) or (not _pause() and _due(loaded.read, seconds)):
                loaded = _Loaded(key, refresh(loaded.page), pd.Timestamp.now("UTC"), time.monotonic())
            st.session_state[name] = loaded
            server_status.remember_version(getattr(loaded.page, "version", None))
        except CannotRun as error:
            lost = error
        status.caption(server_status.line(lost, loaded.at if loaded else None, _pause()))
        if loaded is None:
            st.error(plain(lost, 2000), icon=":material/error:")
            _offer_lab()
            return
        if lost is not None:
            age = time.monotonic() - loaded.read
            st.warning(f"The data below is {age:.0f} s old. {plain(lost, 2000)}", icon=":material/cloud_off:")
        with errors_shown(lost):
            draw(loaded.page)

    part()
    dialogs.show()


def _due(read: float, seconds: int | None) -> bool:
    """Return whether data read at `read` is old; a click redraws the page earlier, and need not ask the server."""
    return seconds is not None and time.monotonic() - read >= 0.8 * seconds


def _pause() -> str | None:
    """Return why refreshing is paused, None if it is not."""
    if st.session_state.get("hidden"):
        return "the tab is hidden"
    if dialogs.is_open():
        return "a dialog is open"
    tables = [st.session_state[key] for key in st.session_state if str(key).startswith(SELECTION)]
    return "rows are selected" if any(table["selection"]["rows"] for table in tables) else None


def _offer_lab() -> None:
    try:
        may_start = settings.read().prefect_api_url is None and actions.allowed()
    except CannotRun:  # the reason why there is no page, and shown already
        return
    if may_start and st.button("Start the lab", icon=":material/play_arrow:"):
        with errors_shown(), st.spinner("Starting PostgreSQL and a Prefect server. This takes about 10 seconds."):
            server.use()
            st.rerun()
