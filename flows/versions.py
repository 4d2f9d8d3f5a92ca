"""What differs between Prefect 2.13.7 and Prefect 3, behind one signature; docs/versions.md has the whole list."""

import asyncio
import concurrent.futures
import contextlib
import functools
import random
from collections.abc import Callable, Sequence
from importlib import metadata
from types import SimpleNamespace
from typing import Any, ClassVar

import tenacity


def is_3(version: str | None) -> bool:
    """Return whether a server of this `version` is Prefect 3, as Prefect Cloud is, which names no version."""
    return not (version or "3").startswith(("0.", "2."))


def here() -> str | None:
    """Return the version of Prefect in this environment, or None if it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("prefect")
    return None


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make `function` a task, as Prefect 3's own decorator does, with the same `options`.

    Prefect 2 gives a tag's slot back between attempts, and cannot choose by the error: there it sees one attempt.
    """
    import prefect

    if is_3(here()):
        return prefect.task(function, **options)
    if function is None:
        return functools.partial(task, **options)
    retries, delays = options.pop("retries", 0), options.pop("retry_delay_seconds", 0)
    condition, spread = options.pop("retry_condition_fn", lambda *_: True), options.pop("retry_jitter_factor", 0)
    delays = delays(retries) if callable(delays) else delays if isinstance(delays, list) else [delays] * retries
    retried = tenacity.retry(
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=lambda attempt: [*delays, 0][attempt.attempt_number - 1] * random.uniform(1 - spread, 1 + spread),
        retry=tenacity.retry_if_exception(
            lambda error: condition(None, None, SimpleNamespace(result=lambda **_: error))
        ),
        reraise=True,
    )
    return prefect.task(**options)(retried(function))


def wait(futures: Sequence[Any]) -> None:
    """Wait until all task runs have ended, in whatever state: Prefect 3's `wait`, which also survives a crash."""
    concurrent.futures.wait(states(futures))


def send_task_runs(sent: bool) -> None:
    """Choose whether this process sends the server the states of its task runs, as it does until told otherwise."""
    # Prefect 3.9 cannot store those of a deleted flow run, and tries again for minutes before it stores other runs'.
    if is_3(here()):
        from prefect.events.clients import NullEventsClient
        from prefect.events.worker import EventsWorker

        EventsWorker.set_client_override(None if sent else NullEventsClient)


def no_heartbeats() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which flow runs send no heartbeats. With them, the end of each run waits up to a second."""
    from prefect.settings import temporary_settings

    return temporary_settings({"flows.heartbeat_frequency": None} if is_3(here()) else {})


# Private names of Prefect from here on, each with a reason; tests of the main job fail if a new Prefect moves one.
def states(futures: Sequence[Any]) -> list[concurrent.futures.Future[Any]]:
    """Return for each task run a future of Python's own, which gives the state in which it ends."""
    if is_3(here()):
        return [future.wrapped_future for future in futures]
    # Prefect 2's own can only be waited for one after the other, and not from every thread.
    return [asyncio.run_coroutine_threadsafe(future._wait(), future._loop) for future in futures]


def task_run_ids(futures: Sequence[Any]) -> list[str]:
    """Return the ids of the task runs, once the server has given them some."""
    if is_3(here()):
        return [str(future.task_run_id) for future in futures]
    for future in futures:  # Prefect 2 creates task runs in the background; a future does not say when it knows its id
        asyncio.run_coroutine_threadsafe(future._wait_for_submission(), future._loop).result()
    return [str(future.task_run.id) for future in futures]


def task_runner() -> Any:
    """Return the task runner for a flow that uses `end_waits`: None, which is the default one, in Prefect 3."""
    if is_3(here()):
        return None
    import anyio
    from prefect import get_client, task_runners
    from prefect.states import Cancelled

    base: Any = task_runners.ConcurrentTaskRunner

    class CancellableTaskRunner(base):
        """Prefect 2's own, with a scope for each task run, by the key of its future."""

        scopes: ClassVar[dict[Any, anyio.CancelScope]] = {}

        async def submit(self, key: Any, call: Any) -> None:
            async def within_scope() -> Any:
                with anyio.CancelScope() as self.scopes[key]:
                    return await call()
                async with get_client() as client:
                    state = Cancelled(message="The run was interrupted while this task run waited for its slot.")
                    await client.set_task_run_state(call.keywords["task_run"].id, state, force=True)
                return state

            await super().submit(key, within_scope)

    return CancellableTaskRunner()


def end_waits(waiting: Sequence[Any], tag: str) -> None:
    """End the wait of task runs for a slot of `tag`, and return when they have ended. Prefect itself offers no way.

    In Prefect 2 they are cancelled. In Prefect 3 they begin without a slot, and have to end by themselves.
    """
    if not is_3(here()):
        for future in waiting:
            future._loop.call_soon_threadsafe(future._task_runner.scopes[future.key].cancel)
        return
    from prefect.concurrency import services

    names, left = frozenset([f"tag:{tag}"]), states(waiting)
    try:
        while left:
            with services._cache_lock:
                # Before each try Prefect looks up here whether the tag has a limit at all, and forgets it after 5 s.
                services._no_limits_cache[names] = True
            left = list(concurrent.futures.wait(left, timeout=1).not_done)
    finally:
        with services._cache_lock:
            services._no_limits_cache.pop(names, None)
