"""The local lab: PostgreSQL and a Prefect server, started, attached to, described, stopped and thrown away.

Its state lies in the folder `.lab` (or FLOWS_LAB_DIR). Whoever starts it leaves it running for the next caller.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from flows import postgres, prefect_server, processes, settings
from flows.processes import Mark
from flows.settings import CannotRun

CONNECTIONS = 3  # what the role `etl` may open at once, and so the limit that the kit teaches
WORK_POOL = "flows"
_OWN = "FLOWS_LAB_API_URL"  # set beside PREFECT_API_URL where the kit, not the user, chose the server


@dataclass(frozen=True)
class Lab:
    """What the lab is. Where it does not run, the other fields are empty."""

    running: bool = False
    api_url: str | None = None
    prefect_version: str | None = None
    auth: str = "none"
    database: str | None = None
    pids: dict[str, int] = field(default_factory=dict)


def server() -> str:
    """The API address of the server to use: the one that the user named, else the lab's, started where it is down.

    From then on this process and its children use it, also if Prefect was imported before.
    Raises CannotRun where the lab cannot be started.
    """
    named = settings.read().prefect_api_url
    if named is not None and named != os.environ.get(_OWN):
        connect(named)
        return named
    url = up().api_url
    assert url is not None
    os.environ[_OWN] = url
    connect(url)
    return url


def is_own(url: str) -> bool:
    """Whether `url` is the address of the running lab's server."""
    return url.replace("//localhost:", "//127.0.0.1:") == status().api_url


def connect(url: str) -> None:
    """Make this process, its children, and Prefect where it is imported already, use the server at `url`."""
    os.environ["PREFECT_API_URL"] = url
    context: Any = sys.modules.get("prefect.context")
    if context is not None:
        # Prefect reads the environment when it is imported, and not again.
        context.GLOBAL_SETTINGS_CONTEXT = context.root_settings_context()


def database(name: str, role: str = "postgres") -> str:
    """The address of the lab's database `name`, the lab's PostgreSQL being started where it is down."""
    with _locked() as folder:
        _start_postgres(folder)
        return postgres.url(folder / "postgres", name, role)


def up() -> Lab:
    """Start what is down, repair what has crashed, and return the lab once all of it answers."""
    with _locked() as folder:
        _start_postgres(folder)
        if not _server_answers(folder):
            _start_server(folder)
        return _describe(folder)


def down() -> None:
    """Stop the lab's processes. Its data stay."""
    with _locked() as folder:
        prefect_server.stop(folder / "prefect")
        postgres.stop(folder / "postgres")
        (folder / "lab.json").unlink(missing_ok=True)


def reset() -> None:
    """Stop the lab and throw its state away: databases, mart, logs."""
    down()
    with _locked() as folder:
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def status() -> Lab:
    """What runs now. Starts nothing, waits for nobody."""
    return _describe(settings.read().flows_lab_dir)


@contextlib.contextmanager
def _locked() -> Generator[Path]:
    """The lab's folder, held by this process alone."""
    folder = settings.read().flows_lab_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("prefect", "logs"):
            (folder / name).mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(handle)
    except OSError as error:
        raise CannotRun(
            f"The lab's folder {folder} cannot be used: {error.strerror or error}."
            " Set FLOWS_LAB_DIR to a folder that you can write, with some room on its disk."
        ) from error


def _start_postgres(folder: Path) -> None:
    """Start the lab's PostgreSQL, with its databases and roles, unless it runs."""
    data = folder / "postgres"
    if processes.find(_marks(folder).get("postgres")):
        return
    if shutil.disk_usage(folder).free < 150e6:
        raise CannotRun(f"The disk of {folder} has less than 150 MB left. Make room, or set FLOWS_LAB_DIR elsewhere.")
    mark = postgres.start(data, folder / "logs" / "postgres.log")
    with psycopg.connect(postgres.url(data, "postgres"), autocommit=True) as connection:
        for role, connections in (("prefect", -1), ("etl", CONNECTIONS)):
            if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            connection.execute(sql.SQL("alter role {} connection limit {}").format(sql.Identifier(role), connections))
        for name, owner in ((prefect_server.database(), "prefect"), ("warehouse", "postgres")):
            if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
                names = sql.Identifier(name), sql.Identifier(owner)
                connection.execute(sql.SQL("create database {} owner {}").format(*names))
    _write(folder, "postgres", mark)


def _start_server(folder: Path) -> None:
    address = postgres.url(folder / "postgres", prefect_server.database(), "prefect")
    log, before = folder / "logs" / "prefect-server.log", _state(folder).get("api_url")
    mark, url = prefect_server.start(folder / "prefect", log, address, WORK_POOL, before)
    _write(folder, "prefect", mark, api_url=url, prefect_version=version("prefect"))


def _server_answers(folder: Path) -> bool:
    state = _state(folder)
    ours, theirs = version("prefect"), state.get("prefect_version")
    if not processes.find(_marks(folder).get("prefect")) or not theirs:
        return False
    if ours.split(".")[0] != theirs.split(".")[0]:
        raise CannotRun(f"The lab runs Prefect {theirs}, this environment has {ours}. Run scripts/lab.py down first.")
    return prefect_server.answers(state["api_url"], patience=10)


def _describe(folder: Path) -> Lab:
    state, marks = _state(folder), _marks(folder)
    pids = {name: mark.pid for name, mark in marks.items() if processes.find(mark)}
    lab = Lab(pids=pids)
    if "postgres" in pids:
        lab = replace(lab, database=postgres.url(folder / "postgres", prefect_server.database()))
    if {"postgres", "prefect"} <= pids.keys() and state.get("api_url"):
        lab = replace(lab, running=True, api_url=state["api_url"], prefect_version=state["prefect_version"])
    return lab


def _state(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "lab.json").read_text())
    return {}


def _marks(folder: Path) -> dict[str, Mark]:
    return {name: Mark(*mark) for name, mark in _state(folder).get("marks", {}).items()}


def _write(folder: Path, name: str, mark: Mark, **facts: str) -> None:
    state = {**_state(folder), **facts}
    state["marks"] = {**state.get("marks", {}), name: mark}
    new = folder / "lab.json.new"
    new.write_text(json.dumps(state))
    new.replace(folder / "lab.json")
