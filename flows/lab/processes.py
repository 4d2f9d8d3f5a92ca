"""Processes that outlive the program that started them: start, recognise and stop them.

Each of them works in a folder of its own, and it and its children hold a lock on the file `FOLDER.lock`. The
lock shows whether one of them runs, also after a step of the clock, in another container, or as another user.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import psutil

from flows import files
from flows.settings import CannotRun

SECONDS = 120  # how long a server may take to start
Probe = Callable[[], bool]  # whether a server answers
# All that the lab's servers get of the user's environment, beside LC_… and FLOWS_…: other variables would configure
# PostgreSQL (PG…), Prefect (PREFECT_…), uvicorn (WEB_CONCURRENCY), httpx (proxies, certificates) and Python.
KEPT = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
KEPT |= {"PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}


def start(
    name: str, command: Sequence[str], folder: Path, log: Path, chosen: dict[str, str], answers: Probe, port: int = 0
) -> int:
    """Start `command` in `folder`, detached, with its output appended to `log`; return its id once it `answers`.

    With a `port`, an answer counts only if the process itself listens there, and not another program. Raises CannotRun,
    with the log's last line, if it ends first or does not answer within SECONDS; it is then stopped. `name` is what the
    message calls it, and `chosen` are environment variables, added as `environment` does.
    """
    with log.open("ab") as output, folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which the process inherits with the open file
        # A session of its own: Ctrl-C, or a notebook's kernel that is ended, does not reach it.
        process = psutil.Popen(
            command, cwd=folder, env=environment(chosen), stdin=DEVNULL, stdout=output, stderr=STDOUT,
            start_new_session=True, pass_fds=[lock.fileno()],
        )  # fmt: skip
    deadline = time.monotonic() + SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if (not port or _listens(process, port)) and answers():
                return process.pid
            time.sleep(0.05)
        why = f"gave no answer within {SECONDS} seconds" if process.poll() is None else "ended while it was starting"
        lines = log.read_text(errors="replace").strip().splitlines()
        last = f"ends with: {lines[-1].strip()}" if lines else "is empty."
        raise CannotRun(f"{name} {why}. Its log {log} {last}")
    except BaseException:  # Ctrl-C too
        stop([process], signal.SIGKILL)
        raise


def environment(chosen: dict[str, str]) -> dict[str, str]:
    """Return what is KEPT of the user's environment, with the `chosen` variables."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(("LC_", "FLOWS_"))}
    return kept | chosen


def alive(folder: Path) -> bool:
    """Return whether a process that was started in `folder` runs, or a child of it, here or elsewhere."""
    return files.held(folder.with_suffix(".lock"))


def check_seen(folder: Path, command: str) -> None:
    """Raise CannotRun if a process that was started in `folder` runs, but none is seen (`working_in`) from here."""
    if alive(folder) and not working_in(folder, command):
        raise CannotRun(
            f"The lab's {folder.name} in {folder.parent} runs in another container, or as another user. Use the lab"
            " there, stop it there (python scripts/lab.py down), or set FLOWS_LAB_DIR to have another lab here."
        )


def working_in(folder: Path, command: str) -> list[psutil.Process]:
    """Return the processes that work in `folder` and whose command lines match the pattern `command`."""
    working = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.cwd().removesuffix(" (deleted)") == str(folder)
                and re.search(command, " ".join(process.cmdline()))
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                working.append(process)
    return working


def stop(processes: Sequence[psutil.Process], how: signal.Signals) -> None:
    """Send `how` to `processes`, and return when they and their children have ended, killed after 10 seconds."""
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
            process.send_signal(how)
    _, left = psutil.wait_procs(family, 10)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, 10)


def socket_folder(files: Path) -> Path:
    """Return the folder for the sockets of the server whose own files are in `files`."""
    # In /tmp, because the path of a socket may have 107 characters, and that of a project more.
    return Path("/tmp") / f"flows-{os.getuid()}-{hashlib.sha256(str(files).encode()).hexdigest()[:12]}"


def make_private(folder: Path) -> None:
    """Make `folder` if it does not exist. Raises CannotRun if other users made it, or can enter it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise CannotRun(
            f"{folder} is not a folder that only you can enter, so other users could reach the server in it."
            " Remove it, or ask the user who made it to remove it."
        )


def _listens(process: psutil.Process, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(one.laddr.port == port for one in process.net_connections() if one.status == psutil.CONN_LISTEN)
    return False
