"""The same contracts for a server of each version of Prefect, and for clients of each and without Prefect.

    uv run pytest -m versions

The servers are behind gateways. The clients other than this one are this file, run by another interpreter.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import refresh
from streamlit.testing.v1 import AppTest
from support.browsers import forget_scripts
from support.commands import FLOW, LAB, answer, refused, run
from support.servers import forget_servers
from support.waiting import eventually

from flows import lab, limits, settings, versions
from flows.api import diagnosis, endpoints, rest
from flows.api.rest import Request
from flows.api.server import attach
from flows.lab import keys
from flows.monitor import frames, pages
from flows.settings import CannotRun, Refused

pytestmark = pytest.mark.versions
PYTHONS = {"2": settings.PROJECT / ".venv-prefect2/bin/python", "3": settings.PROJECT / ".venv/bin/python"}
# Set for a client that another one starts: which client it is, the folder of the labs, the main jobs' reports.
CLIENT, LABS, JOBS = "FLOWS_TEST_CLIENT", "FLOWS_TEST_LABS", "FLOWS_TEST_JOBS"
HERE = (versions.here() or "none").split(".")[0]
once = pytest.mark.skipif(LABS in os.environ, reason="this does not depend on the client")

# Four queries, so that one waits under a limit of 3: on Prefect 2 for 30 seconds. They are slow, so that it has to
# ask for a slot while the other three run.
QUERIES = "best_customers,cheapest_supplier_by_part_type,makers_bought_together,revenue_by_region_and_year"

WITHOUT_PREFECT = "uv run --isolated --frozen --no-default-groups --group lab --group learn --group dev python"
CLIENTS = {line: [str(python)] for line, python in PYTHONS.items()} | {"none": WITHOUT_PREFECT.split()}


def of_version(line: str, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the kit with the Python that has this major version of Prefect."""
    return run(program, *arguments, python=PYTHONS[line], **variables)


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of two labs with gateways, one of each version, each started by its own Python."""
    if LABS in os.environ:
        yield Path(os.environ[LABS])
        return
    missing = [str(python) for python in PYTHONS.values() if not python.exists()]
    assert not missing, f"{missing} not found; docs/versions.md explains how to make the second environment"
    folder = tmp_path_factory.mktemp("versions")
    try:
        for line in PYTHONS:
            up = of_version(line, LAB, "up", "--auth", "gateway", "--json", FLOWS_LAB_DIR=str(folder / line))
            log = folder / line / "logs/prefect-server.log"
            assert up.returncode == 0, up.stderr + log.read_text()[-3000:]
            assert answer(up)["prefect_version"].startswith(line), up
        yield folder
    finally:
        for line in PYTHONS:
            of_version(line, LAB, "reset", FLOWS_LAB_DIR=str(folder / line))


def job(line: str, labs: Path, *options: str) -> dict:
    """Run four queries with the main job, and return its report."""
    return answer(of_version(line, FLOW, "--queries", QUERIES, *options, "--json", FLOWS_LAB_DIR=str(labs / line)))


@pytest.fixture(scope="session")
def jobs(labs: Path) -> dict[str, dict]:
    """Return the main job's report from each server, limited by the tag; the pages show these runs."""
    if JOBS in os.environ:
        return json.loads(os.environ[JOBS])
    with ThreadPoolExecutor() as pool:  # side by side, since Prefect 2 mostly waits
        return dict(zip(PYTHONS, pool.map(lambda line: job(line, labs), PYTHONS), strict=True))


@pytest.fixture(params=PYTHONS)
def server(request: pytest.FixtureRequest, labs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the major version of the server that PREFECT_API_URL now names, with a key for its gateway."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(labs / request.param))
    url, key = lab.status().api_url, keys.bearer()[keys.FIRST].get_secret_value()
    # Only these two variables tell where the server is and how to reach it.
    monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / ".lab"))
    monkeypatch.setenv("PREFECT_API_URL", str(url))
    monkeypatch.setenv("PREFECT_API_KEY", key)
    return request.param


def test_the_client_is_the_one_that_was_meant() -> None:
    assert os.environ.get(CLIENT, HERE) == HERE
    if HERE == "none":
        with pytest.raises(ImportError):
            import prefect  # noqa: F401


def test_the_server_reports_its_version_and_accepts_the_key(server: str) -> None:
    assert rest.send(endpoints.version()).startswith(f"{server}.")
    verdict = diagnosis.check(attach())
    assert (verdict.reachable, verdict.accepted, verdict.scheme) == (True, True, "bearer"), verdict
    assert versions.is_3(verdict.server_version) == (server == "3")


@pytest.mark.parametrize("key", ["wrong", ""])
def test_a_client_without_a_valid_key_is_refused(server: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", key)
    for request in (endpoints.version(), endpoints.flow_runs(), endpoints.counters()):
        with pytest.raises(Refused, match="refuses the credentials"):
            rest.send(request)
    verdict = diagnosis.check(attach())
    assert (verdict.reachable, verdict.accepted) == (True, False), verdict


def test_rows_come_once_and_answers_in_order(server: str) -> None:
    name = f"rows {uuid.uuid4()}"
    flow = rest.call("POST", "flows/", {"name": name})["id"]
    created = rest.gather([Request("POST", "flow_runs/", {"flow_id": flow, "name": str(n)}) for n in range(205)])
    assert [run["name"] for run in created] == [str(n) for n in range(205)]
    of_flow = Request("POST", "flow_runs/filter", {"flows": {"id": {"any_": [flow]}}})
    assert {run["id"] for run in rest.rows(of_flow)} == {run["id"] for run in created}
    assert len(rest.rows(of_flow)) == 205 and len(rest.rows(of_flow, 203)) == 203
    assert len(rest.rows(of_flow, start=200)) == 5


def test_filters_choose_and_mistakes_are_errors(server: str) -> None:
    name = f"chosen {uuid.uuid4()}"
    flow = rest.call("POST", "flows/", {"name": name})["id"]
    for run_name, state in (("a", "COMPLETED"), ("b", "FAILED"), ("bb", "RUNNING")):
        body = {"flow_id": flow, "name": run_name, "tags": [run_name], "state": {"type": state}}
        rest.call("POST", "flow_runs/", body)

    def names(**chosen: object) -> set[str]:
        return {run["name"] for run in rest.send(endpoints.flow_runs(flow=name, **chosen))}

    assert names() == {"a", "b", "bb"}
    assert names(state=["COMPLETED"]) == {"a"} and names(state=["Failed", "RUNNING"]) == {"b", "bb"}
    assert names(tag="b") == {"b"} and names(text="b") == {"b", "bb"}
    history = endpoints.history(flow=name, start=datetime.now(timezone.utc) - timedelta(hours=1))
    counts = [state["count_runs"] for bar in rest.send(history) for state in bar["states"]]
    assert sum(counts) == 3
    assert rest.send(endpoints.flow_run(str(uuid.uuid4()))) is None
    for request, message in (
        (Request("POST", "flow_runs/filter", {"flow_run": {}}), "does not know the key 'flow_run'"),
        (Request("POST", "flow_runs/filter", {"limit": 201}), "answers 422"),
        (Request("GET", "no_such_thing"), "has no such endpoint"),
    ):
        with pytest.raises(CannotRun, match=message):
            rest.send(request)


@pytest.mark.parametrize("kind", ["tag", "global"])
def test_a_limit_is_set_read_and_changed(server: str, kind: limits.Kind) -> None:
    name = f"set-{uuid.uuid4()}"
    assert limits.read(name, kind) is None
    assert limits.ensure(name, 4, kind) and not limits.ensure(name, 4, kind) and limits.ensure(name, 5, kind)
    assert limits.read(name, kind) == limits.Limit(name, 5, 0, [])
    assert limits.read(name, "global" if kind == "tag" else "tag") is None, "the two kinds are separate"


def test_the_limit_of_a_tag_holds_names_its_holders_and_is_freed(server: str, jobs: dict[str, dict]) -> None:
    tag = f"held-{uuid.uuid4()}"
    limits.ensure(tag, 2)
    program = [str(PYTHONS[server]), str(Path(__file__).with_name("hold.py")), tag]
    holding = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: [holder["state"] for holder in limits.read(tag).holders] == ["Running"] * 2)
        eventually(lambda: len(rest.send(endpoints.task_runs(tag=tag))) == 3)
        time.sleep(2)  # long enough for the third one to begin
        limit = limits.read(tag)
        runs = rest.send(endpoints.task_runs(tag=tag))
        assert (limit.limit, limit.active_slots, len(runs)) == (2, 2, 3)
        assert sorted(run["state_name"] for run in runs)[1:] == ["Running"] * 2, "a third one runs"
        running = {run["id"] for run in runs if run["state_name"] == "Running"}
        assert {holder["task_run_id"] for holder in limit.holders} == running
        row = pages.limits().set_index("tag").loc[tag]
        assert (row["limit"], row["taken"], len(row["holders"])) == (2, 2, 2)
    finally:
        holding.kill()
        holding.wait()
    assert limits.read(tag).active_slots == 2, "there is nothing to free"
    assert limits.reset(tag) == limits.Limit(tag, 2, 0, [])


def test_the_global_limit_holds_and_is_freed(server: str) -> None:
    name = f"held-{uuid.uuid4()}"
    limits.ensure(name, 2, "global")
    take = Request("POST", "v2/concurrency_limits/increment", {"names": [name], "slots": 1})
    rest.send(take), rest.send(take)
    with pytest.raises(CannotRun, match="answers 423"):
        rest.send(take)
    rest.call("POST", "v2/concurrency_limits/decrement", {"names": [name], "slots": 1})
    assert limits.read(name, "global") == limits.Limit(name, 2, 1, [])
    assert limits.reset(name, "global") == limits.Limit(name, 2, 0, [])
    rest.send(take)


def test_the_pages_show_the_main_job(server: str, jobs: dict[str, dict]) -> None:
    job, overview = jobs[server], refresh.overview(pages.overview(flow="main_etl"))
    assert overview.version.startswith(f"{server}.")
    row = overview.flow_runs.set_index("flow_run_id").loc[job["flow_run_id"]]
    assert (row["flow"], row["state"], row["parameters"]["limit_by"]) == ("main_etl", "Completed", "tag")
    assert overview.limits.set_index("tag").loc["database", ["limit", "taken"]].tolist() == [3, 0]
    page = refresh.first(job["flow_run_id"])
    for loaded in (page, refresh.run(page)):
        queries = frames.tagged(loaded.task_runs, "database")
        assert set(queries["name"]) == set(QUERIES.split(",")) and set(queries["state"]) == {"Completed"}
        assert len(loaded.task_runs) == len(queries) + 2, "load and cleanup"
        assert frames.concurrency(queries, loaded.until)["running"].max() == 3
        assert loaded.logs["message"].str.contains("Finished in state Completed").any()
    assert len(frames.logs(rest.rows(endpoints.logs(flow_run=job["flow_run_id"])))) >= len(page.logs) > 1


def test_the_monitor_opens(server: str, jobs: dict[str, dict], app: AppTest) -> None:
    app.run()
    assert not app.error and not app.exception, [message.value for message in (*app.error, *app.exception)]
    metrics = {metric.label: metric.value for metric in app.metric}
    assert int(metrics["flow runs"]) >= 1, metrics


def opened(app: AppTest) -> str:
    """Open a page, check that it shows no error, and return its text."""
    forget_scripts()
    app.run()
    assert not app.error and not app.exception, [message.value for message in (*app.error, *app.exception)]
    return " ".join(text.value.replace("\\", "") for text in (*app.markdown, *app.caption, *app.success, *app.code))


def page(name: str, **address: str) -> AppTest:
    """Return a page of the monitor, not opened yet; `address` is the query string of its address."""
    script = f"import live_page, {name}_page\nlive_page.interval()\n{name}_page.show()"
    app = AppTest.from_string(script, default_timeout=60)
    for key, value in address.items():
        app.query_params[key] = value
    return app


def test_the_other_pages_of_the_monitor_open(server: str, jobs: dict[str, dict], app: AppTest) -> None:
    text = opened(page("run", id=jobs[server]["flow_run_id"]))
    assert "The limit held: at most 3 ran at once" in text and "6 task runs" in text
    text = opened(page("limits"))
    assert "**database** · 0 of 3 slots taken, 0 held" in text
    assert ("This server has no leases" in text) is (server == "2")
    assert "The server has no deployment. Create one" in opened(page("start"))
    flow = rest.call("POST", "flows/", {"name": "of the form"})["id"]
    schema = {"type": "object", "properties": {"scale": {"type": "number", "default": 0.1}}}
    body = {"name": "form", "flow_id": flow, "entrypoint": "x.py:x", "parameter_openapi_schema": schema}
    deployment = rest.call("POST", "deployments/", body)["id"]
    try:
        start = page("start", deployment="of the form/form")
        opened(start)
        assert [number.value for number in start.number_input] == [0.1]
        start.button[0].click()
        assert "Started." in opened(start)
    finally:
        rest.call("DELETE", f"deployments/{deployment}")
        rest.call("DELETE", f"flows/{flow}")


def test_the_explorer_sends_and_shows_the_answer(server: str, jobs: dict[str, dict], app: AppTest) -> None:
    explorer = AppTest.from_file(str(settings.PROJECT / "streamlit" / "rest_api_app.py"), default_timeout=60)
    assert "/flow_runs/filter" in opened(explorer)
    explorer.text_area[0].set_value(json.dumps({"flow_runs": {"id": {"any_": [jobs[server]["flow_run_id"]]}}}))
    explorer.button[0].click()
    assert "/flow_runs/filter`: 200 OK" in opened(explorer)
    assert explorer.dataframe[-1].value["id"].tolist() == [jobs[server]["flow_run_id"]]


@once
@pytest.mark.parametrize("line", PYTHONS)
def test_the_main_job_keeps_the_limit(line: str, jobs: dict[str, dict], labs: Path) -> None:
    by_tag = jobs[line]
    assert (by_tag["state"], by_tag["completed"], by_tag["peak_concurrency"]) == ("Completed", 4, 3), by_tag
    by_name = job(line, labs, "--limit-by", "global", "--limit", "2")
    assert (by_name["state"], by_name["completed"], by_name["peak_concurrency"]) == ("Completed", 4, 2), by_name
    # In Prefect 2 a task that waits for a tag's slot asks again only after 30 seconds; nothing else waits that long.
    assert (by_tag["wall_seconds"] > 30) is (line == "2"), by_tag
    assert line == "3" or by_name["wall_seconds"] < by_tag["wall_seconds"], (by_name, by_tag)


@once
def test_the_lab_refuses_what_a_version_cannot_do(labs: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / ".lab")
    assert "Choose --auth gateway" in refused(of_version("2", LAB, "up", "--auth", "basic", FLOWS_LAB_DIR=folder))
    for auth in ([], ["--auth", "none"]):
        message = refused(of_version("3", LAB, "up", *auth, FLOWS_LAB_DIR=str(labs / "2")))
        assert "The lab runs Prefect 2.13.7" in message


@once
@pytest.mark.parametrize("program", [FLOW, "scripts/bench.py"])
def test_a_flow_is_refused_on_a_server_of_the_other_version(server: str, program: str) -> None:
    other, right = {"2": ("3", ".venv-prefect2"), "3": ("2", ".venv")}[server]
    message = refused(of_version(other, program))
    assert f"is Prefect {server}." in message and f"Use the environment {right}," in message, message


@once
@pytest.mark.parametrize("client", CLIENTS)
def test_the_contracts_hold_for_the_other_clients(
    client: str, labs: Path, jobs: dict[str, dict], tmp_path: Path
) -> None:
    if client == HERE:
        pytest.skip("the tests above are this client's")
    options = ["-m", "versions", "-q", "--basetemp", str(tmp_path / "client"), __file__]
    done = subprocess.run(
        [*CLIENTS[client], "-m", "pytest", *options],
        env=os.environ | {CLIENT: client, LABS: str(labs), JOBS: json.dumps(jobs)},
        cwd=settings.PROJECT, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
