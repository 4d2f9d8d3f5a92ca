"""Start a deployment, with its parameters in a form."""

from typing import Any

import actions
import display
import parameter_fields
import server_status
import streamlit as st
from display import errors_shown
from texts import plain

from flows.api import endpoints, rest

DEPLOYMENTS = rest.Request("POST", "deployments/filter", {"sort": "NAME_ASC", "limit": rest.PAGE})


def show() -> None:
    """Draw the page."""
    if not server_status.responds():
        return
    with errors_shown():
        if not actions.allowed():
            st.caption("This monitor is read-only because MONITOR_READ_ONLY is set: nothing can be started from here.")
            return
        deployments, flows = rest.gather([DEPLOYMENTS, endpoints.flows()])
        if not deployments:
            st.caption("The server has no deployment. Create one: prefect deploy flows/prefect_flow.py:main_etl")
            return
        names = {flow["id"]: flow["name"] for flow in flows}
        by_name = {f"{names.get(one['flow_id'], '?')}/{one['name']}": one for one in deployments}
        display.warn_of_unknown("deployment", by_name)
        chosen = st.selectbox("Deployment", list(by_name), key="deployment", bind="query-params")
        if chosen is not None:
            _form(by_name[chosen])


def _form(deployment: dict[str, Any]) -> None:
    with st.form("start"):
        st.caption(plain(deployment.get("description") or "This deployment has no description.", 1000))
        filled_in = parameter_fields.show(deployment)
        if st.form_submit_button("Start", type="primary", icon=":material/play_arrow:"):
            flow_run = actions.start(deployment["id"], filled_in())
            st.success(f"Started. [Open its page]({display.link(flow_run)})", icon=":material/check:")
            if pool := deployment.get("work_pool_name"):
                st.caption(plain(f"A worker must be running: prefect worker start --pool {pool}"))
            else:
                st.caption(plain("It has no work pool: a process that serves it (.serve() in Python) must be running."))
