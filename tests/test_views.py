"""The monitor's frames, charts and reasons: of a run while it runs and afterwards, and if there is nothing to show."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bar_charts
import pandas as pd
import pytest
import refresh
import vl_convert
from prefect import flow, task
from support.commands import refused, run
from support.waiting import eventually

from flows import limits, report
from flows.api import endpoints, rest
from flows.monitor import charts, frames, pages, reasons

TAG = "views-test"
DRAW = "scripts/draw_run.py"
HOSTILE = [
    "<script>alert(1)</script>",
    "emoji 🦊 and שלום",
    "two\nlines",
    "x" * 10_000,
    "same",
    "same",
    '"quoted" \\u0000',
]
SPANS: dict[str, tuple[float, float]] = {}
BEGUN: list[int] = []  # the numbers of the spans that have
WAITS_SEEN = threading.Event()  # the tasks go on once the test has seen why others wait


@task(task_run_name="{name}", tags=[TAG])
def span(name: str, number: int) -> int:
    started = time.time()
    BEGUN.append(number)
    WAITS_SEEN.wait(100)
    time.sleep(0.4)
    SPANS[str(number)] = (started, time.time())
    return number


@task(task_run_name="after", tags=["unlimited"])
def after(numbers: list[int]) -> list[int]:
    return numbers


# The pause is long enough to be seen from outside: the server learns of it a moment later.
@task(task_run_name="fails <b>", retries=1, retry_delay_seconds=15, tags=[TAG])
def fails() -> None:
    raise ValueError("no rows for <b>today</b>")


@flow(name="views test")
def hostile() -> None:
    futures = [span.submit(name, number) for number, name in enumerate(HOSTILE)]
    last = after.submit(futures)  # of all, because any of them may get its slot first
    failing = fails.submit(wait_for=futures)  # it waits for no event: were it first, the others would run alone
    last.wait()
    failing.result()


@pytest.fixture
def running(shared_lab: str) -> Iterator[threading.Thread]:
    """The thread in which `hostile` runs, under a limit of 2."""
    limits.ensure(TAG, 2)
    thread = threading.Thread(target=lambda: hostile(return_state=True))
    thread.start()
    yield thread
    WAITS_SEEN.set()
    thread.join()
    rest.call("DELETE", f"concurrency_limits/tag/{TAG}")


@pytest.mark.long
def test_a_run_is_shown_while_it_runs_and_as_it_was(running: threading.Thread, tmp_path: Path) -> None:
    eventually(lambda: len(pages.overview(flow="views test", state=["Running"]).flow_runs))
    id_ = pages.overview(flow="views test", state=["Running"]).flow_runs["flow_run_id"].iloc[0]
    early = refresh.first(id_)
    assert early.flow_run["state"] == "Running" and why(early) is None
    sentences: set[str] = set()

    def shown(beginning: str) -> bool:
        page = pages.run(id_)
        waiting = [reasons.why(row, page.limits, page.task_runs) for _, row in page.task_runs.iterrows()]
        sentences.update(reason for reason in waiting if reason)
        return any(reason.startswith(beginning) for reason in sentences)

    for beginning in (
        f"2 of the 2 slots of the tag '{TAG}' are taken: ",
        "It needs the result of ",
    ):
        eventually(lambda beginning=beginning: shown(beginning))
    eventually(lambda: len(BEGUN) == 2)  # beside each other, and not only with a slot each
    WAITS_SEEN.set()
    eventually(lambda: shown("Attempt 1 failed"))
    running.join()
    # The server learns a moment later that a task run has ended, and what was logged last.
    eventually(lambda: pages.run(id_).task_runs["ended"].notna().all())
    eventually(lambda: pages.run(id_).logs["message"].str.startswith("Finished in state Failed('Flow run").any())
    page, refreshed = refresh.first(id_), refresh.run(early)
    for name in ("task_runs", "logs"):
        pd.testing.assert_frame_equal(getattr(refreshed, name), getattr(page, name))
    check_against_its_own_times(page)
    check_failures(page)
    check_charts(page)
    picture = tmp_path / "run.svg"
    drawn = run(DRAW, "--run", id_, "--tag", TAG, "--out", str(picture))
    assert "Timeline of" in drawn.stdout and picture.read_text().startswith("<svg"), drawn.stderr


def check_against_its_own_times(page: pages.Run) -> None:
    runs = frames.tagged(page.task_runs, TAG)
    spans = runs[runs["name"] != "fails <b>"]
    assert len(spans) == len(HOSTILE) == len(SPANS)
    steps = frames.concurrency(runs, page.until)
    assert steps["running"].max() == 2 == report.peak_concurrency(SPANS.values())
    assert steps["running"].iloc[-1] == 0 and steps["time"].is_monotonic_increasing
    assert frames.verdict(steps, 2) == "The limit held: at most 2 ran at once, and 2 are allowed."
    assert re.fullmatch(
        r"The limit was exceeded for \d+\.\d s in total: up to 2 ran at once, and only 1 is allowed\.",
        frames.verdict(steps, 1),
    )
    # Started means: has its slot, and runs. What Prefect says is not before the last one's end and not after our own.
    own = sorted(start for start, _ in SPANS.values())
    theirs = sorted(spans["started"].map(lambda started: started.timestamp()))
    assert all(their <= mine for their, mine in zip(theirs, own, strict=True))
    assert spans["waited_seconds"].max() > 2 * spans["ran_seconds"].median(), "the last of 7 waited for those before"
    assert (runs.loc[runs["name"] == "fails <b>", "ran_seconds"] > 1).all(), "it kept its slot between two attempts"


def check_failures(page: refresh.Run) -> None:
    failed = frames.failures(page.task_runs)
    assert failed["name"].tolist() == ["fails <b>"] and failed["attempts"].tolist() == [2]
    assert "no rows for <b>today</b>" in failed["message"].iloc[0]
    assert "no rows" in page.flow_run["message"]
    assert page.flow_run["state"] == "Failed" and page.flow_run["flow"] == "views test"
    flow_run_id = page.flow_run["flow_run_id"]
    # Prefect's client sends its log lines every two seconds.
    logs = endpoints.logs(flow_run=flow_run_id)
    eventually(lambda: frames.logs(rest.rows(logs))["message"].str.contains("no rows").any())
    lines = refresh.run(page).logs
    assert lines["message"].str.contains("no rows").any() and lines["time"].is_monotonic_increasing
    assert len(rest.rows(logs)) == len(lines)


def check_charts(page: pages.Run) -> None:
    steps = frames.concurrency(page.task_runs, page.until)
    overview = pages.overview()
    for chart in (
        charts.run(page.task_runs, steps, 2),
        charts.run(page.task_runs, steps, None),
        bar_charts.waiting(page.task_runs),
        charts.states(overview.states, overview.start, overview.read_at),
        bar_charts.slots(overview.limits),
    ):
        svg = vl_convert.vegalite_to_svg(chart.to_json())
        assert "<script" not in svg and len(chart.description) < 400
    drawn = charts.run(page.task_runs, steps, None)
    svg = vl_convert.vegalite_to_svg(drawn.to_json())
    assert "&lt;script&gt;" in svg and "same (2)" in svg and "x" * 41 not in svg
    assert "1 Failed" in drawn.description and "there is no limit" in drawn.description
    assert "the limit is 2" in charts.run(page.task_runs, steps, 2).description


def test_of_nothing_each_frame_has_its_columns_and_each_chart_is_drawn(shared_lab: str) -> None:
    page = pages.overview(flow="no such flow", state=["FAILED", "Late"], tag="<b>", text="100%_")
    assert page.flow_runs.empty and page.states.empty
    now = pd.Timestamp.now("UTC")
    steps = frames.concurrency(frames.task_runs([], now), now)
    for frame, columns in (
        (page.flow_runs, frames.FLOW_RUNS),
        (page.states, frames.STATES),
        (page.task_runs, frames.TASK_RUNS),
        (pages.limits(), frames.LIMITS),
        (steps, frames.STEPS),
        (frames.logs([]), frames.LOGS),
    ):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == columns
    assert frames.verdict(steps, 3) == "The limit held: at most 0 ran at once, and 3 are allowed."
    nothing = frames.task_runs([], now)
    empty = page.limits.iloc[:0]
    for chart in (
        charts.run(nothing, steps, 3),
        bar_charts.waiting(nothing),
        charts.states(page.states, page.start, page.read_at),
        bar_charts.slots(empty),
    ):
        assert vl_convert.vegalite_to_svg(chart.to_json())


@pytest.mark.parametrize("most", [1, 2, 3, 7, 30])
def test_what_is_counted_has_each_whole_number_once_at_most(most: int) -> None:
    start = pd.Timestamp("2026-01-01", tz="UTC")
    end = start + pd.Timedelta(hours=1)
    interval = {"time": start, "until": end, "state": "Completed", "state_type": "COMPLETED", "runs": most}
    limit = {"tag": "a", "limit": most, "taken": 0, "held": 0, "holders": [], "freed": None}
    for chart in (
        charts.states(frames.typed([interval], frames.STATES), start, end),
        bar_charts.slots(frames.typed([limit], frames.LIMITS)),
    ):
        labels = re.findall(r">(\d+)</text>", vl_convert.vegalite_to_svg(chart.to_json()))
        assert labels == sorted({*labels}, key=int) and {"0", str(most)} <= {*labels}


def test_a_run_that_is_not_there_is_not_drawn(shared_lab: str) -> None:
    assert "has no flow run" in refused(run(DRAW, "--run", "00000000-0000-0000-0000-000000000000"))


def test_one_may_start_as_another_ends() -> None:
    now = pd.Timestamp("2026-01-01T00:00:09Z")
    times = [("00", "02"), ("02", "03"), ("02", None), (None, None)]
    runs = [
        task_run(start and f"2026-01-01T00:00:{start}Z", end and f"2026-01-01T00:00:{end}+00:00")
        for start, end in times
    ]
    steps = frames.concurrency(frames.task_runs(runs, now), now)
    assert [(f"{row.time:%S}", row.running) for row in steps.itertuples()] == [
        ("00", 1),
        ("02", 2),
        ("03", 1),
        ("09", 1),
    ]
    assert frames.verdict(steps, 1) == (
        "The limit was exceeded for 1.0 s in total: up to 2 ran at once, and only 1 is allowed."
    )
    assert frames.verdict(steps, None) == "There is no limit; up to 2 ran at once."


def task_run(started: str | None, ended: str | None) -> dict:
    first = dict.fromkeys(("id", "flow_run_id", "name", "created"), "a") | {
        "expected_start_time": "2026-01-01T00:00:00Z"
    }
    state = {"state_name": "Running", "state_type": "RUNNING", "state": None, "tags": [], "run_count": 1}
    return first | state | {"start_time": started, "end_time": ended, "next_scheduled_start_time": None}


def test_a_counted_slot_that_nobody_holds_is_seen(shared_lab: str) -> None:
    limits.ensure(TAG, 2)
    try:
        rest.call("PATCH", f"v2/concurrency_limits/tag:{TAG}", {"active_slots": 2})
        row = pages.limits().set_index("tag").loc[TAG]
        assert (row["limit"], row["taken"], row["held"], row["holders"]) == (2, 2, 0, [])
        waits = frames.task_runs(
            [task_run(None, None) | {"state_name": "Pending", "state_type": "PENDING", "tags": [TAG]}], now()
        )
        assert reasons.why(waits.iloc[0], pages.limits(), waits) == (
            f"2 of the 2 slots of the tag '{TAG}' are taken: 2 without a known holder; if that lasts, reset the limit."
        )
        assert f"{TAG} has 2 of 2 slots taken, 0 held" in bar_charts.slots(pages.limits()).description
    finally:
        rest.call("DELETE", f"concurrency_limits/tag/{TAG}")


def test_a_slot_that_another_run_holds_is_not_called_nobody_s(shared_lab: str) -> None:
    """The page of a run shows only its own task runs; the first page has those of all runs."""
    flow_id = rest.call("POST", "flows/", {"name": "views test"})["id"]
    made = [rest.call("POST", "flow_runs/", {"flow_id": flow_id, "state": {"type": "RUNNING"}}) for _ in range(2)]
    limits.ensure(TAG, 1)
    try:
        rest.call("PATCH", f"v2/concurrency_limits/tag:{TAG}", {"active_slots": 1})
        for flow_run, name, state in zip(made, ("ahead", "behind"), ("RUNNING", "PENDING"), strict=True):
            task_run = {"flow_run_id": flow_run["id"], "name": name, "task_key": name, "dynamic_key": "0"}
            rest.call("POST", "task_runs/", task_run | {"tags": [TAG], "state": {"type": state}})
        page, overview = pages.run(made[1]["id"]), pages.overview()
        row, taken = page.task_runs.iloc[0], f"1 of the 1 slots of the tag '{TAG}' are taken: "
        assert reasons.why(row, page.limits, page.task_runs, complete=False) == (
            f"{taken}1 by other runs or without a holder (see the page Limits)."
        )
        assert reasons.why(row, overview.limits, overview.task_runs) == f"{taken}ahead."
    finally:
        rest.call("DELETE", f"concurrency_limits/tag/{TAG}")
        for flow_run in made:
            rest.call("DELETE", f"flow_runs/{flow_run['id']}")


def now() -> pd.Timestamp:
    return pd.Timestamp.now("UTC")


def why(page: refresh.Run, zone: str = "UTC") -> str | None:
    return reasons.why(page.flow_run, page.limits, page.task_runs, page.poll, zone=zone)


def test_a_run_that_no_worker_takes_says_so(shared_lab: str) -> None:
    flow_id = rest.call("POST", "flows/", {"name": "views test"})["id"]
    wanted = {"name": "nobody's", "flow_id": flow_id, "work_pool_name": "flows", "entrypoint": "x.py:x"}
    deployment = rest.call("POST", "deployments/", wanted)["id"]
    try:
        made = rest.call("POST", f"deployments/{deployment}/create_flow_run", {"parameters": {}})
        late = {"state": {"type": "SCHEDULED", "name": "Late"}, "force": True}
        rest.call("POST", f"flow_runs/{made['id']}/set_state", late)
        page = refresh.first(made["id"])
        sentence = why(page)
        assert sentence is not None and "No worker polls the work pool 'flows': start one with" in sentence
        assert why(refresh.run(page)) == sentence
        due = page.flow_run["submitted"]
        assert f"It was due at {due:%Y-%m-%d %H:%M:%S} UTC" in sentence
        tokyo = due + pd.Timedelta(hours=9)
        assert f"It was due at {tokyo:%Y-%m-%d %H:%M:%S} JST" in str(why(page, "Asia/Tokyo"))
    finally:
        rest.call("DELETE", f"deployments/{deployment}")
