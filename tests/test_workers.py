"""The deployment of `prefect.yaml`, run by workers: its own limit of flow runs, and the tag's limit for all of them."""

import json
import os
import re
import shutil
import signal
from datetime import datetime
from pathlib import Path

import pytest
from support.commands import FLOW, prefect, run, start, start_prefect
from support.drills import recorded
from support.labs import slots
from support.runs import blocked, staging
from support.waiting import eventually

from flows import limits, settings
from flows.api import endpoints, rest
from flows.lab import prefect_server
from flows.report import peak_concurrency

pytestmark = pytest.mark.long
QUERIES = ["customers_without_orders", "lines_per_order", "growth_by_nation", "open_orders_by_priority"]
TIMES = ("start_time", "end_time")
WORKER = ("worker", "start", "--pool", "flows")


def ended(runs: set[str]) -> bool:
    return all(rest.send(endpoints.flow_run(run))["state_type"] in endpoints.FINAL for run in runs)


def spans(rows: list[dict]) -> list[tuple[float, float]]:
    unix = [[datetime.fromisoformat(re.sub("Z$", "+00:00", row[key])).timestamp() for key in TIMES] for row in rows]
    return [(start, end) for start, end in unix]


def test_two_workers_keep_both_limits(shared_lab: str, tmp_path: Path) -> None:
    """The tag's, for the queries of all runs together, and the deployment's, for the runs: no copy of git is there."""
    folder = tmp_path / "plain folder"
    shutil.copytree(settings.PROJECT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(settings.PROJECT / "prefect.yaml", folder)
    environment = {"PREFECT_HOME": str(tmp_path / "home")}
    prefect("deploy", "--all", cwd=folder, **environment)
    deployment = rest.call("GET", "deployments/name/main_etl/main_etl")
    assert deployment["tags"] == ["etl"] and deployment["parameters"]["limit_by"] == "tag"
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    at_once = deployment["global_concurrency_limit"]["limit"]
    create = endpoints.create_flow_run(deployment["id"], {"queries": QUERIES})
    workers = [start_prefect(*WORKER, "--limit", "3", **environment) for _ in range(2)]
    try:
        with recorded() as record:
            runs = {run["id"] for run in rest.gather([create] * 6)}
            eventually(lambda: ended(runs), 240)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        shown = ["".join(worker.communicate(timeout=200)) for worker in workers]
    flow_runs = rest.rows(endpoints.flow_runs())
    mine = [run for run in flow_runs if run["id"] in runs]
    assert {run["state_name"] for run in mine} == {"Completed"}, shown
    assert peak_concurrency(spans(mine)) == at_once, "the deployment's limit of flow runs"
    of_runs = endpoints.task_runs(tag=limits.TAG, state=["COMPLETED"])

    def completed() -> list[dict]:
        return [task for task in rest.rows(of_runs) if task["flow_run_id"] in runs]

    eventually(lambda: len(completed()) == 6 * len(QUERIES))  # the server receives the last ones a moment later
    tasks = completed()
    assert peak_concurrency(spans(tasks)) <= 3 and record.peak() <= 3 and record.refused() == 0
    assert record.peak() > 1, "queries ran at the same time"
    assert all(any(f"'{run['name']}'" in text for run in mine) for text in shown), "each worker ran some"
    assert slots() == 0 and staging() == []


def test_a_run_that_died_with_its_worker_becomes_crashed_and_a_live_one_stays(shared_lab: str, tmp_path: Path) -> None:
    """The lab's automation, with less patience, ends it. A live run sends heartbeats; one of the command sends none."""
    (automation,) = rest.call("POST", "automations/filter", {})
    patient = json.loads(prefect_server.ZOMBIES.read_text())
    impatient = patient | {"trigger": patient["trigger"] | {"within": 50}}
    rest.call("PUT", f"automations/{automation['id']}", impatient)
    environment = {"PREFECT_HOME": str(tmp_path), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    prefect("deploy", "--all", **environment)
    deployment = rest.call("GET", "deployments/name/main_etl/main_etl")["id"]
    create = endpoints.create_flow_run(deployment, {"queries": QUERIES[1:3]})
    workers = []
    try:
        with blocked("lineitem"):
            runs = []
            for number in range(2):
                runs.append(rest.send(create)["id"])
                workers.append(start_prefect(*WORKER, "--limit", "1", **environment))
                eventually(lambda number=number: len(staging()) == number + 1)
            command = start(FLOW, "--queries", QUERIES[1], "--json")
            eventually(lambda: len(staging()) == 3)
            of_first = next(folder for folder in staging() if folder.name == runs[0])
            pid = json.loads((of_first / "owner.json").read_text())["pid"]
            for dead in (workers[0].pid, pid):
                os.kill(dead, signal.SIGKILL)
            eventually(lambda: ended({runs[0]}), 150)
            crashed = rest.send(endpoints.flow_run(runs[0]))
            assert crashed["state_name"] == "Crashed" and "heartbeats" in crashed["state"]["message"]
            running = rest.rows(endpoints.flow_runs(state=["RUNNING"]))
            assert {run["id"] for run in running} == {folder.name for folder in staging()} - {runs[0]}
        out, err = command.communicate(timeout=100)
        assert json.loads(out)["state"] == "Completed", err
        eventually(lambda: ended({runs[1]}))
        assert rest.send(endpoints.flow_run(runs[1]))["state_name"] == "Completed"
    finally:
        rest.call("PUT", f"automations/{automation['id']}", patient)
        for worker in workers:
            worker.send_signal(signal.SIGINT)
            worker.communicate(timeout=200)
    assert run(FLOW, "--queries", QUERIES[0]).returncode == 0
    assert slots() == 0 and staging() == []
