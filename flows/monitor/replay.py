"""What if the limit had been another one? The task runs of a run, replayed by their own times. No requests are sent.

Both functions take TASK_RUNS (see `frames`) of one tag, and leave out those that have not ended. All costs are seconds.
"""

import heapq
import math
from typing import NamedTuple

import pandas as pd

from flows.monitor import frames


class Costs(NamedTuple):
    """What slots and shared cores cost a run. NaN is what its times cannot tell; it counts as no cost."""

    handover: float  # from the end of a task run to the start of the next one in its slot
    asking: float  # from one start to the next if slots are free: a process asks for one slot at a time
    cores: float  # how many task runs can work at full speed at once; infinite if none was slowed down


def costs(task_runs: pd.DataFrame) -> Costs:
    """Return the Costs of a run: mean times, and the number of cores by which task runs of one name do equal work.

    That takes task runs of one name, of which some had more others beside them; without them, `cores` is NaN.
    """
    runs = task_runs.dropna(subset=["started", "ended"]).sort_values("started", ignore_index=True)
    steps, names = frames.concurrency(runs, runs["ended"].max()), runs["name"]
    most = frames.peak(steps)
    last, freed = runs["started"].shift(), runs["ended"].sort_values(ignore_index=True).shift(most)
    queued = last > runs["submitted"]  # otherwise the process had nothing to ask for
    handovers = (runs["started"] - freed)[queued & (freed > last)].dt.total_seconds()
    asks = (runs["started"] - last)[queued & ~(freed > last)].dt.total_seconds()

    def spread(cores: float) -> float:
        work = _work(runs, steps, cores)
        return (work / work.groupby(names).transform("mean")).var()

    beside = (runs["ran_seconds"] / _work(runs, steps, 1)).groupby(names)
    comparable = (beside.max() - beside.min() > 0.5).any()
    cores = min((tenth / 10 for tenth in range(10, 10 * most + 1)), key=spread) if comparable else math.nan
    return Costs(float(handovers.mean()), float(asks.mean()), math.inf if cores == most else cores)


def replay(task_runs: pd.DataFrame, limit: int, costs: Costs) -> pd.DataFrame:
    """Return TASK_RUNS with the times that they would have had under `limit`, submitted and begun in the same order."""
    runs = task_runs.dropna(subset=["started", "ended"]).sort_values("started", ignore_index=True)
    handover, asking, cores = pd.Series(costs).fillna(pd.Series([0, 0, math.inf]))
    left, origin = list(_work(runs, frames.concurrency(runs, runs["ended"].max()), cores)), runs["started"].min()
    submitted = [*(runs["submitted"] - origin).dt.total_seconds(), math.inf]
    free, running, starts, ends, now = [0.0] * limit, set[int](), list[float](), dict[int, float](), 0.0
    while len(ends) < len(runs):
        speed = min(1.0, cores / max(len(running), 1))
        end, first = min(((now + left[run] / speed, run) for run in running), default=(math.inf, -1))
        asked = max(starts[-1], submitted[len(starts)]) + asking if starts else 0.0
        start = max(free[0], asked) if free else math.inf
        for run in running:
            left[run] -= (min(start, end) - now) * speed
        now = min(start, end)
        if start < end:
            heapq.heappop(free)
            running.add(len(starts))
            starts.append(now)
        else:
            running.remove(first)
            ends[first] = now
            heapq.heappush(free, now + handover)
    times = {"started": starts, "ended": [ends[run] for run in runs.index]}
    moved = {name: pd.to_timedelta(times[name], unit="s") + origin for name in times}
    return frames.timed(runs.assign(**moved), origin) if len(runs) else runs


def _work(runs: pd.DataFrame, steps: pd.DataFrame, cores: float) -> pd.Series:
    """Return how long each of `runs` would take alone, in seconds, if together they share so many `cores`."""
    speed = (cores / steps["running"].astype(float)).clip(upper=1)
    clock = (steps["time"].diff().dt.total_seconds() * speed.shift()).fillna(0).cumsum().set_axis(steps["time"])
    return runs["ended"].map(clock) - runs["started"].map(clock)
