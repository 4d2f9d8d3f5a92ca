"""About when a waiting task run starts: a range, from how long past task runs took. No requests are sent here.

Nobody knows who gets the next slot: each process asks for one slot at a time, roughly in the order of submission, and
of several processes one gets it by lot. So the slots are handed out many times, each time with durations and an order
drawn from the past, and the range has the middle 80 % of the times that this gives.
"""

from collections import deque
from typing import NamedTuple

import numpy as np
import pandas as pd

from flows.api.endpoints import FINAL
from flows.monitor import frames

DRAWS = 400
RANGE = (0.1, 0.9)


class Past(NamedTuple):
    """What task runs of one tag tell, the pace of each flow run set aside: `paces` are how slow whole flow runs were.

    `seconds` are by name how long one occupied its slot, which includes the handover to the next one; `every` has those
    of all names. `handovers` are also on their own; `places` is the standard deviation of how many places a task run
    began before or after its turn.
    """

    seconds: dict[str, np.ndarray]
    every: np.ndarray
    paces: np.ndarray
    handovers: np.ndarray
    places: float


def past(task_runs: pd.DataFrame) -> Past | None:
    """Return the Past of TASK_RUNS of one tag, those of all flow runs together; None if none of them has ended."""
    ran = task_runs.dropna(subset=["started", "ended"]).reset_index(drop=True)
    if ran.empty:
        return None
    handovers = _handovers(ran)
    occupied = ran["ran_seconds"].clip(lower=0.001) + handovers.fillna(handovers.median()).fillna(0)
    usual, flow_runs = occupied.groupby(ran["name"]).transform("median"), ran["flow_run_id"].fillna("")
    paces = occupied.groupby(flow_runs).sum() / usual.groupby(flow_runs).sum()
    alike = occupied / flow_runs.map(paces)
    places = ran.groupby(flow_runs)["started"].rank() - ran.groupby(flow_runs)["submitted"].rank(method="first")
    return Past(
        {str(name): seconds.to_numpy() for name, seconds in alike.groupby(ran["name"])},
        alike.to_numpy(),
        paces.to_numpy(),
        handovers.dropna().to_numpy() if handovers.notna().any() else np.zeros(1),
        float(np.sqrt((places**2).mean())),
    )


def ranges(task_runs: pd.DataFrame, tag: str, limit: int, known: Past, now: pd.Timestamp) -> pd.DataFrame:
    """Return for each task run that waits for a slot of `tag`, by its id, `soonest` and `latest`: seconds from `now`.

    `task_runs` are all the active ones, of all flow runs. Those that wait for inputs are left out. A slot that is
    taken, and that none of them holds, counts as free: one of those that wait has just got it.
    """
    unended = set(task_runs.loc[~task_runs["state_type"].isin(FINAL), "task_run_id"])
    runs = frames.tagged(task_runs, tag)
    begun, needs = runs["started"].notna(), runs["upstream"].map(lambda ids: not unended.isdisjoint(ids)).astype(bool)
    waiting = runs[~begun & ~needs & (runs["state_type"] == "PENDING")].sort_values("submitted")
    holders = runs[begun & runs["ended"].isna()]
    if waiting.empty or limit < 1:
        return pd.DataFrame({"soonest": [], "latest": []}, dtype=float)
    rng = np.random.default_rng(len(waiting))  # the same page gives the same ranges
    paces = _paces(known, rng)
    ages = (now - holders["started"]).dt.total_seconds().clip(lower=0)
    free = [_left(_seconds(known, name), age, paces, rng) for name, age in zip(holders["name"], ages, strict=True)]
    free = free[:limit] + [rng.choice(known.handovers, DRAWS) * rng.random(DRAWS) for _ in range(limit - len(free))]
    turns = _turns(waiting["flow_run_id"], known, rng)
    starts = _served(np.stack(free, axis=1), turns, waiting["name"], known, paces, rng)
    soonest, latest = np.quantile(starts, RANGE, axis=0)
    return pd.DataFrame({"soonest": soonest, "latest": latest}, index=pd.Index(waiting["task_run_id"]))


def _paces(known: Past, rng: np.random.Generator) -> np.ndarray:
    """Return how slow this flow run may be, for each draw: as past ones were, of which few say little of the next."""
    logs, runs = np.log(known.paces), len(known.paces)
    spread = logs.std(ddof=1) * np.sqrt(1 + 1 / runs) if runs > 1 else 0.0
    return np.exp(logs.mean() + spread * rng.standard_t(max(1, runs - 1), (DRAWS, 1)).clip(-4, 4))


def _served(
    free: np.ndarray, turns: np.ndarray, names: pd.Series, known: Past, paces: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return when each of the waiting ones begins, a row for each draw; `free` is when the slots become free."""
    took = np.stack([rng.choice(_seconds(known, name), DRAWS) for name in names], axis=1) * paces
    starts, draws = np.empty(took.shape), np.arange(DRAWS)
    for turn in turns.T:
        slot = free.argmin(axis=1)
        starts[draws, turn] = free[draws, slot]
        free[draws, slot] += took[draws, turn]
    return starts


def _turns(flow_runs: pd.Series, known: Past, rng: np.random.Generator) -> np.ndarray:
    """Return the order in which the waiting ones begin, a row for each draw.

    Within a flow run it is about that of their submission; whose turn it is, of several flow runs, is by lot.
    """
    keys = np.empty((DRAWS, len(flow_runs)))
    for flow_run in flow_runs.unique():
        own = np.flatnonzero(flow_runs == flow_run)
        about = np.arange(len(own)) + rng.normal(0, known.places, (DRAWS, len(own)))
        # Sums of exponential times: at each moment every flow run is as likely to be next.
        lots = rng.exponential(size=about.shape).cumsum(axis=1)
        keys[:, own] = np.take_along_axis(lots, about.argsort(axis=1).argsort(axis=1), axis=1)
    return keys.argsort(axis=1)


def _left(seconds: np.ndarray, age: float, paces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return how long one that has run for `age` seconds goes on: as those did that took longer than that."""
    took = seconds * paces
    picked = np.where(took > age, rng.random(took.shape), -1.0)
    left = took[np.arange(DRAWS), picked.argmax(axis=1)] - age
    return np.where(left > 0, left, age * rng.random(DRAWS))  # none took longer: nobody knows


def _seconds(known: Past, name: str | None) -> np.ndarray:
    """Return the durations of those with this name, which has an ending until it starts; of all of them if none had."""
    return known.seconds.get(name, known.seconds.get(str(name).rpartition("-")[0], known.every))


def _handovers(ran: pd.DataFrame) -> pd.Series:
    """Return the seconds from each end to the start of the one that took over its slot; NaN if none waited for it."""
    starts = zip(ran["started"], ran["submitted"], ran.index, strict=True)
    ends = ((end, pd.NaT, row) for row, end in ran["ended"].items())
    freed: deque[tuple[pd.Timestamp, int]] = deque()
    handovers = pd.Series(np.nan, index=ran.index)
    for time, submitted, row in sorted([*ends, *starts], key=lambda event: event[0]):
        if pd.isna(submitted):
            freed.append((time, row))
            continue
        while freed and freed[0][0] < submitted:
            freed.popleft()
        if freed:
            end, before = freed.popleft()
            handovers[before] = (time - end).total_seconds()
    return handovers
