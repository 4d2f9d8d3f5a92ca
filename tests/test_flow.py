"""The main job: what it reports, what it loads, what it does with failures, and how it is deployed."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb
import httpx
import psycopg
import pytest
from support.commands import FLOW, answer, prefect, refused, run, start
from support.labs import slots
from support.waiting import eventually

from flows import lab, limits, mart, notes, prefect_flow, recovery, settings, warehouse
from flows.api import server
from flows.report import ideal_seconds, peak_concurrency

KEYS = "state queries completed failed limit peak_concurrency wall_seconds ideal_seconds flow_run_id api_url mart"
FEW = "busiest_clerks,lines_per_order,open_orders_by_priority"
EIGHT = warehouse.names()[:8]


def table(query: str) -> list[tuple] | None:
    """The rows of a query's table in the mart, or None where there is no such table."""
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        try:
            return connection.execute(f'from "{query}"').fetchall()
        except duckdb.CatalogException:
            return None


def staged() -> list[Path]:
    return list((settings.read().flows_lab_dir / "staging").glob("*"))


@pytest.fixture
def questions(shared_lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts SQL of the test's in place of the 20 queries, by name."""
    monkeypatch.setattr(warehouse, "QUERIES", tmp_path / "queries")

    def put(**queries: str) -> None:
        shutil.rmtree(warehouse.QUERIES, ignore_errors=True)
        warehouse.QUERIES.mkdir()
        for name, sql in queries.items():
            (warehouse.QUERIES / f"{name}.sql").write_text(sql)

    return put


def test_the_main_job(shared_lab: str, tmp_path: Path) -> None:
    """All 20, from another folder; the figures are checked against the server, the rows against the warehouse."""
    done = run(FLOW, "--json", cwd=tmp_path)
    report = answer(done)
    assert done.returncode == 0
    assert set(report) == set(KEYS.split())
    assert (report["state"], report["queries"], report["completed"], report["failed"]) == ("Completed", 20, 20, 0)
    assert (report["limit"], report["peak_concurrency"]) == (3, 3)
    assert report["wall_seconds"] > report["ideal_seconds"] > 0
    assert report["api_url"] == shared_lab and staged() == [] and slots() == 0
    of_run = {"flow_runs": {"id": {"any_": [report["flow_run_id"]]}}, "task_runs": {"tags": {"all_": [limits.TAG]}}}
    task_runs: list[dict] = []

    def recorded() -> bool:
        """Whether all ends are on the server: they reach it a moment after the flow's own."""
        task_runs[:] = httpx.post(f"{shared_lab}/task_runs/filter", json=of_run).json()
        return len(task_runs) == 20 and all(task_run["end_time"] for task_run in task_runs)

    eventually(recorded)
    assert sorted(task_run["name"] for task_run in task_runs) == warehouse.names()
    assert {task_run["state_name"] for task_run in task_runs} == {"Completed"}
    assert peak_concurrency((_unix(task_run["start_time"]), _unix(task_run["end_time"])) for task_run in task_runs) == 3
    with psycopg.connect(lab.database("warehouse")) as connection:
        for name in warehouse.names():
            assert len(table(name) or []) == len(connection.execute(warehouse.query(name)).fetchall()), name
        assert table("busiest_clerks") == connection.execute(warehouse.query("busiest_clerks")).fetchall()


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_what_is_shown_to_people(shared_lab: str) -> None:
    done = run(FLOW, "--queries", FEW)
    assert done.returncode == 0
    for name in FEW.split(","):
        assert re.search(rf"{name} +│ +\d+ │ +\d+\.\d\d │ +\d+\.\d\d │ Completed", done.stdout)
    assert re.search(r"Completed: 3 of 3 queries, peak concurrency [123] \(limit 3\), wall \d", done.stdout)


@pytest.mark.long
def test_a_bar_says_how_many_run_wait_and_are_done(shared_lab: str, tmp_path: Path) -> None:
    """On a terminal, that is; where Prefect would send usage data, and say so the first time."""
    outer, inner = pty.openpty()
    asked = ("DO_NOT_TRACK", "CI", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    process = subprocess.Popen(
        [sys.executable, FLOW, "--queries", ",".join(EIGHT)],
        cwd=settings.PROJECT,
        env=environment | {"PREFECT_HOME": str(tmp_path)},
        stderr=inner,
        stdout=subprocess.DEVNULL,
    )
    os.close(inner)
    shown = b""
    try:
        while chunk := os.read(outer, 65536):
            shown += chunk
    except OSError:
        pass  # Linux says that the terminal has gone
    finally:
        os.close(outer)
        process.wait()
    seen = {(int(a), int(b), int(c)) for a, b, c in re.findall(rb"(\d+) run, (\d+) wait, (\d+) done", shown)}
    assert all(sum(counts) == 8 for counts in seen)
    assert max(running for running, _, _ in seen) == 3
    assert (0, 0, 8) in seen
    assert b"usage data" not in shown


def test_a_failing_query_is_named_and_the_others_finish(questions: Callable[..., None]) -> None:
    questions(good="select 1 as one", other="select 2 as two", bad="select 1 as fine")
    assert prefect_flow.main_etl(return_state=True).name == "Completed"
    questions(good="select 10 as one", other="select 20 as two", bad="selekt")
    state = prefect_flow.main_etl(return_state=True)
    assert state.name == "Failed"
    assert "1 of 3 queries failed: bad (" in state.message and "syntax error" in state.message
    assert (table("good"), table("other"), table("bad")) == ([(10,)], [(20,)], [(1,)])
    assert staged() == []


def test_cleanup_comes_where_the_run_cannot_be_recorded(questions: Callable[..., None]) -> None:
    questions(good="select 1 as one")
    records = settings.read().flows_lab_dir / "runs"
    kept = records.with_name("runs.kept")
    if records.exists():
        records.rename(kept)
    records.touch()  # in the folder's place
    try:
        assert prefect_flow.main_etl(return_state=True).name == "Failed"
        assert staged() == []
    finally:
        records.unlink()
        if kept.exists():
            kept.rename(records)


def test_a_killed_run_that_had_ended_keeps_its_state(shared_lab: str) -> None:
    flow = httpx.post(f"{shared_lab}/flows/", json={"name": "ended"}).json()["id"]
    body = {"flow_id": flow, "state": {"type": "CANCELLED", "name": "Cancelled"}}
    ended = httpx.post(f"{shared_lab}/flow_runs/", json=body).json()["id"]
    with notes.staging(ended) as left:
        owner = json.loads((left / "owner.json").read_text())
        assert owner["server"] == "the lab", "its port may be another one when a later run looks for what is left"
        recovery.clear_abandoned("")
        assert left.exists(), "somebody works on it"
    recovery.clear_abandoned("")
    assert not left.exists()
    assert httpx.get(f"{shared_lab}/flow_runs/{ended}").json()["state_name"] == "Cancelled"


def test_a_syntax_error_is_not_retried_and_a_refused_connection_is(questions: Callable[..., None]) -> None:
    questions(bad="selekt")
    state = prefect_flow.main_etl(return_state=True)
    assert _run_counts(state, 1) == {"bad": 1}
    questions(**{f"slow_{n}": f"select pg_sleep(5), {n} as n" for n in range(4)})
    limits.ensure(limits.TAG, 4)
    state = prefect_flow.main_etl(return_state=True)
    assert state.name == "Completed"
    assert max(_run_counts(state, 4).values()) > 1, "the database refused the fourth, which was tried again"


def _run_counts(state, queries: int) -> dict[str, int]:
    of_run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    of_run |= {"task_runs": {"tags": {"all_": [limits.TAG]}}}

    def read() -> list[dict]:
        return httpx.post(f"{os.environ['PREFECT_API_URL']}/task_runs/filter", json=of_run).json()

    # Task runs, and their ends, reach the API a moment after the flow's end.
    eventually(lambda: [bool(task_run["end_time"]) for task_run in read()] == [True] * queries)
    return {task_run["name"]: task_run["run_count"] for task_run in read()}


def test_every_kind_of_value_reaches_the_mart(questions: Callable[..., None]) -> None:
    values = "1 as i, 1.25::numeric as n, 0.5::float8 as f, date '1997-02-03' as d, 'é\"''' as t, true as b"
    locked = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'"
    questions(
        values=f"select {values}",
        none=f"select {values} where false",
        nulls="select null::int as x, 'a' as y",
        locked=locked,
    )
    assert prefect_flow.main_etl(return_state=True).name == "Completed"
    assert table("locked") == [(1,)], "the tables could be replaced while a run reads them"
    (row,) = table("values") or []
    assert [str(value) for value in row] == ["1", "1.25", "0.5", "1997-02-03", "é\"'", "True"]
    assert table("none") == [] and table("nulls") == [(None, "a")]


@pytest.mark.long
def test_the_limit_holds_for_two_processes_together(shared_lab: str) -> None:
    both = [start(FLOW, "--queries", ",".join(EIGHT), "--json") for _ in range(2)]
    reports = [answer(subprocess.CompletedProcess("", 0, *one.communicate(timeout=200))) for one in both]
    assert [report["completed"] for report in reports] == [8, 8]
    rows = [row for report in reports for row in notes.recorded(report["flow_run_id"])]
    assert len(rows) == 16
    assert peak_concurrency((row["started"], row["ended"]) for row in rows) == 3


def test_the_limit_is_what_was_asked_for(shared_lab: str) -> None:
    report = answer(run(FLOW, "--limit", "1", "--queries", FEW, "--json"))
    assert (report["limit"], report["peak_concurrency"]) == (1, 1)
    assert answer(run(FLOW, "--queries", FEW, "--json"))["limit"] == 1, "the server keeps its limit"


def test_a_named_server_without_a_limit_is_left_alone_and_warned_of(
    shared_lab: str, new_lab: Path, shared_folder: Path
) -> None:
    """The lab of another folder is a server like any other."""
    httpx.delete(f"{shared_lab}/concurrency_limits/tag/{limits.TAG}").raise_for_status()
    done = run(FLOW, "--queries", FEW, "--scale", "0.01", "--json", PREFECT_API_URL=shared_lab)
    assert done.returncode == 0
    assert "has no limit" in done.stderr and "setup_concurrency_limit.py" in done.stderr
    assert answer(done)["limit"] is None and answer(done)["api_url"] == shared_lab
    assert httpx.get(f"{shared_lab}/concurrency_limits/tag/{limits.TAG}").status_code == 404
    assert "prefect" not in lab.status().pids, "a Prefect server was started beside the one that was named"


BAD = {
    "--queries busiest_clerk": "Did you mean busiest_clerks?",
    "--queries ": "There is no query ''",
    "--limit 0": "'0' is not a whole number",
    "--limit abc": "'abc' is not a whole number",
    "--scale -1": "'-1' is not a number",
    "--scale nan": "'nan' is not a number",
    "--nonsense": "unrecognized arguments",
}
EACH = """
import sys
from flows import cli, prefect_flow
for arguments in sys.argv[1:]:
    sys.argv[1:] = arguments.split(" ")
    try:
        cli.run(prefect_flow.main)
    except SystemExit as end:
        print(end.code)
"""


def test_bad_arguments_are_refused_before_anything_starts(new_lab: Path) -> None:
    """All in one process, because importing Prefect takes two seconds."""
    done = subprocess.run([sys.executable, "-c", EACH, *BAD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] * len(BAD)
    lines = done.stderr.splitlines()
    assert len(lines) == len(BAD) and all(said in line for said, line in zip(BAD.values(), lines, strict=True)), lines
    assert not new_lab.exists()
    assert "There is no query 'nonsense'" in refused(run(FLOW, "--queries", "nonsense"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/api", "No server answers at"),
        ("http://127.0.0.1:4200", "The API address contains /api: use http://127.0.0.1:4200/api"),
        ("localhost:4200/api", "does not begin with http:// or https://"),
    ],
)
def test_a_server_that_cannot_be_used_is_said(new_lab: Path, url: str, said: str) -> None:
    assert said in refused(run(FLOW, PREFECT_API_URL=url))


def test_a_setting_that_prefect_alone_reads_and_cannot_is_said(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "cannot read its settings (level: Input should be 'DEBUG'"
    done = run(FLOW, PREFECT_LOGGING_LEVEL="nonsense")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr.splitlines()[-1], "after what Prefect itself says of it"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "nonsense")
    with pytest.raises(settings.CannotRun, match=re.escape(said)):
        server.use()  # in a process that has imported Prefect already


def test_a_folder_that_cannot_be_written_is_said_where_all_else_is_named(shared_lab: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    named = {"PREFECT_API_URL": shared_lab, "WAREHOUSE_URL": warehouse.url()}
    assert "cannot be used" in refused(run(FLOW, **named, FLOWS_LAB_DIR=str(tmp_path / "file" / "lab")))


@pytest.mark.long
def test_a_server_that_hangs_is_said(new_lab: Path) -> None:
    import socket

    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}/api"
        assert "did not answer within" in refused(run(FLOW, PREFECT_API_URL=url))


@pytest.mark.long
def test_the_flow_is_deployed_as_typed_and_run_by_a_worker(shared_lab: str, tmp_path: Path) -> None:
    cli = partial(prefect, PREFECT_API_URL=shared_lab, PREFECT_HOME=str(tmp_path), COLUMNS="200")
    cli("deploy", "flows/prefect_flow.py:main_etl")
    deployment = httpx.get(f"{shared_lab}/deployments/name/main_etl/main_etl").json()
    assert deployment["pull_steps"][0]["prefect.deployments.steps.set_working_directory"] == {
        "directory": str(settings.PROJECT)
    }
    httpx.delete(f"{shared_lab}/concurrency_limits/tag/{limits.TAG}").raise_for_status()
    body = {"parameters": {"queries": FEW.split(",")}}
    created = httpx.post(f"{shared_lab}/deployments/{deployment['id']}/create_flow_run", json=body).json()
    cli("worker", "start", "--pool", "flows", "--run-once")
    ended = httpx.get(f"{shared_lab}/flow_runs/{created['id']}").json()
    assert ended["state_name"] == "Completed", ended["state"]
    assert [row["query"] for row in notes.recorded(created["id"])] == FEW.split(",")
    assert cli("concurrency-limit", "ls").count(f" {limits.TAG} ") == 1


def test_peak_and_ideal() -> None:
    assert peak_concurrency([]) == 0
    assert peak_concurrency([(0, 1), (1, 2), (1.5, 3)]) == 2, "one may start as another ends"
    assert ideal_seconds([1.0] * 20, 3) == 7
    assert ideal_seconds([5.0, 1.0, 1.0], 3) == 5
    assert ideal_seconds([1.0, 2.0, 3.0], 2) == 3
    assert ideal_seconds([1.0, 2.0], None) == 2
    assert ideal_seconds([], 3) == 0
