"""A run of the main job that is told to stop, in whatever way; one that is tried again; one that stood still."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from support.commands import FLOW, answer, prefect, run, start, start_prefect
from support.drills import recorded
from support.labs import slots
from support.runs import blocked, in_the_middle, staging, tables
from support.waiting import eventually

from flows import interruption, limits, mart, notes, settings, warehouse
from flows.api import endpoints, rest
from flows.api import slots as slots_of_global

STANDS = """
import sys, time
import psycopg
from flows import notes, warehouse
with notes.staging(sys.argv[1]) as staging, notes.noting(staging, "busiest_clerks"):
    held = [psycopg.connect(warehouse.url()) for _ in range(3)]
    print("holds", flush=True)
    time.sleep(100)
"""


def set_state(run_id: str, kind: str, name: str) -> None:
    rest.send(endpoints.set_state(run_id, kind, name, force=True))


STOPS = {
    "SIGTERM": lambda flow, _: flow.send_signal(signal.SIGTERM),
    "SIGHUP": lambda flow, _: flow.send_signal(signal.SIGHUP),
    "cancelling": lambda _, run_id: set_state(run_id, "CANCELLING", "Cancelling"),
    "cancelled": lambda _, run_id: set_state(run_id, "CANCELLED", "Cancelled"),
    "deleted": lambda _, run_id: rest.send(endpoints.delete("flow_runs", run_id)),
}
SAYS = dict.fromkeys(["cancelling", "cancelled"], "Cancelled on the server") | {"deleted": interruption.DELETED}


@pytest.mark.long
@pytest.mark.parametrize("how", STOPS)
def test_a_run_that_is_told_to_stop_stops(how: str, shared_lab: str, full_mart: dict) -> None:
    """It loads what is done, cleans up, gives its slots back, prints its JSON, and ends Cancelled."""
    with recorded() as record, blocked("lineitem"):  # which most queries read, so that the run would last
        flow, run_id = in_the_middle()
        tasks = endpoints.task_runs(flow_run=run_id, state=["PENDING", "SCHEDULED"])
        eventually(lambda: rest.rows(tasks))  # the server receives them a moment later
        waiting = {task["name"].rpartition("-")[0] for task in rest.rows(tasks)}
        assert waiting and waiting <= {*warehouse.names()}, "each is named after its query also while it waits"
        told = time.monotonic()
        STOPS[how](flow, run_id)
        out, err = flow.communicate(timeout=100)
        took = time.monotonic() - told
        assert record.peak() <= 3 and record.refused() == 0
    assert flow.returncode == 1 and "Traceback" not in err, err
    assert f"{SAYS.get(how, 'Interrupted')}: cancelling what runs." in err
    report = json.loads(out)
    assert (report["state"], report["flow_run_id"], report["queries"]) == ("Cancelled", run_id, 20)
    assert 0 < report["failed"] <= 20 and report["peak_concurrency"] <= 3
    assert staging() == [] and slots() == 0
    assert tables() == full_mart, "the tables of what had not ended are the old ones"
    shown = httpx.get(f"{shared_lab}/flow_runs/{run_id}")
    assert shown.status_code == 404 if how == "deleted" else shown.json()["state_name"] == "Cancelled"
    began = time.monotonic()
    after = answer(run(FLOW, "--json"))
    assert after["completed"] == 20, "the next run works"
    assert took < time.monotonic() - began, "stopping takes less than a whole run"
    query_runs = endpoints.task_runs(flow_run=after["flow_run_id"], tag=limits.TAG, state=["COMPLETED"])
    eventually(lambda: len(rest.rows(query_runs)) == 20)  # which, once a run was deleted, may take a while


@pytest.mark.long
def test_a_terminal_that_is_closed_stops_the_run(shared_lab: str) -> None:
    """With its window, or its connection over ssh: the kernel sends SIGHUP, and nobody reads what is printed."""
    mart.path().unlink(missing_ok=True)
    terminal, end = pty.openpty()
    os.set_blocking(terminal, False)
    with blocked("lineitem"):
        flow = subprocess.Popen(
            [sys.executable, FLOW, "--queries", "busiest_clerks,lines_per_order"],
            cwd=settings.PROJECT, stdin=end, stdout=end, stderr=end, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY),
        )  # fmt: skip
        os.close(end)
        shown = b""

        def one_is_done() -> bool:
            nonlocal shown
            with contextlib.suppress(BlockingIOError):
                shown += os.read(terminal, 65536)
            return b"1 done" in shown and notes.unfinished(staging()[0]) == ["lines_per_order"]

        try:
            eventually(one_is_done)
            run_id = staging()[0].name
            os.close(terminal)
            assert flow.wait(100) == 1
        finally:
            flow.kill()
            flow.wait()
    assert rest.send(endpoints.flow_run(run_id))["state_name"] == "Cancelled"
    assert {row["query"]: row["state"] for row in notes.recorded(run_id)} == {
        "busiest_clerks": "Completed",
        "lines_per_order": "Cancelled",
    }
    assert list(tables()) == ["busiest_clerks"]
    assert staging() == [] and slots() == 0


@pytest.mark.long
def test_below_nohup_a_closed_terminal_ends_nothing(shared_lab: str) -> None:
    command = ["nohup", sys.executable, FLOW, "--json", "--queries", "busiest_clerks,lines_per_order"]
    with subprocess.Popen(command, cwd=settings.PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as flow:
        with blocked():
            eventually(lambda: len(staging()) == 1)
            flow.send_signal(signal.SIGHUP)
        out, _ = flow.communicate(timeout=100)
    assert json.loads(out.splitlines()[-1])["completed"] == 2


@pytest.mark.long
def test_a_killed_run_that_is_tried_again_is_not_taken_for_a_dead_one(shared_lab: str, tmp_path: Path) -> None:
    """Its second attempt finds what the first one left, and so does a run beside it. Its state stays its own."""
    queries = ["lines_per_order", "margin_by_brand", "returns_by_nation", "supplier_concentration"]  # of lineitem

    worker = ("worker", "start", "--pool", "flows", "--run-once")
    prefect("deploy", "flows/prefect_flow.py:main_etl", PREFECT_HOME=str(tmp_path))
    deployment = rest.call("GET", "deployments/name/main_etl/main_etl")["id"]
    run_id = rest.send(endpoints.create_flow_run(deployment, {"queries": queries}))["id"]
    with blocked("lineitem"):
        first = start_prefect(*worker, PREFECT_HOME=str(tmp_path))
        eventually(lambda: slots() == 3 and len(staging()) == 1)
        os.kill(json.loads((staging()[0] / "owner.json").read_text())["pid"], signal.SIGKILL)
        first.communicate(timeout=100)
    assert len(staging()) == 1, "the first attempt's folder is there"
    set_state(run_id, "SCHEDULED", "AwaitingRetry")
    with blocked("lineitem"):
        second = start_prefect(*worker, PREFECT_HOME=str(tmp_path))
        eventually(lambda: rest.send(endpoints.flow_run(run_id))["state_name"] in ("Running", "Retrying"))
        eventually(lambda: len(staging()) == 1 and slots() == 3)
        beside = start(FLOW, "--json", "--queries", "customers_without_orders")
        eventually(lambda: len(staging()) == 2)
        state = rest.send(endpoints.flow_run(run_id))
        assert state["state_type"] == "RUNNING", state["state"]
    second.communicate(timeout=100)
    assert second.returncode == 0
    out, err = beside.communicate(timeout=100)
    assert answer(subprocess.CompletedProcess("", 0, out, err))["completed"] == 1
    assert rest.send(endpoints.flow_run(run_id))["state_name"] == "Completed"
    assert staging() == [] and slots() == 0


def expire(shared_folder: Path) -> None:
    """Give back the slots of all leases, as the server does when they expire."""
    for lease in (shared_folder / "prefect" / "concurrency_leases").glob("*-*.json"):
        rest.call("POST", "v2/concurrency_limits/decrement-with-lease", {"lease_id": lease.stem})


@pytest.mark.long
@pytest.mark.parametrize("expires", ["by itself", "early"])
def test_a_run_that_stood_still_does_not_go_on_beside_the_limit(
    expires: str, shared_lab: str, shared_folder: Path, full_mart: dict
) -> None:
    """Its slots expire while it is stopped, and others get them; they are told who keeps the connections.

    A lease that was about to be renewed expires 15 s after the process was stopped, a new one after 60 s.
    """
    with recorded(limits.DEFAULT) as record, blocked():  # so that all three of the run's queries keep their slots
        stopped, run_id = in_the_middle()
        # The server hears of a task run a moment after it gave it a slot.
        eventually(lambda: {holder["flow_run_id"] for holder in limits.read().holders} == {run_id})
        stopped.send_signal(signal.SIGSTOP)
        other, printed = start(FLOW, "--json", "--queries", "lines_per_order,returns_by_nation"), bytearray()

        def noticed() -> bool:
            if select.select([other.stderr], [], [], 0)[0]:
                printed.extend(os.read(other.stderr.fileno(), 65536))
            return b"has stood still" in printed

        try:
            eventually(lambda: len(staging()) == 2)
            if expires == "early":
                eventually(noticed)
                expire(shared_folder)
            eventually(lambda: run_id not in {holder["flow_run_id"] for holder in limits.read().holders}, 150)
            eventually(lambda: slots() == 2)
        finally:
            stopped.send_signal(signal.SIGCONT)
        out, err = stopped.communicate(timeout=100)
    assert json.loads(out)["state"] == "Cancelled"
    assert "Others got the slots of this run while it stood still" in err
    out, err = other.communicate(timeout=100)
    assert json.loads(out)["completed"] == 2, err
    err = printed.decode() + err
    assert f"The run {run_id} has stood still" in err and f"kill -CONT {stopped.pid}" in err
    assert record.peak() <= 3
    assert answer(run(FLOW, "--json"))["completed"] == 20 and tables() == full_mart
    assert staging() == [] and slots() == 0


@pytest.fixture
def global_limit(shared_lab: str) -> Iterator[None]:
    """Give the lab a global limit of 3 until the test ends, which has to free its slots."""
    limits.ensure(limits.TAG, 3, "global")
    yield
    taken = limits.read(kind="global").active_slots
    rest.send(endpoints.delete("v2/concurrency_limits", limits.TAG))
    assert taken == 0


@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGTERM", "cancelled"])
def test_a_run_whose_queries_all_wait_for_a_global_limit_stops(how: str, full_mart: dict, global_limit: None) -> None:
    with contextlib.ExitStack() as others:
        for _ in range(3):
            others.enter_context(slots_of_global.held(limits.TAG))
        flow = start(FLOW, "--json", "--limit-by", "global")
        eventually(lambda: staging() and notes.noted(staging()[0], "owner").get("task_runs"))
        STOPS[how](flow, staging()[0].name)
        out, err = flow.communicate(timeout=100)  # while the others go on holding all slots
        assert limits.read(kind="global").active_slots == 3
    assert flow.returncode == 1 and "Traceback" not in err, err
    report = json.loads(out)
    assert (report["state"], report["failed"], report["peak_concurrency"]) == ("Cancelled", 20, 0)
    assert tables() == full_mart and staging() == []


@pytest.mark.long
@pytest.mark.parametrize("taken", [0, 3])
def test_a_run_that_lost_its_slots_of_a_global_limit(taken: int, shared_folder: Path, global_limit: None) -> None:
    """If nobody got them, it takes them again and goes on; otherwise it stops."""
    with contextlib.ExitStack() as at_end:
        holding = at_end.enter_context(blocked("lineitem"))
        queries = "lines_per_order,margin_by_brand,returns_by_nation"
        flow = start(FLOW, "--json", "--limit-by", "global", "--queries", queries)
        eventually(lambda: staging() and len(notes.unfinished(staging()[0])) == 3)
        flow.send_signal(signal.SIGSTOP)
        expire(shared_folder)
        assert limits.read(kind="global").active_slots == 0
        for _ in range(taken):
            at_end.enter_context(slots_of_global.held(limits.TAG))
        flow.send_signal(signal.SIGCONT)
        if not taken:
            eventually(lambda: limits.read(kind="global").active_slots == 3)
            holding.rollback()
        out, err = flow.communicate(timeout=100)
    report = json.loads(out)
    assert (report["state"], report["completed"]) == (("Cancelled", 0) if taken else ("Completed", 3)), err
    assert ("Others got the slots of this run while it stood still" in err) is bool(taken)


@pytest.mark.long
def test_a_refused_connection_names_the_run_that_keeps_them(shared_lab: str, tmp_path: Path, monkeypatch) -> None:
    warehouse.prepare()
    monkeypatch.setattr(notes, "STILL", 1)
    still = subprocess.Popen([sys.executable, "-c", STANDS, "stands"], stdout=subprocess.PIPE, text=True)
    try:
        assert still.stdout.readline() == "holds\n"
        still.send_signal(signal.SIGSTOP)
        expected = rf"too many connections.*The run stands has stood still .*kill -CONT {still.pid}\)"
        eventually(lambda: notes.standing_still(tmp_path))
        with pytest.raises(psycopg.OperationalError, match=expected), interruption.connection("any", tmp_path):
            pass
    finally:
        still.kill()
        still.communicate()
    assert notes.standing_still(tmp_path) == {}, "it is dead, and holds nothing"
    assert [folder.name for folder, _ in notes.abandoned()] == ["stands"]
    run(FLOW, "--queries", "busiest_clerks")
    assert staging() == []
