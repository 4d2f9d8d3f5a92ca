"""What differs between Prefect 2.13.7 and Prefect 3, as far as the kit has to know; docs/versions.md has the whole.

Without Prefect too it can be imported, and asked about a server.
"""

import asyncio
import concurrent.futures
import functools
import importlib.metadata
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """What a server of one line of Prefect does, and the other one does not."""

    basic: bool  # it can ask for a user and a password
    leases: bool  # it counts a tag's taken slots, and names their holders by leases that run out
    websocket: bool  # it hears of the states of task runs over a WebSocket
    ends: bool  # its filters know when a run ended
    stops: bool  # it ends at SIGTERM; in the other one the services within take the signal, and nothing ends


PREFECT_2 = Line(basic=False, leases=False, websocket=False, ends=False, stops=False)
PREFECT_3 = Line(basic=True, leases=True, websocket=True, ends=True, stops=True)


def line(version: str | None) -> Line:
    """What a server of this `version` does. Prefect Cloud, which names none, does as Prefect 3."""
    return PREFECT_2 if (version or "3").startswith(("0.", "2.")) else PREFECT_3


def here() -> str | None:
    """The version of Prefect in this environment, None where there is none."""
    try:
        return importlib.metadata.version("prefect")
    except importlib.metadata.PackageNotFoundError:
        return None


def certificate_variable() -> str:
    """The variable that tells Prefect's own client whose certificates to trust; in Prefect 2 all of httpx reads it."""
    return "SSL_CERT_FILE" if line(here()) is PREFECT_2 else "PREFECT_API_SSL_CERT_FILE"


def task(
    worth_retrying: Callable[[BaseException], bool], delays: Sequence[float], **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Prefect's decorator `task` with `options`; the task is tried again after an error that is `worth_retrying`.

    That is once after each of `delays`, in seconds, twice as long or not at all by chance. A tag's slot is kept
    meanwhile. Prefect 2 cannot choose by the error, and gives the slot back: there the function is called again
    within what is one attempt for Prefect.
    """
    import prefect

    if line(here()) is PREFECT_2:
        return lambda function: prefect.task(**options)(_persistent(function, worth_retrying, delays))
    return prefect.task(
        retries=len(delays),
        retry_delay_seconds=list(delays),
        retry_jitter_factor=1,
        retry_condition_fn=lambda task, run, state: worth_retrying(state.result(raise_on_failure=False)),
        **options,
    )


def states(submitted: Sequence[Any]) -> list[concurrent.futures.Future[Any]]:
    """For each of the task runs that were `submitted` a future of Python's own: the state in which it ends."""
    if line(here()) is PREFECT_3:
        return [future.wrapped_future for future in submitted]
    return [asyncio.run_coroutine_threadsafe(future._wait(), future._loop) for future in submitted]


def task_run_ids(submitted: Sequence[Any]) -> list[str]:
    """The ids of the task runs that were `submitted`, once the server has given them some."""
    if line(here()) is PREFECT_3:
        return [str(future.task_run_id) for future in submitted]
    for future in submitted:  # Prefect 2 creates them in the background
        asyncio.run_coroutine_threadsafe(future._wait_for_submission(), future._loop).result()
    return [str(future.task_run.id) for future in submitted]


def slot(limit: str) -> AbstractContextManager[None]:
    """A slot of the global limit `limit`, taken before the block and given back after it."""
    from prefect.concurrency.sync import concurrency

    # As long as the lease of a tag's slot lasts: what a killed process held is free again after that time.
    lease: dict[str, Any] = {"lease_duration": 60} if line(here()).leases else {}
    return concurrency(limit, occupy=1, **lease)


def capped(workers: int) -> Any:
    """A task runner that starts `workers` tasks at a time, None where there is none."""
    import prefect.task_runners

    runner = getattr(prefect.task_runners, "ThreadPoolTaskRunner", None)  # since Prefect 3
    return runner(max_workers=workers) if runner else None


def task_runner() -> Any:
    """The task runner for a flow that uses `cancel`: None, which is the default one, in Prefect 3."""
    if line(here()) is PREFECT_3:
        return None
    import anyio
    import prefect.task_runners
    from prefect import get_client
    from prefect.states import Cancelled

    base: Any = prefect.task_runners.ConcurrentTaskRunner

    class CancellableTaskRunner(base):
        """Prefect 2's own, with a scope for each task run, by the key of its future."""

        def __init__(self) -> None:
            super().__init__()
            self.scopes: dict[Any, anyio.CancelScope] = {}

        async def submit(self, key: Any, call: Any) -> None:
            """Submit the task run that `call` runs."""

            async def within_scope() -> Any:
                with anyio.CancelScope() as self.scopes[key]:
                    return await call()
                async with get_client() as client:
                    state = Cancelled(message="The run was interrupted while this task run waited for its slot.")
                    await client.set_task_run_state(call.keywords["task_run"].id, state, force=True)
                return state

            await super().submit(key, within_scope)

    return CancellableTaskRunner()


def cancel(submitted: Sequence[Any], tag: str) -> None:
    """End the wait of task runs that were submitted and wait for a slot of `tag`, which others may hold for long.

    In Prefect 2 they are cancelled. In Prefect 3 they begin, without a slot, and have to end by themselves; this
    returns when they have.
    """
    if line(here()) is PREFECT_3:
        from prefect.concurrency import services

        names, left = frozenset([f"tag:{tag}"]), states(submitted)
        try:
            while left:
                with services._cache_lock:
                    # Whether the tag has a limit at all is looked up here before each try, and forgotten after 5 s.
                    services._no_limits_cache[names] = True
                left = list(concurrent.futures.wait(left, timeout=1).not_done)
        finally:
            with services._cache_lock:
                services._no_limits_cache.pop(names, None)
        return
    for future in submitted:
        future._loop.call_soon_threadsafe(future._task_runner.scopes[future.key].cancel)


def ready_slots(limit: str) -> None:
    """Make ready for `slot`, in the flow and before the first task that takes one is submitted.

    In Prefect 2 the first task would start a service in the event loop, with a lock held that the event loop may be
    waiting for at that moment: the run would hang for ever.
    """
    if line(here()) is PREFECT_2:
        from prefect.concurrency.services import ConcurrencySlotAcquisitionService

        ConcurrencySlotAcquisitionService.instance(frozenset([limit]))


def _persistent(
    function: Callable[..., Any], worth_retrying: Callable[[BaseException], bool], delays: Sequence[float]
) -> Callable[..., Any]:
    """`function`, called again after each of the `delays` while it fails for a reason that may pass."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        for delay in delays:
            try:
                return function(*arguments, **named)
            except Exception as error:
                if not worth_retrying(error):
                    raise
            time.sleep(random.uniform(0, 2 * delay))
        return function(*arguments, **named)

    return call
