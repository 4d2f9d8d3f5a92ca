"""The explorer: pick an endpoint of the server, fill it in, send it, and take the request away as code.

streamlit run streamlit/rest_api_app.py
"""

import json
import time
from typing import Any
from urllib.parse import quote

import actions
import httpx
import live
import openapi
import pandas as pd
import shell
import streamlit as st
from openapi import Endpoint

from flows.api import credentials, rest, server
from flows.settings import CannotRun


@st.cache_data(ttl=600, show_spinner="Reading what the server offers")
def _endpoints(url: str) -> list[Endpoint]:
    return openapi.read()


def _choose(known: list[Endpoint]) -> Endpoint | None:
    columns = st.columns([2, 2, 5], vertical_alignment="bottom")
    text = columns[0].text_input("Search", key="search", bind="query-params", placeholder="path or words")
    groups = sorted({one.group for one in known})
    group = columns[1].selectbox("Group", groups, index=None, placeholder="all", key="group", bind="query-params")
    words = text.lower().split()
    fitting = {
        f"{one.method} {one.path}": one
        for one in known
        if group in (None, one.group)
        and all(word in f"{one.method} {one.path} {one.summary}".lower() for word in words)
    }
    if not fitting:
        st.caption("No endpoint fits. Take a word away.")
        return None
    usual = "POST /flow_runs/filter"
    index = list(fitting).index(usual) if usual in fitting else 0
    name = columns[2].selectbox(
        f"Endpoint ({len(fitting)})", list(fitting), index=index, key="endpoint", bind="query-params"
    )
    return fitting.get(name or usual)


def _fill(endpoint: Endpoint) -> tuple[str, dict[str, str], Any]:
    """The path, the query and the body that the user wrote. Raises CannotRun where something is missing or no JSON."""
    path, query, body = endpoint.path, {}, None
    for parameter in endpoint.parameters:
        mark = " (needed)" if parameter.required else ""
        given = st.text_input(
            f"{parameter.name}: {parameter.kind}{mark}",
            key=f"{endpoint.path} {parameter.name}",
            help=shell.plain(parameter.about, 1000) or None,
        ).strip()
        if parameter.required and not given:
            raise CannotRun(f"Fill in {parameter.name}: without it there is no address to send to.")
        if parameter.place == "path":
            path = path.replace("{" + parameter.name + "}", quote(given, safe=""))
        elif given:
            query[parameter.name] = given
    if endpoint.example is not None:
        written = st.text_area(
            "Body (JSON)", json.dumps(endpoint.example, indent=2), height=180, key=f"{endpoint.method} {endpoint.path}"
        )
        if endpoint.fields:
            with st.expander("What the body may hold"):
                rows = [(one.name, one.kind, "needed" if one.required else "", one.about) for one in endpoint.fields]
                st.dataframe(pd.DataFrame(rows, columns=["key", "kind", "", "meaning"]), hide_index=True)
        try:
            body = json.loads(written or "null")
        except ValueError as error:
            raise CannotRun(
                f"The body is no JSON: {error}. Text stands in double quotes, and no comma at the end."
            ) from None
    return path, query, body


def _send(endpoint: Endpoint, url: str, body: Any) -> None:
    """Send the request, and keep its answer for the page."""
    actions.check(endpoint.method, endpoint.path)
    called = time.perf_counter()
    try:
        answer = httpx.request(
            endpoint.method, url, json=body, headers=credentials.header(), verify=credentials.trust(), timeout=30
        )
    except httpx.TimeoutException:
        raise CannotRun(f"{url} gave no answer within 30 s. Ask for less, or look whether the server lives.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CannotRun(f"{url} cannot be reached ({error}). Start the server, or correct PREFECT_API_URL.") from None
    try:
        said = answer.json() if answer.content else None
    except ValueError:
        said = answer.text[:2000]
    st.session_state.answer = {
        "request": f"{endpoint.method} {url}",
        "status": answer.status_code,
        "reason": answer.reason_phrase,
        "seconds": time.perf_counter() - called,
        "bytes": len(answer.content),
        "said": said,
    }


def _answer(answer: dict[str, Any]) -> None:
    good = answer["status"] < 400
    line = (
        f"{answer['status']} {answer['reason']} · {1000 * answer['seconds']:.0f} ms · {answer['bytes'] / 1000:.1f} kB"
    )
    (st.success if good else st.error)(shell.plain(f"{answer['request']}: {line}", 500))
    said = answer["said"]
    rows = isinstance(said, list) and said and all(isinstance(one, dict) for one in said)
    table, text = st.tabs(["Table", "JSON"]) if rows else (None, st.container())
    if table is not None:
        flat = pd.json_normalize(said, max_level=0).map(
            lambda one: json.dumps(one) if isinstance(one, dict | list) else one
        )
        with table:
            shell.table(flat, hide_index=True, alt="The answer, a row for each object.")
    with text:
        # Two statements: Streamlit would show the value of a conditional expression as well.
        if isinstance(said, dict | list):
            st.json(said, expanded=2)
        else:
            st.code(json.dumps(said), language=None)


def _page() -> None:
    url = server.attach()
    endpoint = _choose(_endpoints(url))
    if endpoint is None:
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown(f"##### {shell.plain(endpoint.summary or endpoint.path)}")
        if endpoint.about:
            st.caption(shell.plain(endpoint.about, 1000))
        with shell.told():
            path, query, body = _fill(endpoint)
            full = str(httpx.URL(f"{url}{path}", params=query) if query else httpx.URL(f"{url}{path}"))
            with right:
                curl, python = st.tabs(["curl", "Python"])
                curl.code(openapi.curl(endpoint.method, full, body), language="bash")
                python.code(openapi.code(endpoint.method, full, body), language="python")
            sure = True
            if not rest.only_reads(endpoint.method, endpoint.path):
                if not actions.allowed():
                    st.caption("Read-only: this one would change something, and is not sent.")
                sure = st.checkbox(f"Yes, {endpoint.method} this: it changes what is on the server", key=f"sure {full}")
            if st.button("Send", type="primary", disabled=not (sure and _may(endpoint)), icon=":material/send:"):
                _send(endpoint, full, body)
    if "answer" in st.session_state:
        with right:
            _answer(st.session_state.answer)


def _may(endpoint: Endpoint) -> bool:
    return actions.allowed() or rest.only_reads(endpoint.method, endpoint.path)


st.set_page_config("REST explorer", page_icon=":material/api:", layout="wide")
st.markdown("#### REST explorer")
live.sidebar()
if live.answers():
    with shell.told():
        _page()
