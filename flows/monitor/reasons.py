"""Why a run waits, in a sentence."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from flows.api.endpoints import FINAL


def why(
    run: pd.Series,
    limits: pd.DataFrame,
    task_runs: pd.DataFrame,
    poll: str | None = None,
    *,
    whole: bool = True,
    zone: str = "UTC",
) -> str | None:
    """Why `run` (a row of flow runs or of task runs) waits, as a sentence with times in `zone`; None if it does not.

    `task_runs` are those it may wait for; `poll` is what is known of the workers of its pool. `whole` is whether the
    holders in `limits` are all there are: those of one flow run's page are not, since other runs take slots too.
    """
    if run["state_type"] in FINAL or run["state"] in ("Running", "Retrying", "Cancelling"):
        return None
    match run["state"]:
        case "AwaitingRetry":
            return f"Attempt {run['attempts']} failed; the next one is due at {_clock(run['next_attempt'], zone)}."
        case "Paused" | "Suspended":
            return f"It is {run['state'].lower()} until somebody resumes it."
        case "AwaitingConcurrencySlot":
            return "The limit of its deployment or work pool is full; it starts when another run of it ends."
        case "Late":
            wanted = f"It was due at {_clock(run['submitted'], zone)} and no worker has taken it."
            return f"{wanted} {poll or 'Is a worker running for its work pool?'}"
        case "Scheduled":
            return f"It is due at {_clock(run['submitted'], zone)}."
    if "task_run_id" not in run:
        return f"A worker has taken it and starts it. {poll or ''}".strip() if run["work_pool"] else "It starts."
    return _for_inputs(run, task_runs) or _for_slots(run, limits, whole) or "It starts."


def _for_inputs(run: pd.Series, task_runs: pd.DataFrame) -> str | None:
    ahead = task_runs[task_runs["task_run_id"].isin(run["upstream"]) & ~task_runs["state_type"].isin(FINAL)]
    return f"It needs the result of {_listed(ahead['name'])}." if len(ahead) else None


def _for_slots(run: pd.Series, limits: pd.DataFrame, whole: bool) -> str | None:
    limited = limits[limits["tag"].isin(run["tags"])]
    if limited.empty:
        return None
    full = limited[limited["taken"] >= limited["limit"]]
    if full.empty:
        return (
            f"The tag {limited['tag'].iloc[0]!r} has a free slot: it starts once it asks again (Prefect 2: every 30 s)."
        )
    limit = full.iloc[0]
    said = f"{limit['taken']} of the {limit['limit']} slots of the tag {limit['tag']!r} are taken"
    nobody = limit["taken"] - limit["held"]
    by = _listed(holder["name"] or holder["task_run_id"] for holder in limit["holders"])
    if nobody < 0:
        return f"{said}, while {limit['held']} task runs with that tag are said to run."
    if nobody > 0:
        known = "nobody known; if that lasts, reset the limit"
        unknown = f"{nobody} by {known if whole else 'other runs, or by nobody: the page Limits says which'}"
        by = " and ".join(part for part in (by, unknown) if part)
    return f"{said}: {by}."


def _listed(names: Iterable[str], most: int = 5) -> str:
    """`names` as in a sentence: a, b and c."""
    found = list(names)
    if len(found) > most:
        found = [*found[: most - 1], f"{len(found) - most + 1} more"]
    return " and ".join(part for part in (", ".join(found[:-1]), *found[-1:]) if part)


def _clock(time: Any, zone: str) -> str:
    return "an unknown time" if pd.isna(time) else f"{time.tz_convert(zone):%Y-%m-%d %H:%M:%S %Z}"
