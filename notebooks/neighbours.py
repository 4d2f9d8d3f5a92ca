"""Other lessons that are open beside this one: they use the same server, and some restart it with other credentials."""

import contextlib
import sys
import threading
from typing import Any

import records
from flows import versions
from flows.api import server
from flows.settings import CannotRun

_own: dict[str, Any] = {}  # the lab as it was when this lesson began, or last restarted it
_before: dict[str, Any] = {}  # the lab as it was when the cell that runs now began


def others() -> str:
    """Return a sentence that says which other lessons are open and how to end them, "" if none is."""
    names = records.open_elsewhere()
    if not names:
        return ""
    listed, verb, them = " and ".join(names), *(("is", "it") if len(names) == 1 else ("are", "them"))
    return (
        f"{listed[0].upper()}{listed[1:]} {verb} still open; closing a tab does not end a lesson. End {them}: run the"
        " last cell, or shut the kernel down (Kernel, Shut Down Kernel)."
    )


def changed() -> str:
    """Return what has happened to the lab while this lesson was open, and what to do; "" if nothing has."""
    now = _lab()
    if _own and now.get("auth") and _checks(now) != _checks(_own):
        event = "The lab's server now checks its callers in another way than when this lesson began."
    elif _before.get("pids") and now.get("pids") != _before["pids"]:
        event = "The lab's server was stopped or restarted while this cell ran."
    else:
        return ""
    if named := others():
        return f"{event} {named} Then run this cell again."
    return f"{event} Run this cell again. If that does not help, restart the kernel and begin with the first cell."


def accept() -> None:
    """Regard the lab as it is now as what this lesson wants."""
    for lab in (_own, _before):
        lab.clear()
        lab.update(_lab())


def begin_cell() -> None:
    """Look at the lab before a cell runs; if it was restarted, let Prefect's client use its new credentials."""
    lab = _lab()
    if _before and lab != _before:
        with contextlib.suppress(CannotRun):  # the cell may start it
            server.attach()
            _reconnect()
    _before.clear()
    _before.update(lab)


def _reconnect() -> None:
    """Let Prefect send the states of task runs over a new WebSocket, because the old one keeps its old credentials."""
    worker = sys.modules.get("prefect.events.worker")
    if worker and versions.is_3(versions.here()):
        # In a thread, because it would not wait inside the event loop in which a cell runs.
        drain = threading.Thread(target=worker.EventsWorker.drain_all, kwargs={"timeout": 5, "at_exit": False})
        drain.start()
        drain.join()


def _lab() -> dict[str, Any]:
    """Return what the lab wrote about itself, {} if the settings do not say where."""
    with contextlib.suppress(CannotRun):
        return server.read_lab()
    return {}


def _checks(lab: dict[str, Any]) -> tuple[Any, Any]:
    """Return how the `lab` checks its callers."""
    return lab.get("auth"), lab.get("https")
