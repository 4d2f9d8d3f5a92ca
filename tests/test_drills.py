"""Fault drills: each runs the 20 queries, does one bad thing in the middle, and checks everything at the end.

docs/faults.md lists all twenty; those that are not here are beside what they belong to. Each lab is real, and so is
each fault, but for the step of the clock.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import psycopg
import pytest
from support.commands import FLOW, answer, prefect, run, start, start_prefect
from support.drills import Record, alter, check, ended, recorded
from support.labs import kill, slots
from support.runs import blocked, in_the_middle, staging, tables
from support.waiting import eventually

from flows import lab, limits, mart, notes, recovery, settings, warehouse
from flows.api import endpoints, rest
from flows.lab import gateway, keys, prefect_server

pytestmark = pytest.mark.long
STEP = 600  # seconds
Tables = dict[str, list[tuple]]


@pytest.fixture
def expected(full_mart: Tables) -> Tables:
    """Return the rows of all queries, and remove the mart, so that what is in it later is from the drilled run."""
    mart.path().unlink()
    return {name: full_mart[name] for name in warehouse.names()}


def logs(run_id: str) -> str:
    return "\n".join(line["message"] for line in rest.rows(endpoints.logs(flow_run=run_id)))


def state(run_id: str) -> dict:
    return rest.send(endpoints.flow_run(run_id))["state"]


def test_1_the_flow_s_process_is_killed(shared_lab: str, expected: Tables) -> None:
    with recorded() as record:
        with blocked():
            flow, run_id = in_the_middle()
            flow.kill()
            flow.communicate()
        assert slots() > 0 and len(staging()) == 1, "nothing tidied up, which is what the next run is for"
        assert len(check(run_id, expected)) == 20, "the next run did them all"
        assert record.peak() <= 3 and record.refused() == 0
    assert (state(run_id)["name"], state(run_id)["message"]) == ("Crashed", recovery.KILLED)
    assert rest.rows(endpoints.task_runs(flow_run=run_id, state=["RUNNING"])) == []


def away_in_the_middle(name: str, seconds: float, expected: Tables, cause: str) -> str:
    """Kill a part of the lab in the middle of a run, which has to complete all the same; return the flow run's id."""
    with contextlib.suppress(psycopg.OperationalError), blocked():  # whose connection ends with PostgreSQL
        flow, run_id = in_the_middle()
        kill(name)
    time.sleep(seconds)
    lab.up()
    said = ended(flow)
    assert (said.code, said.report["state"], said.report["completed"]) == (0, "Completed", 20), said.err
    assert check(run_id, expected, said.err, cause=cause) == []
    return run_id


def test_2_the_prefect_server_is_killed_and_back_after_25_seconds(shared_lab: str, expected: Tables) -> None:
    with recorded() as record:
        run_id = away_in_the_middle("prefect", 25, expected, cause="No server answers at")
        assert record.peak() <= 3 and record.refused() == 0
    query_runs = endpoints.task_runs(flow_run=run_id, tag=limits.TAG, state=["COMPLETED"])
    eventually(lambda: len(rest.rows(query_runs)) == 20)


def test_3_postgresql_is_killed_and_restarted_after_5_seconds(shared_lab: str, expected: Tables) -> None:
    """The source and the server's database are gone at once; who answers for the server says 500."""
    away_in_the_middle("postgres", 5, expected, cause="Look at the server's log for the cause. The run goes on")


def test_4_a_worker_is_killed(shared_lab: str, expected: Tables, tmp_path: Path) -> None:
    """Its flow run goes on without it."""
    environment = {"PREFECT_HOME": str(tmp_path)}
    prefect("deploy", "--all", **environment)
    deployment = rest.call("GET", "deployments/name/main_etl/main_etl")["id"]
    run_id = rest.send(endpoints.create_flow_run(deployment, {}))["id"]
    beats = environment | {"PREFECT_WORKER_HEARTBEAT_SECONDS": "5"}  # and is offline after three without one
    worker = start_prefect("worker", "start", "--pool", "flows", "--name", "drilled", **beats)
    with recorded() as record:
        with blocked():
            eventually(lambda: slots() == 3 and len(staging()) == 1)
            worker.kill()
            worker.communicate()
        eventually(lambda: state(run_id)["type"] in endpoints.FINAL)
        assert state(run_id)["name"] == "Completed"
        eventually(lambda: workers()["drilled"] == "OFFLINE", 150)
        assert check(run_id, expected, str(workers()), cause="'drilled': 'OFFLINE'") == []
        assert record.peak() <= 3 and record.refused() == 0


def workers() -> dict[str, str]:
    return {worker["name"]: worker["status"] for worker in rest.call("POST", "work_pools/flows/workers/filter", {})}


def test_6_the_gateway_is_away_for_10_seconds(copied_lab: Path) -> None:
    url = str(lab.up("gateway").api_url)
    assert run(FLOW, "--json").returncode == 0
    all_tables = tables()
    mart.path().unlink()
    with recorded() as record:
        with blocked():
            flow, run_id = in_the_middle()
            gateway.stop(copied_lab / "gateway")
        time.sleep(10)
        socket = prefect_server.socket_file(copied_lab / "prefect")
        gateway.start(copied_lab / "gateway", copied_lab / "logs" / "gateway.log", url, socket, keys.file("keys"))
        said = ended(flow)
        assert (said.code, said.report["completed"]) == (0, 20), said.err
        assert check(run_id, all_tables, said.err, cause="No server answers at") == []
        assert record.peak() <= 3 and record.refused() == 0


def test_7_the_warehouse_refuses_connections_for_10_seconds(shared_lab: str, expected: Tables) -> None:
    with recorded() as record:
        with blocked():
            flow, run_id = in_the_middle()
            alter("connection limit 0")
        time.sleep(10)
        alter("connection limit 20")
        said = ended(flow)
        assert (said.code, said.report["completed"]) == (0, 20), said.err
        eventually(lambda: "Retry 1/6" in logs(run_id))
        assert check(run_id, expected, logs(run_id), cause="too many connections for role") == []
        assert record.peak() <= 3 and record.refused() > 0


def test_8_a_query_hangs(shared_lab: str, expected: Tables) -> None:
    """The role's statement_timeout ends it, as docs/production.md advises; the others complete."""
    with recorded() as record:
        alter("set statement_timeout = '12s'")
        try:
            with blocked("partsupp"):
                said = ended(in_the_middle()[0])
        finally:
            alter("reset statement_timeout")
        assert (said.code, said.report["state"]) == (1, "Failed")
        missing = check(said.report["flow_run_id"], expected, said.err, cause="statement timeout")
        assert missing == ["cheapest_supplier_by_part_type", "margin_by_brand", "stock_value_by_region"]
        assert record.peak() <= 3 and record.refused() == 0


def test_9_a_query_fails_each_time(shared_lab: str, expected: Tables) -> None:
    """Its connection breaks in each of its seven attempts."""
    over = threading.Event()
    end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'flows best_customers'"

    def break_it() -> None:
        with psycopg.connect(lab.database("postgres"), autocommit=True) as connection:
            while not over.wait(0.02):
                connection.execute(end)

    breaking = threading.Thread(target=break_it)
    breaking.start()
    try:
        with recorded() as record:
            said = ended(start(FLOW, "--json"))
    finally:
        over.set()
        breaking.join()
    assert (said.code, said.report["state"]) == (1, "Failed")
    run_id = said.report["flow_run_id"]
    cause = "best_customers: Task run encountered an exception"
    assert check(run_id, expected, said.err, cause=cause) == ["best_customers"]
    assert record.peak() <= 3 and record.refused() == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of 3 MB, which holds the staged rows and not the mart."""
    assert os.getuid() == 0, "mounting a disk takes root; run the tests with sudo, as .ci/run does"
    (disk := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_10_the_disk_of_the_mart_is_full(
    shared_lab: str, full_mart: Tables, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.prepare()
    monkeypatch.setenv("WAREHOUSE_URL", warehouse.url())
    monkeypatch.setenv("PREFECT_API_URL", shared_lab)
    monkeypatch.setenv("FLOWS_LAB_API_URL", "")
    with recorded() as record:
        monkeypatch.setenv("FLOWS_LAB_DIR", str(disk))
        said = ended(start(FLOW, "--json"))
        assert (said.code, said.report["state"], said.report["completed"]) == (1, "Failed", 20), said.err
        assert "cannot be loaded" in said.err and "No space left" in said.err, said.err
        assert not mart.path().exists() and staging() == [] and slots() == 0
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert answer(run(FLOW, "--json"))["completed"] == 20
        assert tables() == {name: full_mart[name] for name in warehouse.names()}
        monkeypatch.undo()
        assert record.peak() <= 3 and record.refused() == 0


def test_11_the_limit_is_lowered_to_1_and_raised_to_5(shared_lab: str, expected: Tables) -> None:
    with recorded() as record:
        with blocked():
            flow, run_id = in_the_middle()
            limits.ensure(limits.TAG, 1)
        eventually(lambda: slots() <= 1)
        lowered = Record()
        eventually(lambda: len(list(staging()[0].glob("*.parquet"))) > 8)
        assert lowered.peak() == 1
        limits.ensure(limits.TAG, 5)
        said = ended(flow)
        assert said.code == 0, said.err
        assert check(run_id, expected, str(limits.read()), cause="limit=5") == []
        assert 1 < record.peak() <= 5 and record.refused() == 0


def test_12_the_limit_is_deleted(shared_lab: str, expected: Tables) -> None:
    """Prefect then starts all tasks at once, without a word; the database's own limit is what holds."""
    with recorded(limits.DEFAULT) as record:
        with blocked():
            flow, run_id = in_the_middle()
            rest.send(endpoints.delete("concurrency_limits/tag", limits.TAG))
            eventually(record.refused)  # while the first three have all connections
        said = ended(flow)
        limits.ensure(limits.TAG, 3)
        check(run_id, expected, said.err, logs(run_id), cause="too many connections for role")
        assert record.peak() <= 3


def test_13_two_flows_at_once(shared_lab: str, expected: Tables) -> None:
    with recorded() as record:
        both = [ended(flow) for flow in [start(FLOW, "--json") for _ in range(2)]]
        for said in both:
            assert (said.code, said.report["completed"]) == (0, 20), said.err
            check(said.report["flow_run_id"], expected, said.err, cause="Completed: 20 of 20 queries")
        assert record.peak() == 3 and record.refused() == 0


def test_14_the_clock_is_stepped_by_10_minutes(shared_lab: str, expected: Tables) -> None:
    """A test cannot step the clock. What the server and the run wrote down becomes 10 minutes older instead.

    The server then takes the leases of live tasks for expired, and gives their slots to others; the database refuses.
    """
    with recorded(limits.DEFAULT) as record:
        with blocked():
            flow, run_id = in_the_middle()
            eventually(lambda: len(limits.read().holders) == 3)
            before = {holder["task_run_id"] for holder in limits.read().holders}
            for lease in (settings.read().flows_lab_dir / "prefect" / "concurrency_leases").glob("*.json"):
                lease.write_text(re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", earlier, lease.read_text()))
            owner = staging()[0] / "owner.json"
            os.utime(owner, (owner.stat().st_mtime - STEP,) * 2)
            eventually(lambda: {holder["task_run_id"] for holder in limits.read().holders} - before)
            eventually(record.refused)  # while the first three have all connections
        said = ended(flow)
        assert (said.code, said.report["completed"]) == (0, 20), said.err
        assert check(run_id, expected, logs(run_id), cause="too many connections for role") == []
        assert record.peak() <= 3 and record.refused() > 0


def earlier(time: re.Match[str]) -> str:
    return (datetime.fromisoformat(time[0]) - timedelta(seconds=STEP)).isoformat()


def test_15_the_credentials_are_rotated(copied_lab: Path) -> None:
    """The key that the run began with is refused from one moment to the next; the record says what was loaded."""
    lab.up("gateway")
    assert run(FLOW, "--json").returncode == 0
    all_tables = tables()
    mart.path().unlink()
    with recorded() as record:
        with blocked():
            flow, run_id = in_the_middle()
            keys.issue(keys.FIRST)
        said = ended(flow)
        assert said.code == 2 and "failed in the middle of the run: Client error '401" in said.err
        assert check(run_id, all_tables, said.err, str(notes.recorded(run_id)), cause="one that it does not know")
        assert record.peak() <= 3 and record.refused() == 0


def test_16_everything_gets_sigterm_and_the_lab_comes_up_again(shared_lab: str, expected: Tables) -> None:
    with blocked():
        flow, run_id = in_the_middle()
        everything = [psutil.Process(pid) for pid in lab.status().pids.values()]
        for process in [flow, *everything]:
            process.send_signal(signal.SIGTERM)
        psutil.wait_procs(everything[1:], 60)
    lab.up()
    said = ended(flow)
    check(run_id, expected, said.err, cause="Interrupted")
