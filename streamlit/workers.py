"""Whether workers are alive, and whether one polls the work pool that a flow run waits for."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pandas as pd

from flows.api import endpoints, rest


def request(work_pool: str) -> rest.Request:
    """POST /work_pools/{name}/workers/filter: the workers that have polled a work pool, None without such a pool."""
    path = f"work_pools/{endpoints.quoted(work_pool)}/workers/filter"
    return rest.Request("POST", path, {"limit": rest.PAGE}, missing_ok=True)


def awaited(flow_run: pd.Series) -> bool:
    """Return whether a flow run waits until a worker of its work pool takes and starts it."""
    waits = flow_run["state"] == "Late" or flow_run["state_type"] == "PENDING"
    return bool(waits and flow_run["work_pool"])


def alive(workers: Sequence[Mapping[str, Any]], now: pd.Timestamp) -> list[bool]:
    """Return for each worker whether it is alive: a healthy one sends a heartbeat every 30 seconds."""
    heartbeats = [pd.to_datetime(worker["last_heartbeat_time"], utc=True) for worker in workers]
    return [bool(now - time < timedelta(seconds=90)) for time in heartbeats]


def polling(pool: str, workers: Sequence[Mapping[str, Any]] | None, now: pd.Timestamp) -> str | None:
    """Return a sentence on whether one of `workers` polls the work pool, and what to do; None without such a pool."""
    if workers is None:
        return None
    if not any(alive(workers, now)):
        return f"No worker polls the work pool {pool!r}: start one with prefect worker start --pool {pool!r}."
    return f"A worker polls the work pool {pool!r}, but it may be at its own limit, or the pool may be paused."
