"""The Dask cluster that runs the tasks of a flow, if one is named. Needs Prefect 3 and the group `dask`."""

import asyncio
import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from flows.settings import CannotRun


def on_cluster(flow: Any, address: str, shared: Path) -> Any:
    """Return `flow` with its tasks on the cluster whose scheduler is at `address`.

    Raises CannotRun if nothing answers there, if a worker does not have the folder `shared`, or without the group.
    """
    try:
        distributed, prefect_dask = import_module("distributed"), import_module("prefect_dask")
    except ImportError:
        raise CannotRun("--runner dask takes Prefect 3 and the group dask. Run uv sync --group dask.") from None
    from prefect.futures import PrefectConcurrentFuture

    base: Any = prefect_dask.DaskTaskRunner

    class Runner(base):
        """Prefect's own, with futures of Python's own, as its runner with threads has them."""

        def submit(self, *args: Any, **options: Any) -> Any:
            future = super().submit(*args, **options).wrapped_future

            async def end() -> Any:
                try:
                    return await future
                finally:  # otherwise Dask repeats a task that has ended if the worker that keeps its state dies
                    future.release()

            ended = asyncio.run_coroutine_threadsafe(end(), self.client.loop.asyncio_loop)
            return PrefectConcurrentFuture(future.task_run_id, ended)

    try:
        with distributed.Client(address, timeout=10) as client, tempfile.NamedTemporaryFile(dir=shared) as file:
            seen = client.run(os.path.exists, file.name)
    except (OSError, ValueError) as error:
        raise CannotRun(f"No Dask scheduler answers at {address}: {error}. Correct --address.") from None
    if not seen:
        raise CannotRun(f"The Dask cluster at {address} has no workers. Start one: dask worker {address}.")
    if blind := [worker for worker, sees in seen.items() if not sees]:
        what = f"The Dask worker {blind[0]} does not have the folder {shared}, in which each query leaves its rows"
        raise CannotRun(f"{what}. Set FLOWS_LAB_DIR to a folder that this machine shares with all workers.")
    return flow.with_options(task_runner=Runner(address=address))
