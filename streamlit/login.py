"""Who may see the app: everybody who reaches it or, if its secrets have a section [auth], those who have logged in."""

from pathlib import Path

import streamlit as st
from texts import plain

from flows.settings import CannotRun


def passed() -> bool:
    """Return whether the visitor may see the page; show who has logged in, or a button to do so.

    Raises CannotRun if there are secrets that cannot be read, because they may ask for a log-in.
    """
    if not _required():
        return True
    if not st.user.is_logged_in:
        st.write("Log in to see this page.")
        st.button("Log in", type="primary", icon=":material/login:", on_click=st.login)
        return False
    with st.sidebar:
        st.caption(f"Logged in as {plain(st.user.get('email') or st.user.get('name') or st.user.get('sub'))}")
        st.button("Log out", icon=":material/logout:", on_click=st.logout)
    return True


def _required() -> bool:
    files = [file for file in st.get_option("secrets.files") if Path(file).exists()]
    try:
        return bool(files) and "auth" in st.secrets
    except FileNotFoundError:  # which Streamlit raises for a file that is not valid TOML as well
        raise CannotRun(
            f"The secrets in {', '.join(files)} cannot be read. Correct them, and restart the app."
        ) from None
