"""The keys that the server's filters know, in both versions.

The server ignores a key that it does not know, and so answers a typo with everything. Only on the first level, though:
further in it refuses what it does not know.
"""

from collections.abc import Mapping
from typing import Any

from flows.settings import CannotRun

_RUNS = {"flows", "flow_runs", "task_runs", "deployments"}
_POOLS = {"work_pools", "work_pool_queues"}
_PAGED = {"limit", "offset"}
_KEYS: dict[str, set[str]] = {
    "flows/filter": _RUNS | _PAGED | {"work_pools", "sort"},
    "flows/count": _RUNS | {"work_pools"},
    "flow_runs/filter": _RUNS | _POOLS | _PAGED | {"sort"},
    "flow_runs/paginate": _RUNS | _POOLS | {"limit", "page", "sort"},
    "flow_runs/count": _RUNS | _POOLS,
    "flow_runs/history": _RUNS
    | {"work_pools", "work_queues", "history_start", "history_end", "history_interval_seconds"},
    "task_runs/filter": _RUNS | _PAGED | {"sort"},
    "task_runs/count": _RUNS,
    "task_runs/history": _RUNS | {"history_start", "history_end", "history_interval_seconds"},
    "ui/task_runs/count": _RUNS,
    "ui/flow_runs/count-task-runs": {"flow_run_ids"},
    "logs/filter": _PAGED | {"logs", "sort"},
    "deployments/filter": _RUNS | _POOLS | _PAGED | {"sort"},
    "deployments/count": _RUNS | _POOLS,
    "work_pools/filter": _PAGED | {"work_pools"},
    "workers/filter": _PAGED | {"workers"},
    "concurrency_limits/filter": _PAGED,
    "set_state": {"state", "force"},
    "bulk_set_state": {"flow_runs", "state", "force", "limit"},
}


def check(path: str, body: Mapping[str, Any]) -> None:
    """Raise CannotRun for a key in `body` that the endpoint at `path` does not know. Other endpoints pass."""
    endings = [path, path.removeprefix("v2/"), *("/".join(path.split("/")[-n:]) for n in (2, 1))]
    known = next((_KEYS[ending] for ending in endings if ending in _KEYS), None)
    wrong = sorted(body.keys() - known) if known is not None else []
    if known and wrong:
        raise CannotRun(
            f"{path} knows no filter {wrong[0]!r}, and the server would answer as if it were not there."
            f" Choose from: {', '.join(sorted(known))}."
        )
