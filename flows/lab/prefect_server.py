"""A Prefect server over PostgreSQL, on loopback only. docs/concurrency_guide.md shows what each setting is worth."""

import contextlib
import itertools
import json
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
from dotenv import dotenv_values
from filelock import Timeout
from psycopg.types.json import Jsonb

from flows import files, versions
from flows.lab import keys, postgres, processes
from flows.settings import CannotRun

FIRST_PORT = 4200
SETTINGS = Path(__file__).with_name("server.env")
# What is imported stays, so looking for garbage in it meanwhile is in vain, and would take a quarter of the time.
UVICORN = "import gc, uvicorn; gc.disable(); import prefect.server.api.server; gc.enable(); uvicorn.main()"
# An automation that ends flow runs whose heartbeats stop, in Prefect 3. It allows for more than two heartbeats with
# Prefect's default, which is one every 180 seconds.
ZOMBIES = Path(__file__).with_name("zombies.json")


def database_name(version: str) -> str:
    """Return the name of the database for this `version` of Prefect: no major version reads another's tables."""
    return "prefect" + version.split(".")[0]


def start(home: Path, log: Path, address: str, url: str, auth: str) -> int:
    """Start a server with its API at `url`; return its process id once it answers. It has the work pool "flows".

    Its files are in `home`, its database is at `address`. With the `auth` "gateway" it listens only on `socket_file`,
    in a private folder, and the gateway answers at `url`; with "basic" it requires the lab's `keys.auth_string`.
    Raises CannotRun if it does not start.
    """
    written = log.stat().st_size if log.exists() else 0
    if versions.is_3(versions.here()):  # which has leases
        _recount(home, address)
    origin = url.removesuffix("/api")
    print(f"Starting a Prefect server at {origin}", file=sys.stderr, flush=True)
    # What `prefect server start` runs: in 2.13.7 as a child of its own, and in neither version on a socket.
    command = [sys.executable, "-c", UVICORN, "--factory", "prefect.server.api.server:create_app"]
    command += ["--log-level", "warning"]
    chosen = {name: str(value) for name, value in dotenv_values(SETTINGS).items()} | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": address.replace("postgresql:", "postgresql+asyncpg:"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{origin},{origin.replace('127.0.0.1', 'localhost')}",
        # Beside the state, so that two labs that share an environment do not write the same files.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
    }
    port, how = 0, dict[str, Any](trust_env=False, timeout=30)
    if auth == "gateway":
        command += ["--uds", str(socket_file(home))]
        how["transport"] = httpx.HTTPTransport(uds=str(socket_file(home)))
    else:
        port = httpx.URL(url).port or 0
        command += ["--host", "127.0.0.1", "--port", str(port)]
    if auth == "basic":
        chosen["PREFECT_SERVER_API_AUTH_STRING"] = keys.auth_string().get_secret_value()
        how["auth"] = tuple(chosen["PREFECT_SERVER_API_AUTH_STRING"].split(":", 1))
    with httpx.Client(base_url=url.replace("https:", "http:"), **how) as client:
        try:
            return processes.start("The Prefect server", command, home, log, chosen, lambda: _answers(client), port)
        except CannotRun:
            if b"Can't locate revision" not in log.read_bytes()[written:]:
                raise
            reason = f"The lab's database was made by a newer Prefect than {versions.here()}, which is installed here."
            remedy = "Install the newer one, or delete the lab's data with scripts/lab.py reset."
            raise CannotRun(f"{reason} {remedy}") from None


def stop(home: Path) -> None:
    """Stop the server whose files are in `home`, whoever started it."""
    how = signal.SIGTERM if versions.is_3(versions.here()) else signal.SIGKILL  # Prefect 2 takes SIGTERM and goes on
    processes.stop(processes.working_in(home, r"prefect\.server"), how)
    processes.check_seen(home, r"prefect\.server")
    shutil.rmtree(socket_file(home).parent, ignore_errors=True)


def socket_file(home: Path) -> Path:
    """Return the socket on which the server whose files are in `home` listens behind a gateway."""
    return processes.socket_folder(home) / "socket"


@contextlib.contextmanager
def reserved_port(before: str | None) -> Generator[int]:
    """Yield the port of the API address `before` if it is free, else the first free one from FIRST_PORT on."""
    for port in itertools.chain([httpx.URL(before or "").port or FIRST_PORT], itertools.count(FIRST_PORT)):
        file = Path("/tmp") / f"flows-{port}.lock"  # no lab of any user takes it in the block, whatever its TMPDIR
        with contextlib.suppress(Timeout), files.lock(file, 0o666).acquire(timeout=0):
            try:
                if is_free(port):
                    if port != FIRST_PORT:
                        notice = f"(port {FIRST_PORT} is in use by another program; this server uses {port})"
                        print(notice, file=sys.stderr, flush=True)
                    yield port
                    return
            finally:
                with contextlib.suppress(OSError):  # it may be another user's
                    file.unlink()


def health(url: str) -> int | None:
    """Return the status with which the API at `url` answers a caller without credentials; None if it does not."""
    with contextlib.suppress(httpx.HTTPError):
        # Nothing secret is sent, so that it does not matter here who signed its certificate.
        return httpx.get(f"{url}/health", verify=False, trust_env=False, timeout=30).status_code
    return None


def _answers(client: httpx.Client) -> bool:
    """Return whether the server answers; make sure of its work pool and its automation."""
    with contextlib.suppress(httpx.HTTPError):
        if client.get("/health", timeout=2).status_code == 200:
            client.post("/work_pools/", json={"name": "flows", "type": "process"})  # 409 if it exists
            automation = json.loads(ZOMBIES.read_text())
            named = {"automations": {"name": {"any_": [automation["name"]]}}}
            if client.post("/automations/filter", json=named).text == "[]":
                client.post("/automations/", json=automation)
            return True
    return False


def is_free(port: int) -> bool:
    """Return whether a server can listen on `port`."""
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def _recount(home: Path, address: str) -> None:
    """Set each limit's counter to the slots of its leases, for the server with PREFECT_HOME `home`, which is down."""
    # Prefect counts a slot first and writes its lease afterwards. If the server is killed in between, the slot stays
    # counted forever, and no lease can expire that would free it. No API can correct that.
    taken: Counter[str] = Counter()
    for file in (home / "concurrency_leases").glob("*-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            lease = json.loads(file.read_text())
            taken.update(dict.fromkeys(lease["resource_ids"], lease["metadata"]["slots"]))
    with postgres.connect(address) as connection:
        if connection.execute("select to_regclass('concurrency_limit_v2')").fetchone() != (None,):
            recount = "update concurrency_limit_v2 set active_slots = coalesce((%s ->> id::text)::int, 0)"
            connection.execute(recount, [Jsonb(taken)])
