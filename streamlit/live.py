"""A page that is kept up to date: the server and its health, the pace, and the dialogs during which it rests."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import actions
import pandas as pd
import streamlit as st
from shell import plain, told, zone

from flows import settings
from flows.api import credentials, endpoints, rest, server
from flows.monitor import pages
from flows.settings import CannotRun, Refused

CHOSEN = "chosen_runs"  # how the keys of tables begin whose rows are chosen for something
PACES = {"2 s": 2, "5 s": 5, "15 s": 15, "60 s": 60, "off": None}

# Says whether the tab is hidden: nobody looks, so nothing need be asked.
_visibility = st.components.v2.component(
    "visibility",
    js="""
    export default function ({ setStateValue }) {
      const tell = () => setStateValue("hidden", document.hidden)
      if (document.hidden) tell()  // opened in the background
      document.addEventListener("visibilitychange", tell)
      return () => document.removeEventListener("visibilitychange", tell)
    }
    """,
)


def sidebar() -> None:
    """In the sidebar: which server this is, whether it may be changed, and in which zone times are."""
    st.html("<style>.stMainBlockContainer { padding-top: 4rem; padding-bottom: 2rem }</style>")
    with st.sidebar:
        st.markdown("**Server**")
        with told():
            st.caption(plain(server.attach()))
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


def answers() -> bool:
    """Whether the server answers, which the sidebar says, for what is not a `page`. If not, its reason is shown."""
    place = st.sidebar.container().empty()
    with told():
        try:
            st.session_state.version = rest.send(endpoints.version())
        except CannotRun as error:
            place.caption(_health(error))
            raise
        place.caption(_health(None))
        return True
    return False


class _Kept(NamedTuple):
    """A page, for what it was loaded, and when it was last read (`time.monotonic`)."""

    key: object
    page: Any
    read: float


def page(
    name: str, key: object, load: Callable[[], Any], refresh: Callable[[Any], Any], show: Callable[[Any], None]
) -> None:
    """Load a page, show it, and bring it up to date at the viewer's pace.

    The page is kept under `name` and loaded anew when `key` changes. It rests while the tab is hidden, a dialog is
    open, or rows are chosen. Where the server is lost, what was last read stays, and the reason stands above it.
    """
    pace = PACES.get(st.session_state.get("pace") or "off")
    # Made here, in a container: the Streamlit that goes with Prefect 2 lets no fragment write to the sidebar itself.
    health = st.sidebar.container().empty()
    rests = _rests()

    @st.fragment(run_every=None if rests else pace)
    def part() -> None:
        if _rests() != rests:
            st.rerun()  # so that it stops, or goes on: a look in between would swallow a click on a busy machine
        kept: _Kept | None = st.session_state.get(name)
        lost = None
        try:
            if kept is None or kept.key != key:
                st.session_state.pop(name, None)
                kept = None
                kept = _Kept(key, load(), time.monotonic())
            elif st.session_state.pop("again", False) or (not _rests() and _due(kept.read, pace)):
                kept = _Kept(key, refresh(kept.page), time.monotonic())
            st.session_state[name] = kept
            _know_version(getattr(kept.page, "version", None))
        except CannotRun as error:
            lost = error
        ago = time.monotonic() - kept.read if kept else 0
        health.caption(_health(lost, ago))
        if kept is None:
            st.error(plain(lost, 2000), icon=":material/error:")
            _offer_lab()
            return
        if lost is not None:
            st.warning(f"What follows is {ago:.0f} s old. {plain(lost, 2000)}", icon=":material/cloud_off:")
        with told():
            show(kept.page)

    part()
    if "dialog" in st.session_state:
        _dialog()


def _due(read: float, pace: int | None) -> bool:
    """Whether what was read at `read` is old. A click comes in between, and need not ask the server."""
    return pace is not None and time.monotonic() - read >= 0.8 * pace


def _rests() -> str | None:
    """Why the page is not read anew, None if it is."""
    if st.session_state.get("hidden"):
        return "its tab is hidden"
    if "dialog" in st.session_state:
        return "a dialog is open"
    tables = [st.session_state[key] for key in st.session_state if str(key).startswith(CHOSEN)]
    return "runs are chosen" if any(table["selection"]["rows"] for table in tables) else None


def _know_version(version: str | None) -> None:
    if version or "version" not in st.session_state:
        st.session_state.version = version or rest.send(endpoints.version())


def _health(lost: CannotRun | None, ago: float = 0) -> str:
    """Whether the server answers, its version, and who one is there.

    `lost` is why a page could not be read; None if it was, `ago` seconds ago.
    """
    try:
        if isinstance(lost, pages.Gone):
            lost = None
            _know_version(None)
    except CannotRun as error:
        lost = error
    who = _identity()
    if isinstance(lost, Refused):
        return f":material/lock: It lets nobody in {f'with {who}' if who else 'without credentials'}."
    if lost is not None:
        return f":material/cloud_off: It does not answer as it should.  \n{who or 'no credentials are set'}"
    version = st.session_state.get("version")
    name = f"Prefect {plain(version)}" if version else "It"
    read = pd.Timestamp.now(zone()) - pd.Timedelta(seconds=ago)
    rests = f"; rests while {why}" if (why := _rests()) else ""
    answered = f":material/check_circle: {name} answers; read at {read:%H:%M:%S}{rests}"
    return f"{answered}  \n{who or 'open: it asks for no credentials'}"


def _identity() -> str:
    """The credentials that are sent, as much of them as may be shown; nothing if there are none."""
    try:
        known, scheme, own = settings.read(), credentials.scheme(), credentials.own_header()
    except CannotRun:  # what is wrong with them stands on the page
        return "credentials that cannot be used"
    if scheme == "none":
        return ""
    secret = {"basic": known.prefect_api_auth_string, "bearer": known.prefect_api_key}.get(scheme)
    return plain(f"{scheme} {credentials.masked(secret) if secret and own is None else ''}".strip())


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
                    st.session_state.acted = acted() + 1
                    _closed()
                    st.rerun()

    dialog()


def acted() -> int:
    """How often something was confirmed; a choice that is made for it ends with it."""
    return st.session_state.get("acted", 0)


def _closed() -> None:
    st.session_state.pop("dialog", None)
    again()


def _offer_lab() -> None:
    try:
        may = settings.read().prefect_api_url is None and actions.allowed()
    except CannotRun:  # that is why there is no page, and was said
        return
    if may and st.button("Start the lab", icon=":material/play_arrow:"):
        with told(), st.spinner("Starting PostgreSQL and a Prefect server: about 10 seconds."):
            server.use()
            st.rerun()
