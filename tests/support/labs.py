"""The lab's processes and its limit, as a test looks at them."""

import contextlib
import itertools
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from flows import lab, limits
from flows.lab import state
from support.waiting import eventually

SESSION = "FLOWS_TESTS"  # the folder of all that the tests make, the same for all workers and the processes they start
# For copies. Labs that start from nothing search from 4200 on, and would take the port of one that just crashed.
_ports = itertools.count(4300 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def copy(template: Path, folder: Path) -> None:
    """Make `folder` a copy of the lab in `template`, which is down, with a port of its own for its server."""
    shutil.copytree(template, folder)
    state.write(folder, {"api_url": f"http://127.0.0.1:{next(_ports)}/api"})


def slots() -> int:
    """Return how many slots of the taught limit are taken."""
    limit = limits.read()
    return limit.active_slots if limit else 0


def processes_below(folder: Path) -> list[psutil.Process]:
    """Return the processes whose current folder is `folder` or inside it."""
    processes = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


def kill(name: str) -> None:
    """Kill a process of the lab, as a crash would."""
    process = psutil.Process(lab.status().pids[name])
    process.send_signal(signal.SIGKILL)
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    if name == "prefect":  # whose threads may hold its lock a moment longer
        eventually(lambda: name not in lab.status().pids)


def sweep(folder: Path) -> None:
    """Reset the labs that were left in `folder`, end all other processes of its session, and remove it."""
    for file in folder.rglob("lab.json"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FLOWS_LAB_DIR", str(file.parent))
            lab.reset()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(SESSION) == str(folder):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)
