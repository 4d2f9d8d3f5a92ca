"""The ways to run tasks under a limit that scripts/bench.py measures: with Prefect, and with what others use instead.

Each is a context manager: it makes ready for a limit, yields a function that runs so many tasks of so many seconds and
returns when each began and ended, and removes what it made.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import httpx
from prefect import flow, task, task_runners

from flows import limits
from flows.api import endpoints, rest, slots

NAME = "flows-bench"  # the tag and the global limit are the benchmark's own, and are removed afterwards
Span = tuple[float, float]
Run = Callable[[int, float], list[Span]]


def nap(seconds: float) -> Span:
    """Sleep, and return when it began and when it ended."""
    started = time.time()
    time.sleep(seconds)
    return started, time.time()


plain, tagged = task(nap), task(tags=[NAME])(nap)


@task
def inside_global_limit(seconds: float) -> Span:
    """Sleep inside a slot of the global limit."""
    with slots.held(NAME):
        return nap(seconds)


def run_all(kind: Any, tasks: int, seconds: float) -> list[Span]:
    """Submit so many tasks of a `kind` at once, and return when each began and ended."""
    return [future.result() for future in [kind.submit(seconds) for _ in range(tasks)]]


@contextlib.contextmanager
def own_limit(limit: int, kind: limits.Kind) -> Generator[None]:
    """Keep the benchmark's own limit until the block ends, with all its slots free at first."""
    remove = endpoints.delete("concurrency_limits/tag" if kind == "tag" else "v2/concurrency_limits", NAME)
    rest.send(remove)  # a benchmark that was interrupted may have left it
    limits.ensure(NAME, limit, kind)
    try:
        yield
    finally:
        rest.send(remove)


@contextlib.contextmanager
def thread_pool(limit: int) -> Generator[Run]:
    """Use no Prefect at all: the ceiling, within one process."""
    with ThreadPoolExecutor(limit) as pool:
        yield lambda tasks, seconds: list(pool.map(nap, [seconds] * tasks))


@contextlib.contextmanager
def batches(limit: int) -> Generator[Run]:
    """Submit as many tasks as may run, and wait for all of them before the next ones: no server has to count."""

    @flow(name="bench batches")
    def run(tasks: int, seconds: float) -> list[Span]:
        spans: list[Span] = []
        while len(spans) < tasks:
            batch = [plain.submit(seconds) for _ in range(min(limit, tasks - len(spans)))]
            spans += [future.result() for future in batch]
        return spans

    yield run


@contextlib.contextmanager
def task_runner_cap(limit: int) -> Generator[Run]:
    """Use a cap of the flow's own thread pool, which no other process shares. Prefect 2 has none."""
    runner: Any = task_runners.ThreadPoolTaskRunner(max_workers=limit)

    @flow(name="bench task runner cap", task_runner=runner)
    def run(tasks: int, seconds: float) -> list[Span]:
        return run_all(plain, tasks, seconds)

    yield run


@contextlib.contextmanager
def tag_limit(limit: int) -> Generator[Run]:
    """Use the server's limit on a tag."""
    with own_limit(limit, "tag"):
        yield run_tagged


@flow(name="bench tag limit")
def run_tagged(tasks: int, seconds: float) -> list[Span]:
    """Submit all tasks at once; the server lets as many run as the limit of their tag allows."""
    return run_all(tagged, tasks, seconds)


def tagged_in_process(tasks: int, seconds: float) -> list[Span]:
    """Do `run_tagged`, which itself cannot be sent to another process."""
    return run_tagged(tasks, seconds)


@contextlib.contextmanager
def global_limit(limit: int) -> Generator[Run]:
    """Use the server's global limit, asked for inside the task."""

    @flow(name="bench global limit")
    def run(tasks: int, seconds: float) -> list[Span]:
        return run_all(inside_global_limit, tasks, seconds)

    with own_limit(limit, "global"):
        yield run


@contextlib.contextmanager
def dask_semaphore(limit: int) -> Generator[Run]:
    """Use Dask without Prefect: two worker processes, and a semaphore that their scheduler keeps."""
    distributed: Any = import_module("distributed")  # installed for the benchmark alone, as its docstring says

    logging.getLogger("distributed").setLevel(logging.WARNING)
    with distributed.Client(n_workers=2, threads_per_worker=50, dashboard_address=None) as dask:
        semaphore = distributed.Semaphore(max_leases=limit, name=NAME)

        def inside(seconds: float) -> Span:
            with semaphore:
                return nap(seconds)

        yield lambda tasks, seconds: dask.gather(dask.map(inside, [seconds] * tasks, pure=False))


@contextlib.contextmanager
def defaults(limit: int) -> Generator[Run]:
    """Use a limit on a tag as Prefect is without settings: `prefect server start` over SQLite, and a process for it."""
    with contextlib.ExitStack() as at_end:
        home = at_end.enter_context(tempfile.TemporaryDirectory(prefix=f"{NAME}-", ignore_cleanup_errors=True))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        theirs |= {"PREFECT_HOME": home, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        theirs |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
        server = subprocess.Popen(command, env=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        at_end.callback(server.wait)
        at_end.callback(server.terminate)
        with httpx.Client(base_url=theirs["PREFECT_API_URL"], transport=httpx.HTTPTransport(retries=8)) as client:
            client.get("/health")
            client.post("/concurrency_limits/", json={"tag": NAME, "concurrency_limit": limit}).raise_for_status()
        pool = at_end.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        with patch.dict(os.environ, theirs, clear=True):
            pool.submit(int).result()  # starts the process, with the environment as it is now
        yield lambda tasks, seconds: pool.submit(tagged_in_process, tasks, seconds).result()


ENGINES: dict[str, Callable[[int], contextlib.AbstractContextManager[Run]]] = {
    "thread pool": thread_pool,
    "Dask semaphore": dask_semaphore,
    "batches": batches,
    "task runner cap": task_runner_cap,
    "tag limit": tag_limit,
    "global limit": global_limit,
    "Prefect's defaults": defaults,
}
