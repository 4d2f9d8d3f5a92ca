"""The monitor's pages and the explorer in Streamlit's test runner: their messages, and the actions of their buttons."""

import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import actions
import httpx
import openapi
import pandas as pd
import psutil
import pytest
import refresh
from streamlit.testing.v1 import AppTest
from support.commands import OFTEN
from support.labs import slots
from support.servers import answering, forget_servers
from support.waiting import eventually

from flows import lab, limits, settings
from flows.api import errors, rest
from flows.monitor import frames, pages


def errors_on(app: AppTest) -> str:
    """Return the error messages on the page, once it is clear that nothing was raised."""
    assert not app.exception, app.exception
    return " ".join(error.value.replace("\\", "") for error in app.error)


def sidebar(app: AppTest) -> str:
    """Return the text of the sidebar."""
    return " ".join(caption.value.replace("\\", "") for caption in app.sidebar.caption)


def part(page: str) -> AppTest:
    """Return one page of the monitor, or the explorer, not opened yet; after `app`."""
    if page == "rest_api_app":
        return AppTest.from_file(str(settings.PROJECT / "streamlit" / f"{page}.py"), default_timeout=60)
    return AppTest.from_string(
        f"import server_status, {page}\nserver_status.sidebar()\n{page}.show()", default_timeout=60
    )


PARTS = (
    "runs_page", "run_page", "limits_page", "ledger_page", "workers_page", "start_page", "rest_api_app",
)  # fmt: skip


def test_no_server_at_all(app: AppTest, new_lab: Path) -> None:
    app.run()
    assert "the lab is down" in errors_on(app)
    assert [button.label for button in app.button] == ["Start the lab"]


def test_a_server_that_is_not_there(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_servers(monkeypatch)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    app.run()
    assert "No server answers at http://127.0.0.1:9. Start it" in errors_on(app)
    assert not app.button, "the kit does not start a server that the user named"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PREFECT_API_URL", "not-an-address"), ("PREFECT_API_URL", "http://[/api"), ("MONITOR_READ_ONLY", "perhaps")],
)
@pytest.mark.parametrize("page", PARTS)
def test_a_variable_that_cannot_be_read(
    page: str, name: str, value: str, app: AppTest, new_lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    app = part(page).run()
    assert name in errors_on(app) and len(app.error) == 1, "one sentence"
    assert not app.button, "only the variable can be corrected"


def test_a_variable_that_cannot_be_read_any_more(
    app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_run_in("Completed")
    assert errors_on(app.run()) == ""
    with monkeypatch.context() as patch:
        patch.setenv("MONITOR_READ_ONLY", "perhaps")
        app.session_state.again = True
        app.run()
        said = [one.value.replace("\\", "") for one in (*app.warning, *app.error)]
        assert not app.exception and len(said) == 1 and "MONITOR_READ_ONLY" in said[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
            "refuses the credentials (401",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 25\r\nConnection: close\r\n\r\n<html><b>Log in</b></html>",
            "with something other than JSON",
        ),
    ],
    ids=["401", "a log-in page"],
)
def test_a_server_that_says_no(text: bytes, says: str, app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_servers(monkeypatch)
    with answering(text) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        app.run()
    assert says in errors_on(app) and "<html>" not in errors_on(app)


def test_a_server_that_hangs(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_servers(monkeypatch)
    monkeypatch.setattr(rest, "TIMEOUT", httpx.Timeout(1.0))
    with answering(None) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        app.run()
    assert "did not answer within 1 s" in errors_on(app)


def test_the_first_page_on_a_server(app: AppTest, shared_lab: str) -> None:
    app.run()
    assert errors_on(app) == ""
    assert [metric.label for metric in app.metric][:2] == ["flow runs", "running"]
    assert "What runs, and what waits and why" in " ".join(text.value for text in app.markdown)


def test_every_page_shows_whether_the_server_responds_and_the_credentials_in_use(
    app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONITOR_READ_ONLY", "1")
    nobody = part("run_page")
    nobody.query_params["id"] = "00000000-0000-4000-8000-000000000009"
    for opened in (nobody, *map(part, PARTS)):
        status = sidebar(opened.run())
        assert not opened.exception and "No credentials required" in status, opened
        assert re.search(r"Connected to Prefect 3\.\d+\.\d+; updated at", status), status
    assert "has no flow run" in errors_on(nobody) and errors_on(opened) == ""


@pytest.mark.long
def test_an_empty_server_that_asks_for_credentials(
    app: AppTest, new_lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, who in (("basic", "basic admi…"), ("gateway", "bearer pnu_…")):
        url = lab.up(kind).api_url
        first, explorer = part("runs_page").run(), part("rest_api_app").run()
        explorer.button[0].click().run()
        for opened in (first, explorer):
            assert errors_on(opened) == "" and who in sidebar(opened)
            assert "Connected to Prefect" in sidebar(opened)
        assert any(caption.value.startswith("No runs yet") for caption in first.caption)
        assert "200 OK" in explorer.success[0].value and explorer.json[0].value == "[]"
        with monkeypatch.context() as patch:
            forget_servers(patch)
            patch.setenv("PREFECT_API_URL", str(url))
            for page in PARTS:
                opened = part(page).run()
                assert "refuses the credentials (401" in errors_on(opened), page
                assert "The server requires credentials, and none are set." in sidebar(opened), page
                assert "No credentials" not in sidebar(opened), page


def test_no_cell_of_a_csv_file_is_a_formula(app: AppTest) -> None:
    import texts

    names = ['=HYPERLINK("http://x")', "+1", "-1", "@a", "\t=1", "\uff1d1", "a=1", ""]
    written = texts.csv(pd.DataFrame({"name": names, "ran": [-1.5] * len(names), "tags": [["=1"]] * len(names)}))
    rows = list(csv.reader(io.StringIO(written)))[1:]
    assert [name for name, *_ in rows] == [f"'{name}" for name in names[:6]] + names[6:]
    assert texts.csv(pd.DataFrame({"=1": []})) == "'=1\n"
    assert {(ran, tags) for _, ran, tags in rows} == {("-1.5", "['=1']")}, "numbers stay numbers"


def test_addresses_and_times_are_copied_as_they_are_and_no_icon_is_made_of_a_name(app: AppTest) -> None:
    import texts

    for whole in ("POST http://127.0.0.1:4200/api/flows: 200 OK", "127.0.0.1:8501: refused", "at 12:30:45: late"):
        assert texts.plain(whole).replace("\\", "") == whole
    for name in (":smile:", ":material/home:", ":100:", ":+1:", "a :red: b"):
        assert ":\u2060" in texts.plain(name)


def test_a_flow_run_that_runs_without_task_runs_is_listed(app: AppTest, shared_lab: str) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})
    running = {"name": "runs alone", "flow_id": flow["id"], "state": {"type": "RUNNING", "name": "Running"}}
    flow_run = rest.call("POST", "flow_runs/", running)["id"]
    try:
        app.run()
        assert errors_on(app) == ""
        assert "runs alone" in app.dataframe[0].value["name"].tolist()
    finally:
        rest.call("DELETE", f"flow_runs/{flow_run}")


def test_with_200_active_task_runs_the_first_page_counts_on_others(
    app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = pd.Timestamp.now("UTC")
    one = dict.fromkeys(("flow_run_id", "name", "created", "end_time", "next_scheduled_start_time", "state"))
    times = {"expected_start_time": now.isoformat(), "start_time": now.isoformat(), "run_count": 1}
    waits = one | times | {"state_type": "PENDING", "state_name": "Pending", "tags": [limits.TAG], "start_time": None}
    runs = one | times | {"state_type": "RUNNING", "state_name": "Running", "tags": []}

    def shown(count: int) -> str:
        answer = [{**(waits if number else runs), "id": str(number)} for number in range(count)]
        tasks = frames.task_runs(answer, now)
        three = {"tag": limits.TAG, "concurrency_limit": 3, "active_slots": ["a", "b", "c"]}
        odd = {"tag": "nobody may", "concurrency_limit": -1, "active_slots": ["a"]}
        counted = frames.held_by(tasks.iloc[:0], [three, odd])
        page = dataclasses.replace(refresh.first_overview(), task_runs=tasks, limits=counted)
        with monkeypatch.context() as patch:
            patch.setattr("refresh.first_overview", lambda **_: page)
            patch.setattr("refresh.overview", lambda _: page)
            app.session_state.again = True
            app.run()
        assert errors_on(app) == ""
        counts = [f"{metric.value} {metric.label}" for metric in app.metric if "task runs" in metric.label]
        captions = [caption.value.replace("\\", "") for caption in app.caption]
        return " ".join([*counts, *captions])

    whole, partial = shown(199), shown(200)
    assert "1 task runs running" in whole and "198 task runs waiting" in whole
    assert "The limit is respected." in whole
    assert "3 without a known holder; if that lasts, reset the limit" in whole
    assert "1+ task runs running" in partial and "199+ task runs waiting" in partial
    assert "The limit is respected." not in partial and "without a known holder" not in partial
    assert "by other runs or without a holder" in partial


@pytest.mark.parametrize("count", [199, 200])
def test_a_search_of_the_first_log_lines_says_so(
    count: int, app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})
    ended = {"name": "logged", "flow_id": flow["id"], "state": {"type": "COMPLETED", "name": "Completed"}}
    flow_run = rest.call("POST", "flow_runs/", ended)["id"]
    line = {"level": 20, "message": "a line", "timestamp": "2026-01-01T00:00:00Z"}
    logs = frames.logs([line | {"id": str(number)} for number in range(count)])
    page = dataclasses.replace(pages.run(flow_run), logs=logs)
    monkeypatch.setattr(pages, "run", lambda _: page)
    app = AppTest.from_string("import run_page\nrun_page.show()", default_timeout=60)
    app.query_params["id"] = flow_run
    app.run()
    assert errors_on(app) == "" and len(app.dataframe[-1].value) == count
    captions = [caption.value for caption in app.caption]
    assert ("Only the first 200 lines are shown and searched. Save all lines saves all of them." in captions) == (
        count == 200
    )


def test_no_more_requests_than_promised(app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    usual = errors.decoded
    monkeypatch.setattr(errors, "decoded", lambda url, *rest, **how: (sent.append(url), usual(url, *rest, **how))[1])
    app.run()
    assert 0 < len(sent) <= 6, sent
    sent.clear()
    app.session_state.again = True
    app.run()
    assert 0 < len(sent) <= 4, sent


def test_read_only_holds_behind_the_buttons_too(shared_lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_READ_ONLY", "1")
    none = frames.flow_runs([], {}, pd.Timestamp.now("UTC"))
    for change in (
        lambda: actions.cancel(none),
        lambda: actions.retry(none),
        lambda: actions.resume(none),
        lambda: actions.start("00000000-0000-4000-8000-000000000009", {}),
        lambda: actions.set_limit(limits.TAG, "tag", 9, 3),
        lambda: actions.add_limit("new", "tag", 9),
        lambda: actions.delete_limit(limits.TAG, "tag"),
        lambda: actions.free_slots(limits.TAG, "tag"),
        lambda: actions.check_request("DELETE", "flows/a"),
        lambda: actions.check_request("POST", "flow_runs/"),
    ):
        with pytest.raises(settings.CannotRun, match="read-only"):
            change()
    actions.check_request("POST", "flow_runs/filter")
    assert limits.read().limit == 3 and limits.read("new") is None


def test_a_read_only_explorer_does_not_send_what_changes(
    app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})["id"]
    explorer = part("rest_api_app")
    explorer.query_params["endpoint"] = "DELETE /flows/{id}"
    explorer.run().text_input("/flows/{id} id").input(flow).run()
    explorer.checkbox[0].check().run()
    assert errors_on(explorer) == "" and not explorer.button[0].disabled
    monkeypatch.setenv("MONITOR_READ_ONLY", "1")
    explorer.button[0].click().run()  # as a browser would, from which somebody removed `disabled`
    assert rest.call("GET", f"flows/{flow}")["id"] == flow
    assert explorer.button[0].disabled and errors_on(explorer) == ""


@pytest.mark.parametrize("value", [True, "true", "TRUE", 1, "yes", "on"])
def test_asking_for_secrets_is_noticed(value: Any, app: AppTest) -> None:
    for content in ({"include_secrets": value}, {"a": [{"Include_Secrets": value}]}, [{"show-secret": value}]):
        assert openapi.reveals(content)
        assert not openapi.reveals({"names": ["secret"], "value": value, "include_secrets": False})


def test_no_endpoint_reveals_a_secret_when_read_only(shared_lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_READ_ONLY", "1")
    endpoints = openapi.read()
    sends = [endpoint for endpoint in endpoints if actions.may_send(endpoint.method, endpoint.path)]
    assert 50 < len(sends) < len(endpoints)
    changes = re.compile("Create|Delete|Update|Set |Reset|Increment|Decrement|Install|Schedule Dep|Pause|Resume|Renew")
    assert not [endpoint for endpoint in sends if changes.match(endpoint.summary)]
    for endpoint in sends:
        asks = {"include_secrets": True}
        assert not actions.may_send(endpoint.method, endpoint.path, query=asks), endpoint.path
        assert not actions.may_send(endpoint.method, endpoint.path, body=asks), endpoint.path
        assert actions.may_send(endpoint.method, endpoint.path, {"include_secrets": "false"}, endpoint.example)
    can = {one.path for one in endpoints for key in one.parameters + one.fields if "secret" in key.name}
    assert len(can) == 4, "what the server offers today"
    assert not [one.path for one in endpoints if openapi.reveals(one.example)], "no example asks for them"


def test_no_example_asks_for_secrets(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"include_secrets": {"type": "boolean", "default": True}}
    schema = {"type": "object", "required": ["include_secrets"], "properties": key}
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}}
    text = json.dumps({"paths": {"/filter": {"post": body}}})
    forget_servers(monkeypatch)
    with answering(
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
    ) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        (endpoint,) = openapi.read()
    assert endpoint.example == {"include_secrets": False}


def test_a_read_only_explorer_shows_no_secret(app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = rest.call("GET", "block_types/slug/secret")["id"]
    (schema,) = rest.call("POST", "block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
    made = {"name": "hidden", "block_type_id": kind, "block_schema_id": schema["id"]}
    document = rest.call("POST", "block_documents/", made | {"data": {"value": "Sesame-1"}})["id"]
    explorer = part("rest_api_app")
    explorer.query_params["endpoint"] = "POST /block_documents/filter"
    explorer.run().text_area[0].input(json.dumps({"include_secrets": True})).run()
    assert "Sesame-1" in explorer.button[0].click().run().json[0].value, "who may change everything may see it"
    by_id = part("rest_api_app")
    by_id.query_params["endpoint"] = "GET /block_documents/{id}"
    by_id.run().text_input("/block_documents/{id} id").input(document).run()
    by_id.text_input("/block_documents/{id} include_secrets").input("yes").run()
    monkeypatch.setenv("MONITOR_READ_ONLY", "1")
    for opened in (explorer, by_id):
        if "answer" in opened.session_state:
            del opened.session_state["answer"]
        opened.button[0].click().run()  # as a browser would, from which somebody removed `disabled`
        assert opened.button[0].disabled and not opened.json and errors_on(opened) == ""
    explorer.text_area[0].input("{}").run()
    assert "hidden" in explorer.button[0].click().run().json[0].value and "Sesame" not in explorer.json[0].value
    rest.call("DELETE", f"block_documents/{document}")


def test_the_explorer_says_what_is_missing_and_what_is_ignored(app: AppTest, shared_lab: str) -> None:
    explorer = part("rest_api_app")
    explorer.query_params["endpoint"] = "POST /flow_runs/filter"
    explorer.run().text_area[0].input(json.dumps({"flow_run": {}, "limit": 1})).run()
    assert "ignores what it does not know: flow_run." in explorer.warning[0].value.replace("\\", "")
    explorer.text_area[0].input(json.dumps({"limit": 1})).run()
    assert not explorer.warning
    assert "200 OK" in explorer.button[0].click().run().success[0].value
    explorer.selectbox[1].select("GET /flow_runs/{id}").run()
    assert errors_on(explorer) == "" and not explorer.success, (
        "nothing has gone wrong, and the answer was another one's"
    )
    assert explorer.info[0].value.startswith("Fill in id") and explorer.button[0].disabled


def test_a_run_without_a_deployment_is_not_retried_and_one_with_it_is(shared_lab: str) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})
    made = {"name": "retried", "flow_id": flow["id"], "work_pool_name": "flows", "entrypoint": "x.py:x"}
    deployment = rest.call("POST", "deployments/", made)["id"]
    ended = {"type": "FAILED", "name": "Failed"}
    alone = rest.call("POST", "flow_runs/", {"name": "alone", "flow_id": flow["id"], "state": ended})
    of_deployment = rest.call("POST", f"deployments/{deployment}/create_flow_run", {})
    rest.call("POST", f"flow_runs/{of_deployment['id']}/set_state", {"state": ended, "force": True})
    runs = [rest.call("GET", f"flow_runs/{one['id']}") for one in (alone, of_deployment)]
    (refused,) = actions.retry(frames.flow_runs(runs, {}, pd.Timestamp.now("UTC")))
    assert refused.startswith("alone has no deployment")
    assert rest.call("GET", f"flow_runs/{of_deployment['id']}")["state_name"] == "AwaitingRetry"
    assert rest.call("GET", f"flow_runs/{alone['id']}")["state_name"] == "Failed"
    running = {"type": "RUNNING", "name": "Running"}
    rest.call("POST", f"flow_runs/{of_deployment['id']}/set_state", {"state": running, "force": True})
    # The page that shows them may be old.
    (refused,) = actions.retry(frames.flow_runs(runs[1:], {}, pd.Timestamp.now("UTC")))
    assert "has not ended: Running." in refused
    assert rest.call("GET", f"flow_runs/{of_deployment['id']}")["state_name"] == "Running"
    rest.call("DELETE", f"flow_runs/{of_deployment['id']}")
    rest.call("DELETE", f"deployments/{deployment}")


def test_a_limit_of_nothing_can_be_changed(app: AppTest, shared_lab: str) -> None:
    limits.ensure("nothing", 1)
    try:
        rest.call("PATCH", "v2/concurrency_limits/tag:nothing", {"limit": 0})
        app = AppTest.from_string("import limits_page\nlimits_page.show()", default_timeout=60).run()
        app.button("change nothing").click().run()
        assert errors_on(app) == "" and app.number_input("new_limit").value == 1
    finally:
        rest.call("DELETE", "concurrency_limits/tag/nothing")


def test_the_form_starts_with_the_deployment_s_parameters(app: AppTest, shared_lab: str) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})
    variable = {"__prefect_kind": "workspace_variable", "variable_name": "rows"}
    usual = {"rows": variable, "share": variable, "much": 2.5, "region": "EUROPE"}
    region = {"type": "string", "enum": ["ASIA", "EUROPE"]}
    kinds = {
        "rows": {"type": "integer"},
        "share": {"type": "number"},
        "much": {"type": "number", "description": "*<b>*"},
        "region": region,
    }
    made = {"name": "odd", "flow_id": flow["id"], "entrypoint": "x.py:x", "enforce_parameter_schema": False}
    schema = {"parameters": usual, "parameter_openapi_schema": {"type": "object", "properties": kinds}}
    deployment = rest.call("POST", "deployments/", made | schema)["id"]
    try:
        app = AppTest.from_string("import start_page\nstart_page.show()", default_timeout=60)
        app.query_params["deployment"] = "made by a test/odd"
        app.run()
        assert errors_on(app) == ""
        assert [area.label for area in app.text_area] == ["rows (JSON)", "share (JSON)"]
        assert [(number.value, number.help) for number in app.number_input] == [(2.5, r"\*\<b\>\*")]
        assert [box.value for box in app.selectbox] == ["made by a test/odd", "EUROPE"]
    finally:
        rest.call("DELETE", f"deployments/{deployment}")


def test_a_filter_that_does_not_exist_is_said(app: AppTest, shared_lab: str) -> None:
    app.query_params["state"] = ["failed", "Timed out"]
    app.query_params["since"] = "1 day"
    app.run()
    assert [warning.value.replace("\\", "")[:62] for warning in app.warning] == [
        "The address asks for state=failed, which does not exist, so it"
    ]
    assert errors_on(app) == "" and app.multiselect[0].value == ["Timed out"]


def test_required_parameters_are_asked_for_in_their_order(app: AppTest, shared_lab: str) -> None:
    """A large number gets a text field, because a number field would lose digits; an unknown deployment is named."""
    kinds = {"day": {"type": "string", "position": 1}, "rows": {"type": "integer", "position": 0}}
    kinds["seed"] = {"type": "integer", "default": 2**60, "position": 2}
    schema = {"type": "object", "properties": kinds, "required": ["day", "rows"]}
    flow = rest.call("POST", "flows/", {"name": "made by a test"})["id"]
    made = {"name": "requires", "flow_id": flow, "entrypoint": "x.py:x", "parameter_openapi_schema": schema}
    deployment = rest.call("POST", "deployments/", made)["id"]
    try:
        app = AppTest.from_string("import start_page\nstart_page.show()", default_timeout=60)
        app.query_params["deployment"] = "nothing/here"
        app.run()
        assert "asks for deployment=nothing/here, which does not exist" in app.warning[0].value.replace("\\", "")
        app.selectbox[0].set_value("made by a test/requires").run()
        assert [(one.label, one.value) for one in app.number_input] == [("rows (required)", None)]
        assert [text.value for text in app.text_input] == ["", str(2**60)] and not app.warning
        app.button[0].click().run()
        assert "Nothing was started: fill in rows and day" in errors_on(app)
        app.number_input[0].set_value(0)
        app.text_input[0].set_value("monday")
        app.button[0].click().run()
        started = {"day": "monday", "rows": 0, "seed": 2**60}
        assert errors_on(app) == "" and len(app.success) == 1
        run = rest.call("POST", "flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
        assert [one["parameters"] for one in run] == [started]
    finally:
        rest.call("DELETE", f"deployments/{deployment}")


def flow_run_in(
    state: str, flow: str = "made by a test", *, name: str = "made by a test", deployed: bool = False
) -> str:
    """Create a flow run in this state that no process works on; return its id."""
    flow_id = rest.call("POST", "flows/", {"name": flow})["id"]
    chosen = {"name": name, "flow_id": flow_id}
    if deployed:
        chosen["deployment_id"] = rest.call("POST", "deployments/", {"name": "odd", "flow_id": flow_id})["id"]
    type_ = {"Late": "SCHEDULED", "AwaitingRetry": "SCHEDULED"}.get(state, state.upper())
    return rest.call("POST", "flow_runs/", chosen | {"state": {"type": type_, "name": state}})["id"]


def as_frame(*flow_run_ids: str) -> pd.DataFrame:
    """Return FLOW_RUNS as a page shows them."""
    answers = [rest.call("GET", f"flow_runs/{flow_run_id}") for flow_run_id in flow_run_ids]
    return frames.flow_runs(answers, {}, pd.Timestamp.now("UTC"))


def state_of(flow_run_id: str) -> str:
    """Return the name of the flow run's state."""
    return rest.call("GET", f"flow_runs/{flow_run_id}")["state_name"]


@pytest.mark.parametrize(
    ("state", "flow", "deployed", "becomes"),
    [
        *[(state, "made by a test", deployed, "Cancelled") for state in ("Scheduled", "Late") for deployed in (0, 1)],
        ("AwaitingRetry", "made by a test", True, "Cancelled"),
        ("Pending", "made by a test", False, "Cancelled"),
        ("Paused", "made by a test", False, "Cancelled"),
        # A worker or a `.serve()` process starts it, and would overwrite Cancelled.
        ("Pending", "made by a test", True, "Cancelling"),
        ("Paused", "made by a test", True, "Cancelling"),
        ("Running", "made by a test", True, "Cancelling"),
        ("Running", "main_etl", False, "Cancelling"),
    ],
)
def test_a_run_gets_the_state_that_its_process_obeys(
    state: str, flow: str, deployed: bool, becomes: str, shared_lab: str
) -> None:
    flow_run = flow_run_in(state, flow, deployed=deployed)
    try:
        assert actions.cancel(as_frame(flow_run)) == []
        assert state_of(flow_run) == becomes
        if becomes == "Cancelling":
            (way,) = actions.ways_to_cancel(as_frame(flow_run))
            assert way == actions.UNDER_WAY
            assert len(actions.cancel(as_frame(flow_run))) == 1 and state_of(flow_run) == "Cancelling"
            assert actions.cancel(as_frame(flow_run), gone=True) == [] and state_of(flow_run) == "Cancelled"
    finally:
        rest.call("DELETE", f"flow_runs/{flow_run}")


def test_a_process_that_nothing_stops_keeps_its_state_and_its_slots(shared_lab: str) -> None:
    flow_run = flow_run_in("Running", name="runs elsewhere")
    one = {"flow_run_id": flow_run, "name": "a", "task_key": "a", "dynamic_key": "0", "tags": ["database"]}
    task_run = rest.call("POST", "task_runs/", one | {"state": {"type": "RUNNING", "name": "Running"}})["id"]
    rest.call("POST", "concurrency_limits/increment", {"names": ["database"], "task_run_id": task_run})
    (left,) = actions.cancel(as_frame(flow_run))
    assert "runs elsewhere was left as it is" in left and "Stop it where it runs" in left
    assert state_of(flow_run) == "Running" and slots() == 1
    assert actions.cancel(as_frame(flow_run), gone=True) == []
    assert state_of(flow_run) == "Cancelled"


def cancel_in(state: str, deployment: str, pids: Path) -> None:
    """Start `obedient`, cancel it in this state, and see that its process ends and that it gives its slots back."""
    pids.mkdir()
    parameters = {"pids": str(pids), "until": state}
    flow_run = rest.call("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    eventually(lambda: state_of(flow_run) == state and (state != "Running" or slots() == 2))
    assert actions.cancel(as_frame(flow_run)) == []
    eventually(lambda: state_of(flow_run) == "Cancelled")
    eventually(lambda: not any(psutil.pid_exists(int(file.name)) for file in pids.iterdir()))
    eventually(lambda: slots() == 0)
    assert state_of(flow_run) == "Cancelled"


@pytest.mark.long
@pytest.mark.parametrize("runner", [pytest.param("serve", marks=pytest.mark.weekly), "worker"])
def test_a_run_of_a_deployment_ends_when_it_is_cancelled(runner: str, shared_lab: str, tmp_path: Path) -> None:
    script = settings.PROJECT / "tests" / "obedient.py"
    flow = rest.call("POST", "flows/", {"name": "obedient"})["id"]
    if runner == "serve":
        command = [sys.executable, str(script)]
    else:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "obedient", "--type", "process"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | OFTEN, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if runner == "worker":
            eventually(lambda: rest.call("GET", "work_pools/obedient", missing_ok=True))
            made = {"name": "served", "flow_id": flow, "work_pool_name": "obedient", "entrypoint": f"{script}:obedient"}
            rest.call("POST", "deployments/", made)
        eventually(lambda: rest.call("GET", "deployments/name/obedient/served", missing_ok=True))
        deployment = rest.call("GET", "deployments/name/obedient/served")["id"]
        for state in ("Running", "Paused", "AwaitingRetry"):
            cancel_in(state, deployment, tmp_path / state)
    finally:
        process.terminate()
        process.wait(60)
        rest.call("DELETE", f"flows/{flow}")
        if runner == "worker":
            rest.call("DELETE", "work_pools/obedient")


def test_many_runs_are_cancelled_at_once_and_the_others_are_named(shared_lab: str) -> None:
    waiting = [flow_run_in("Scheduled") for _ in range(5)]
    assert actions.cancel(as_frame(*waiting)) == []
    assert {state_of(flow_run) for flow_run in waiting} == {"Cancelled"}
    ended, gone, last = flow_run_in("Completed", name="well"), flow_run_in("Scheduled"), flow_run_in("Scheduled")
    frame = as_frame(ended, gone, last)
    rest.call("DELETE", f"flow_runs/{gone}")
    assert actions.cancel(frame) == [
        "well has already ended: Completed.",
        "One of the runs was deleted in the meantime.",
    ]
    assert state_of(ended) == "Completed" and state_of(last) == "Cancelled"
