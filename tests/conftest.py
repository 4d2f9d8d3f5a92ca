"""Labs, and the kit's commands run as a user runs them. Everything here is real: PostgreSQL, Prefect, processes."""

import contextlib
import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright
from streamlit.testing.v1 import AppTest

from flows import lab, limits, settings
from flows.api import server

VARIABLES = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_SSL_CERT_FILE",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "FLOWS_ADDED_AUTHORIZATION",
    "FLOWS_LAB_API_URL",
    "FLOWS_PG_BIN",
)
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FLOW, LAB = "flows/prefect_flow.py", "scripts/lab.py"
LIMIT = "scripts/setup_concurrency_limit.py"


def pytest_configure() -> None:
    """Keep the tests away from the user's own servers and credentials."""
    for name in (*VARIABLES, "WAREHOUSE_URL", "FLOWS_LAB_DIR"):
        os.environ.pop(name, None)
    named = [name for name in (*VARIABLES, "WAREHOUSE_URL") if not name.startswith("FLOWS_") and settings.origin(name)]
    if named:
        where = " and ".join(f"{name} in {settings.origin(name)}" for name in named)
        pytest.exit(f"There is {where}; move that away while the tests run.", 2)


def start(
    program: str, *arguments: str, cwd: Path | None = None, python: Path | str = sys.executable, **variables: str
) -> subprocess.Popen[str]:
    """A command of the kit that runs, in a session of its own so that a signal reaches it alone."""
    return subprocess.Popen(
        [str(python), str(settings.PROJECT / program), *arguments],
        cwd=cwd or settings.PROJECT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command of the kit that has ended; `options` as for `start`."""
    process = start(program, *arguments, **options)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def answer(done: subprocess.CompletedProcess[str]) -> dict:
    """The JSON object that a command printed as its last line."""
    assert done.stdout.strip(), f"nothing was printed; exit {done.returncode}; {done.stderr[-2000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why it could not run."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Starting", "(port"))]
    assert len(lines) == 1, done.stderr
    return lines[0]


def eventually(happens: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `happens()`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.02)


@contextlib.contextmanager
def answering(text: bytes | None) -> Iterator[str]:
    """The API address of a server that answers everything with `text`, or with nothing for None."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            if text is None:
                time.sleep(3)
            else:
                self.request.sendall(text)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


def slots() -> int:
    limit = limits.read()
    return limit.active_slots if limit else 0


def processes_below(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def kill(name: str) -> None:
    """Kill a process of the lab, as a crash would."""
    process = psutil.Process(lab.status().pids[name])
    process.send_signal(signal.SIGKILL)
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def forget_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Torn down last, since it is set up first. pytest itself would keep the folder of a whole session."""
    folder = tmp_path_factory.getbasetemp()
    yield
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("shared") / ".lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        yield folder
        lab.reset()
    assert processes_below(folder) == []


@pytest.fixture
def shared_lab(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API address of a lab that tests share; each finds the limit 3 and all slots free."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(shared_folder))
    url = server.use()
    limits.ensure(limits.TAG, 3)
    assert slots() == 0, "an earlier test left a slot taken"
    yield url
    monkeypatch.setenv("FLOWS_LAB_DIR", str(shared_folder))
    monkeypatch.setenv("PREFECT_API_URL", url)
    if slots():
        limits.reset()


@pytest.fixture
def new_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a lab that does not exist yet."""
    forget_servers(monkeypatch)
    folder = tmp_path / ".lab"
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    yield folder
    monkeypatch.delenv("FLOWS_PG_BIN", raising=False)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    if folder.is_dir():
        lab.reset()
    assert processes_below(tmp_path) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("FLOWS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "no Chromium here: install Debian's package chromium, as .ci/run does, or name one in FLOWS_CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM)
        yield browser
        browser.close()


def forget_scripts() -> None:
    """Let the next run import the monitor's modules anew: an app registers its own components when that happens.

    In the Streamlit that goes with Prefect 2 each run of an AppTest forgets them, in later ones each new AppTest.
    """
    for script in (settings.PROJECT / "streamlit").glob("*.py"):
        sys.modules.pop(script.stem, None)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The monitor, not opened yet."""
    folder = settings.PROJECT / "streamlit"
    monkeypatch.syspath_prepend(str(folder))
    forget_scripts()
    return AppTest.from_file(str(folder / "main.py"), default_timeout=60)
