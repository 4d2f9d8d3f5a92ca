"""What happens to the main job when something breaks in the middle. Processes are really ended, none is pretended."""

import json
import shutil
import signal

import duckdb
import httpx
import psycopg
import pytest
from support.commands import FLOW, answer, run, start
from support.labs import kill, slots
from support.runs import blocked, in_the_middle, staging, tables
from support.waiting import eventually

from flows import lab, limits, mart, recovery, settings

pytestmark = pytest.mark.long


def take_a_slot(url: str, limit: int = 3, number: int = 1) -> str:
    """Take a slot of `limit` as Prefect's client does; return the id of the task run that then holds it."""
    limits.ensure(limits.TAG, limit)
    holder = {"type": "task_run", "id": f"00000000-0000-4000-8000-{number:012}"}
    body = {"names": ["tag:database"], "slots": 1, "mode": "concurrency", "lease_duration": 600, "holder": holder}
    taking = httpx.post(f"{url}/v2/concurrency_limits/increment-with-lease", json=body)
    assert taking.status_code == 200, taking.text
    return holder["id"]


def test_a_run_that_is_stopped_in_the_middle(shared_lab: str, full_mart: dict) -> None:
    with blocked():
        flow, run_id = in_the_middle()
        flow.send_signal(signal.SIGINT)
        out, err = flow.communicate(timeout=100)
    assert tables() == full_mart, "the old mart is intact"
    assert flow.returncode == 1 and "Traceback" not in err, err
    report = json.loads(out)
    assert report["state"] == "Cancelled" and 0 < report["failed"] <= 20 and report["flow_run_id"] == run_id
    assert httpx.get(f"{shared_lab}/flow_runs/{run_id}").json()["state_name"] == "Cancelled"
    assert staging() == [] and slots() == 0
    runs: list[dict] = []

    def recorded() -> bool:
        """Whether all ends are on the server: they reach it a moment after the flow's own."""
        of_run = {"flow_runs": {"id": {"any_": [run_id]}}}
        runs[:] = httpx.post(f"{shared_lab}/task_runs/filter", json=of_run).json()
        return len(runs) == 22 and all(found["end_time"] for found in runs)

    eventually(recorded)
    ends = [found["end_time"] for found in runs if found["tags"] == [limits.TAG] and found["end_time"]]
    (loaded,) = [found["start_time"] for found in runs if found["name"].startswith("load")]
    assert len(ends) == 20 and max(ends) <= loaded, "load and cleanup come after the last query's end"
    after = run(FLOW, "--json")
    assert answer(after)["completed"] == 20 and answer(after)["peak_concurrency"] == 3, after.stderr
    assert staging() == [] and slots() == 0


def test_a_run_that_is_stopped_while_others_hold_all_slots(shared_lab: str, full_mart: dict) -> None:
    """It ends while they hold them, which they do for as long as a lease lasts, and leaves them to them."""
    others = {take_a_slot(shared_lab, number=number) for number in range(3)}
    flow = start(FLOW, "--json")
    eventually(lambda: staging() and json.loads((staging()[0] / "owner.json").read_text())["task_runs"])
    flow.send_signal(signal.SIGINT)
    out, err = flow.communicate(timeout=100)
    held = limits.read()
    assert {holder["task_run_id"] for holder in held.holders} == others and held.active_slots == 3, err
    report = json.loads(out)
    assert (report["state"], report["failed"]) == ("Cancelled", 20) and staging() == [] and tables() == full_mart
    run_of = {"flow_runs": {"id": {"any_": [report["flow_run_id"]]}}, "task_runs": {"tags": {"all_": [limits.TAG]}}}

    def ends() -> list[str]:
        return [found["state_name"] for found in httpx.post(f"{shared_lab}/task_runs/filter", json=run_of).json()]

    eventually(lambda: ends() == ["Cancelled"] * 20)
    limits.reset()


def test_a_dead_run_s_slots_are_freed_and_no_others(shared_lab: str, full_mart: dict) -> None:
    with blocked("lineitem"):
        dead, run_id = in_the_middle("--queries", "makers_bought_together,best_customers,revenue_by_region_and_year")
        # The server hears of a task run a moment after it gave it a slot.
        eventually(lambda: {holder["flow_run_id"] for holder in limits.read().holders} == {run_id})
        dead.send_signal(signal.SIGKILL)
        dead.communicate()
    assert slots() > 0
    # Somebody else, who lives: a slot taken over the API.
    holder = take_a_slot(shared_lab, 4)
    recovery.clear_abandoned("")
    assert [found["task_run_id"] for found in limits.read().holders] == [holder]
    assert slots() == 1
    assert httpx.get(f"{shared_lab}/flow_runs/{run_id}").json()["state_name"] == "Crashed"
    assert staging() == []
    limits.reset()


def test_who_holds_a_slot_is_known_after_the_server_crashed(shared_lab: str) -> None:
    holder = take_a_slot(shared_lab)
    kill("prefect")
    assert lab.up().api_url == shared_lab
    found = limits.read()
    assert found.active_slots == 1 and [each["task_run_id"] for each in found.holders] == [holder]
    limits.reset()


def test_a_slot_that_the_server_counted_for_nobody_is_free_after_its_crash(shared_lab: str) -> None:
    holder = take_a_slot(shared_lab)
    # What a server does that is killed between the two writes: the slot is counted, its lease is not there.
    httpx.patch(f"{shared_lab}/v2/concurrency_limits/tag:database", json={"active_slots": 3}).raise_for_status()
    kill("prefect")
    lab.up()
    found = limits.read()
    assert found.active_slots == 1 and [each["task_run_id"] for each in found.holders] == [holder]
    limits.reset()


def test_a_mart_that_cannot_be_loaded_keeps_its_old_tables(shared_lab: str, full_mart: dict) -> None:
    """Loading fails, cleanup comes all the same, and the run says so."""
    with duckdb.connect(str(mart.path())) as connection:
        connection.execute("alter table busiest_clerks rename to other; create view busiest_clerks as from other")
    try:
        done = run(FLOW, "--queries", "busiest_clerks", "--json")
        assert done.returncode == 1 and answer(done)["state"] == "Failed"
        assert "Failed: " in done.stderr and "is of type View" in done.stderr and "Traceback" not in done.stderr
        assert staging() == [] and slots() == 0
    finally:
        with duckdb.connect(str(mart.path())) as connection:
            connection.execute("drop view busiest_clerks; alter table other rename to busiest_clerks")
    assert tables() == full_mart


@pytest.mark.parametrize("suffix", ["", ".new"])
def test_staging_that_nobody_owns_any_more_is_removed(shared_lab: str, full_mart: dict, suffix: str) -> None:
    left = settings.read().flows_lab_dir / "staging" / f"00000000-0000-4000-8000-000000000000{suffix}"
    left.mkdir(parents=True)
    (left / "owner.json").write_text(json.dumps({"server": "the lab"}))
    assert run(FLOW, "--queries", "busiest_clerks").returncode == 0
    assert not left.exists()
    shutil.rmtree(left, ignore_errors=True)


def test_queries_of_a_run_that_is_interrupted_are_cancelled_in_the_database(shared_lab: str, full_mart: dict) -> None:
    with blocked():
        flow, _ = in_the_middle()
        flow.send_signal(signal.SIGINT)
        flow.communicate(timeout=100)
    with psycopg.connect(lab.database("warehouse")) as connection:
        running = "select count(*) from pg_stat_activity where usename = 'etl'"
        assert connection.execute(running).fetchone() == (0,)
