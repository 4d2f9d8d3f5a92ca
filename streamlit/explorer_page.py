"""The page of the REST explorer: pick an endpoint of the server, send a request, and copy it as curl or Python."""

import json
import time
from typing import Any
from urllib.parse import quote

import actions
import display
import httpx
import openapi
import pandas as pd
import server_status
import streamlit as st
from display import errors_shown
from openapi import Endpoint
from texts import code, plain

from flows.api import credentials, errors, server
from flows.settings import CannotRun


def show() -> None:
    """Draw the page, or why it cannot be drawn."""
    if server_status.responds():
        with errors_shown():
            _page(server.attach())


@st.cache_data(ttl=600, show_spinner="Reading the endpoints of the server")
def _endpoints(url: str) -> list[Endpoint]:
    return openapi.read()


def _choose(endpoints: list[Endpoint]) -> Endpoint | None:
    columns = st.columns([2, 2, 5], vertical_alignment="bottom")
    text = columns[0].text_input("Search", key="search", bind="query-params", placeholder="path or words")
    groups = sorted({one.group for one in endpoints})
    group = columns[1].selectbox("Group", groups, index=None, placeholder="all", key="group", bind="query-params")
    words = text.lower().split()
    matching = {
        f"{one.method} {one.path}": one
        for one in endpoints
        if group in (None, one.group)
        and all(word in f"{one.method} {one.path} {one.summary}".lower() for word in words)
    }
    if not matching:
        st.caption("No endpoint matches. Remove a word from the search, or choose another group.")
        return None
    default = "POST /flow_runs/filter"
    index = list(matching).index(default) if default in matching else 0
    name = columns[2].selectbox(
        f"Endpoint ({len(matching)})", list(matching), index=index, key="endpoint", bind="query-params"
    )
    return matching.get(name or default)


def _fill(endpoint: Endpoint) -> tuple[str, dict[str, str], Any]:
    """Return the path, the query and the body as filled in. Raises CannotRun if one is missing or not valid JSON."""
    path, query, body = endpoint.path, {}, None
    for parameter in endpoint.parameters:
        mark = " (required)" if parameter.required else ""
        value = st.text_input(
            f"{parameter.name}: {parameter.kind}{mark}",
            key=f"{endpoint.path} {parameter.name}",
            help=plain(parameter.about, 1000) or None,
        ).strip()
        if parameter.required and not value:
            raise CannotRun(f"Fill in {parameter.name}: the request cannot be sent without it.")
        if parameter.place == "path":
            path = path.replace("{" + parameter.name + "}", quote(value, safe=""))
        elif value:
            query[parameter.name] = value
    if endpoint.example is not None:
        text = st.text_area(
            "Body (JSON)", json.dumps(endpoint.example, indent=2), height=180, key=f"{endpoint.method} {endpoint.path}"
        )
        if endpoint.fields:
            with st.expander("Keys of the body"):
                rows = [(one.name, one.kind, "required" if one.required else "", one.about) for one in endpoint.fields]
                keys = pd.DataFrame(rows, columns=["key", "kind", "", "meaning"])
                display.table(keys, hide_index=True, alt="The keys of the body.")
        try:
            body = json.loads(text or "null")
        except ValueError as error:
            raise CannotRun(
                f"The body is not valid JSON: {error}. Put text in double quotes, and do not end a list with a comma."
            ) from None
    return path, query, body


def _warn_of_ignored(endpoint: Endpoint, body: Any) -> None:
    known = {field.name for field in endpoint.fields}
    ignored = [key for key in body if key not in known] if known and isinstance(body, dict) else []
    if ignored:
        st.warning(
            plain(f"The server ignores what it does not know: {', '.join(ignored)}. See Keys of the body.", 1000)
        )


def _send(endpoint: Endpoint, url: str, query: dict[str, str], body: Any) -> None:
    """Send the request, and store its answer for the page. Raises CannotRun if there is none."""
    actions.check_request(endpoint.method, endpoint.path, query, body)
    called = time.perf_counter()
    try:
        answer = httpx.request(
            endpoint.method, url, json=body, headers=credentials.header(), verify=credentials.trust(), timeout=30
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise errors.unreachable(url, error) from None
    try:
        content = answer.json() if answer.content else None
    except ValueError:
        content = answer.text[:2000]
    st.session_state.answer = {
        "endpoint": endpoint.path,
        "request": f"{endpoint.method} {url}",
        "status": answer.status_code,
        "reason": answer.reason_phrase,
        "seconds": time.perf_counter() - called,
        "bytes": len(answer.content),
        "content": content,
    }


def _answer(answer: dict[str, Any]) -> None:
    size = f"{answer['bytes'] / 1000:,.1f} kB" if answer["bytes"] >= 1000 else f"{answer['bytes']} bytes"
    line = f"{answer['status']} {answer['reason']} · {1000 * answer['seconds']:.0f} ms · {size}"
    (st.success if answer["status"] < 400 else st.error)(f"{code(answer['request'][:400])}: {plain(line)}")
    content = answer["content"]
    rows = isinstance(content, list) and content and all(isinstance(row, dict) for row in content)
    table, text = st.tabs(["Table", "JSON"]) if rows else (None, st.container())
    if table is not None:
        flat = pd.json_normalize(content, max_level=0).map(
            lambda value: json.dumps(value) if isinstance(value, dict | list) else value
        )
        with table:
            display.table(flat, hide_index=True, alt="The answer, with a row for each object.")
            display.save(flat, "answer.csv")
    with text:
        # Two statements: Streamlit would show the value of a conditional expression as well.
        if isinstance(content, dict | list):
            st.json(content, expanded=2)
        else:
            st.code(json.dumps(content), language=None)


def _page(url: str) -> None:
    endpoint = _choose(_endpoints(url))
    if endpoint is None:
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown(f"##### {plain(endpoint.summary or endpoint.path)}")
        if endpoint.about:
            st.caption(plain(endpoint.about, 1000))
        with errors_shown():
            try:
                path, query, body = _fill(endpoint)
            except CannotRun as error:  # nothing has gone wrong yet
                st.info(plain(error, 2000), icon=":material/edit:")
                st.button("Send", type="primary", disabled=True, icon=":material/send:")
                return
            _warn_of_ignored(endpoint, body)
            full = str(httpx.URL(f"{url}{path}", params=query) if query else httpx.URL(f"{url}{path}"))
            with right:
                curl, python = st.tabs(["curl", "Python"])
                curl.code(openapi.curl(endpoint.method, full, body), language="bash")
                python.code(openapi.code(endpoint.method, full, body), language="python")
            may_send = actions.may_send(endpoint.method, endpoint.path, query, body)
            confirmed = True
            if not may_send:
                st.caption("Read-only: this request could change something or show secrets, so it cannot be sent.")
            if not openapi.only_reads(endpoint.method, endpoint.path):
                confirmed = st.checkbox(f"Yes, {endpoint.method} this: it changes the server", key=f"sure {full}")
            if st.button("Send", type="primary", disabled=not (confirmed and may_send), icon=":material/send:"):
                _send(endpoint, full, query, body)
    if "answer" in st.session_state and st.session_state.answer["endpoint"] == endpoint.path:
        with right:
            _answer(st.session_state.answer)
