"""A Prefect server over PostgreSQL, with the settings that make a tag's limit quick and safe.

It listens on loopback alone. What each setting is worth is measured in docs/concurrency_guide.md.
"""

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psycopg
from filelock import BaseFileLock
from pydantic import SecretStr

from flows import files, versions
from flows.lab import processes
from flows.settings import CannotRun

FIRST_PORT = 4200
WORK_POOL = "flows"


def database(version: str) -> str:
    """The name of the database of a server of this `version`: neither line of Prefect can read the other's tables."""
    return "prefect" + version.split(".")[0]


def start(
    home: Path, log: Path, address: str, url: str, *, socket: Path | None = None, auth_string: SecretStr | None = None
) -> processes.Mark:
    """Start a server whose files lie in `home` and whose database is at `address`; wait until it answers.

    Its API is at `url`. With a `socket` it listens on that alone, and whoever stands in front of it answers at `url`;
    the socket's folder has to be private (`make_private`).
    With an `auth_string` it asks its callers for Basic authentication. It has the work pool WORK_POOL.
    Raises CannotRun with the log's last line where it does not come up.
    """
    stop(home)
    if versions.line(versions.here()).leases:
        _recount_slots(home, address)
    origin = url.removesuffix("/api")
    print(f"Starting a Prefect server at {origin}", file=sys.stderr, flush=True)
    # What `prefect server start` runs: in 2.13.7 as a child of its own, and in neither version on a socket.
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--log-level", "warning"]
    if socket is None:
        command += ["--host", "127.0.0.1", "--port", str(httpx.URL(url).port)]
    else:
        command += ["--uds", str(socket)]
        socket.unlink(missing_ok=True)
    environment = _environment(home, address, origin)
    basic = None
    if auth_string is not None:
        user, _, password = auth_string.get_secret_value().partition(":")
        basic = httpx.BasicAuth(user, password)
        environment["PREFECT_SERVER_API_AUTH_STRING"] = auth_string.get_secret_value()
    mark = processes.start(command, folder=home, log=log, environment=environment)
    by_socket = httpx.HTTPTransport(uds=str(socket)) if socket else None
    with httpx.Client(base_url=url.replace("https:", "http:"), auth=basic, transport=by_socket, timeout=30) as client:
        deadline = time.monotonic() + 120
        while not _answers(client):
            if not processes.find(mark) or time.monotonic() > deadline:
                stop(home)
                raise CannotRun(f"The Prefect server does not start: {processes.last_line(log)} See {log}.")
            time.sleep(0.1)
        # It answers 409 where the pool is there already.
        client.post("/work_pools/", json={"name": WORK_POOL, "type": "process"})
    return mark


def stop(home: Path) -> None:
    """End the server whose files lie in `home`, whoever started it."""
    how = signal.SIGTERM if versions.line(versions.here()).stops else signal.SIGKILL
    processes.stop(list(processes.working_in(home, "prefect")), how)


def port(before: str | None) -> int:
    """The port for a server: that of the API address `before` if it is free again, else the first free from 4200."""
    found = _port_of(before) or free_port(FIRST_PORT)
    if found != FIRST_PORT:
        print(f"(port {FIRST_PORT} is taken by another program; it is {found} here)", file=sys.stderr, flush=True)
    return found


def port_lock() -> BaseFileLock:
    """Return the lock that a user's labs hold while a server starts: two would find the same port free."""
    return files.lock(Path(tempfile.gettempdir()) / f"flows-{os.getuid()}.lock")


def make_private(folder: Path) -> None:
    """Make `folder`, if it is not there. Raises CannotRun where others made it, or may reach what is in it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CannotRun(
            f"{folder} is not a folder that is yours alone: others could reach the server in it past the gateway."
            " Remove it, or have it removed by whoever made it."
        )


def _answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/health", timeout=2).status_code == 200
    return False


def _recount_slots(home: Path, address: str) -> None:
    """Make the counter of taken slots agree with the leases on disk, while no server runs.

    The server counts a slot first and writes down its lease afterwards: one that was killed in between would count
    the slot for ever, and no expiry would ever free it.
    """
    taken: Counter[str] = Counter()
    for file in (home / "concurrency_leases").glob("*-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            lease = json.loads(file.read_text())
            taken.update(dict.fromkeys(lease["resource_ids"], lease["metadata"]["slots"]))
    with psycopg.connect(address) as connection:
        if connection.execute("select to_regclass('concurrency_limit_v2')").fetchone() == (None,):
            return
        for (limit,) in connection.execute("select id::text from concurrency_limit_v2").fetchall():
            recounted = "update concurrency_limit_v2 set active_slots = %s where id = %s::uuid"
            connection.execute(recounted, [taken[limit], limit])


def _environment(home: Path, address: str, origin: str) -> dict[str, str]:
    chosen = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": address.replace("postgresql:", "postgresql+asyncpg:"),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "0.1",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{origin},{origin.replace('127.0.0.1', 'localhost')}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Its own pages would look for it on port 4200, wherever it listens.
        "PREFECT_UI_API_URL": f"{origin}/api",
        # Beside the state, so that two labs that share an environment do not write the same files.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
    }
    # The user's own PREFECT_ variables steer clients, and would steer the server too.
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | chosen


def _port_of(url: str | None) -> int | None:
    """The port in `url`, once the server that had it has let go of it; None where somebody else has it."""
    if url is None:
        return None
    port = httpx.URL(url).port or FIRST_PORT
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        if _is_free(port):
            return port
        time.sleep(0.05)
    return None


def free_port(port: int) -> int:
    """The first port from `port` on that nobody listens on."""
    while not _is_free(port):
        port += 1
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False
