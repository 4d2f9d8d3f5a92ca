"""The ledger of a limit: who held which slot from when to when, over all runs. No requests are sent here.

Times are those of the clocks of the holders' machines. Every frame has the same columns when it is empty.
"""

import heapq
import math
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import pandas as pd
from slot_events import ACQUIRED, RELEASED, runs_of

from flows.monitor import frames
from flows.monitor.frames import Rows

# A holder reports its release after the server has freed the slot, so that two holders of a slot seem to overlap: by at
# most the time since its task run ended, or by this if it holds the slot for a part of its task run.
HANDOVER = timedelta(seconds=0.25)
# The longest that the server counts a slot whose holder died: 60 seconds for a tag's (300 are the default of others),
# counted from the last sign of life, until the server's next look for leases that have expired.
LAPSE = {"tag": timedelta(seconds=90), "global": timedelta(seconds=330)}

_TIME, _TEXT = "datetime64[ns, UTC]", "object"
_HOLDER = {"task_run_id": _TEXT, "holder": _TEXT, "flow_run_id": _TEXT, "flow_run": _TEXT}
EVENTS = {"event_id": _TEXT, "event": _TEXT, "time": _TIME, "follows": _TEXT, **_HOLDER}
EVENTS |= {"slots": "int64", "limit": "int64"}
# `until` is NaT for a slot that has not been released, `over` is from when on the server may have freed it, and `seen`
# is the last sign of life of the holder's flow run.
HOLDS = {"hold_id": _TEXT, **_HOLDER, "slots": "int64", "limit": "int64"}
HOLDS |= {"since": _TIME, "until": _TIME, "over": _TIME, "seen": _TIME}
LANES = {**HOLDS, "slot": "int64", "leaked": "bool"}


def events(answer: Rows) -> pd.DataFrame:
    """Return EVENTS, a row for each event of `answer`, in the order of their times."""
    rows = [_event(event) for event in answer]
    return frames.typed(rows, EVENTS).sort_values("time", ignore_index=True)


def _event(event: Any) -> dict[str, Any]:
    resource, runs = event["resource"], runs_of(event)
    return {
        "event_id": event["id"],
        "event": event["event"],
        "time": event["occurred"],
        "follows": event["follows"],
        "holder": runs["task_run"] or runs["flow_run"] or "no run",
        "slots": int(resource.get("slots-acquired", 1)),
        "limit": int(resource.get("limit", 0)),
    } | runs


def holds(events: pd.DataFrame, start: pd.Timestamp, task_runs: pd.DataFrame) -> pd.DataFrame:
    """Return HOLDS from EVENTS that begin at `start`: a release without its acquisition was acquired before that.

    `task_runs` are TASK_RUNS of the holders, as far as they are known.
    """
    ordered = events.drop_duplicates("event_id").sort_values("time", ignore_index=True)
    acquired = ordered[ordered["event"] == ACQUIRED].rename(columns={"event_id": "hold_id", "time": "since"})
    released = ordered[ordered["event"] == RELEASED]
    # A release names its acquisition if that was less than five minutes earlier; otherwise it is the latest one of its
    # task run.
    latest = pd.merge_asof(
        released[["event_id", "time", "task_run_id"]].astype({"task_run_id": str}),
        acquired[["since", "task_run_id", "hold_id"]].astype({"task_run_id": str}),
        left_on="time",
        right_on="since",
        by="task_run_id",
    ).set_index("event_id")["hold_id"]
    known = released["task_run_id"].notna()
    named = released["follows"].fillna(released["event_id"].map(latest).where(known))
    named = named.where(named.isin(acquired["hold_id"]))
    ends = released.assign(hold_id=named).dropna(subset="hold_id").groupby("hold_id")["time"].min()
    before = released[named.isna()].rename(columns={"event_id": "hold_id", "time": "until"}).assign(since=start)
    both = pd.concat([acquired.assign(until=_looked_up(acquired["hold_id"], ends)), before], ignore_index=True)
    # Whose task run ended by itself has given its slot back, even if nobody has heard of that (yet).
    well = task_runs[task_runs["state_type"].isin(["COMPLETED", "FAILED", "CANCELLED"])].set_index("task_run_id")
    last = ~both.sort_values("since")["task_run_id"].duplicated("last") & both["until"].isna()
    both["until"] = both["until"].fillna(_looked_up(both["task_run_id"], well["ended"]).where(last))
    signs = ordered.groupby("flow_run_id")["time"].max()
    both = both.assign(seen=both["until"].fillna(_looked_up(both["flow_run_id"], signs)).fillna(both["since"]))
    ended = _looked_up(both["task_run_id"], task_runs.set_index("task_run_id")["ended"])
    over = both["until"] - HANDOVER
    both = both.assign(over=over.where(~(ended < over), ended))
    return both[list(HOLDS)].astype(HOLDS).sort_values("since", ignore_index=True)


def _looked_up(keys: pd.Series, times: pd.Series) -> pd.Series:
    """Return the time of each of `keys` in `times`, by its index, as `Series.map` does unless there are none."""
    return times.astype(_TIME).reindex(keys).set_axis(keys.index)


def from_task_runs(task_runs: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return HOLDS from TASK_RUNS of a tag, each of which is taken to hold a slot from its start to its end."""
    ran = task_runs.dropna(subset="started").rename(columns={"name": "holder", "started": "since", "ended": "until"})
    seen = ran["until"].fillna(ran["since"])
    ran = ran.assign(hold_id=ran["task_run_id"], flow_run=None, slots=1, limit=limit, over=ran["until"], seen=seen)
    return ran[list(HOLDS)].astype(HOLDS).sort_values("since", ignore_index=True)


def from_holders(named: Mapping[str, pd.Timestamp], limit: int) -> pd.DataFrame:
    """Return HOLDS of task runs without events: each begins when the server first `named` its id as a holder."""
    rows = [{"hold_id": one, "task_run_id": one, "holder": one, "since": at, "seen": at} for one, at in named.items()]
    return frames.typed([row | {"slots": 1, "limit": limit} for row in rows], HOLDS)


def lanes(
    holds: pd.DataFrame, now: pd.Timestamp, dead: Collection[str] = (), lapse: timedelta = LAPSE["tag"]
) -> pd.DataFrame:
    """Return LANES: HOLDS with the `slot` that each took, from 0 on, and whether it `leaked`.

    A hold that was not released goes on until `now`, unless it leaked: its task run acquired again, or its `hold_id` is
    in `dead`, those of which the server says that they are over. The server gave a leaked slot to others when one more
    than the limit was acquired, or after `lapse`; so it did with one whose release was reported late.
    """
    rows = holds.loc[holds.index.repeat(holds["slots"].clip(lower=1))].reset_index(drop=True)
    again = rows["task_run_id"].notna() & rows.groupby("task_run_id")["hold_id"].transform("last").ne(rows["hold_id"])
    leaked = rows["until"].isna() & (again | rows["hold_id"].isin(list(dead)))
    lapsed = (rows["seen"] + lapse).clip(upper=now).where(leaked, now)
    until = rows["until"].fillna(lapsed).astype(_TIME).astype("int64").tolist()
    over = rows["over"].where(~leaked, rows["since"]).fillna(now).astype(_TIME).astype("int64").tolist()
    since, limits, slots = rows["since"].astype("int64").tolist(), rows["limit"].tolist(), [0] * len(rows)
    taken: list[tuple[int, int]] = []  # a heap of when a slot is free again, and the row of its holder
    free: list[int] = []  # a heap of slots
    for row, begin in enumerate(since):
        while taken and taken[0][0] <= begin:
            heapq.heappush(free, slots[heapq.heappop(taken)[1]])
        first = min(taken, key=lambda one: over[one[1]]) if len(taken) >= max(1, limits[row]) else None
        if first and over[first[1]] <= begin:
            taken.remove(first)
            heapq.heapify(taken)
            until[first[1]] = begin
            heapq.heappush(free, slots[first[1]])
        slots[row] = heapq.heappop(free) if free else len(taken)
        heapq.heappush(taken, (max(until[row], begin), row))
    end = pd.to_datetime(pd.Series(until, index=rows.index, dtype="int64"), utc=True).astype(_TIME)
    ends = end.clip(lower=rows["since"])
    return rows.assign(until=ends, seen=rows["seen"].clip(upper=ends), slot=slots, leaked=leaked).astype(LANES)


class Figures(NamedTuple):
    """What the ledger of a limit comes to, between two times. Times are in seconds, shares from 0 to 1."""

    peak: int
    exceeded: float
    full: float
    share: float
    leaked: float


def figures(lanes: pd.DataFrame, start: pd.Timestamp, now: pd.Timestamp, limit: int) -> Figures:
    """Return Figures of LANES from `start` to `now`; `limit` is the current one, of the time before the first hold."""
    steps = taken(lanes, start, now)
    lasted = (steps["time"].shift(-1) - steps["time"]).dt.total_seconds().fillna(0)
    # The limit of the latest acquisition: those who have a slot keep it when the limit is lowered.
    changes = lanes[["since", "limit"]].sort_values("since")
    matched = pd.merge_asof(steps[["time"]], changes, left_on="time", right_on="since")
    allowed = matched["limit"].fillna(changes["limit"].iloc[0] if len(changes) else limit)
    whole = float((lasted * allowed).sum())
    spans = (lanes["until"] - lanes["seen"].clip(lower=start)).dt.total_seconds()
    return Figures(
        peak=frames.peak(steps),
        exceeded=float(lasted[steps["running"] > allowed].sum()),
        full=float(lasted[steps["running"] >= allowed].sum()),
        share=float((lasted * steps["running"].astype(float)).sum()) / whole if whole else math.nan,
        leaked=float(spans[lanes["leaked"]].clip(lower=0).sum()),
    )


def taken(lanes: pd.DataFrame, start: pd.Timestamp, now: pd.Timestamp, *, alive: bool = False) -> pd.DataFrame:
    """Return STEPS: how many slots were taken from each time on; `alive`: only as long as the holder gave signs."""
    ends = lanes["seen"].where(lanes["leaked"], lanes["until"]) if alive else lanes["until"]
    within = lanes.assign(started=lanes["since"].clip(lower=start), ended=ends)[ends > start]
    steps = frames.concurrency(within, now)
    edges = pd.DataFrame({"time": [start, now], "running": pd.array([pd.NA, pd.NA], dtype="Int64")})
    both = pd.concat([steps, edges.astype(frames.STEPS)], ignore_index=True).sort_values("time", kind="stable")
    both = both[both["time"] <= now].drop_duplicates("time", ignore_index=True)
    return both.assign(running=both["running"].ffill().fillna(0))
