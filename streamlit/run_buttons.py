"""Buttons that cancel and retry flow runs, after a dialog that explains what will happen."""

from typing import Any

import actions
import dialogs
import pandas as pd
import streamlit as st

from flows.api.endpoints import FINAL


def show(runs: pd.DataFrame, cancel_place: Any, retry_place: Any) -> None:
    """Show a button to cancel those of `runs` (FLOW_RUNS) that have not ended, and one to retry the others."""
    active = runs[~runs["state_type"].isin(FINAL)]
    # A worker finds the code of a run by its deployment; no worker can run one without.
    ended = runs.drop(active.index).dropna(subset="deployment_id")
    if cancel_place.button(
        "Cancel", disabled=active.empty, icon=":material/cancel:", help="Select runs that have not ended."
    ):
        dialogs.confirm("Cancel?", lambda: _about_cancel(active), "Cancel the runs", lambda: actions.cancel(active))
    if retry_place.button(
        "Retry", disabled=ended.empty, icon=":material/replay:", help="Select runs of deployments that have ended."
    ):
        dialogs.confirm("Retry?", lambda: _about_retry(ended), "Retry the runs", lambda: actions.retry(ended))


def _about_cancel(runs: pd.DataFrame) -> None:
    by_worker = int((runs["work_pool"].notna() & runs["state_type"].isin(["RUNNING", "PENDING"])).sum())
    st.write(f"Cancel {len(runs)} flow run{'s' if len(runs) > 1 else ''}:")
    st.text("\n".join(runs["name"].str.slice(0, 80).head(10)))
    if by_worker:
        st.write(f"{by_worker} of them: the worker ends the process, which may take some seconds.")
    if by_worker < len(runs):
        st.write(
            f"{len(runs) - by_worker} of them: the server marks it Cancelled. If a process outside of a worker runs it,"
            " that process continues until it next contacts the server."
        )


def _about_retry(runs: pd.DataFrame) -> None:
    st.write(f"Run {len(runs)} flow run{'s' if len(runs) > 1 else ''} again:")
    st.text("\n".join(runs["name"].str.slice(0, 80).head(10)))
    st.write("The server schedules it with the same parameters, and a worker of its work pool takes it.")
