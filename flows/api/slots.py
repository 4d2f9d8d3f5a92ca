"""Slots: hold one of a global limit, or end a task run that holds one and whose process is gone."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Collection, Generator
from typing import Any

from flows import versions
from flows.api import endpoints, errors, rest
from flows.settings import CannotRun

LEASE = 60  # seconds without a sign of life after which Prefect 3 gives a slot to others
MARK = "slot:"  # begins a tag that has no limit itself: it shows that a task takes its slots of a global limit
_turn = threading.Lock()


@contextlib.contextmanager
def held(limit: str, given_up: Callable[[], object] = bool, lost: Callable[[], Any] = bool) -> Generator[Any]:
    """Hold a slot of the global `limit` during the block; none if the wait for it is `given_up`. Yield the answer.

    Prefect's own `concurrency` cannot be told to stop waiting. Calls `lost`, which returns None, if the lease expired,
    because this process stood still, and others have taken all slots.
    """
    leases, again, slot = versions.is_3(versions.here()), 0.0, None
    action = f"increment{'-with-lease' * leases}"  # without, it ignores the duration
    take = functools.partial(_ask, action, rest.BUSY, names=[limit], slots=1, lease_duration=LEASE)
    with _turn:  # one request at a time, however many tasks of this process wait
        while not slot and not given_up():
            time.sleep(min(max(again - time.monotonic(), 0), 0.1))
            slot, again = take() if time.monotonic() >= again else (None, again)
    since = time.monotonic()

    def renew() -> None:
        nonlocal slot
        with contextlib.suppress(CannotRun):  # of a server that is away, and so gives the slot to nobody
            if slot and not _ask(f"leases/{slot['lease_id']}/renew", [410], lease_duration=LEASE)[0]:
                slot = take()[0] or lost()

    try:
        with repeating(LEASE / 3, renew) if leases else contextlib.nullcontext():
            yield slot
    finally:
        if slot and leases:
            _ask("decrement-with-lease", lease_id=slot["lease_id"])
        elif slot:
            _ask("decrement", names=[limit], slots=1, occupancy_seconds=time.monotonic() - since)


def end_task_run(task_run_id: str, message: str) -> None:
    """End a task run, if it exists, whose process is gone, and so free its slots, but no others."""
    task_run = rest.call("GET", f"task_runs/{task_run_id}", missing_ok=True)
    state = ("CRASHED", "Crashed", message)
    if task_run and task_run["state_type"] in endpoints.FINAL:  # set once more, it frees the slots as well
        state = (task_run["state"][key] for key in ("type", "name", "message"))
    rest.send(endpoints.set_state(task_run_id, *state, force=True, of="task_runs")._replace(missing_ok=True))


@contextlib.contextmanager
def repeating(seconds: float, act: Callable[[], object]) -> Generator[None]:
    """Call `act` in another thread, every few `seconds`, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            act()

    acting = threading.Thread(target=repeat, daemon=True)
    acting.start()
    try:
        yield
    finally:
        over.set()
        acting.join()


def _ask(action: str, refusals: Collection[int] = (), **body: Any) -> tuple[Any, float]:
    """Return the answer, or None and the time from which to ask again if its status is one of `refusals`."""
    try:
        return rest.call("POST", f"v2/concurrency_limits/{action}", body) or True, 0
    except CannotRun as error:
        if error.answer is None or error.answer.status_code not in refusals:
            raise
        return None, time.monotonic() + errors.retry_after(error.answer)
