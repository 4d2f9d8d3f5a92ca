"""Labs for the tests. Everything here is real: PostgreSQL, Prefect, processes.

Several workers run the tests. Tests that share something expensive run in one worker, one after the other. A lab is a
copy of one that is made once for all workers, with the tables loaded, unless the test is about making it.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from streamlit.testing.v1 import AppTest
from support import figures
from support.browsers import chromium, forget_scripts
from support.commands import FLOW, kill_started, run
from support.labs import SESSION, copy, processes_below, slots, sweep
from support.runs import tables
from support.servers import VARIABLES, forget_servers
from xdist.scheduler import LoadScopeScheduling

from flows import files, lab, limits, mart, recovery, settings, warehouse
from flows.api import endpoints, rest, server

# Modules that share a lab. The last test of the first four searches what all of them printed and logged.
TOGETHER = {
    **dict.fromkeys(["test_credentials", "test_diagnosis", "test_gateway", "test_keys"], "guarded"),
    **dict.fromkeys(["test_versions", "test_prefect2"], "versions"),
}
# Modules whose tests go to whichever worker is free: they share nothing, or take long and mostly wait.
APART = {"test_lab", "test_drills", "test_workers", "test_exercises"}
# What takes long begins first, so that the workers end at about the same time; and beside the first, which makes the
# template of the labs, what can begin without it.
FIRST = ["test_flow", "guarded", "test_lab", "test_run_control", "test_mistakes", "test_exercises"]
FIRST += ["test_begin_and_end", "test_browser", "test_app", "test_warehouse", "test_limits"]


class Scheduling(LoadScopeScheduling):
    """Give all tests of a group to one worker; pytest-xdist's own groups have no effect with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        module = Path(path).stem
        return test.partition("[")[0] if module in APART else group(module)


def group(module: str) -> str:
    """Return the name of what the tests of a module share a worker with."""
    return TOGETHER.get(module, module)


# The order of the tests of the guarded lab, so that its server starts once for each guard. The search is the last one.
GUARDS = [None, "gateway", "gateway, https", "gateway, then basic", "basic", "none", "search"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put FIRST first, and sort the tests of the guarded lab by the guard with which they begin."""

    def place(item: pytest.Item) -> int:
        name = group(item.path.stem)
        return [*FIRST, name].index(name)

    items.sort(key=place)
    places = [place for place, item in enumerate(items) if TOGETHER.get(item.path.stem) == "guarded"]

    def guard(item: pytest.Item) -> int:
        mark = item.get_closest_marker("guard")
        last = item.get_closest_marker("search")
        return GUARDS.index("search" if last else mark.args[0] if mark else None)

    for place, item in zip(places, sorted((items[place] for place in places), key=guard), strict=True):
        items[place] = item


@pytest.hookimpl(optionalhook=True)  # which -p no:xdist lacks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests away from the user's own servers and credentials, and their files in one folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what runs in the background of a shell ignores
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # below nohup; what the tests start would inherit it
        signal.signal(signal.SIGHUP, lambda *_: None)
    if not hasattr(config, "workerinput"):
        os.environ[SESSION] = tempfile.mkdtemp(prefix="flows-tests-")
        config.option.basetemp = config.option.basetemp or f"{os.environ[SESSION]}/tmp"
        # For what lessons and Prefect's workers leave behind when they are killed.
        os.environ["TMPDIR"] = tempfile.tempdir = f"{os.environ[SESSION]}/temporary"
        Path(tempfile.tempdir).mkdir()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    # Each of the many processes would compile Prefect again.
    for name in (*VARIABLES, "WAREHOUSE_URL", "FLOWS_LAB_DIR", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    named = [name for name in (*VARIABLES, "WAREHOUSE_URL") if not name.startswith("FLOWS_") and settings.origin(name)]
    if named:
        places = " and ".join(f"{name} in {settings.origin(name)}" for name in named)
        pytest.exit(f"The tests would use your own server: there is {places}. Move that away while they run.", 2)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that replaces the figures which documents quote."""
    parser.addoption("--store", action="store_true", help="write what tests measure to docs/figures")


@pytest.fixture
def store(pytestconfig: pytest.Config) -> figures.Store:
    """Return a function that prints rows of figures and, with --store, writes them to a file in docs/figures."""
    return figures.store if pytestconfig.getoption("store") else figures.show


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove all that the tests made, once the workers have ended, also after Ctrl-C or a crash of a worker."""
    if not hasattr(config, "workerinput"):
        sweep(Path(os.environ.pop(SESSION)))


def pytest_report_header() -> str:
    """Tell a newcomer how long it takes, because the first dots may take a while."""
    return "The tests start PostgreSQL and Prefect several times: allow 5 minutes on two cores."


@pytest.fixture(scope="session")
def template() -> Path:
    """Return the folder of a lab that is down, with a migrated database and the tables; make it if it is the first."""
    folder = Path(os.environ[SESSION]) / "template" / ".lab"
    folder.parent.mkdir(exist_ok=True)
    with files.lock(folder.with_name("lock")), pytest.MonkeyPatch.context() as patch:
        if not folder.exists():
            forget_servers(patch)
            patch.setenv("FLOWS_LAB_DIR", str(folder))
            try:
                lab.up()
                warehouse.prepare()
                lab.down()
            except BaseException:
                lab.reset()
                raise
    return folder


@pytest.fixture(scope="session")
def shared_folder(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of the lab that the tests of a worker share."""
    folder = tmp_path_factory.mktemp("shared") / ".lab"
    copy(template, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        yield folder
        lab.reset()
    assert processes_below(folder) == []


@pytest.fixture
def shared_lab(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the API address of a lab that tests share; each finds one limit, 3, all slots free, and nothing running."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(shared_folder))
    url = server.use()
    limits.ensure(limits.TAG, 3)
    assert slots() == 0, "an earlier test left a slot taken"
    yield url
    kill_started()
    monkeypatch.setenv("FLOWS_LAB_DIR", str(shared_folder))
    monkeypatch.setenv("PREFECT_API_URL", url)
    recovery.clear_abandoned("")  # of what was killed: the next test takes the one staging folder for its own
    if slots():
        limits.reset()
    unfinished = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]
    left = {run["id"] for run in rest.rows(endpoints.flow_runs(state=unfinished, future=True))}
    left |= {run["flow_run_id"] for run in rest.rows(endpoints.task_runs(state=unfinished))}
    others = {counter["name"] for counter in rest.send(endpoints.counters())} - {f"tag:{limits.TAG}"}
    unwanted = [("flow_runs", run) for run in left - {None}] + [("v2/concurrency_limits", name) for name in others]
    rest.gather([endpoints.delete(*one) for one in unwanted])


@pytest.fixture
def full_mart(shared_lab: str) -> dict[str, list[tuple]]:
    """Return the tables of a mart that a run has filled."""
    if not mart.path().exists() or set(tables()) < set(warehouse.names()):
        assert run(FLOW, "--json").returncode == 0
    return tables()


@pytest.fixture
def new_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder of a lab that does not exist yet."""
    forget_servers(monkeypatch)
    folder = tmp_path / ".lab"
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    yield folder
    kill_started()
    monkeypatch.delenv("FLOWS_PG_BIN", raising=False)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    if folder.is_dir():
        lab.reset()
    assert processes_below(tmp_path) == []


@pytest.fixture
def copied_lab(new_lab: Path, template: Path) -> Path:
    """Return the folder of a lab of the test's own, which is down, with the tables loaded."""
    copy(template, new_lab)
    return new_lab


@pytest.fixture(scope="session")
def guarded_folder(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of the lab that `guarded` brings up."""
    folder = tmp_path_factory.mktemp("guarded") / ".lab"
    copy(template, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        yield folder
        lab.reset()
    assert processes_below(folder) == []


@pytest.fixture
def guarded(guarded_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that brings up a lab, shared by tests, behind a guard, and returns its API address."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(guarded_folder))

    def up(how: str, https: bool = False) -> str:
        return str(lab.up(how, https).api_url)

    return up


@pytest.fixture(scope="session")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the groups `dask` and `redis`, which the default one does not have."""
    folder = tmp_path_factory.mktemp("scaled") / ".venv"
    sync = ["uv", "sync", "--quiet", "--frozen", "--group", "dask", "--group", "redis", "--no-group", "learn"]
    sync += ["--no-group", "dev", "--python", sys.executable]
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(folder)}
    subprocess.run(sync, cwd=settings.PROJECT, env=environment, check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """Return the monitor, not opened yet."""
    folder = settings.PROJECT / "streamlit"
    monkeypatch.syspath_prepend(str(folder))
    forget_scripts()
    return AppTest.from_file(str(folder / "main.py"), default_timeout=60)
