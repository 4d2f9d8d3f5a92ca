"""Every limit in the monitor: of tags, global ones, rate limits; who holds slots, who waits, and how limits change."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import actions
import active_runs
import global_slots
import pandas as pd
import pytest
import refresh
from streamlit.testing.v1 import AppTest
from support.commands import FLOW, start
from support.runs import blocked
from support.waiting import eventually

from flows import limits, warehouse
from flows.api import endpoints, rest
from flows.monitor import frames, pages, reasons

LIMIT, RATE = "all-limits-test", "all-limits-rate"
MARKED = f"slot:{limits.TAG}"


@pytest.fixture
def others(shared_lab: str) -> Iterator[None]:
    """Remove the global limits that a test made."""
    yield
    rest.gather([endpoints.delete("v2/concurrency_limits", name) for name in (limits.TAG, LIMIT, f"tag:{LIMIT}", RATE)])


def page(name: str, **address: str) -> AppTest:
    app = AppTest.from_string(f"import {name}_page\n{name}_page.show()", default_timeout=60)
    for key, value in address.items():
        app.query_params[key] = value
    return app


def text(app: AppTest) -> str:
    assert not app.exception and not app.error, [*app.exception, *app.error]
    shown = (*app.markdown, *app.caption, *app.success, *app.info, *app.warning)
    return " ".join(element.value.replace("\\", "") for element in shown)


@pytest.mark.long
def test_queries_that_wait_for_either_kind_of_limit(app: AppTest, shared_lab: str, others: None) -> None:
    """Two runs, under a tag's limit of 1 and a global one of 2; the database takes the three connections of both."""
    limits.ensure(limits.TAG, 1)
    limits.ensure(limits.TAG, 2, "global")
    warehouse.prepare()
    kinds: dict[limits.Kind, str] = {"tag": "best_customers,busiest_clerks", "global": ""}
    kinds["global"] = "lines_per_order,margin_by_brand,returns_by_nation"
    with ExitStack() as at_end, blocked() as holding:
        flows: list[subprocess.Popen[str]] = []
        for kind, queries in kinds.items():
            flows.append(start(FLOW, "--json", "--limit-by", kind, "--queries", queries))
            at_end.callback(flows[-1].communicate)
            at_end.callback(flows[-1].terminate)

        def shown() -> bool:
            loaded = refresh.first_overview()
            held, states = loaded.limits.set_index("tag")["held"].to_dict(), loaded.task_runs["state"].value_counts()
            return held == {limits.TAG: 1, MARKED: 2} and states.to_dict() == {"Running": 4, "Pending": 1}

        eventually(shown)  # the server learns of a holder a moment later
        first = refresh.overview(refresh.first_overview())
        tasks = first.task_runs
        tasks["why"] = [reasons.why(row, first.limits, tasks) for _, row in tasks.iterrows()]
        waiting = tasks[tasks["started"].isna()].set_index("state")
        assert waiting.loc["Pending", "name"].rpartition("-")[0] in kinds["tag"], (
            "named after its query before it begins"
        )
        assert waiting.loc["Pending", "why"].startswith(f"1 of the 1 slots of the tag '{limits.TAG}' are taken: ")
        in_slots = " and ".join(frames.tagged(tasks[tasks["started"].notna()], MARKED)["name"])
        sentence = f"2 of the 2 slots of the global limit '{limits.TAG}' are taken: {in_slots}."
        assert waiting.loc["Running", "why"] == sentence and len(waiting) == 2

        on_first = text(app.run())
        metrics = {metric.label: metric.value for metric in app.metric}
        assert (metrics["task runs running"], metrics["task runs waiting"]) == ("3", "2")
        assert sentence in on_first and "exceeded" not in on_first
        assert f"Running with it: {in_slots.replace(' and ', ', ')}. The limit is respected." in on_first
        on_limits = text(page("limits").run())
        assert f"**{limits.TAG} (global limit)** · 2 of 2 slots taken, 2 held" in on_limits
        assert all(f"{name} · Running" in on_limits for name in in_slots.split(" and "))
        id_ = waiting.loc["Running", "flow_run_id"]
        of_run = page("run", id=id_).run()
        assert sentence in of_run.dataframe[0].value["why"].tolist()
        assert "The limit held: at most 2 ran at once" in text(of_run)
        assert len(of_run.info) == 1 and not of_run.success, "it may yet turn out otherwise"
        holding.rollback()
        assert [flow.wait(100) for flow in flows] == [0, 0]
    early = refresh.first(id_)
    eventually(lambda: len(refresh.first(id_).events) == 2 * 3)  # the server stores events seconds after they happened
    for loaded in (refresh.first(id_), refresh.run(early)):
        marked = frames.tagged(loaded.task_runs, MARKED)
        assert len(loaded.slots) == len(marked) == 3 and marked["started"].is_unique
        assert frames.peak(frames.concurrency(loaded.slots, loaded.until)) == 2
        assert marked["waited_seconds"].max() > marked["waited_seconds"].min()
    ended = page("run", id=id_).run()
    assert len(ended.success) == 1 and "The limit held: at most 2 ran at once" in text(ended)
    assert "with the limit as it is now" in text(ended)


def test_limits_of_each_kind_are_shown_added_changed_and_deleted(app: AppTest, shared_lab: str, others: None) -> None:
    rest.call("POST", "v2/concurrency_limits/", {"name": RATE, "limit": 5, "slot_decay_per_second": 2.0})
    app = page("limits").run()
    assert f"**{RATE} (rate limit)** · 0 of 5 slots taken, 2 become free each second" in text(app)
    app.button[-1].click().run()
    app.radio("new_kind").set_value("a global limit")
    app.text_input("new_tag").input(LIMIT)
    app.button[-1].click().run()
    assert limits.read(LIMIT, "global").limit == 3 and limits.read(LIMIT) is None
    assert f"{LIMIT} (global limit)" in text(app)

    app.button(f"change slot:{LIMIT}").click().run()
    limits.ensure(LIMIT, 9, "global")  # as somebody else does
    app.button[-1].click().run()
    assert "changed this limit from 3 to 9 in the meantime" in app.error[0].value.replace("\\", "")
    with pytest.raises(actions.CannotRun, match="already has a limit of 9"):
        actions.add_limit(LIMIT, "global", 4)
    assert limits.read(LIMIT, "global").limit == 9
    actions.set_limit(LIMIT, "global", 4, before=9)
    actions.add_limit(LIMIT, "tag", 2)
    app = page("limits").run()
    app.button(f"delete slot:{LIMIT}").click().run()
    assert limits.read(LIMIT, "global").limit == 4, "not before the question is answered"
    app.button[-1].click().run()
    assert limits.read(LIMIT, "global") is None and limits.read(LIMIT).limit == 2
    rest.call("PATCH", f"v2/concurrency_limits/tag:{LIMIT}", {"limit": 0})
    assert "The limit is 0, so nothing may start." in text(page("limits").run())
    with pytest.raises(actions.CannotRun, match="was deleted"):
        actions.set_limit(LIMIT, "global", 5, before=4)


def test_task_runs_of_a_dead_process_are_no_alarm(app: AppTest, shared_lab: str) -> None:
    """After kill -9 they say that they run; the server's counter knows better."""
    now = pd.Timestamp.now("UTC")
    one = dict.fromkeys(("flow_run_id", "created", "end_time", "next_scheduled_start_time", "state"))
    times = {"expected_start_time": now.isoformat(), "start_time": now.isoformat(), "run_count": 1}
    says = one | times | {"state_type": "RUNNING", "state_name": "Running", "tags": [limits.TAG]}
    runs = frames.task_runs([says | {"id": str(number), "name": str(number)} for number in range(9)], now)
    (row,) = frames.held_by(runs, [{"name": "tag:database", "limit": 3, "active_slots": 0, "active": True}]).to_dict(
        "records"
    )
    page = refresh.overview(pages.overview())
    about = " ".join(active_runs.about(row, page))
    assert "exceeded" not in about and "respected" not in about
    assert "The server counts 0 slots as taken, and 9 task runs say that they run." in about
    assert "The limit is exceeded: 4 slots are taken" in " ".join(active_runs.about(row | {"taken": 4}, page))
    assert "The limit is 0, so nothing may start" in " ".join(active_runs.about(row | {"limit": 0, "held": 0}, page))


def test_a_slot_that_was_not_given_back_ends_with_its_task_run() -> None:
    at = [pd.Timestamp(f"2026-01-01T00:00:0{second}Z") for second in range(6)]

    def event(second: int, phase: str, task_run: str) -> dict:
        facts = {"event_id": f"{second}", "time": at[second], "phase": phase, "tag": MARKED, "task_run_id": task_run}
        return facts | {"name": task_run, "flow_run_id": "f"}

    events = [
        event(4, "acquired", "a"),
        event(1, "acquired", "a"),
        event(2, "acquired", "b"),
        event(3, "released", "a"),
    ]
    slots = global_slots.spans(frames.typed(events, global_slots.EVENTS))
    run = {"flow_run_id": "f", "created": None, "next_scheduled_start_time": None, "state": None, "run_count": 1}
    run |= {
        "expected_start_time": at[0].isoformat(),
        "start_time": at[0].isoformat(),
        "state_name": "",
        "tags": [MARKED],
    }
    ends = {"a": None, "b": at[5].isoformat(), "c": None}
    runs = frames.task_runs(
        [run | {"id": id_, "name": id_, "end_time": end, "state_type": ""} for id_, end in ends.items()], at[5]
    )
    slots = global_slots.of_ended(slots, runs)
    assert slots[["task_run_id", "started"]].to_numpy().tolist() == [["a", at[1]], ["b", at[2]], ["a", at[4]]]
    assert slots["ended"].tolist() == [at[3], at[5], pd.NaT]
    placed = global_slots.placed(runs, slots, at[5]).set_index("name")
    assert placed["started"].tolist() == [at[1], at[2], pd.NaT] and placed["waited_seconds"].tolist() == [1, 2, 5]
