"""Buttons that cancel, retry and resume flow runs, after a dialog that explains what will happen."""

from collections.abc import Sequence
from typing import Any

import actions
import dialogs
import pandas as pd
import streamlit as st
from texts import plain

from flows.api.endpoints import FINAL


def show(runs: pd.DataFrame, cancel_place: Any, retry_place: Any) -> None:
    """Show a button to cancel those of `runs` (FLOW_RUNS) that have not ended, and one to retry the others."""
    active = runs[~runs["state_type"].isin(FINAL)]
    # The code of a run is found by its deployment; nothing can run one without.
    ended = runs.drop(active.index).dropna(subset="deployment_id")
    if cancel_place.button(
        "Cancel", disabled=active.empty, icon=":material/cancel:", help="Select runs that have not ended."
    ):
        ways = actions.ways_to_cancel(active)
        dialogs.confirm(
            "Cancel?",
            lambda: _about_cancel(active, ways),
            "Cancel the runs",
            lambda: actions.cancel(active, gone=st.session_state.get("gone", False)),
        )
    if retry_place.button(
        "Retry", disabled=ended.empty, icon=":material/replay:", help="Select runs of deployments that have ended."
    ):
        dialogs.confirm("Retry?", lambda: _about_retry(ended), "Retry the runs", lambda: actions.retry(ended))


def show_resume(runs: pd.DataFrame, place: Any) -> None:
    """Show a button to resume `runs` (FLOW_RUNS) if all of them are paused or suspended."""
    if (runs["state_type"] == "PAUSED").all() and place.button("Resume", icon=":material/resume:"):
        dialogs.confirm("Resume?", lambda: _about_resume(runs), "Resume the runs", lambda: actions.resume(runs))


def _about_resume(runs: pd.DataFrame) -> None:
    st.text("\n".join(runs["name"].str.slice(0, 80).head(10)))
    st.write("The process of a paused run goes on within seconds; its worker starts a suspended run again.")


def _about_cancel(runs: pd.DataFrame, ways: Sequence[actions.Way | None]) -> None:
    for way in dict.fromkeys(ways):
        of_way = runs[[one == way for one in ways]]
        st.text("\n".join(of_way["name"].str.slice(0, 80).head(10)))
        if len(of_way) > 10:
            st.caption(f"and {len(of_way) - 10} more")
        st.write(plain(way.effect if way else "It has ended in the meantime, and stays as it is."))
    if any(way and way.state is None for way in ways):
        st.checkbox("The process is gone: mark the run as Cancelled", key="gone")
        st.caption("The server then gives its slots back. If the process still runs, the limit can be exceeded.")


def _about_retry(runs: pd.DataFrame) -> None:
    st.write(f"Run {len(runs)} flow run{'s' if len(runs) > 1 else ''} again:")
    st.text("\n".join(runs["name"].str.slice(0, 80).head(10)))
    st.write("The server schedules it with the same parameters; its worker or its .serve() process takes it.")
