"""The ranges in which waiting task runs start: made-up runs, of which the answer is known, and real ones, measured."""

import threading
import time
from collections.abc import Sequence

import expected_starts
import numpy as np
import pandas as pd
import pytest
import waits
from streamlit.testing.v1 import AppTest
from support.figures import Store

from flows import limits, prefect_flow, warehouse
from flows.api import endpoints, rest
from flows.monitor import frames, pages

NOW = pd.Timestamp("2026-01-01", tz="UTC")
HELD = 80  # per cent of the measured waits that the ranges are meant to hold


def made(
    spans: Sequence[tuple[float, float | None, float | None]], flow_runs: Sequence[str] = (), name: str = "query"
) -> pd.DataFrame:
    """Return TASK_RUNS submitted, started and ended so many seconds after NOW, None for what has not happened."""

    def at(seconds: float | None) -> str | None:
        return None if seconds is None else (NOW + pd.Timedelta(seconds=seconds)).isoformat()

    rows = [
        {"task_run_id": str(number), "flow_run_id": flow_runs[number] if flow_runs else "a", "name": name}
        | {"state_type": "PENDING" if start is None else "RUNNING" if end is None else "COMPLETED"}
        | {"submitted": at(submitted), "started": at(start), "ended": at(end), "tags": ["database"], "upstream": []}
        for number, (submitted, start, end) in enumerate(spans)
    ]
    return frames.timed(frames.typed(rows, frames.TASK_RUNS), NOW)


# Eight task runs of a second each, one after the other, without a pause.
STEADY = waits.past(made([(-50, number - 50, number - 49) for number in range(8)]))


def test_equal_task_runs_start_one_after_the_other() -> None:
    assert STEADY is not None
    ranges = waits.ranges(made([(0, -0.5, None), *[(0, None, None)] * 4]), "database", 1, STEADY, NOW)
    assert ranges.index.tolist() == ["1", "2", "3", "4"]
    assert ranges["soonest"].tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert ranges["latest"].tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5]), "in the past, all took the same time"
    two = waits.ranges(made([(0, -0.5, None), (0, -0.5, None), *[(0, None, None)] * 4]), "database", 2, STEADY, NOW)
    assert two["latest"].tolist() == pytest.approx([0.5, 0.5, 1.5, 1.5])


def test_of_two_flow_runs_either_may_be_next() -> None:
    assert STEADY is not None
    both = made([(0, -0.5, None), *[(0, None, None)] * 4], ["a", "a", "a", "b", "b"])
    ranges = waits.ranges(both, "database", 1, STEADY, NOW)
    assert ranges["soonest"].tolist() == pytest.approx([0.5, 1.5, 0.5, 1.5])
    assert (ranges["latest"] >= [1.5, 3.5, 1.5, 3.5]).all()


def test_what_is_not_known_has_no_range() -> None:
    assert waits.past(made([(0, 1, None)])) is None
    assert STEADY is not None and waits.ranges(made([(0, None, None)]), "database", 0, STEADY, NOW).empty
    needs = made([(0, -1, None), (0, None, None)]).assign(upstream=[[], ["0"]])
    assert waits.ranges(needs, "database", 1, STEADY, NOW).empty, "its inputs are not there yet"
    assert waits.ranges(needs.iloc[:0], "database", 1, STEADY, NOW).empty


def test_one_that_runs_for_longer_than_any_before_takes_an_unknown_time() -> None:
    assert STEADY is not None
    ranges = waits.ranges(made([(-100, -90, None), (0, None, None)]), "database", 1, STEADY, NOW)
    assert ranges["latest"].iloc[0] - ranges["soonest"].iloc[0] > 50


def test_a_range_is_a_few_characters() -> None:
    shown = [expected_starts.text(*each) for each in ((0, 0.9), (2.2, 8.6), (5.1, 5.3), (30, 119), (90, 400))]
    assert shown == ["now", "2 to 9 s", "5 s", "30 to 119 s", "2 to 7 min"]


def test_twenty_ranges_take_little_time() -> None:
    """Less than the requests of the page that shows them: compared with a part of themselves, not with a clock."""
    rng = np.random.default_rng(1)
    past = waits.past(made([(-900, -900 + 4 * n, -900 + 4 * n + rng.uniform(1, 4)) for n in range(200)]))
    assert past is not None

    def seconds(waiting: int) -> float:
        runs = made([(0, -0.5, None)] * 3 + [(0, None, None)] * waiting)
        taken = []
        for _ in range(5):
            began = time.thread_time()  # of the processor, which other tests use as well
            waits.ranges(runs, "database", 3, past, NOW)
            taken.append(time.thread_time() - began)
        return min(taken)

    assert seconds(160) < 16 * seconds(20)


def watched(flow_runs: int, pause: float = 3.0) -> pd.DataFrame:
    """Run the main job so often, look at the first page in between, and return ranges and waits, in seconds."""
    looked, stop = [], threading.Event()

    def look() -> None:
        while not stop.wait(pause):
            page = pages.overview()
            ended = endpoints.task_runs(tag=limits.TAG, state=["COMPLETED", "FAILED"], sort="END_TIME_DESC")
            past = waits.past(frames.task_runs(rest.send(ended), page.read_at))
            if past is not None:
                ranges = waits.ranges(page.task_runs, limits.TAG, limits.DEFAULT, past, page.read_at)
                looked.append(ranges.assign(at=page.read_at, look=len(looked)))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        for _ in range(flow_runs):
            prefect_flow.main_etl(scale=0.02)
    finally:
        stop.set()
        watching.join()
    ran = rest.rows(endpoints.task_runs(tag=limits.TAG, state=["COMPLETED"]))
    started = frames.task_runs(ran, pd.Timestamp.now("UTC")).set_index("task_run_id")["started"]
    ranges = pd.concat(looked)
    waited = (ranges.index.map(started) - pd.DatetimeIndex(ranges["at"])).total_seconds()
    return ranges.assign(waited=np.clip(waited, 0, None)).dropna(subset=["waited"])


@pytest.mark.figures
def test_ranges_hold_about_four_of_five_waits(shared_lab: str, store: Store) -> None:
    """What the first page shows of a waiting query, beside when it really started."""
    warehouse.prepare(0.02)
    for _ in range(3):
        prefect_flow.main_etl(scale=0.02)  # from which it learns
    measured = watched(12)
    chosen = measured.sample(min(200, len(measured)), random_state=1)
    # Below a second, the page says "now".
    held = (chosen["waited"] >= chosen["soonest"].round()) & (chosen["waited"] <= chosen["latest"].clip(lower=1))
    figures = {
        "waits": len(chosen),
        "looks": int(chosen["look"].nunique()),
        "held_percent": round(100 * float(held.mean())),
        "median_wait_seconds": round(float(chosen["waited"].median()), 1),
        "median_width_seconds": round(float((chosen["latest"] - chosen["soonest"]).median()), 1),
    }
    store("waits", [figures])
    assert len(chosen) == 200
    assert abs(figures["held_percent"] - HELD) <= 15, "on a busy machine, waits are not like those of the past"


def test_a_waiting_task_run_has_its_range_on_the_first_page(app: AppTest, shared_lab: str) -> None:
    """One of a name that took 1 s before waits for the only slot, for which the holder has just begun."""
    flow = rest.call("POST", "flows/", {"name": "made by a test"})["id"]
    flow_run = rest.call("POST", "flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})["id"]
    limits.ensure("ranged", 1)
    try:
        for key, states in {"ended": ("RUNNING", "COMPLETED"), "runs": ("RUNNING",), "waits": ("PENDING",)}.items():
            one = {"flow_run_id": flow_run, "name": key, "task_key": "a", "dynamic_key": key, "tags": ["ranged"]}
            task_run = rest.call("POST", "task_runs/", one)["id"]
            for state in states:
                rest.send(endpoints.set_state(task_run, state, state.title(), force=True, of="task_runs"))
        app.run()
        app.session_state.again = True  # the first page of a process has no room for the range, its refresh has
        app.run()
        shown = app.dataframe[0].value.set_index("name")["starts"]
        assert not app.exception and shown["waits"] and not shown["runs"]
    finally:
        rest.call("DELETE", f"flow_runs/{flow_run}")
        rest.call("DELETE", "concurrency_limits/tag/ranged")
