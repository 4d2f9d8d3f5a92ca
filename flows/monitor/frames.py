"""Data frames made from the server's answers, for the monitor and the last lesson. No requests are sent here.

Every frame has the same columns when it is empty. Times are UTC with their zone, durations are seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flows.api.endpoints import FAILED
from flows.api.slots import MARK

Rows = Sequence[Mapping[str, Any]]
_TIME, _SECONDS, _COUNT, _TEXT = "datetime64[ns, UTC]", "float64", "Int64", "object"
_RUN = {"name": _TEXT, "state": _TEXT, "state_type": _TEXT, "tags": _TEXT}
_RUN |= {"submitted": _TIME, "started": _TIME, "ended": _TIME, "waited_seconds": _SECONDS, "ran_seconds": _SECONDS}
_RUN |= {"attempts": _COUNT, "next_attempt": _TIME, "message": _TEXT}
FLOW_RUNS = {"flow_run_id": _TEXT, "flow_id": _TEXT, "flow": _TEXT, **_RUN}
FLOW_RUNS |= {"deployment_id": _TEXT, "work_pool": _TEXT, "parameters": _TEXT}
TASK_RUNS = {"task_run_id": _TEXT, "flow_run_id": _TEXT, **_RUN, "upstream": _TEXT}
STATES = {"time": _TIME, "until": _TIME, "state": _TEXT, "state_type": _TEXT, "runs": _COUNT}
STEPS = {"time": _TIME, "running": _COUNT}
# `taken` is the server's counter of taken slots, which makes tasks wait; `holders` are dicts with the keys _HOLDER,
# `held` of them. If `taken` is more than `held`, the server counts slots that no task run holds: reset the limit.
# The `tag` of a global limit is MARK and its name. A rate limit frees `freed` slots a second by itself.
LIMITS = {"tag": _TEXT, "limit": _COUNT, "taken": _COUNT, "held": _COUNT, "holders": _TEXT, "freed": _SECONDS}
LOGS = {"log_id": _TEXT, "time": _TIME, "level": _TEXT, "message": _TEXT, "flow_run_id": _TEXT, "task_run_id": _TEXT}

_HOLDER = ("task_run_id", "name", "flow_run_id", "state")
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


def flow_runs(answer: Rows, flows: Mapping[str, str], now: pd.Timestamp) -> pd.DataFrame:
    """Return FLOW_RUNS, a row for each flow run of `answer`; `flows` maps the flows' ids to their names.

    `submitted` is when it was due; `waited_seconds` end at its start or at `now`; `ran_seconds` are of all attempts.
    """
    rows = [
        _run(run)
        | {"flow_run_id": run["id"], "flow": flows.get(run["flow_id"]), "work_pool": run.get("work_pool_name")}
        | {"ran_seconds": run["estimated_run_time"]}  # by the server, which leaves out the time between two attempts
        for run in answer
    ]
    runs = typed(rows, FLOW_RUNS)
    return timed(runs, now).assign(ran_seconds=runs["ran_seconds"].where(runs["started"].notna()))


def task_runs(answer: Rows, now: pd.Timestamp) -> pd.DataFrame:
    """Return TASK_RUNS, a row for each task run of `answer`, in the order of their submission.

    `submitted` is by the flow's clock, `started` when it had its slot: `waited_seconds` covers the wait for inputs and
    for the slot, `ran_seconds` also pauses between attempts. `upstream` has the ids of those whose results it takes.
    """
    rows = [_run(run) | {"task_run_id": run["id"], "upstream": _upstream(run)} for run in answer]
    return timed(typed(rows, TASK_RUNS).sort_values("submitted", ignore_index=True), now)


def timed(runs: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """Return `runs` with their durations as of `now`; a run that has not ended counts until then."""
    until = runs["ended"].fillna(now)
    waited = (runs["started"].fillna(until) - runs["submitted"]).dt.total_seconds().clip(lower=0)
    ran = (until - runs["started"]).dt.total_seconds().clip(lower=0)
    return runs.assign(waited_seconds=waited.astype(_SECONDS), ran_seconds=ran.astype(_SECONDS))


def states(answer: Rows) -> pd.DataFrame:
    """Return STATES from an answer to `endpoints.history`: how many flow runs due in an interval are in which state."""
    rows = [
        {"time": interval["interval_start"], "until": interval["interval_end"], "state": state["state_name"]}
        | {"state_type": state["state_type"], "runs": state["count_runs"]}
        for interval in answer
        for state in interval["states"]
    ]
    return typed(rows, STATES)


def concurrency(task_runs: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """Return STEPS: how many of `task_runs` run from each `time` on, up to `now` if some still run."""
    ran = task_runs[task_runs["started"].notna()]
    if ran.empty:
        return typed([], STEPS)
    ended = ran[ran["ended"].notna()]
    still = pd.DatetimeIndex([now] if len(ended) < len(ran) else [], tz="UTC")
    steps = (1, ran["started"]), (-1, ended["ended"].clip(lower=ended["started"])), (0, still)
    changes = pd.concat([pd.Series(change, index=times) for change, times in steps])
    running = changes.groupby(level=0).sum().cumsum()  # one that ends as another starts does not run beside it
    return typed([{"time": time, "running": count} for time, count in running.items()], STEPS)


def tagged(task_runs: pd.DataFrame, tag: str) -> pd.DataFrame:
    """Return those of `task_runs` that have the tag `tag`."""
    return task_runs[task_runs["tags"].map(lambda tags: tag in tags).astype(bool)]


def peak(steps: pd.DataFrame) -> int:
    """Return how many ran at once at most, from STEPS."""
    return 0 if steps.empty else int(steps["running"].max())


def verdict(steps: pd.DataFrame, limit: int | None) -> str:
    """Return a sentence that says whether STEPS stayed within the limit, and if not, for how long."""
    most = peak(steps)
    if limit is None:
        return f"There is no limit; up to {most} ran at once."
    allowed = f"{limit} {'is' if limit == 1 else 'are'} allowed"
    if most <= limit:
        return f"The limit held: at most {most} ran at once, and {allowed}."
    lasted = (steps["time"].shift(-1) - steps["time"]).dt.total_seconds()
    seconds = lasted[steps["running"] > limit].sum()
    return f"The limit was exceeded for {seconds:.1f} s in total: up to {most} ran at once, and only {allowed}."


def held_by(task_runs: pd.DataFrame, answer: Rows, leases: Rows | None = None) -> pd.DataFrame:
    """Return LIMITS from an answer to `endpoints.taken_slots`, sorted by tag, global limits last.

    The holders are those of `task_runs` that have started, or that `leases`, an answer to `endpoints.limits`, lists.
    """
    if leases is None:  # one that is between two attempts keeps its slot, and so counts as well
        running = task_runs[task_runs["started"].notna() & task_runs["ended"].isna()]
        holders = [(tag, run) for run in running.to_dict("records") for tag in run["tags"]]
    else:
        by_id = {run["task_run_id"]: run for run in task_runs.to_dict("records")}
        slots = ((limit["tag"], id_) for limit in leases for id_ in limit["active_slots"])
        holders = [(tag, by_id.get(id_, {"task_run_id": id_})) for tag, id_ in slots]
    rows: list[dict[str, Any]] = []
    for limit in (one for one in answer if one.get("active", True)):
        tag = limit.get("tag") or f"{MARK}{limit['name']}".removeprefix(f"{MARK}tag:")
        most, taken = limit.get("limit", limit.get("concurrency_limit")), limit["active_slots"]
        row = {"tag": tag, "limit": most, "taken": taken if isinstance(taken, int) else len(taken)}
        row["holders"] = [{key: run.get(key) for key in _HOLDER} for of, run in holders if of == tag]
        rows.append(row | {"held": len(row["holders"]), "freed": limit.get("slot_decay_per_second", 0)})
    return typed(sorted(rows, key=lambda row: (row["tag"].startswith(MARK), row["tag"])), LIMITS)


def logs(answer: Rows) -> pd.DataFrame:
    """Return LOGS, a row for each log line, in the order of `answer`."""
    rows = [
        {"log_id": line["id"], "time": line["timestamp"], "level": _LEVELS.get(line["level"], str(line["level"]))}
        | {key: line.get(key) for key in ("message", "flow_run_id", "task_run_id")}
        for line in answer
    ]
    return typed(rows, LOGS)


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """Return those of `runs` (flow runs or task runs) that failed or crashed, the last one first."""
    return runs[runs["state_type"].isin(FAILED)].sort_values("ended", ascending=False)


def named(tag: str) -> str:
    """Return what the limit with this `tag` in LIMITS is called in a sentence."""
    return f"the global limit {tag.removeprefix(MARK)!r}" if tag.startswith(MARK) else f"the tag {tag!r}"


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return `run` with the columns that flow runs and task runs have in common."""
    return {
        **run,
        "state": run["state_name"] or "Unknown",
        "tags": list(run["tags"] or []),
        "submitted": run["expected_start_time"] or run["created"],
        "started": run["start_time"],
        "ended": run["end_time"],
        "attempts": run["run_count"],
        "next_attempt": run["next_scheduled_start_time"],
        "message": (run.get("state") or {}).get("message") or None,
    }


def _upstream(run: Mapping[str, Any]) -> list[str]:
    inputs = (one for several in (run.get("task_inputs") or {}).values() for one in several)
    return list(dict.fromkeys(one["id"] for one in inputs if one.get("input_type") == "task_run"))


def typed(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return a frame of `rows` with these `columns`, which maps names to types."""
    frame = pd.DataFrame(list(rows), columns=list(columns), dtype=_TEXT)
    times = [column for column, dtype in columns.items() if dtype == _TIME]
    frame[times] = frame[times].apply(pd.to_datetime, utc=True, format="ISO8601")
    return frame.astype(columns)
