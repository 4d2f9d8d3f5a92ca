"""The lab: started, shared, described, stopped, repaired, and refused where it cannot be."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from support.commands import LAB, answer, refused, run, start
from support.labs import SESSION, kill, processes_below
from support.waiting import eventually

from flows import lab, settings, warehouse
from flows.api import server
from flows.lab import prefect_server, processes, state


@pytest.mark.long
def test_up_status_down_leave_no_process(new_lab: Path) -> None:
    first = answer(run(LAB, "up", "--json"))
    assert set(first) == {"running", "api_url", "prefect_version", "auth", "database", "pids"}
    assert first["running"] and set(first["pids"]) == {"postgres", "prefect"}
    assert httpx.get(f"{first['api_url']}/admin/version").json() == first["prefect_version"]
    assert answer(run(LAB, "status", "--json")) == first
    assert answer(run(LAB, "up", "--json")) == first, "a second `up` attaches"
    down = run(LAB, "down", "--json")
    assert down.returncode == 0 and not answer(down)["running"]
    with pytest.raises(settings.CannotRun, match="the lab is down"):
        warehouse.url()  # as a query that is tried again does: that starts nothing
    assert processes_below(new_lab) == []
    assert run(LAB, "status").returncode == 1
    assert run(LAB, "down").returncode == 0, "down twice in a row"


@pytest.mark.long
def test_down_keeps_the_state_and_reset_deletes_it(copied_lab: Path) -> None:
    url = lab.up().api_url
    httpx.post(f"{url}/concurrency_limits/", json={"tag": "kept", "concurrency_limit": 7}).raise_for_status()
    lab.down()
    url = lab.up().api_url
    assert httpx.get(f"{url}/concurrency_limits/tag/kept").json()["concurrency_limit"] == 7
    folder = processes.socket_folder(copied_lab / "postgres")
    assert folder.is_dir()
    lab.reset()
    assert list(copied_lab.iterdir()) == []
    assert not folder.exists()


@pytest.mark.long
def test_two_callers_at_the_same_moment_get_one_lab(new_lab: Path) -> None:
    callers = [start(LAB, "up", "--json") for _ in range(3)]
    labs = [answer(subprocess.CompletedProcess("", 0, *caller.communicate(timeout=200))) for caller in callers]
    assert labs[0]["running"] and labs[0] == labs[1] == labs[2]


def test_only_loopback_and_only_its_own_page(copied_lab: Path) -> None:
    url = lab.up().api_url
    addresses = set()
    for process in processes_below(copied_lab):
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's own come and go
            listening = [found for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN]
            addresses |= {found.laddr.ip for found in listening}
    assert addresses == {"127.0.0.1"}
    allowed = "access-control-allow-origin"
    own = url.removesuffix("/api")
    assert httpx.get(f"{url}/health", headers={"Origin": own}).headers[allowed] == own
    assert allowed not in httpx.get(f"{url}/health", headers={"Origin": "http://evil.example"}).headers


@pytest.mark.long
def test_a_taken_port_is_left_alone_and_named(copied_lab: Path) -> None:
    (copied_lab / "lab.json").unlink()  # as a new lab, it begins with the usual port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def take() -> bool:
            with prefect_server.reserved_port(None) as port:  # so as not to take it from the lab of another test
                if port == prefect_server.FIRST_PORT:
                    taken.bind(("127.0.0.1", port))
                    taken.listen()
                return port == prefect_server.FIRST_PORT

        with contextlib.suppress(AssertionError):  # a program of the user that keeps it serves as well
            eventually(take, 60)
        done = run(LAB, "up", "--json")
        assert f":{prefect_server.FIRST_PORT}/" not in answer(done)["api_url"]
        assert f"port {prefect_server.FIRST_PORT} is in use" in done.stderr
        url = answer(done)["api_url"]
        assert httpx.get(url.removesuffix("/api") + "/ui-settings").json()["api_url"] == "/api", "its pages find it"


@pytest.mark.long
def test_two_labs_that_start_at_the_same_moment_take_two_ports(new_lab: Path) -> None:
    folders = [new_lab, new_lab.parent / "other"]
    both = [start(LAB, "up", "--json", FLOWS_LAB_DIR=str(folder)) for folder in folders]
    try:
        said = [process.communicate(timeout=240) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        urls = {json.loads(out.splitlines()[-1])["api_url"] for out, _ in said}
        assert len(urls) == 2 and {httpx.get(f"{url}/health").status_code for url in urls} == {200}
    finally:
        assert run(LAB, "reset", FLOWS_LAB_DIR=str(folders[1])).returncode == 0


def test_a_port_is_reserved_for_labs_with_other_temporary_folders_too(tmp_path: Path) -> None:
    reserve = "from flows.lab import prefect_server\nwith prefect_server.reserved_port(None) as port: print(port)"
    with prefect_server.reserved_port(None) as port:
        command = [sys.executable, "-c", reserve]
        other = subprocess.run(command, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
        assert other.returncode == 0 and int(other.stdout) != port, other.stderr


@pytest.mark.long
def test_a_copied_folder_is_a_lab_of_its_own(copied_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.up("gateway")
    other = copied_lab.parent / "other"
    lab.down()
    shutil.copytree(copied_lab, other)
    first = lab.up()
    shutil.copy(copied_lab / "lab.json", other)  # which names processes that are not the copy's
    monkeypatch.setenv("FLOWS_LAB_DIR", str(other))
    try:
        assert lab.status().pids == {}
        second = lab.up()
        assert second.auth == "gateway", "a copy of a guarded lab must not come up open"
        assert second.api_url != first.api_url and second.database != first.database
        assert not set(second.pids.values()) & set(first.pids.values())
        with psycopg.connect(warehouse.url()) as connection:
            assert connection.execute("select count(*) from region").fetchone() == (5,)
    finally:
        lab.reset()
    monkeypatch.setenv("FLOWS_LAB_DIR", str(copied_lab))
    assert lab.status() == first


@pytest.mark.long
def test_a_crashed_lab_is_repaired(new_lab: Path) -> None:
    url = lab.up().api_url
    httpx.post(f"{url}/concurrency_limits/", json={"tag": "kept", "concurrency_limit": 7}).raise_for_status()
    kill("prefect")
    kill("postgres")
    assert not lab.status().running
    url = lab.up().api_url
    assert httpx.get(f"{url}/concurrency_limits/tag/kept").json()["concurrency_limit"] == 7


@pytest.mark.long
def test_a_process_that_inherited_a_dead_ones_id_is_not_taken_for_it(new_lab: Path) -> None:
    lab.up()
    kill("prefect")
    other = subprocess.Popen(["sleep", "600"])
    try:
        written = new_lab / "lab.json"
        written.write_text(written.read_text().replace(str(state.read()["pids"]["prefect"]), str(other.pid)))
        assert "prefect" not in lab.status().pids
        (new_lab / "postgres" / "postmaster.pid").write_text(f"{other.pid}\n")
        kill("postgres")
        assert lab.up().running
        assert other.poll() is None, "a process that is not the lab's was ended"
    finally:
        other.kill()
        other.wait()


@pytest.mark.long
@pytest.mark.parametrize("what", ["killed", "half"])
def test_a_half_made_database_is_made_anew(new_lab: Path, what: str) -> None:
    if what == "killed":
        caller = start(LAB, "up")
        eventually((new_lab / "postgres.new").exists)
        os.killpg(caller.pid, signal.SIGKILL)
        caller.communicate()
        eventually(lambda: not [found for found in processes_below(new_lab) if "initdb" in found.name()])
    else:
        (new_lab / "postgres" / "base").mkdir(parents=True)
        (new_lab / "postgres" / "PG_VERSION").write_text("18\n")
    assert lab.up().running


@pytest.mark.long
def test_up_that_is_killed_while_the_server_starts_is_redone(new_lab: Path) -> None:
    caller = start(LAB, "up")
    eventually(lambda: processes.working_in(new_lab / "prefect", "uvicorn"))
    caller.kill()
    caller.communicate()
    found = lab.up()
    assert found.running
    servers = processes.working_in(new_lab / "prefect", "uvicorn")
    assert [server.pid for server in servers] == [found.pids["prefect"]]


@pytest.mark.long
def test_prefect_imported_before_the_lab_was_up_uses_it(copied_lab: Path) -> None:
    script = """
from prefect import flow
import prefect.settings
prefect.settings.PREFECT_API_URL.value()
from flows.api import server
url = server.use()
@flow
def hello(): return 1
state = hello(return_state=True)
import httpx
print(httpx.get(f"{url}/flow_runs/{state.state_details.flow_run_id}").json()["state_name"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.strip() == "Completed", done.stderr


def test_a_named_server_is_used_and_nothing_is_started(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api/")
    assert server.use() == "http://127.0.0.1:9/api"
    assert not lab.status().pids


@pytest.mark.long
def test_debian_s_postgresql_serves_as_well(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "install Debian's package postgresql, as .ci/run does"
    monkeypatch.setenv("FLOWS_PG_BIN", str(found[-1].parent))
    running = lab.up()
    assert psutil.Process(running.pids["postgres"]).exe() == str(found[-1].with_name("postgres"))
    lab.down()
    monkeypatch.delenv("FLOWS_PG_BIN")
    if found[-1].parent.parent.name != "18":
        assert "were made by PostgreSQL" in refused(run(LAB, "up"))


def test_a_folder_without_postgresql_is_named(new_lab: Path) -> None:
    assert "FLOWS_PG_BIN is /usr" in refused(run(LAB, "up", FLOWS_PG_BIN="/usr"))


def test_an_unknown_action_is_refused(new_lab: Path) -> None:
    assert "invalid choice: 'sideways'" in refused(run(LAB, "sideways"))


def test_a_lab_folder_that_is_a_file_is_refused(tmp_path: Path, new_lab: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "cannot be used" in refused(run(LAB, "up", FLOWS_LAB_DIR=str(file / "lab")))


@pytest.mark.long
def test_a_disk_without_room_is_refused(tmp_path: Path, new_lab: Path, small_disk: Path) -> None:
    assert "less than 150 MB left" in refused(run(LAB, "up", FLOWS_LAB_DIR=str(small_disk)))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 64 MB."""
    assert os.getuid() == 0, "mounting a disk takes root; run the tests with sudo, as .ci/run does"
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with an environment of its own, in a path of 150 characters with spaces in it."""
    python = next(
        path
        for path in (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3"))
        if path.exists() and all(part.stat().st_mode & 0o1 for part in path.resolve().parents)
    )
    top = tmp_path_factory.mktemp("copy").resolve()
    top.chmod(0o755)
    for parent in top.parents:
        if parent.is_relative_to(Path(os.environ[SESSION]).resolve()):
            parent.chmod(0o755)
    name = "a folder with spaces and a long name "
    project = top / (name * 5)[: 150 - len(str(top)) - 1].strip().ljust(150 - len(str(top)) - 1, "x")
    ignore = shutil.ignore_patterns(".git", ".venv*", ".lab", "*_cache", "artifacts", "__pycache__")
    shutil.copytree(settings.PROJECT, project, ignore=ignore)
    assert len(str(project)) == 150
    command = [
        shutil.which("uv") or "uv",
        "sync",
        "--no-dev",
        "--group",
        "prefect3",
        "--python",
        str(python),
        "--quiet",
    ]
    # The test's own environment would be synced in place of the copy's.
    environment = {
        key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    }
    subprocess.run(command, cwd=project, env=environment, check=True)
    return project


@pytest.mark.long
@pytest.mark.parametrize("user", ["ordinary", pytest.param("root", marks=pytest.mark.weekly)])
def test_the_main_job_in_a_long_path_with_spaces(copy: Path, user: str) -> None:
    """As an ordinary user, and as root in a folder that only root may enter."""
    assert os.getuid() == 0, "the tests change users, which takes root; run them with sudo, as .ci/run does"
    uid = pwd.getpwnam("games").pw_uid if user == "ordinary" else 0
    os.chown(copy, uid, uid)
    copy.chmod(0o755 if uid else 0o700)
    home = copy / f"home of {user}"
    home.mkdir()
    os.chown(home, uid, uid)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}

    def kit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(copy / ".venv/bin/python"), *words]
        return subprocess.run(
            command,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        done = kit(str(copy / FLOW_IN_COPY), "--scale", "0.01", "--json")
        report = answer(done)
        assert done.returncode == 0 and report["completed"] == 20 and report["peak_concurrency"] <= 3
        assert Path(report["mart"]).is_relative_to(copy)
        owner = psutil.Process(answer(kit(str(copy / LAB), "status", "--json"))["pids"]["postgres"]).uids().real
        assert owner == uid if uid else owner != 0
    finally:
        reset = kit(str(copy / LAB), "reset", "--json")
    assert reset.returncode == 0, reset.stderr
    assert processes_below(copy) == []


@pytest.mark.long
def test_a_folder_that_an_ordinary_user_may_not_write_is_refused(copy: Path) -> None:
    os.chown(copy, 0, 0)
    copy.chmod(0o755)
    (copy / "lab of root").mkdir(exist_ok=True)
    done = subprocess.run(
        [str(copy / ".venv/bin/python"), str(copy / LAB), "up"],
        user="games",
        group=60,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "FLOWS_LAB_DIR": str(copy / "lab of root")},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Permission denied" in refused(done) and "FLOWS_LAB_DIR" in done.stderr


FLOW_IN_COPY = "flows/prefect_flow.py"


def test_status_is_quick_to_say_that_nothing_runs(new_lab: Path) -> None:
    started = time.monotonic()
    assert run(LAB, "status", "--json").returncode == 1
    assert not new_lab.exists(), f"status made the folder ({time.monotonic() - started:.1f} s)"
