"""The kit's commands in the second environment, on a lab of Prefect 2.13.7: interrupted, killed, deployed, measured.

    uv run pytest -m versions

tests/test_versions.py tests what a client can request from such a server.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from support.commands import FLOW, LAB, LIMIT, answer, prefect, run, start
from support.runs import blocked
from support.servers import forget_servers
from support.waiting import eventually

from flows import limits, notes, settings, warehouse
from flows.api import endpoints, rest, server

pytestmark = pytest.mark.versions
PYTHON = settings.PROJECT / ".venv-prefect2/bin/python"
QUICK = "busiest_clerks,lines_per_order,open_orders_by_priority"  # no more than the limit, so that none waits

MOVES = """
import os
from flows.api import credentials
for url, certificate in (("https://lab/api", "/lab.pem"), ("https://lab/api", "/lab.pem"), ("http://other/api", None)):
    credentials.use(url, certificate=certificate)
    print(os.environ.get("SSL_CERT_FILE"))
"""

INCIDENTS = """
import incidents, lessons
lessons.begin()
incidents.draw(1)
for _ in range(7):
    incident = incidents.next()
    incident.check()
    exec(incidents.TEXTS[incident.name]["solution"], {})
    incident.check()
lessons.end()
"""

begin, done = functools.partial(start, python=PYTHON), functools.partial(run, python=PYTHON)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a lab of Prefect 2.13.7."""
    assert PYTHON.exists(), f"{PYTHON} not found; docs/versions.md explains how to make the second environment"
    folder = tmp_path_factory.mktemp("prefect2") / ".lab"
    try:
        up = done(LAB, "up", "--json", FLOWS_LAB_DIR=str(folder))
        assert answer(up)["prefect_version"] == "2.13.7", up.stderr
        yield folder
    finally:
        done(LAB, "reset", FLOWS_LAB_DIR=str(folder))


@pytest.fixture
def url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the API address of that lab, which this process and the commands then use."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    warehouse.prepare()
    return server.attach()


def test_incidents_can_be_mended_and_are_not_over_by_themselves(url: str) -> None:
    folder = settings.PROJECT / "notebooks"
    mended = subprocess.run([PYTHON, "-c", INCIDENTS], cwd=folder, capture_output=True, text=True, timeout=600)
    verdicts = [line.split(":")[0] for line in mended.stdout.splitlines() if line.startswith(("Right: ", "Not yet: "))]
    assert verdicts == 7 * ["Not yet", "Right"], mended.stdout + mended.stderr


def test_the_trusted_certificate_changes_with_the_server() -> None:
    for own in ("", certifi.where()):
        environment = os.environ | {"SSL_CERT_FILE": own}
        moves = subprocess.run([PYTHON, "-c", MOVES], env=environment, capture_output=True, text=True, check=True)
        assert moves.stdout.split() == ["/lab.pem", "/lab.pem", own or "None"]


def slots(kind: limits.Kind) -> int:
    limit = limits.read(kind=kind)
    return limit.active_slots if limit else 0


def staging() -> list[Path]:
    return list((settings.read().flows_lab_dir / "staging").glob("*"))


@contextlib.contextmanager
def in_the_middle(kind: limits.Kind) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a main job whose first three queries run, blocked by a lock on the tables, and its flow run's id."""
    with blocked():
        flow = begin(FLOW, "--limit-by", kind, "--json")
        try:
            eventually(lambda: slots(kind) == 3 and sum(len(notes.unfinished(folder)) for folder in staging()) == 3)
            yield flow, staging()[0].name
        finally:
            flow.kill()
            flow.communicate()


def state(run_id: str) -> str:
    return rest.send(endpoints.flow_run(run_id))["state_name"]


@pytest.mark.parametrize("kind", ["tag", "global"])
def test_after_ctrl_c_it_ends_and_leaves_nothing(kind: limits.Kind, url: str) -> None:
    with in_the_middle(kind) as (flow, run_id):
        flow.send_signal(signal.SIGINT)
        out, err = flow.communicate(timeout=100)  # tasks that wait for a tag's slot would go on asking for 180 s
    assert flow.returncode == 1 and "Traceback" not in err, err
    report = json.loads(out)
    assert (report["state"], report["flow_run_id"], report["queries"]) == ("Cancelled", run_id, 20)
    assert report["failed"] > 0 and state(run_id) == "Cancelled"
    assert (slots(kind), staging()) == (0, [])


def test_a_run_that_is_deleted_ends_and_leaves_nothing(url: str) -> None:
    with in_the_middle("tag") as (flow, run_id):
        rest.send(endpoints.delete("flow_runs", run_id))
        out, err = flow.communicate(timeout=100)  # as above
    assert flow.returncode == 1 and "Traceback" not in err, err
    report = json.loads(out)
    assert (report["state"], report["flow_run_id"], report["queries"]) == ("Cancelled", run_id, 20)
    assert "Cancelled: The flow run was deleted on the server." in err
    assert (slots("tag"), staging()) == (0, [])


@pytest.mark.parametrize("kind", ["tag", "global"])
def test_after_kill_9_the_next_run_frees_its_slots(kind: limits.Kind, url: str) -> None:
    with in_the_middle(kind) as (flow, run_id):
        flow.kill()
    assert (slots(kind), len(staging()), state(run_id)) == (3, 1, "Running")
    # If the dead run kept its slots, this one would wait forever.
    again = answer(done(FLOW, "--queries", QUICK, "--limit-by", kind, "--json"))
    assert (again["state"], again["completed"]) == ("Completed", 3)
    assert (slots(kind), staging(), state(run_id)) == (0, [], "Crashed")


def test_it_is_deployed_as_typed_and_run_by_a_worker(url: str, tmp_path: Path) -> None:
    cli = functools.partial(prefect, python=PYTHON, PREFECT_HOME=str(tmp_path), COLUMNS="200")
    cli("deploy", "flows/prefect_flow.py:main_etl")
    deployment = rest.call("GET", "deployments/name/main_etl/main_etl")
    parameters = {"queries": QUICK.split(",")}
    created = rest.call("POST", f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    cli("worker", "start", "--pool", "flows", "--run-once")
    assert state(created["id"]) == "Completed"
    assert [row["query"] for row in notes.recorded(created["id"])] == QUICK.split(",")
    assert f" {limits.TAG} " in cli("concurrency-limit", "ls")


def test_the_scripts_do_what_they_do_on_prefect_3(url: str) -> None:
    assert done(LIMIT).returncode == 0
    limit = answer(done(LIMIT, "--tag", "reports", "--limit", "2", "--json"))
    assert limit == {"tag": "reports", "limit": 2, "active_slots": 0, "holders": [], "changed": True}
    assert answer(done(LIMIT, "--tag", "reports", "--limit", "2", "--reset", "--json"))["active_slots"] == 0
    auth = answer(done("scripts/test_prefect_auth.py", "--json"))
    assert (auth["server_version"], auth["scheme"], auth["accepted"]) == ("2.13.7", "none", True)
    bench = answer(done("scripts/bench.py", "--tasks", "3", "--seconds", "0.3", "--json"))
    peaks = {row["engine"]: row["peak"] for row in bench["rows"]}
    assert set(peaks) == {"thread pool", "tag limit", "global limit"} and max(peaks.values()) <= 3, peaks
