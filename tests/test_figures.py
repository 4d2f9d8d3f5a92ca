"""The figures that the documents give of the main job, measured again: `uv run pytest -n 0 -m figures -s`.

With `--store`, they are written to docs/figures, and tests/test_quoted_figures.py says where documents quote others.
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import psycopg
import pytest
from support.commands import FLOW, answer, run
from support.drills import alter
from support.figures import Store
from support.labs import processes_below

import lessons
from flows import lab, limits, notes, prefect_flow, report, warehouse
from flows.api import endpoints, rest, server
from flows.lab import keys, prefect_server
from flows.monitor import replay


@pytest.mark.figures
def test_from_nothing_to_the_first_result_and_the_memory_at_rest(new_lab: Path, store: Store) -> None:
    rows: list[dict[str, Any]] = []

    def measure(what: str, act: Callable[[], Any]) -> Any:
        called = time.monotonic()
        returned = act()
        rows.append({"what": what, "seconds": round(time.monotonic() - called, 1)})
        return returned

    def whole_command(what: str) -> str:
        report = measure(what, lambda: answer(run(FLOW, "--json")))
        rows[-1]["flow_seconds"] = round(report["wall_seconds"], 1)
        assert report["completed"] == 20
        return report["flow_run_id"]

    whole_command("the whole command, from nothing")
    called = pd.Timestamp.now("UTC")
    flow_run = whole_command("the whole command, on a lab that runs")
    server.use()
    started = [row["start_time"] for row in rest.rows(endpoints.task_runs(flow_run=flow_run, tag=limits.TAG))]
    first = (pd.Timestamp(min(started)) - called).total_seconds()
    rows.append({"what": "the command, on a lab that runs, to its first query", "seconds": round(first, 1)})
    # What is shared between PostgreSQL's processes counts once.
    used = 0.0
    for process in processes_below(new_lab):
        with contextlib.suppress(psutil.NoSuchProcess):
            used += process.memory_full_info().pss / 1e6
    print(f"\nmemory of the lab at rest: {used:.0f} MB")
    assert used < 700
    assert psutil.Process(lab.status().pids["prefect"]).is_running()
    lab.down()
    measure("a lab that was stopped", lab.up)
    lab.reset()
    measure("a new lab", lab.up)
    store("start", rows)


@pytest.mark.figures
def test_twenty_runs_keep_the_limit(shared_lab: str) -> None:
    """In each of them three queries run at once and never four; none is refused a connection, so none is retried."""
    walls, peaks, attempts = [], [], 0
    for _ in range(20):
        called = time.monotonic()
        rows = prefect_flow.main_etl()
        walls.append(time.monotonic() - called)
        peaks.append(report.peak_concurrency(spans(rows)))
        assert [row["state"] for row in rows] == ["Completed"] * 20
    retried = {"task_runs": {"tags": {"all_": [limits.TAG]}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    task_runs = rest.rows(rest.Request("POST", "task_runs/filter", retried))
    assert len(task_runs) >= 400
    attempts = max(task_run["run_count"] for task_run in task_runs)
    print(f"\npeaks {peaks}; wall {min(walls):.1f} to {max(walls):.1f} s; at most {attempts} attempt a query")
    assert peaks == [3] * 20
    assert attempts == 1


def spans(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(row["started"], row["ended"]) for row in rows]


@pytest.mark.figures
def test_what_the_limit_costs_the_queries(shared_lab: str, tmp_path: Path, store: Store) -> None:
    """Wall time over ideal time of the 20 queries, in turns; without Prefect, in a pool of three threads, as well."""
    limits.ensure(limits.TAG, 3, "global")
    alter("connection limit 20")  # without Prefect, nothing tries again if a connection has not quite ended

    def in_a_pool() -> list[dict[str, Any]]:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: prefect_flow.run_query(name, tmp_path), warehouse.names()))
        return [notes.noted(tmp_path, name) for name in warehouse.names()]

    ways: dict[str, Callable[[], Any]] = {"tag limit": prefect_flow.main_etl, "thread pool": in_a_pool}
    ways["global limit"] = functools.partial(prefect_flow.main_etl, limit_by="global")
    ratios: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for way, act in [*ways.items()] * 6:
        called = time.time()
        done = spans(act())
        wall, ideal = time.time() - called, report.ideal_seconds([end - start for start, end in done], 3)
        assert len(done) == 20 and report.peak_concurrency(done) <= 3
        ratios[way].append((wall / ideal, wall, ideal))
    names = "ratio", "wall_seconds", "ideal_seconds"
    # The first turn warms up.
    medians = {way: map(statistics.median, zip(*turns[1:], strict=True)) for way, turns in ratios.items()}
    rounded = {way: [round(figure, 2) for figure in figures] for way, figures in medians.items()}
    store("queries", [{"engine": way, **dict(zip(names, rounded[way], strict=True))} for way in ways])
    rest.send(endpoints.delete("v2/concurrency_limits", limits.TAG))
    alter(f"connection limit {limits.DEFAULT}")


@pytest.mark.figures
def test_what_the_gateway_adds_to_a_request(new_lab: Path, store: Store) -> None:
    """The same server, asked through the gateway and on the socket behind it, in turns."""
    url = lab.up("gateway").api_url
    by_socket = httpx.HTTPTransport(uds=str(prefect_server.socket_file(new_lab / "prefect")))
    header = {"Authorization": f"Bearer {keys.bearer()[keys.FIRST].get_secret_value()}"}
    taken: dict[str, list[float]] = {"through the gateway": [], "past it": []}
    with (
        httpx.Client(base_url=str(url), headers=header) as through,
        httpx.Client(base_url=str(url), transport=by_socket) as past,
    ):
        for turn in range(550):
            for way, client in zip(taken, (through, past), strict=True):
                called = time.perf_counter()
                assert client.get("/health").status_code == 200
                if turn >= 50:  # the first ones warm up
                    taken[way].append(1000 * (time.perf_counter() - called))
    medians = {way: round(statistics.median(times), 2) for way, times in taken.items()}
    store("gateway", [{"way": way, "median_ms": median} for way, median in medians.items()])
    assert medians["through the gateway"] < 10 * medians["past it"]


WORK = {"sleeping": "select pg_sleep(0.6)", "computing": "select sum(sqrt(n)) from generate_series(1, 2500000) as n"}


@pytest.mark.figures
@pytest.mark.parametrize("work", ["sleeping", "computing"])
def test_how_far_off_a_replay_is(shared_lab: str, work: str, store: Store) -> None:
    """A run under a limit of 3, replayed for others, beside real runs: of queries that sleep, and of some that work."""
    from prefect import flow, task
    from prefect.runtime import flow_run

    address = lab.database("warehouse")  # as its owner, who may open more than three connections

    @task(tags=["replayed"], task_run_name="query")
    def query() -> None:
        with psycopg.connect(address) as connection:
            connection.execute(WORK[work].encode())

    @flow(name="replayed")
    def twenty() -> str:
        for _ in range(2):  # alone, to show what a query takes if it shares the cores with no other
            query.submit().result()
        for future in [query.submit() for _ in range(18)]:
            future.result()
        return flow_run.id

    def run_under(limit: int) -> pd.DataFrame:
        limits.ensure("replayed", limit)
        return lessons.finished(twenty(), 20).task_runs

    def seconds(task_runs: pd.DataFrame) -> float:
        return (task_runs["ended"].max() - task_runs["started"].min()).total_seconds()

    for _ in range(3):
        run_under(6)  # warms up, also the server, which answers the first requests of a kind more slowly
    recorded = run_under(3)
    costs = replay.costs(recorded)
    again = seconds(replay.replay(recorded, 3, costs))
    print(f"\n{work}: {costs}; limit 3, recorded: {seconds(recorded):.1f} s, and replayed {again:.1f} s")
    rows = []
    for limit in range(1, 7):
        predicted, measured = seconds(replay.replay(recorded, limit, costs)), seconds(run_under(limit))
        rows.append({"limit": limit, "predicted_seconds": round(predicted, 2), "measured_seconds": round(measured, 2)})
    store(f"replay-{work}", rows)
    # Others on the machine move both of a prediction and a measurement, but not a replay of what was recorded.
    assert again == pytest.approx(seconds(recorded), rel=0.15)
