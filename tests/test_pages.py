"""What a page of the monitor costs in requests and time, and that the server does the filtering."""

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import fill
import psycopg
import pytest
import refresh
import streamlit as st
from streamlit.testing.v1 import AppTest
from support.figures import Store
from support.runs import report_acquired
from support.waiting import eventually

from flows import lab, limits
from flows.api import endpoints, errors, rest, server
from flows.monitor import charts, frames, pages


@pytest.fixture
def filled(shared_lab: str) -> Iterator[str]:
    """The address of the shared lab's database with 500 flow runs of half a day, and one of 450 task runs."""
    database = lab.status().database
    assert database is not None
    fill.fill(database, 500)
    yield database
    fill.empty(database)


def requests(load: Callable[[], object]) -> int:
    """How many requests `load` sends, those that are repeated counted once."""
    sent: list[str] = []
    usual = errors.decoded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "decoded", lambda url, *rest, **how: (sent.append(url), usual(url, *rest, **how))[1])
        load()
    return len(sent)


def forget() -> None:
    """Forget what the monitor remembers of servers, as a process that has just begun."""
    st.cache_resource.clear()


def take_slot(limit: str) -> str:
    """Take a slot of a global limit, as the first task run that runs now, and send the event; return its name."""
    holder = rest.send(endpoints.task_runs(state=["RUNNING"]))[0]
    rest.call("POST", "v2/concurrency_limits/increment", {"names": [limit], "slots": 1})
    report_acquired(limit, holder["id"], holder["name"])
    return holder["name"]


def test_the_server_filters(filled: str) -> None:
    page = pages.overview()
    assert len(page.flow_runs) == 200 and page.flow_runs["submitted"].is_monotonic_decreasing
    assert page.states["runs"].sum() >= 500, "the counts are of all runs, not of those on the page"
    late = pages.overview(state=["Late"]).flow_runs
    assert late["name"].tolist() == ["eager-lynx-2"]
    failed = pages.overview(state=["FAILED", "Late"], flow="filled_7")
    assert set(failed.flow_runs["state"]) == {"Failed"} and set(failed.flow_runs["flow"]) == {"filled_7"}
    assert len(failed.flow_runs) == failed.states["runs"].sum() == 25
    assert set(frames.failures(failed.flow_runs)["message"].str.slice(0, 34)) == {"Flow run encountered an exception:"}
    nightly = pages.overview(tag="nightly", text="OTTER", since=timedelta(hours=6)).flow_runs
    assert 0 < len(nightly) < 40
    assert nightly["name"].str.contains("otter").all() and all(tags == ["nightly"] for tags in nightly["tags"])
    assert (page.read_at - nightly["submitted"]).max() <= timedelta(hours=6, minutes=1)
    whole = pages.overview(since=None)
    assert whole.start <= page.flow_runs["submitted"].min() and whole.states["runs"].sum() >= 500


def test_failures_that_are_not_shown_are_counted(filled: str, app: AppTest) -> None:
    page = pages.overview()
    shown = len(frames.failures(page.flow_runs))
    failed = int(pages.overview(state=["FAILED", "CRASHED"]).states["runs"].sum())
    app.run()
    assert not app.exception and 0 < shown < 25 <= failed
    assert any(caption.value.startswith(f"{shown} of {failed}: those among the 200 newest") for caption in app.caption)
    [button] = [button for button in app.button if button.label == "Show all that failed"]
    button.click().run()
    assert not app.exception and app.multiselect("state").value == ["Failed", "Crashed"]
    assert len(frames.failures(app.session_state["runs"].page.flow_runs)) == failed
    assert not [button for button in app.button if button.label == "Show all that failed"]


def test_a_page_takes_few_requests_and_a_refresh_fewer(filled: str) -> None:
    assert requests(pages.overview) <= 6 and requests(lambda: pages.overview(since=None)) <= 6
    page = pages.overview()
    refresh.overview(page)
    assert requests(lambda: refresh.overview(page)) == 4, "in how long those that wait start is known for a minute"
    run = page.flow_runs["flow_run_id"].iloc[-1]
    assert requests(lambda: refresh.first(run)) <= 6
    assert requests(lambda: refresh.run(refresh.first(run))) <= 6 + 4
    wide = fill.fill_wide(filled, 450)
    assert (
        requests(lambda: refresh.first(wide)) <= 6 + 2 + 4
    )  # two pages more, asked for together with those after them
    loaded = refresh.first(wide)
    assert requests(lambda: refresh.run(loaded)) <= 4


def test_the_first_page_and_each_refresh_take_six_requests_at_most(filled: str, app: AppTest) -> None:
    """While task runs wait, slots of a global limit are taken, and flows are new; what does not fit comes later."""

    def load(act: Callable[[], refresh.Overview], most: int) -> refresh.Overview:
        pages: list[refresh.Overview] = []
        assert requests(lambda: pages.append(act())) == most
        return pages[0]

    def new_flow(name: str) -> None:
        flow = rest.call("POST", "flows/", {"name": name})["id"]
        rest.call("POST", "flow_runs/", {"flow_id": flow, "name": f"run of {name}", "state": {"type": "PENDING"}})

    def shown(page: refresh.Overview) -> list[object]:
        """The holders of the global limit, and how many task runs have a range."""
        (limit,) = page.limits[page.limits["tag"] == "slot:of this page"].to_dict("records")
        return [[holder["name"] for holder in limit["holders"]], len(page.starts)]

    limits.ensure("of this page", 2, "global")
    holder = take_slot("of this page")
    forget()
    page = load(refresh.first_overview, 6)
    assert shown(page) == [[], 0], "the first page of a process has no room for more"
    eventually(lambda: shown(refresh.overview(page))[0])  # the server stores an event a moment later
    forget()
    assert shown(load(lambda: refresh.overview(page), 6)) == [[holder], 7]
    assert shown(load(lambda: refresh.overview(page), 5)) == [[holder], 7]
    load(lambda: refresh.first_overview(since=None), 6)
    new_flow("filled later")
    page = load(refresh.first_overview, 6)
    assert shown(page) == [[holder], 7], "the second page of a process"
    assert page.flow_runs["flow"].iloc[0] == "filled later"
    new_flow("filled last")
    forget()
    page = load(lambda: refresh.overview(page), 6)
    assert shown(page) == [[holder], 0] and page.flow_runs["flow"].iloc[0] == "filled last"
    assert shown(load(lambda: refresh.overview(page), 6)) == [[holder], 7]
    forget()
    for said in ("Who holds them is shown at the next refresh.", f"Running with it: {holder}."):
        assert requests(app.run) <= 6 and not app.exception
        assert any(said in caption.value.replace("\\", "") for caption in app.caption)
        app.session_state.again = True  # so that the next run refreshes it


def test_a_refresh_takes_few_requests_however_much_has_changed(shared_lab: str) -> None:
    """The task runs that do not fit into one refresh come with the next ones."""
    database = lab.status().database
    assert database is not None
    page = refresh.first(fill.fill_wide(database, 450))
    try:
        with psycopg.connect(database) as connection:
            changed = "update task_run set state_name = 'Late to end', end_time = now() where flow_run_id = %s"
            connection.execute(changed, [page.flow_run["flow_run_id"]])
        shown = []
        for _ in range(3):
            before, refreshed = page, []
            assert requests(lambda before=before, after=refreshed: after.append(refresh.run(before))) <= 4
            page = refreshed[0]
            shown.append(int((page.task_runs["state"] == "Late to end").sum()))
        assert shown == [200, 350, 450] and len(page.task_runs) == 450
        assert page.unread.skip == 0, "the next refresh starts with what has changed since"
        holder = page.task_runs.iloc[0]
        rest.call("POST", "concurrency_limits/increment", {"names": [limits.TAG], "task_run_id": holder["task_run_id"]})
        assert requests(pages.limits) <= 4
        assert pages.limits().set_index("tag").loc[limits.TAG, "holders"][0]["name"] == holder["name"]
    finally:
        fill.empty(database)


@pytest.mark.figures
def test_ten_times_the_runs_take_no_longer(new_lab: Path, store: Store) -> None:
    """The median of 15 loads, in milliseconds, with ten task runs for each flow run, 1,000 flow runs a day.

    Seven task runs wait, and three hold slots of a global limit. The first page of a process, and that of a server
    that the process knows, take six requests each.
    """
    server.use()
    database = lab.status().database
    assert database is not None
    limits.ensure(limits.TAG, 3)
    limits.ensure("of all", 3, "global")
    rest.send(endpoints.change_counter("of all", active_slots=3))
    rows, have = list[dict[str, int]](), 0
    for runs in (1_000, 10_000, 100_000):
        fill.fill(database, runs, have)
        fill.fill_events(database, "of all", runs, have)
        have = runs
        page = refresh.overview(refresh.first_overview())
        assert len(page.flow_runs) == 200 and page.states["runs"].sum() >= 990
        assert len(page.starts) == 7 and page.limits.set_index("tag").loc["slot:of all", "held"] == 3

        def of_process() -> None:
            forget()
            refresh.first_overview()

        def of_known_server(page: refresh.Overview = page) -> None:
            forget()  # the past task runs; what else the process remembers is in the page
            refresh.overview(page)

        def refreshed(page: refresh.Overview = page) -> None:
            refresh.overview(page)

        def of_all_runs() -> None:
            refresh.first_overview(since=None)

        loads = {"of_process_ms": of_process, "first_ms": of_known_server, "refresh_ms": refreshed}
        assert [requests(load) for load in loads.values()] == [6, 6, 5]
        loads["all_runs_ms"] = of_all_runs
        medians = {name: round(median(load)) for name, load in loads.items()}
        rows.append({"flow_runs": runs, "task_runs": runs * fill.TASKS} | medians)
    store("pages", rows)
    for name in ("of_process_ms", "first_ms", "refresh_ms"):
        assert rows[-1][name] < 2 * rows[0][name]


@pytest.mark.figures
def test_a_run_with_two_thousand_tasks(shared_lab: str, app: AppTest, store: Store) -> None:
    """Its page is opened by a viewer who has not seen it yet: loaded, drawn, and put into what a browser is sent."""
    database = lab.status().database
    assert database is not None
    run = fill.fill_wide(database, 2000)
    page = refresh.first(run)
    assert len(page.task_runs) == 2000

    def drawn() -> str:
        return charts.run(page.task_runs, frames.concurrency(page.task_runs, page.until), 3).to_json()

    def opened() -> None:
        viewer = AppTest.from_string("import run_page\nrun_page.show()", default_timeout=60)
        viewer.query_params["id"] = run
        viewer.run()
        assert not viewer.exception and "2000 task runs" in " ".join(text.value for text in viewer.markdown)

    acts = {"load_ms": lambda: refresh.first(run), "refresh_ms": lambda: refresh.run(page)}
    acts |= {"draw_ms": drawn, "open_ms": opened}
    row = {name: round(median(act)) for name, act in acts.items()}
    store("wide-run", [row])
    assert row["refresh_ms"] < row["load_ms"] / 2 and row["open_ms"] < 4 * row["load_ms"]
    fill.empty(database)


def median(load: Callable[[], object], times: int = 15) -> float:
    load()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        load()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000
