"""Processes that outlive the program that started them: start, recognise and stop them."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import NamedTuple

import psutil

from flows.settings import CannotRun

SECONDS = 120  # how long a server may take to start
Probe = Callable[[], bool]  # whether a server answers


class Mark(NamedTuple):
    """What tells a process from a later one that was given the same id."""

    pid: int
    created: float


def start(
    name: str, command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str], answers: Probe
) -> Mark:
    """Start `command` in `folder`, detached, with its output appended to `log`, and wait until it `answers`.

    Raises CannotRun, with the log's last line, if it ends first or does not answer within SECONDS; it is then stopped.
    `name` is what the message calls it.
    """
    with log.open("ab") as output:
        # A session of its own: Ctrl-C, or a notebook's kernel that is ended, does not reach it.
        process = psutil.Popen(
            command, cwd=folder, env=environment, stdin=DEVNULL, stdout=output, stderr=STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + SECONDS
    try:
        while process.poll() is None:
            if answers():
                return Mark(process.pid, process.create_time())
            if time.monotonic() > deadline:
                raise CannotRun(f"{name} gave no answer within {SECONDS} seconds. {_last_line(log)}")
            time.sleep(0.05)
        raise CannotRun(f"{name} ended while it was starting. {_last_line(log)}")
    except BaseException:  # Ctrl-C too
        stop([process], signal.SIGKILL)
        raise


def find(mark: Mark | None) -> psutil.Process | None:
    """Return the running process that `mark` was given to, or None. A zombie does not count as running."""
    if mark is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(mark.pid)
        if abs(process.create_time() - mark.created) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def working_in(folder: Path, name: str) -> list[psutil.Process]:
    """Return the processes that work in `folder` and have `name` in their command line, whoever started them."""
    working = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.cwd().removesuffix(" (deleted)") == str(folder)
                and name in " ".join(process.cmdline())
                and process.status() != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
            ):
                working.append(process)
    return working


def stop(processes: Sequence[psutil.Process], how: signal.Signals) -> None:
    """Send `how` to `processes`, and return when they and their children have ended, killed after 10 seconds."""
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    _, left = psutil.wait_procs(family, 10)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, 10)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"Its log {log} ends with: {lines[-1].strip()}" if lines else f"Its log {log} is empty."
