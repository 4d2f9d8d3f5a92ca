"""What other environments do to the kit: variables that steer its parts, and places where the lab is hidden."""

import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.commands import FLOW, LAB, LIMIT, answer, refused, run, start
from support.labs import copy, kill, processes_below
from support.runs import blocked
from support.servers import free_port
from support.waiting import eventually

from flows import lab, settings, warehouse
from flows.lab import processes, state

QUERIES = ["--queries", "busiest_clerks,lines_per_order", "--json"]
NOWHERE = "http://127.0.0.1:9"
PROXIES = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "no_proxy": "localhost"}
STEERED = {
    "a proxy": PROXIES,
    "a proxy in capitals": {name.upper(): value for name, value in PROXIES.items()},
    "a proxy for all": {"ALL_PROXY": NOWHERE},
    "a proxy that httpx does not know": {"all_proxy": "socks://127.0.0.1:9/", "HTTPS_PROXY": "socks5://127.0.0.1:9"},
    "exceptions that httpx cannot read": {"http_proxy": NOWHERE, "no_proxy": "[::1],fe80::/10,b\u00fcro.example"},
    "certificates that are gone": {
        "SSL_CERT_FILE": "/gone",
        "SSL_CERT_DIR": "/gone",
        "PREFECT_API_SSL_CERT_FILE": "/gone",
    },
    "certificates that are none": {"SSL_CERT_FILE": "/etc/hostname"},
    "another PostgreSQL": {"PGHOSTADDR": "127.0.0.1", "PGPORT": "5433", "PGUSER": "nobody", "PGDATABASE": "none"},
    "PostgreSQL's settings": {"PGTZ": "Nowhere", "PGOPTIONS": "-c nothing=1", "PGSSLMODE": "verify-full"},
    "a service of PostgreSQL's": {"PGSERVICE": "none", "PGREQUIREAUTH": "scram-sha-256", "PGCHANNELBINDING": "require"},
}
STEERED_SERVER = {"WEB_CONCURRENCY": "4", "UVICORN_PORT": "1", "UVICORN_ROOT_PATH": "/x", "FORWARDED_ALLOW_IPS": "*"}
STEERED_SERVER |= {
    "PREFECT_SERVER_API_PORT": "1",
    "PREFECT_HOME": "/gone",
    "PYTHONWARNINGS": "error",
    "XDG_DATA_HOME": "/gone",
}


@pytest.mark.parametrize("variables", STEERED.values(), ids=STEERED.keys())
def test_the_user_s_variables_do_not_reach_a_lab_that_runs(variables: dict[str, str], shared_lab: str) -> None:
    """The commands attach to it, and nothing is restarted."""
    before = lab.status()
    for command in ([LAB, "up", "--json"], [LIMIT, "--json"]):
        done = run(*command, **variables)
        assert done.returncode == 0, done.stderr
    assert lab.status() == before


def test_the_user_s_variables_do_not_reach_a_new_lab_and_its_flow(copied_lab: Path, tmp_path: Path) -> None:
    """All of them at once; the server of another PostgreSQL, to which some of them lead, hears nothing."""
    every = {name: value for variables in STEERED.values() for name, value in variables.items()} | STEERED_SERVER
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        every |= {"PGPORT": str(other.getsockname()[1]), "HOME": str(tmp_path)}
        done = run(FLOW, *QUERIES, **every)
        assert done.returncode == 0, done.stderr
        assert answer(done)["completed"] == 2
        with pytest.raises(BlockingIOError):
            other.accept()
    servers = [process for process in processes_below(copied_lab) if "uvicorn" in " ".join(process.cmdline())]
    assert len(servers) == 1


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"http_proxy": "socks://127.0.0.1:9/"}, "http_proxy"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "ALL_PROXY"),
        ({"http_proxy": NOWHERE}, "http_proxy"),
        ({"PREFECT_API_URL": "https://prefect.invalid/api", "SSL_CERT_FILE": "/gone"}, "SSL_CERT_FILE"),
        (
            {"PREFECT_API_URL": "https://prefect.invalid/api", "PREFECT_API_SSL_CERT_FILE": "/etc"},
            "PREFECT_API_SSL_CERT_FILE",
        ),
    ],
)
def test_a_variable_that_keeps_from_a_named_server_is_named(
    variables: dict[str, str], name: str, new_lab: Path
) -> None:
    line = refused(run(LIMIT, **{"PREFECT_API_URL": "http://prefect.invalid/api", **variables}))
    assert re.search(rf"\b{name}\b", line) and "unset" in line, line


@pytest.mark.long
def test_a_socket_that_is_gone_is_repaired(copied_lab: Path) -> None:
    lab.up()
    for gone in (
        processes.socket_folder(copied_lab / "postgres"),
        processes.socket_folder(copied_lab / "postgres") / ".s.PGSQL.5432",
    ):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        with psycopg.connect(lab.database("warehouse")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert answer(run(FLOW, *QUERIES))["completed"] == 2


@pytest.mark.long
def test_a_postgresql_that_stands_still_is_not_ended(copied_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = lab.up().pids["postgres"]
    monkeypatch.setattr("flows.lab.postgres.PATIENCE", 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(settings.CannotRun, match=rf"process {pid}\) stands still.*kill -CONT {pid}"):
            lab.up()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert lab.up().pids["postgres"] == pid


@pytest.mark.long
def test_a_lab_without_its_own_notes_is_not_started_twice(copied_lab: Path) -> None:
    pid = lab.up().pids["postgres"]
    (copied_lab / "lab.json").unlink()
    assert lab.up().pids["postgres"] == pid


@pytest.mark.long
def test_a_user_s_own_program_in_the_lab_s_folders_is_left_alone(copied_lab: Path) -> None:
    lab.up()
    editors = [
        subprocess.Popen(
            [sys.executable, "-c", "input()", f"{name}.conf"], cwd=copied_lab / name, stdin=subprocess.PIPE
        )
        for name in ("postgres", "prefect")
    ]
    try:
        lab.down()
        assert [editor.poll() for editor in editors] == [None, None]
    finally:
        for editor in editors:
            editor.communicate(b"\n")


class Always200(http.server.BaseHTTPRequestHandler):
    """Answers everything with 200, as another program might."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.mark.long
def test_another_program_on_the_port_is_not_taken_for_the_lab_s_server(copied_lab: Path) -> None:
    port = free_port()
    state.write(copied_lab, {"api_url": f"http://127.0.0.1:{port}/api"})
    starting = start(LAB, "up", "--json")
    assert starting.stderr is not None
    while f":{port}" not in starting.stderr.readline():
        assert starting.poll() is None
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Always200) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        out, err = starting.communicate(timeout=120)
        other.shutdown()
    assert starting.returncode == 0, err
    assert f":{port}/" not in answer(subprocess.CompletedProcess("", 0, out, err))["api_url"]


@pytest.mark.long
def test_a_database_of_a_newer_prefect_is_said(copied_lab: Path) -> None:
    database = lab.up().database
    kill("prefect")
    with psycopg.connect(str(database)) as connection:
        connection.execute("update alembic_version set version_num = 'of-the-future'")
    line = refused(run(LAB, "up"))
    assert "made by a newer Prefect" in line and "scripts/lab.py reset" in line


@pytest.fixture
def outside(template: Path, new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder of a lab that runs, and is not below /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="flows-", dir="/var/tmp")) / ".lab"
    copy(template, folder)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    try:
        lab.up()
        yield folder
    finally:
        lab.reset()
        shutil.rmtree(folder.parent)


def within(namespaces: list[str], before: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the kit in new `namespaces`, after the shell commands `before`."""
    words = ["unshare", *namespaces, "bash", "-c", f'{before} exec "$@"', "bash", sys.executable, *command]
    return subprocess.run(words, cwd=settings.PROJECT, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.long
def test_where_tmp_is_another_one_the_lab_s_own_process_is_named(outside: Path) -> None:
    # The rest of /tmp stays, in which Python may be.
    line = refused(within(["-m"], f"mount -t tmpfs none {processes.socket_folder(outside / 'postgres')};", FLOW))
    assert f"process {lab.status().pids['postgres']}" in line and "/tmp of this program" in line
    assert answer(run(FLOW, *QUERIES))["completed"] == 2


@pytest.mark.long
@pytest.mark.parametrize("command", [[FLOW], [LAB, "up"], [LAB, "down"], [LAB, "reset"]], ids=lambda words: words[-1])
def test_in_another_container_the_lab_is_neither_started_twice_nor_stopped(command: list[str], outside: Path) -> None:
    before = lab.status()
    line = refused(within(["--fork", "--pid", "--ipc", "--mount-proc"], "", *command))
    assert "runs in another container" in line and "FLOWS_LAB_DIR" in line
    assert lab.up() == before
    assert answer(run(FLOW, *QUERIES))["completed"] == 2


@pytest.mark.long
def test_after_a_step_of_the_clock_a_live_run_goes_on(outside: Path) -> None:
    """Processes seem to have started at other times than they were noted with: that the boot time moves does it."""
    with blocked("region", "nation", "lineitem") as holding:  # so that the first run lasts
        first = start(FLOW, "--json")
        staging = outside / "staging"
        eventually(lambda: any(staging.glob("*/*.json")) if staging.exists() else False)
        moved = Path(tempfile.mkdtemp(dir="/var/tmp")) / "stat"
        text = Path("/proc/stat").read_text()
        moved.write_text(re.sub(r"btime (\d+)", lambda found: f"btime {int(found[1]) + 5}", text))
        second = threading.Thread(
            target=lambda: done.append(within(["-m"], f"mount --bind {moved} /proc/stat;", FLOW, *QUERIES))
        )
        done: list[subprocess.CompletedProcess[str]] = []
        second.start()
        time.sleep(5)
        holding.rollback()
    out, err = first.communicate(timeout=240)
    second.join()
    shutil.rmtree(moved.parent)
    assert answer(subprocess.CompletedProcess("", 0, out, err))["completed"] == len(warehouse.names())
    assert answer(done[0])["completed"] == 2, done[0].stderr
