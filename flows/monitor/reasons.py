"""Why a run waits, in a sentence."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from flows.api.endpoints import FINAL
from flows.api.slots import MARK
from flows.monitor import frames


def why(
    run: pd.Series,
    limits: pd.DataFrame,
    task_runs: pd.DataFrame,
    poll: str | None = None,
    *,
    complete: bool = True,
    zone: str = "UTC",
) -> str | None:
    """Return why `run` (a row of flow runs or of task runs) waits, as a sentence; None if it does not wait.

    `task_runs` are those it may wait for, `poll` is a sentence on whether a worker polls its work pool. `complete` is
    whether `limits` has all holders, also those of other runs. Times are given in `zone`.
    """
    in_task = pd.isna(run["started"]) and any(tag.startswith(MARK) for tag in run["tags"])  # waits for its slot there
    if run["state_type"] in FINAL or (run["state"] in ("Running", "Retrying", "Cancelling") and not in_task):
        return None
    match run["state"]:
        case "AwaitingRetry":
            return f"Attempt {run['attempts']} failed; the next one is due at {_clock(run['next_attempt'], zone)}."
        case "Paused" | "Suspended":
            return f"It is {run['state'].lower()} until somebody resumes it."
        case "AwaitingConcurrencySlot":
            return "The limit of its deployment or work pool is full; it starts when another run ends."
        case "Late":
            runner = "a worker for its work pool" if run["work_pool"] else "the process that serves its deployment"
            return f"It was due at {_clock(run['submitted'], zone)}. {poll or f'Check that {runner} is running.'}"
        case "Scheduled":
            return f"It is due at {_clock(run['submitted'], zone)}."
    if "task_run_id" not in run:
        taken = f"A worker has taken it and is starting it. {poll or ''}".strip()
        return taken if run["work_pool"] else "It is starting."
    ahead = task_runs[task_runs["task_run_id"].isin(run["upstream"]) & ~task_runs["state_type"].isin(FINAL)]
    if len(ahead):
        return f"It needs the result of {_listed(ahead['name'])}."
    return _for_slots(run, limits, complete) or "It is starting."


def _for_slots(run: pd.Series, limits: pd.DataFrame, complete: bool) -> str | None:
    limited = limits[limits["tag"].isin(run["tags"])]
    if limited.empty:
        return None
    full = limited[limited["taken"] >= limited["limit"]]
    if full.empty:
        return f"A slot of {frames.named(limited['tag'].iloc[0])} is free: it starts once it asks, unless it is dead."
    limit = full.iloc[0]
    taken = f"{limit['taken']} of the {limit['limit']} slots of {frames.named(limit['tag'])} are taken"
    unexplained = limit["taken"] - limit["held"]
    if unexplained < 0:
        return f"{taken}, although {limit['held']} task runs of that limit report that they are running."
    holders = [_listed(holder["name"] or holder["task_run_id"] for holder in limit["holders"])]
    if unexplained > 0:
        nobody = "without a known holder; if that lasts, reset the limit"
        others = "by other runs or without a holder (see the page Limits)"
        holders.append(f"{unexplained} {nobody if complete else others}")
    return f"{taken}: {' and '.join(filter(None, holders))}."


def _listed(names: Iterable[str]) -> str:
    """Return `names` as in a sentence: a, b and c."""
    shown = list(names)
    if len(shown) > 5:
        shown = [*shown[:4], f"{len(shown) - 4} more"]
    return " and ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def _clock(time: Any, zone: str) -> str:
    return "an unknown time" if pd.isna(time) else f"{time.tz_convert(zone):%Y-%m-%d %H:%M:%S %Z}"
