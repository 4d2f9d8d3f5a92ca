"""Start a deployment, with its parameters in a form."""

import json
from typing import Any

import actions
import display
import server_status
import streamlit as st
from display import errors_shown
from texts import plain

from flows.api import endpoints, rest
from flows.settings import CannotRun

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
    schema = deployment.get("parameter_openapi_schema") or {}
    defaults = deployment.get("parameters") or {}
    with st.form("start"):
        st.caption(plain(deployment.get("description") or "This deployment has no description.", 1000))
        in_order = sorted((schema.get("properties") or {}).items(), key=lambda one: one[1].get("position", 0))
        required = set(schema.get("required") or []) - defaults.keys()
        fields = {
            name: _field(name, about, defaults.get(name, about.get("default")), name in required)
            for name, about in in_order
        }
        if st.form_submit_button("Start", type="primary", icon=":material/play_arrow:"):
            missing = [name for name in required if fields[name][1] in (None, "", "null")]
            if missing:
                raise CannotRun(
                    f"Nothing was started: fill in {' and '.join(sorted(missing))}, which the flow requires."
                )
            parameters = {name: _value(name, *field) for name, field in fields.items()}
            flow_run = actions.start(deployment["id"], parameters)
            st.success(f"Started. [Open its page]({display.link(flow_run)})", icon=":material/check:")
            if pool := deployment.get("work_pool_name"):
                st.caption(plain(f"A worker must be running: prefect worker start --pool {pool}"))
            else:
                st.caption(plain("It has no work pool: a process that serves it (.serve() in Python) must be running."))


def _field(name: str, about: dict[str, Any], value: Any, required: bool) -> tuple[str, Any]:
    """Show a field for one parameter, empty if it is `required`; return its kind (value or JSON text) and content."""
    label = f"{plain(about.get('title') or name, 60)}{' (required)' if required else ''}"
    help_ = plain(about.get("description") or "", 1000) or None
    # A deployment may have an object for a parameter of any type, such as a reference to a variable.
    match "object" if isinstance(value, dict | list) else about.get("type"):
        case "boolean":
            return "value", st.checkbox(label, bool(value), help=help_)
        case "integer" if isinstance(value or 0, int) and abs(value or 0) < 2**53:  # a browser cannot show more
            return "value", st.number_input(label, value=None if required else int(value or 0), step=1, help=help_)
        case "number" if isinstance(value or 0, int | float):
            number = None if required else float(value or 0)
            return "value", st.number_input(label, value=number, format="%g", help=help_)
        case "string" if about.get("enum"):
            index = about["enum"].index(value) if value in about["enum"] else None if required else 0
            return "value", st.selectbox(label, about["enum"], index=index, help=help_)
        case "string":
            return "value", st.text_input(label, value or "", help=help_)
    return "json", st.text_area(f"{label} (JSON)", json.dumps(value), height=68, help=help_)


def _value(name: str, kind: str, content: Any) -> Any:
    if kind != "json":
        return content
    try:
        return json.loads(content or "null")
    except ValueError as error:
        raise CannotRun(
            f"The parameter {name} is not valid JSON: {error}. Write text in double quotes and lists in brackets."
        ) from None
