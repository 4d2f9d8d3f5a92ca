"""What the page of a run shows beside its tasks: attempts, called runs, earlier runs, resuming; and who is alive."""

import attempts
import pandas as pd
import pytest
import related_runs
import workers
from streamlit.testing.v1 import AppTest

from flows.api import rest
from flows.monitor import frames

NOW = pd.Timestamp("2026-01-01T00:01:00Z")


def flow_run_of(flow: str, name: str, state: str, **more: str | None) -> str:
    """Create a flow run that no process works on; return its id."""
    flow_id = rest.call("POST", "flows/", {"name": flow})["id"]
    made = {"name": name, "flow_id": flow_id, "state": {"type": state, "name": state.title()}} | more
    return rest.call("POST", "flow_runs/", made)["id"]


def set_states(kind: str, run: str, *states: str) -> None:
    for state in states:
        type_ = {"AwaitingRetry": "SCHEDULED", "Retrying": "RUNNING"}.get(state, state.upper())
        rest.call("POST", f"{kind}/{run}/set_state", {"state": {"type": type_, "name": state}, "force": True})


def opened(app: AppTest, flow_run: str) -> AppTest:
    """Return the page of a flow run."""
    app = AppTest.from_string("import run_page, live_page\nrun_page.show()", default_timeout=60)
    app.query_params["id"] = flow_run
    return shown(app.run())


def shown(app: AppTest) -> AppTest:
    assert not app.exception and not app.error, (app.exception, app.error)
    return app


def texts(app: AppTest) -> str:
    return " ".join(one.value.replace("\\", "") for one in (*app.caption, *app.markdown, *app.warning))


def test_the_page_of_a_run_shows_what_belongs_to_it(app: AppTest, shared_lab: str) -> None:
    parent = flow_run_of("calls", "a *parent*", "RUNNING")
    one = {"flow_run_id": parent, "task_key": "a", "dynamic_key": "0", "name": "tried"}
    tried = rest.call("POST", "task_runs/", one | {"state": {"type": "PENDING", "name": "Pending"}})["id"]
    set_states("task_runs", tried, "Running", "AwaitingRetry", "Retrying", "Completed")
    for number in range(8):
        set_states("flow_runs", flow_run_of("called", f"earlier {number}", "PENDING"), "Running", "Completed")
    call = one | {"name": "call", "dynamic_key": "1", "state": {"type": "PENDING", "name": "Pending"}}
    calls = rest.call("POST", "task_runs/", call)["id"]
    child = flow_run_of("called", "a child", "RUNNING", parent_task_run_id=calls)
    page = opened(app, child)
    assert f"Called by: [a *parent*](run?id={parent}) (Running)" in texts(page)
    assert not [toggle for toggle in page.toggle if toggle.key == "attempts"], "no task run, no attempt"
    page = shown(page.toggle("earlier").set_value(True).run())
    assert " completed runs, the oldest first: the median ran" in texts(page)
    page = opened(app, parent)
    assert f"Called: [a child](run?id={child}) (Running)" in texts(page)
    page = shown(page.toggle("attempts").set_value(True).run())
    assert "2 attempts, of which 1 failed: tried 2." in texts(page)


def test_a_paused_run_is_resumed_after_a_question(
    app: AppTest, shared_lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_run = flow_run_of("waits", "paused", "PAUSED")
    running = flow_run_of("waits", "running", "RUNNING")
    assert "Resume" not in [button.label for button in opened(app, running).button]
    with monkeypatch.context() as patch:
        patch.setenv("MONITOR_READ_ONLY", "1")
        assert not opened(app, flow_run).button, "nothing may be changed"
    page = opened(app, flow_run)
    (button,) = [button for button in page.button if button.label == "Resume"]
    page = shown(button.click().run())
    assert rest.call("GET", f"flow_runs/{flow_run}")["state_name"] == "Paused", "not before it was confirmed"
    (button,) = [button for button in page.button if button.label == "Resume the runs"]
    page = shown(button.click().run())
    assert rest.call("GET", f"flow_runs/{flow_run}")["state_type"] == "RUNNING"


def test_the_page_of_workers_says_which_are_alive(app: AppTest, shared_lab: str) -> None:
    pool, flow = "a *pool*", rest.call("POST", "flows/", {"name": "served by a test"})["id"]
    rest.call("POST", "work_pools/", {"name": pool, "type": "process"})
    deployment = rest.call("POST", "deployments/", {"name": "one", "flow_id": flow})["id"]
    app = AppTest.from_string("import workers_page\nworkers_page.show()", default_timeout=60)
    try:
        assert "**a *pool*** · process · no limit · 0 of 0 workers alive" in texts(shown(app.run()))
        assert "No worker polls it, so its runs become Late." in texts(app)
        rest.call("POST", f"work_pools/{pool}/workers/heartbeat", {"name": "ana"})
        rest.call("PATCH", f"work_pools/{pool}", {"is_paused": True})
        app.session_state.again = True
        assert "**a *pool*** · process · no limit · 1 of 1 workers alive" in texts(shown(app.run()))
        assert "The work pool is paused" in texts(app)
        tables = [table.value for table in app.dataframe]
        assert ["ana", "alive"] in [list(row)[:2] for table in tables for row in table.itertuples(index=False)]
        served = tables[-1].set_index("deployment").loc["served by a test/one"]
        assert list(served) == ["not served", "never"]
    finally:
        for made in (f"work_pools/{pool}", f"deployments/{deployment}", f"flows/{flow}"):
            rest.call("DELETE", made)


def test_an_attempt_ends_with_the_next_state() -> None:
    """Without a delay, Retrying follows Running; the states come in any order."""

    def state(second: int, type_: str, name: str) -> dict:
        details = {"task_run_id": "a"}
        return {"timestamp": f"2026-01-01T00:00:{second:02}Z", "type": type_, "name": name, "state_details": details}

    states = [
        state(9, "RUNNING", "Retrying"),
        state(0, "PENDING", "Pending"),
        state(1, "RUNNING", "Running"),
        state(3, "RUNNING", "Retrying"),
        state(4, "SCHEDULED", "AwaitingRetry"),
    ]
    rows = attempts.attempts([states], NOW)
    seconds = [(row.began.second, (row.ended - row.began).seconds) for row in rows.itertuples()]
    assert seconds == [(1, 2), (3, 1), (9, 51)]
    assert list(rows["outcome"]) == ["failed", "failed", "runs"] and list(rows["attempt"]) == [1, 2, 3]
    ended = [*states, state(12, "COMPLETED", "Completed")]
    assert list(attempts.attempts([ended], NOW)["outcome"]) == ["failed", "failed", "completed"]
    assert attempts.attempts([], NOW).empty


def test_an_outlier_is_far_above_the_others() -> None:
    usual = [5.0, 5.2, 5.1, 4.9, 5.3, 5.0, 5.1]
    assert related_runs.fence(pd.Series([*usual, 9.0])) < 9.0
    assert related_runs.fence(pd.Series([*usual, 5.4])) >= 5.4
    assert related_runs.fence(pd.Series([1.0, 9.0])) == float("inf"), "of two, nobody knows what is usual"
    runs = frames.typed(
        [
            {"flow_run_id": str(number), "name": "a", "submitted": "2026-01-01T00:00:00Z", "ran_seconds": seconds}
            for number, seconds in enumerate([*usual, 9.0])
        ],
        frames.FLOW_RUNS,
    )
    drawn = related_runs.chart(runs, related_runs.fence(runs["ran_seconds"]), "0")
    assert list(drawn.data["kind"]) == ["this run", *["usual"] * 6, "outlier"]
    assert "and 1 ran longer than" in drawn.description


@pytest.mark.parametrize(("seconds", "alive"), [(89, True), (91, False)])
def test_a_worker_that_sends_no_heartbeat_is_gone(seconds: int, alive: bool) -> None:
    then = (NOW - pd.Timedelta(seconds=seconds)).isoformat()
    assert workers.alive([{"last_heartbeat_time": then}], NOW) == [alive]
