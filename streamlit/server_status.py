"""The sidebar's lines about the server: its address, its version, whether it responds, and with which credentials."""

from contextlib import suppress

import actions
import pandas as pd
import streamlit as st
from display import errors_shown
from texts import code, plain, zone

from flows.api import credentials, endpoints, rest, server
from flows.monitor import pages
from flows.settings import CannotRun, Refused

# A table's own download writes names as they are, and a spreadsheet would compute those that are formulas; Streamlit's
# option client.disableDataExport would also forbid to copy a name. The pages have downloads of their own.
STYLE = """
.stMainBlockContainer { padding-top: 4rem; padding-bottom: 2rem }
[data-testid=stSidebar] [data-testid=stButtonGroup] button { padding-inline: 0.55rem }
.stElementContainer:has(.spoken) { position: absolute; width: 1px; height: 1px; clip-path: inset(50%) }
.st-key-counts [data-testid=stMetricValue] { font-size: 1.5rem }
@media (max-width: 640px) {
  .st-key-counts [data-testid=stColumn] { min-width: 28% }
  .stVegaLiteChart { max-width: calc(100vw - 2rem); overflow-x: auto }
}
[data-testid=stElementToolbarButton]:has([aria-label^="Download as CSV"]) { display: none }
"""


def sidebar() -> None:
    """Show in the sidebar which server this is, whether it may be changed, and the time zone of all times."""
    st.html(f"<style>{STYLE}</style>")
    with st.sidebar:
        st.markdown("**Server**")
        with suppress(CannotRun):  # each page shows the reason
            st.caption(code(server.attach()))
            if not actions.allowed():
                st.caption(":material/lock: Read-only: nothing can be changed from here.")
        st.caption(f"Times in {plain(zone())}")


def responds() -> bool:
    """Return whether the server responds, and show that in the sidebar; if it does not, show the reason on the page.

    For pages that are not kept up to date.
    """
    place = st.sidebar.container().empty()
    with errors_shown():
        try:
            remember_version(rest.send(endpoints.version()))
        except CannotRun as error:
            place.caption(line(error))
            raise
        place.caption(line(None))
        return True
    return False


def remember_version(version: str | None) -> None:
    """Remember the server's version for the session; ask the server if it is not given and not known yet."""
    if version or "version" not in st.session_state:
        st.session_state.version = version or rest.send(endpoints.version())


def line(error: CannotRun | None, read: pd.Timestamp | None = None, pause: str | None = None) -> str:
    """Return the status of the server as Markdown: whether it responds, and the credentials in use.

    `error` is why a page could not be read, None if it was, at the time `read` (None: just now). `pause` is why
    automatic refresh is paused.
    """
    try:
        if isinstance(error, pages.Gone):
            error = None
            remember_version(None)
    except CannotRun as other:
        error = other
    identity = _identity()
    if isinstance(error, Refused):
        rejected = f"The server rejects these credentials: {identity}."
        return f":material/lock: {rejected if identity else 'The server requires credentials, and none are set.'}"
    if error is not None:
        return (
            f":material/cloud_off: The server does not respond as expected.  \n{identity or 'No credentials are set'}"
        )
    version = st.session_state.get("version")
    name = f"Prefect {plain(version)}" if version else "the server"
    updated = (read or pd.Timestamp.now("UTC")).tz_convert(zone())
    paused = f"; paused while {pause}" if pause else ""
    connected = f":material/check_circle: Connected to {name}; updated at {updated:%H:%M:%S}{paused}"
    return f"{connected}  \n{identity or 'No credentials required'}"


def _identity() -> str:
    """Return the credentials that are sent, masked; an empty text if there are none."""
    try:
        credentials.header()
        scheme, sent = credentials.scheme(), credentials.sent()
    except CannotRun:  # the page shows what is wrong with them
        return "credentials that cannot be used"
    if sent is None:
        return ""
    return plain(scheme if sent.variable == credentials.HEADERS else f"{scheme} {credentials.masked(sent.secret)}")
