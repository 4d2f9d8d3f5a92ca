"""Slots of a global limit. Prefect's own `concurrency` takes them too, but cannot be told to stop waiting for one.

Endpoints: POST /v2/concurrency_limits/increment-with-lease, …/decrement-with-lease, …/leases/{id}/renew; in Prefect 2,
which has no leases, …/increment and …/decrement.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from flows import versions
from flows.api import errors, rest
from flows.settings import CannotRun

LEASE = 60  # seconds without a sign of life after which Prefect 3 gives a slot to others
_turn = threading.Lock()


@contextlib.contextmanager
def held(limit: str, given_up: Callable[[], object] = bool, lost: Callable[[], object] = bool) -> Generator[None]:
    """Hold a slot of the global `limit` during the block; none if the wait for it is `given_up`.

    Calls `lost` if the lease expired, because this process stood still, and others have taken all slots.
    """
    leases, over = versions.is_3(versions.here()), threading.Event()
    slot, since = None, 0.0
    with _turn:  # one request at a time, however many tasks of this process wait
        while not slot and not given_up():
            slot, pause = _take(limit, leases)
            since = time.monotonic()
            while not slot and (left := since + pause - time.monotonic()) > 0 and not given_up():
                time.sleep(min(left, 0.1))

    def keep() -> None:
        nonlocal slot
        while leases and slot and not over.wait(LEASE / 3):
            with contextlib.suppress(CannotRun):  # of a server that is away, and so gives the slot to nobody
                if _expired(slot):
                    slot, _ = _take(limit, leases)
                    _ = slot or lost()

    keeping = threading.Thread(target=keep, daemon=True)
    keeping.start()
    try:
        yield
    finally:
        over.set()
        keeping.join()
        if slot and leases:
            with contextlib.suppress(CannotRun):  # the lease ends by itself
                _call("decrement-with-lease", lease_id=slot["lease_id"])
        elif slot:
            _call("decrement", names=[limit], slots=1, occupancy_seconds=time.monotonic() - since)


def _take(limit: str, leases: bool) -> tuple[Any, float]:
    """Return a slot and 0, or None and the seconds after which to ask again."""
    body = {"names": [limit], "slots": 1, "mode": "concurrency"}
    try:
        if leases:
            return _call("increment-with-lease", **body, lease_duration=LEASE), 0
        return _call("increment", **body), 0
    except CannotRun as error:
        if error.answer is None or error.answer.status_code not in rest.BUSY:
            raise
        return None, errors.retry_after(error.answer)


def _expired(slot: Any) -> bool:
    """Renew the lease of `slot`, or return that it has expired."""
    try:
        _call(f"leases/{slot['lease_id']}/renew", lease_duration=LEASE)
    except CannotRun as error:
        return error.answer is not None and error.answer.status_code == 410
    return False


def _call(action: str, **body: Any) -> Any:
    return rest.call("POST", f"v2/concurrency_limits/{action}", body)
