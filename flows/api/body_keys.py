"""The keys that a request's body may have at each endpoint, in both versions of Prefect.

The server ignores unknown keys at the first level, so that a typo in a filter selects everything; deeper it does not.
"""

from collections.abc import Mapping
from typing import Any

from flows.settings import CannotRun

_RUNS = {"flows", "flow_runs", "task_runs", "deployments"}
_POOLS = {"work_pools", "work_pool_queues"}
_PAGED = {"limit", "offset"}
KEYS: dict[str, set[str]] = {  # by the end of the endpoint's path
    "flows/filter": _RUNS | _PAGED | {"work_pools", "sort"},
    "flow_runs/filter": _RUNS | _POOLS | _PAGED | {"sort"},
    "flow_runs/count": _RUNS | _POOLS,
    "flow_runs/history": _RUNS
    | {"work_pools", "work_queues", "history_start", "history_end", "history_interval_seconds"},
    "task_runs/filter": _RUNS | _PAGED | {"sort"},
    "task_runs/count": _RUNS,
    "logs/filter": _PAGED | {"logs", "sort"},
    "deployments/filter": _RUNS | _POOLS | _PAGED | {"sort"},
    "work_pools/filter": _PAGED | {"work_pools"},
    "workers/filter": _PAGED | {"workers"},
    "concurrency_limits/filter": _PAGED,
    "set_state": {"state", "force"},
}


def check(path: str, body: Mapping[str, Any]) -> None:
    """Raise CannotRun for a key in `body` that the endpoint at `path` does not know; pass endpoints not in KEYS."""
    known = next((keys for ending, keys in KEYS.items() if f"/{path}".endswith(f"/{ending}")), body.keys())
    if unknown := sorted(body.keys() - known):
        ignored = f"{path} does not know the key {unknown[0]!r}, and the server would silently ignore it."
        raise CannotRun(f"{ignored} Choose from: {', '.join(sorted(known))}.")
