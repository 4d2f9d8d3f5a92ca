"""Processes that outlive the program that started them: start, recognise and stop them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil


class Mark(NamedTuple):
    """What tells a process from a later one that was given the same id."""

    pid: int
    created: float


def start(command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> Mark:
    """Start `command` in `folder`, detached, with its output appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C, or a notebook's kernel that is ended, does not reach it.
            start_new_session=True,
        )
    return Mark(process.pid, psutil.Process(process.pid).create_time())


def find(mark: Mark | None) -> psutil.Process | None:
    """The running process that `mark` was given to, or None. A zombie runs no more."""
    if mark is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(mark.pid)
        if abs(process.create_time() - mark.created) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def working_in(folder: Path, name: str) -> Iterator[psutil.Process]:
    """The processes that work in `folder` and have `name` in their command line, whoever started them."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.cwd().removesuffix(" (deleted)") == str(folder)
                and name in " ".join(process.cmdline())
                and process.status() != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
            ):
                yield process


def stop(processes: Sequence[psutil.Process], how: signal.Signals, timeout: float = 10) -> None:
    """Send `how` to the processes; return when they and their children have gone, killed after `timeout` seconds."""
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    _, left = psutil.wait_procs(family, timeout)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, 10)


def last_line(log: Path) -> str:
    """The last line of `log` that says something, for an error message."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was logged")
    return "nothing was logged"
