"""Dialogs that ask for confirmation before something is changed."""

from collections.abc import Callable
from typing import NoReturn

import streamlit as st
from display import errors_shown
from texts import plain


def confirm(title: str, body: Callable[[], None], label: str, act: Callable[[], list[str] | None]) -> NoReturn:
    """Open a dialog that shows `body`, and call `act` when the button with this `label` is clicked.

    `act` returns a sentence for each thing that was not done; the dialog shows them. Automatic refresh pauses while
    the dialog is open.
    """
    st.session_state.dialog = (title, body, label, act)
    st.rerun()


def is_open() -> bool:
    """Return whether a dialog is open."""
    return "dialog" in st.session_state


def show() -> None:
    """Show the dialog that is open, if there is one."""
    if not is_open():
        return
    title, body, label, act = st.session_state.dialog

    @st.dialog(title, on_dismiss=_close)
    def dialog() -> None:
        body()
        if st.button(label, type="primary"):
            with errors_shown():
                problems = act() or []
                for sentence in problems:
                    st.warning(plain(sentence, 1000))
                if not problems:
                    st.session_state.confirmed = confirmations() + 1
                    _close()
                    st.rerun()

    dialog()


def confirmations() -> int:
    """Return how often something was confirmed; a selection of rows ends with the change it was made for."""
    return st.session_state.get("confirmed", 0)


def _close() -> None:
    st.session_state.pop("dialog", None)
    st.session_state.again = True
