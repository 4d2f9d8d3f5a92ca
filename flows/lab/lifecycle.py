"""The local lab: PostgreSQL, a Prefect server and its gateway, started, attached to, described, stopped, thrown away.

Its state lies in the folder `.lab` (or FLOWS_LAB_DIR). Whoever starts it leaves it running for the next caller.
"""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psycopg
from psycopg import sql

from flows import limits, settings, versions
from flows.api import server
from flows.lab import gateway, keys, postgres, prefect_server, processes, state
from flows.settings import CannotRun


@dataclass(frozen=True)
class Lab:
    """What the lab is. Where it does not run, the other fields are empty."""

    running: bool = False
    api_url: str | None = None
    prefect_version: str | None = None
    auth: str = "none"
    database: str | None = None
    pids: dict[str, int] = field(default_factory=dict)


def database(name: str, role: str = "postgres") -> str:
    """The address of the lab's database `name`, the lab's PostgreSQL being started where it is down."""
    with state.locked() as folder:
        _start_postgres(folder)
        return postgres.url(folder / "postgres", name, role)


def up(auth: str | None = None, https: bool = False) -> Lab:
    """Start what is down, repair what has crashed, and return the lab once all of it answers.

    `auth` says how callers are checked: "none"; "basic", by the server itself; "gateway", by bearer keys (flows.keys),
    with `https` over TLS. None leaves that as it was, "none" on a new lab. Raises CannotRun where the Prefect of this
    environment is another one than the lab's, where there is none to start, or where its server knows no "basic".
    """
    with state.locked() as folder:
        before = server.read_lab()
        if auth is None:
            auth, https = before.get("auth", "none"), before.get("https", False)
        here = versions.here()
        if auth == "basic" and here and not versions.line(here).basic:
            raise CannotRun(f"Prefect {here}'s server cannot check who calls. Choose --auth gateway, or none.")
        _start_postgres(folder)
        _check_version(folder)
        if (auth, https) != (before.get("auth"), before.get("https")) or not _server_answers(folder):
            with prefect_server.port_lock():
                _start_server(folder, auth, https)
        return _describe(folder)


def down() -> None:
    """Stop the lab's processes. Its data stay, and how its callers are checked."""
    with state.locked() as folder:
        _stop(folder)


def reset() -> None:
    """Stop the lab and throw its state away: databases, mart, logs."""
    with state.locked() as folder:
        _stop(folder)
        # The lock last: once it is gone, another process may take a new one.
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "lab.lock"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def status() -> Lab:
    """What runs now. Starts nothing, waits for nobody."""
    return _describe(settings.read().flows_lab_dir)


def _start_postgres(folder: Path) -> None:
    """Start the lab's PostgreSQL, with its databases and roles, unless it runs."""
    data = folder / "postgres"
    if processes.find(state.marks().get("postgres")):
        return
    if shutil.disk_usage(folder).free < 150e6:
        raise CannotRun(f"The disk of {folder} has less than 150 MB left. Make room, or set FLOWS_LAB_DIR elsewhere.")
    mark = postgres.start(data, folder / "logs" / "postgres.log")
    with psycopg.connect(postgres.url(data, "postgres"), autocommit=True) as connection:
        for role, connections in (("prefect", -1), ("etl", limits.DEFAULT)):
            if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            connection.execute(sql.SQL("alter role {} connection limit {}").format(sql.Identifier(role), connections))
    _create_database(data, "warehouse", "postgres")
    before = server.read_lab()
    warehouse = postgres.url(data, "warehouse", "etl")
    state.write(folder, before | {"warehouse_url": warehouse, "marks": before.get("marks", {}) | {"postgres": mark}})


def _create_database(data: Path, name: str, owner: str) -> None:
    with psycopg.connect(postgres.url(data, "postgres"), autocommit=True) as connection:
        if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
            names = sql.Identifier(name), sql.Identifier(owner)
            connection.execute(sql.SQL("create database {} owner {}").format(*names))


def _start_server(folder: Path, auth: str, https: bool) -> None:
    """Start the Prefect server, and a gateway before it if `auth` is "gateway"."""
    version = versions.here()
    if version is None:
        raise CannotRun("There is no Prefect here to start. Name a server with PREFECT_API_URL, or run uv sync.")
    before = server.read_lab()
    _stop_server(folder)
    url = f"{'https' if https else 'http'}://127.0.0.1:{prefect_server.port(before.get('api_url'))}/api"
    database = prefect_server.database(version)
    _create_database(folder / "postgres", database, "prefect")
    address = postgres.url(folder / "postgres", database, "prefect")
    socket = _socket(folder) if auth == "gateway" else None
    basic = keys.auth_string() if auth == "basic" else None
    logs, marks = folder / "logs", {"postgres": before["marks"]["postgres"]}
    if socket is not None:
        prefect_server.make_private(socket.parent)
        keys.bearer()  # makes the first one
        # First, since the port that was just found free is its.
        marks["gateway"] = gateway.start(folder / "gateway", logs / "gateway.log", url, socket, keys.bearer_file())
    log = logs / "prefect-server.log"
    try:
        marks["prefect"] = prefect_server.start(folder / "prefect", log, address, url, socket=socket, auth_string=basic)
    except CannotRun:
        _stop_server(folder)
        raise
    facts = {"auth": auth, "https": https, "api_url": url, "prefect_version": version}
    facts |= {"key_file": str(keys.bearer_file())} if auth == "gateway" else {}
    facts |= {"auth_string_file": str(keys.auth_string_file())} if auth == "basic" else {}
    facts |= {"certificate": str(gateway.certificate(folder / "gateway"))} if https else {}
    state.write(folder, facts | {"warehouse_url": before["warehouse_url"], "marks": marks})


def _stop(folder: Path) -> None:
    before = server.read_lab()
    _stop_server(folder)
    postgres.stop(folder / "postgres")
    state.write(folder, {key: before[key] for key in ("auth", "https") if key in before})


def _stop_server(folder: Path) -> None:
    gateway.stop(folder / "gateway")
    prefect_server.stop(folder / "prefect")
    shutil.rmtree(_socket(folder).parent, ignore_errors=True)


def _check_version(folder: Path) -> None:
    """Raise CannotRun where the running lab is of the other Prefect version."""
    ours, theirs = versions.here(), _describe(folder).prefect_version
    if ours and theirs and versions.line(ours) is not versions.line(theirs):
        raise CannotRun(f"The lab runs Prefect {theirs}, this environment has {ours}. Run scripts/lab.py down first.")


def _server_answers(folder: Path) -> bool:
    running = _describe(folder)
    if not running.running:
        return False
    with contextlib.suppress(httpx.HTTPError):
        # 401 where the gateway lives; the server behind it is asked by who has a key.
        return httpx.get(f"{running.api_url}/health", timeout=10, verify=False).status_code in (200, 401)
    return False


def _socket(folder: Path) -> Path:
    """Where the server listens behind a gateway. A socket's path may have 107 characters at the most."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path("/tmp") / f"flows-{os.getuid()}-{digest}-prefect" / "socket"


def _describe(folder: Path) -> Lab:
    written, marks = server.read_lab(), state.marks()
    pids = {name: mark.pid for name, mark in marks.items() if processes.find(mark)}
    lab = Lab(pids=pids)
    if "postgres" in pids and "prefect_version" in written:
        database = prefect_server.database(written["prefect_version"])
        lab = replace(lab, database=postgres.url(folder / "postgres", database))
    if marks and marks.keys() == pids.keys() and "prefect" in pids:
        known = {key: written[key] for key in ("api_url", "prefect_version", "auth") if key in written}
        lab = replace(lab, running=True, **known)
    return lab
