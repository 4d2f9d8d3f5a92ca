"""The lab's life: start it, stop it, throw it away, describe it. A program that starts it leaves it running."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from psycopg import sql

from flows import limits, settings, versions
from flows.lab import gateway, keys, postgres, prefect_server, processes, state
from flows.settings import CannotRun


@dataclass(frozen=True)
class Lab:
    """What runs of the lab. If its server does not run, only `pids` and `database` may be set."""

    running: bool = False
    api_url: str | None = None
    prefect_version: str | None = None
    auth: str = "none"
    database: str | None = None
    pids: dict[str, int] = field(default_factory=dict)


def up(auth: str | None = None, https: bool = False) -> Lab:
    """Start what is down, repair what has crashed, and return the lab once all of it answers.

    `auth` is how callers are checked: "none"; "basic", by the server itself; "gateway", by bearer keys (`keys`), with
    `https` over TLS. None leaves that unchanged; a new lab begins with "none". Raises CannotRun if a part does not
    start, or if Prefect is missing here, is another major version than the lab's, or cannot do "basic".
    """
    with state.locked() as folder:
        before = state.read()
        if auth is None:
            auth, https = before.get("auth", "none"), before.get("https", False)
        here, unchanged = versions.here(), (auth, https) == (before.get("auth"), before.get("https"))
        if auth == "basic" and here and not versions.is_3(here):
            raise CannotRun(f"The server of Prefect {here} cannot check callers. Choose --auth gateway or --auth none.")
        _start_postgres(folder)
        lab = status()
        if here and lab.prefect_version and versions.is_3(here) != versions.is_3(lab.prefect_version):
            differ = f"The lab runs Prefect {lab.prefect_version}, but this environment has Prefect {here}."
            raise CannotRun(f"{differ} Stop the lab with scripts/lab.py down, then try again.")
        # 401 is the gateway's answer, or the server's own with --auth basic.
        if lab.api_url and unchanged and prefect_server.health(lab.api_url) in (200, 401):
            return lab
        if here is None:
            raise CannotRun("Prefect is not installed here. Run uv sync, or name a server with PREFECT_API_URL.")
        _stop_server(folder)
        while True:
            with prefect_server.reserved_port(before.get("api_url")) as port:
                try:
                    _start_server(folder, auth, f"{'https' if https else 'http'}://127.0.0.1:{port}/api", here)
                    return status()
                except BaseException as error:  # Ctrl-C too
                    _stop_server(folder)  # the gateway
                    # If another program took the port in the meantime, another port may do.
                    if not isinstance(error, CannotRun) or prefect_server.is_free(port):
                        raise


def down() -> None:
    """Stop the lab's processes. The data stay, and so does the way in which callers are checked."""
    with state.locked() as folder:
        _stop(folder)


def reset() -> None:
    """Stop the lab and delete its state: databases, mart, logs, keys. What a learner has done stays."""
    with state.locked() as folder:
        _stop(folder)
        # The lock last: once it is gone, another process may take a new one.
        for entry in sorted(set(folder.iterdir()) - {folder / "learner"}, key=lambda entry: entry.name == "lab.lock"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def status() -> Lab:
    """Return what runs now. Starts nothing, and waits for no other process."""
    folder, facts = settings.read().flows_lab_dir, state.read()
    started, version, database = facts.get("pids", {}), facts.get("prefect_version"), None
    pids = {name: pid for name, pid in started.items() if processes.alive(folder / name)}
    if version and "postgres" in pids:
        database = postgres.url(folder / "postgres", prefect_server.database_name(version))
    if "prefect" in pids and pids.keys() == started.keys():
        return Lab(True, facts["api_url"], version, facts["auth"], database, pids)
    return Lab(database=database, pids=pids)


def database(name: str) -> str:
    """Return the address of the lab's database `name` for its owner; start the lab's PostgreSQL if it is down."""
    with state.locked() as folder:
        _start_postgres(folder)
        return postgres.url(folder / "postgres", name)


def _start_postgres(folder: Path) -> None:
    """Start the lab's PostgreSQL, with its databases and roles, unless it runs."""
    data, facts = folder / "postgres", state.read()
    pid = postgres.running(data)
    if pid and pid == facts.get("pids", {}).get("postgres"):
        return
    if shutil.disk_usage(folder).free < 150e6:
        raise CannotRun(f"The disk of {folder} has less than 150 MB left. Make room, or set FLOWS_LAB_DIR to another.")
    pid = pid or postgres.start(data, folder / "logs" / "postgres.log")
    with postgres.connect(postgres.url(data, "postgres")) as connection:
        for role, connections in (("prefect", -1), ("etl", limits.DEFAULT)):
            if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            connection.execute(sql.SQL("alter role {} connection limit {}").format(sql.Identifier(role), connections))
    _create_database(data, "warehouse", "postgres")
    warehouse = postgres.url(data, "warehouse", "etl")
    state.write(folder, facts | {"warehouse_url": warehouse, "pids": facts.get("pids", {}) | {"postgres": pid}})


def _create_database(data: Path, name: str, owner: str) -> None:
    with postgres.connect(postgres.url(data, "postgres")) as connection:
        if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
            create = sql.SQL("create database {} owner {}")
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(owner)))


def _start_server(folder: Path, auth: str, url: str, version: str) -> None:
    """Start the Prefect server with its API at `url`, behind a gateway if `auth` is "gateway"."""
    before, home, front = state.read(), folder / "prefect", folder / "gateway"
    facts = {"auth": auth, "https": url.startswith("https:"), "api_url": url, "prefect_version": version}
    pids = {"postgres": before["pids"]["postgres"]}
    if auth == "gateway":
        processes.make_private(processes.socket_folder(home))
        keys.bearer()  # makes the first one
        facts["key_file"] = str(keys.file("keys"))
        # Before the server, because the port that was just found free is the gateway's.
        log, socket = folder / "logs" / "gateway.log", prefect_server.socket_file(home)
        pids["gateway"] = gateway.start(front, log, url, socket, keys.file("keys"))
    if auth == "basic":
        facts["auth_string_file"] = str(keys.file("auth_string"))
    if facts["https"]:
        facts["certificate"] = str(gateway.certificate(front))
    database = prefect_server.database_name(version)
    _create_database(folder / "postgres", database, "prefect")
    address = postgres.url(folder / "postgres", database, "prefect")
    pids["prefect"] = prefect_server.start(home, folder / "logs" / "prefect-server.log", address, url, auth)
    state.write(folder, facts | {"warehouse_url": before["warehouse_url"], "pids": pids})


def _stop(folder: Path) -> None:
    _stop_server(folder)
    postgres.stop(folder / "postgres")
    state.write(folder, state.lasting(state.read()))


def _stop_server(folder: Path) -> None:
    gateway.stop(folder / "gateway")
    prefect_server.stop(folder / "prefect")
