"""What every page of the monitor has: its head, its pace, and what it says when something is wrong."""

import inspect
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

from flows import actions, auth, charts, lab, rest, settings
from flows.settings import CannotRun

PACES = {"2 s": 2, "5 s": 5, "15 s": 15, "60 s": 60, "off": None}

# Says whether the tab is hidden: nobody looks, so nothing need be asked.
_visibility = st.components.v2.component(
    "visibility",
    js="""
    export default function ({ setStateValue }) {
      const tell = () => setStateValue("hidden", document.hidden)
      document.addEventListener("visibilitychange", tell)
      return () => document.removeEventListener("visibilitychange", tell)
    }
    """,
)


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


def server() -> None:
    """In the sidebar: which server this is, who one is there, and in which zone times are."""
    st.html("<style>.stMainBlockContainer { padding-top: 4rem; padding-bottom: 2rem }</style>")
    with st.sidebar:
        st.markdown("**Server**")
        with told():
            st.caption(f"{plain(rest.api_url())}  \n{plain(_identity())}")
            if not actions.allowed():
                st.caption(":material/lock: Read-only: nothing can be changed from here.")
        st.caption(f"Times in {plain(zone())}")


def pace() -> None:
    """In the sidebar: how often to look again. A tab that is hidden rests."""
    with st.sidebar:
        st.segmented_control(
            "Look again every", list(PACES), default="5 s", key="pace", bind="query-params", required=True
        )
        hidden = _visibility(key="visibility", default={"hidden": False}, on_hidden_change=lambda: None).hidden
        st.session_state.hidden = bool(hidden)


def _identity() -> str:
    known = settings.read()
    match auth.scheme():
        case "basic":
            secret = known.prefect_api_auth_string
        case "bearer":
            secret = known.prefect_api_key
        case _:
            return "open: it asks for no credentials"
    return f"{auth.scheme()} {auth.masked(secret) if secret else ''}".strip()


def live(
    name: str, key: object, load: Callable[[], Any], refresh: Callable[[Any], Any], show: Callable[[Any], None]
) -> None:
    """Load a page, show it, and bring it up to date at the viewer's pace.

    The page is kept under `name` and loaded anew when `key` changes. While the tab is hidden, or a dialog is open, it
    rests. Where the server is lost, what was last read stays, and the reason stands above it.
    """
    pace = PACES.get(st.session_state.get("pace") or "off")
    rests = st.session_state.get("hidden") or "dialog" in st.session_state
    # Made here, in a container: the Streamlit that goes with Prefect 2 lets no fragment write to the sidebar itself.
    health = st.sidebar.container().empty()

    @st.fragment(run_every=None if rests else pace)
    def part() -> None:
        kept = st.session_state.get(name)
        lost = None
        try:
            if kept is None or kept["key"] != key:
                st.session_state.pop(name, None)
                kept = {"key": key, "page": load(), "read": time.monotonic()}
            elif st.session_state.pop("again", False) or (not rests and _due(kept["read"], pace)):
                kept = {"key": key, "page": refresh(kept["page"]), "read": time.monotonic()}
            st.session_state[name] = kept
        except CannotRun as error:
            lost = error
        if lost is not None and (kept is None or kept["key"] != key):
            st.error(plain(lost, 2000), icon=":material/error:")
            _offer_lab()
            return
        health.caption(_health(kept["page"], lost))
        if lost is not None:
            ago = time.monotonic() - kept["read"]
            st.warning(f"What follows is {ago:.0f} s old. {plain(lost, 2000)}", icon=":material/cloud_off:")
        with told():
            show(kept["page"])

    part()
    if "dialog" in st.session_state:
        _dialog()


def _due(read: float, pace: int | None) -> bool:
    """Whether what was read at `read` is old. A click comes in between, and need not ask the server."""
    return pace is not None and time.monotonic() - read >= 0.8 * pace


def _health(page: Any, lost: CannotRun | None) -> str:
    if lost is not None:
        return ":material/cloud_off: It does not answer."
    version = st.session_state.version = getattr(page, "version", None) or st.session_state.get("version")
    name = f"Prefect {plain(version)}" if version else "It"
    return f":material/check_circle: {name} answers; read at {pd.Timestamp.now(zone()):%H:%M:%S}"


def again() -> None:
    """Read the page again at the next look."""
    st.session_state.again = True


def confirm(title: str, body: Callable[[], None], done: str, act: Callable[[], list[str] | None]) -> NoReturn:
    """Open a dialog that shows `body`, and does `act` once that is confirmed with the button `done`.

    `act` returns sentences for what was not done. The page rests while the dialog is open.
    """
    st.session_state.dialog = (title, body, done, act)
    st.rerun()


def _dialog() -> None:
    title, body, done, act = st.session_state.dialog

    @st.dialog(title, on_dismiss=_closed)
    def dialog() -> None:
        body()
        if st.button(done, type="primary"):
            with told():
                refused = act() or []
                for sentence in refused:
                    st.warning(plain(sentence, 1000))
                if not refused:
                    _closed()
                    st.rerun()

    dialog()


def _closed() -> None:
    st.session_state.pop("dialog", None)
    again()


def chart(drawn: Any, key: str, *, stretch: bool = True) -> None:
    """An Altair chart, and below it its description, which is also what a screen reader says of it."""
    st.altair_chart(drawn, key=key, theme=None, width="stretch" if stretch else "content")
    st.caption(plain(drawn.description, 1000))


def table(frame: Any, *, alt: str, **options: Any) -> Any:
    """Streamlit's table of `frame`, with what a screen reader says of it where this Streamlit can tell it."""
    spoken = {"alt": alt} if "alt" in inspect.signature(st.dataframe).parameters else {}
    return st.dataframe(frame, **options, **spoken)


def coloured(frame: pd.DataFrame, kinds: pd.Series) -> Any:
    """`frame` with its column `state` in the colours of the charts; `kinds` are the types of the states."""
    colours = kinds.map(charts.COLOURS).fillna(charts.WAITING)
    return frame.style.apply(lambda _: [f"color: {colour}; font-weight: 600" for colour in colours], subset=["state"])


def _offer_lab() -> None:
    try:
        may = settings.read().prefect_api_url is None and actions.allowed()
    except CannotRun:  # that is why there is no page, and was said
        return
    if may and st.button("Start the lab", icon=":material/play_arrow:"):
        with told(), st.spinner("Starting PostgreSQL and a Prefect server: about 10 seconds."):
            lab.server()
            st.rerun()
