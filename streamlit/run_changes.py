"""Buttons that cancel and retry flow runs, after a dialog that says what will happen."""

from typing import Any

import actions
import live
import pandas as pd
import streamlit as st


def buttons(runs: pd.DataFrame, *places: Any) -> None:
    """Buttons in the two `places`, to cancel those of `runs` (FLOW_RUNS) that have not ended, and retry the others."""
    active = runs[~runs["state_type"].isin(["COMPLETED", "FAILED", "CRASHED", "CANCELLED"])]
    # A worker has to find its code: without a deployment there is nobody who could run it again.
    again = runs.drop(active.index).dropna(subset="deployment_id")
    if places[0].button(
        "Cancel", disabled=active.empty, icon=":material/cancel:", help="Choose runs that have not ended."
    ):
        by_worker = int((active["work_pool"].notna() & active["state_type"].isin(["RUNNING", "PENDING"])).sum())

        def body() -> None:
            st.write(f"Cancel {len(active)} flow run{'s' if len(active) > 1 else ''}:")
            st.text("\n".join(active["name"].str.slice(0, 80).head(10)))
            if by_worker:
                st.write(f"{by_worker} of them: the worker ends the process, which may take some seconds.")
            if by_worker < len(active):
                st.write(
                    f"{len(active) - by_worker} of them: the server marks it Cancelled. A process that runs it outside"
                    " of a worker goes on until it next asks the server."
                )

        live.confirm("Cancel?", body, "Cancel the runs", lambda: actions.cancel(active))
    if places[1].button(
        "Retry", disabled=again.empty, icon=":material/replay:", help="Choose runs of deployments that have ended."
    ):

        def body() -> None:
            st.write(f"Run {len(again)} flow run{'s' if len(again) > 1 else ''} once more:")
            st.text("\n".join(again["name"].str.slice(0, 80).head(10)))
            st.write("The server schedules it, with the same parameters, and a worker of its pool takes it.")

        live.confirm("Retry?", body, "Retry the runs", lambda: actions.retry(again))
