"""Machines that lack something: locks on files, watchers of files, a disk to write to, file handles."""

import errno
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from support.commands import FLOW, LAB, answer, refused, run, start
from support.labs import slots
from support.servers import free_port
from support.waiting import eventually

from flows import settings, warehouse

# A filter that lets the kernel answer flock with an error, and a program that runs under it.
WITHOUT_LOCKS = """
import ctypes, os, platform, struct, sys
number = {"x86_64": 73, "aarch64": 32}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | int(sys.argv[1])), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, ctypes.get_errno()
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("program", "error"),
    [(FLOW, errno.ENOLCK), (LAB, errno.ENOLCK), (LAB, errno.ENOSYS), (LAB, errno.EOPNOTSUPP), (LAB, errno.EBADF)],
)
def test_a_disk_that_refuses_locks_is_named(new_lab: Path, program: str, error: int) -> None:
    command = [sys.executable, "-c", WITHOUT_LOCKS, str(error), program, *(["up"] if program == LAB else [])]
    done = subprocess.run(command, cwd=settings.PROJECT, capture_output=True, text=True, check=False, timeout=60)
    line = refused(done)
    assert str(new_lab) in line and "refuses to lock files" in line and "FLOWS_LAB_DIR" in line
    assert list(new_lab.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("page", ["main.py", "rest_api_app.py"])
def test_the_monitor_runs_while_no_file_can_be_watched(tmp_path: Path, page: str) -> None:
    """As when an editor has taken all of a user's watchers; from a folder with another configuration, too."""
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text('[server]\nfileWatcherType = "auto"\n')
    port, log = free_port(), tmp_path / "log"
    take = "echo 0 > /proc/sys/user/max_inotify_instances && exec"  # of this namespace's, and not the machine's
    streamlit = f"{sys.executable} -m streamlit run {settings.PROJECT}/streamlit/{page} --server.port {port}"
    with log.open("w") as file:
        monitor = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "sh", "-c", f"{take} {streamlit}"],
            cwd=tmp_path, stdout=file, stderr=file, env=os.environ | {"HOME": str(tmp_path)}, start_new_session=True,
        )  # fmt: skip
    try:
        eventually(lambda: _answers(port) or monitor.poll() is not None)
        # A visitor, for whom the page runs and Streamlit would watch its files.
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"]) as visitor:
            assert visitor.ping().wait(30)
    finally:
        monitor.terminate()
        monitor.wait()
    assert "Traceback" not in log.read_text() and "inotify" not in log.read_text(), log.read_text()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/_stcore/health").status_code == 200
    except httpx.HTTPError:
        return False


READ_ONLY = """
mount --make-rprivate / && mount --bind /tmp /tmp && mount --bind "$1" "$1" && mount --bind "$2" "$2" || exit 9
mount -o remount,bind,ro "$1" && mount -o remount,bind,ro / || exit 9
touch ~/.written-by-a-test 2>/dev/null && exit 9
shift 2
exec "$@"
"""


def reachable(folder: Path) -> None:
    """Let other users pass the folders of the tests that `folder` is in."""
    for parent in folder.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)


@pytest.mark.long
@pytest.mark.parametrize("user", [0, 4321])
def test_everything_but_the_lab_s_folder_and_tmp_is_read_only(copied_lab: Path, user: int) -> None:
    """For root, and for a user; PostgreSQL's files are made by neither."""
    assert os.getuid() == 0, "mounting takes root; run the tests with sudo, as .ci/run does"
    subprocess.run(["chown", "-R", f"{user}:{user}", copied_lab], check=True)
    reachable(copied_lab)
    # Where Python is in a folder that only root may enter, the user may pass it.
    may = [f"--{which}=-all,+dac_read_search" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *may] if user else []
    limit = "scripts/setup_concurrency_limit.py"
    for program in ([LAB, "up"], [FLOW, "--queries", "busiest_clerks"], [limit], [LAB, "down"]):
        command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(settings.PROJECT), str(copied_lab)]
        done = subprocess.run(
            [*command, *as_user, sys.executable, *program, "--json"],
            cwd=settings.PROJECT, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout, done.stderr)


@pytest.fixture
def small_disk(shared_lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a disk of 1 MB with the folder of a run that uses the shared lab's server and warehouse."""
    assert os.getuid() == 0, "mounting a disk takes root; run the tests with sudo, as .ci/run does"
    warehouse.prepare()
    monkeypatch.setenv("WAREHOUSE_URL", warehouse.url())
    monkeypatch.setenv("PREFECT_API_URL", shared_lab)
    monkeypatch.setenv("FLOWS_LAB_API_URL", "")
    (disk := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(disk / ".lab"))
    yield disk
    subprocess.run(["umount", "--lazy", "--recursive", disk], check=True)


@pytest.mark.long
def test_a_full_disk_is_named_before_anything_runs(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    line = refused(run(FLOW))
    assert f"{small_disk}/.lab cannot be used: No space left on device. Set FLOWS_LAB_DIR" in line


@pytest.mark.long
@pytest.mark.parametrize("folder", ["staging", "runs"])
def test_a_folder_in_the_lab_s_that_cannot_be_written_to_is_named(small_disk: Path, folder: str) -> None:
    """As when root has made it, or it is on another disk."""
    (read_only := small_disk / ".lab" / folder).mkdir(parents=True)
    subprocess.run(["mount", "--bind", read_only, read_only], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", read_only], check=True)
    done = run(FLOW, "--queries", "busiest_clerks", "--json")
    assert done.returncode == 1 and answer(done)["state"] == "Failed"
    assert f"{read_only} cannot be used: Read-only file system. Set FLOWS_LAB_DIR" in done.stderr
    assert "Traceback" not in done.stderr and "Error:" not in done.stderr


@pytest.mark.long
def test_a_disk_that_fills_up_while_the_queries_run_is_named(small_disk: Path) -> None:
    owner = warehouse.url().replace("//etl@", "//postgres@")
    with psycopg.connect(owner) as holding:
        holding.execute("lock table lineitem")
        flow = start(FLOW, "--queries", "lines_per_order", "--json")
        folder = small_disk / ".lab" / "staging"
        eventually(lambda: list(folder.glob("*/lines_per_order.json")))
        ballast = (small_disk / "ballast").open("wb", buffering=0)
        with pytest.raises(OSError, match="No space left"):
            while True:
                ballast.write(bytes(4096))
    out, err = flow.communicate(timeout=100)
    assert flow.returncode == 1 and "Traceback" not in err, err
    assert json.loads(out)["state"] == "Failed" and "cannot be used: No space left on device" in err
    assert slots() == 0


@pytest.mark.long
@pytest.mark.parametrize("namespaces", [True, False])
def test_a_user_id_without_a_name(namespaces: bool, new_lab: Path, tmp_path: Path) -> None:
    """It works where a user may make namespaces, and gets a way out elsewhere, as in some containers."""
    os.chown(tmp_path, 12345, 12345)
    reachable(new_lab)
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    path = os.environ["PATH"] if namespaces else f"{tmp_path}:{os.environ['PATH']}"
    may = [f"--{which}=-all,+dac_override" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    nameless = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *may, "env", f"PATH={path}"]
    kit = functools.partial(subprocess.run, cwd=settings.PROJECT, capture_output=True, text=True, check=False)
    up = kit([*nameless, sys.executable, LAB, "up", "--json"])
    if namespaces:
        assert answer(up)["running"], up.stderr
        flow = kit([*nameless, sys.executable, FLOW, "--scale", "0.01", "--queries", "busiest_clerks", "--json"])
        assert answer(flow)["state"] == "Completed", flow.stderr
    else:
        line = refused(up)
        assert "Your user id 12345 has no name" in line and "learner:x:12345:12345" in line
    assert kit([*nameless, sys.executable, LAB, "reset"]).returncode == 0


@pytest.mark.long
def test_few_file_handles_are_enough(shared_lab: str) -> None:
    limited = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", sys.executable, FLOW, "--json"]
    done = subprocess.run(limited, cwd=settings.PROJECT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0 and answer(done)["completed"] == 20, done.stderr
