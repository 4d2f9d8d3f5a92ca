"""The metrics of all limits, read with Prometheus' own parser."""

from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.commands import run, start
from support.servers import free_port
from support.waiting import eventually

from flows import limits
from flows.api import endpoints, rest

METRICS = "scripts/metrics.py"
ODD = 'an "odd" name'


def parsed(text: str) -> dict[tuple[str, ...], float]:
    """Return the values by the metric's name and its labels' values, of metrics that say what they are."""
    families = list(text_string_to_metric_families(text))
    assert all(family.type == "gauge" and family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, *(one.labels[key] for key in sorted(one.labels, reverse=True))): one.value for one in samples}


def task_run(flow_run: str, number: int, type_: str, name: str) -> str:
    one = {"flow_run_id": flow_run, "name": f"a-{number}", "task_key": "a", "dynamic_key": str(number)}
    return rest.call("POST", "task_runs/", one | {"tags": ["database"], "state": {"type": type_, "name": name}})["id"]


def test_the_metrics_in_a_file_are_what_the_server_counts(shared_lab: str, tmp_path: Path) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})["id"]
    running = {"type": "RUNNING", "name": "Running"}
    flow_run = rest.call("POST", "flow_runs/", {"flow_id": flow, "state": running})["id"]
    holder = task_run(flow_run, 0, "RUNNING", "Running")
    rest.call("POST", "concurrency_limits/increment", {"names": ["database"], "task_run_id": holder})
    rest.send(endpoints.change_counter("tag:database", active_slots=3))  # two of which nobody holds
    waiting = [task_run(flow_run, number, "PENDING", "Pending") for number in (1, 2)]
    task_run(flow_run, 3, "SCHEDULED", "AwaitingRetry")
    limits.ensure(ODD, 2, "global")
    file = tmp_path / "flows.prom"
    file.write_text("what was there before")
    with file.open() as old:
        done = run(METRICS, "--file", str(file))
        assert done.returncode == 0, done.stderr
        assert old.read() == "what was there before", "a reader sees the old file or the new one"
    rest.send(endpoints.delete("v2/concurrency_limits", ODD))
    assert list(tmp_path.iterdir()) == [file]
    values = parsed(file.read_text())
    of_tag = {name: value for (name, *labels), value in values.items() if labels == ["database", "tag"]}
    waited = of_tag.pop("flows_task_runs_longest_wait_seconds")
    assert of_tag == {
        "flows_slots": 3,
        "flows_slots_taken": 3,
        "flows_slots_held": 1,
        "flows_task_runs_waiting": len(waiting),
        "flows_task_runs_retrying": 1,
    }
    assert waited > 0
    assert values["flows_slots", ODD, "global"] == 2
    assert values["flows_slots_taken", ODD, "global"] == 0
    assert values["flows_server_up",] == 1


def test_a_server_that_is_gone_is_a_metric_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    port = free_port()
    process = start(METRICS, "--port", str(port))
    try:
        eventually(lambda: psutil.Process(process.pid).net_connections())
        listening = [one.laddr.ip for one in psutil.Process(process.pid).net_connections() if not one.raddr]
        assert listening == ["127.0.0.1"]
        assert parsed(httpx.get(f"http://127.0.0.1:{port}/metrics").text) == {("flows_server_up",): 0}
    finally:
        process.terminate()
        process.communicate()
    done = run(METRICS)
    assert done.returncode == 2 and parsed(done.stdout) == {("flows_server_up",): 0}
    assert done.stderr.count("\n") == 1 and "No server answers" in done.stderr
