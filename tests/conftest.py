"""Labs for the tests. Everything here is real: PostgreSQL, Prefect, processes."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from streamlit.testing.v1 import AppTest
from support.browsers import chromium, forget_scripts
from support.labs import processes_below, slots
from support.servers import VARIABLES, forget_servers

from flows import lab, limits, settings
from flows.api import server


def pytest_configure() -> None:
    """Keep the tests away from the user's own servers and credentials."""
    for name in (*VARIABLES, "WAREHOUSE_URL", "FLOWS_LAB_DIR"):
        os.environ.pop(name, None)
    named = [name for name in (*VARIABLES, "WAREHOUSE_URL") if not name.startswith("FLOWS_") and settings.origin(name)]
    if named:
        places = " and ".join(f"{name} in {settings.origin(name)}" for name in named)
        pytest.exit(f"The tests would use your own server: there is {places}. Move that away while they run.", 2)


@pytest.fixture(scope="session", autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the folder of the whole session, which pytest would keep; set up first and so torn down last."""
    folder = tmp_path_factory.getbasetemp()
    yield
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of the lab that tests share."""
    folder = tmp_path_factory.mktemp("shared") / ".lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        yield folder
        lab.reset()
    assert processes_below(folder) == []


@pytest.fixture
def shared_lab(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the API address of a lab that tests share; each finds the limit 3 and all slots free."""
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
    """Yield the folder of a lab that does not exist yet."""
    forget_servers(monkeypatch)
    folder = tmp_path / ".lab"
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    yield folder
    monkeypatch.delenv("FLOWS_PG_BIN", raising=False)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))
    if folder.is_dir():
        lab.reset()
    assert processes_below(tmp_path) == []


@pytest.fixture(scope="session")
def guarded_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of the lab that `guarded` brings up."""
    folder = tmp_path_factory.mktemp("guarded") / ".lab"
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
