"""A run under another limit, replayed by its own times: made-up runs, of which the answer is known."""

import math
from collections.abc import Sequence

import pandas as pd
import pytest

from flows.monitor import charts, frames, replay

START = pd.Timestamp("2026-01-01", tz="UTC")
FREE = replay.Costs(math.nan, math.nan, math.nan)


def made(spans: Sequence[tuple[float, float]], names: Sequence[str] = (), submitted: float = 0.0) -> pd.DataFrame:
    """Return TASK_RUNS that ran for these `spans`, in seconds since START."""
    rows = [
        {"task_run_id": str(number), "name": names[number] if names else "query", "state": "Completed"}
        | {"submitted": (START + pd.Timedelta(seconds=min(submitted, begin))).isoformat()}
        | {"started": (START + pd.Timedelta(seconds=begin)).isoformat()}
        | {"ended": (START + pd.Timedelta(seconds=end)).isoformat(), "tags": []}
        for number, (begin, end) in enumerate(spans)
    ]
    return frames.timed(frames.typed(rows, frames.TASK_RUNS), START)


def took(runs: pd.DataFrame) -> float:
    return round((runs["ended"].max() - runs["started"].min()).total_seconds(), 3)


def rounds(tasks: int, limit: int, each: float = 1.0, handover: float = 0.0) -> list[tuple[float, float]]:
    """Return the spans of equal tasks that run in rounds, each round `handover` seconds after the one before."""
    begins = [number // limit * (each + handover) for number in range(tasks)]
    return [(begin, begin + each) for begin in begins]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 10, 50])
def test_equal_tasks_run_in_rounds(limit: int) -> None:
    """Also if there are more slots than tasks."""
    moved = replay.replay(made(rounds(10, 3)), limit, FREE)
    assert took(moved) == math.ceil(10 / limit)
    assert frames.peak(frames.concurrency(moved, START)) == min(limit, 10)
    assert moved["ran_seconds"].tolist() == [1.0] * 10


def test_no_task_is_quicker_than_the_longest_one() -> None:
    runs = made([(0, 6), (0, 1), (1, 2), (2, 3), (3, 4)])
    assert [took(replay.replay(runs, limit, FREE)) for limit in (1, 2, 3, 9)] == [10, 6, 6, 6]


def test_tasks_begin_in_the_order_in_which_they_began() -> None:
    """The server gives out slots by lot, not in the order of submission; and no task begins before it is submitted."""
    by_lot = replay.replay(made([(2, 3), (0, 1), (1, 2)]), 1, FREE)
    assert by_lot["task_run_id"].tolist() == ["1", "2", "0"]
    late = replay.replay(made([(0, 1), (7, 8)], submitted=7.0), 4, FREE)
    assert late["started"].iloc[-1] == START + pd.Timedelta(seconds=7)


def test_no_task_run_and_those_that_have_not_ended_give_no_times() -> None:
    for runs in (made([]), made([(0, 1)]).assign(ended=lambda runs: runs["ended"].mask(runs["ended"].notna()))):
        assert replay.replay(runs, 3, FREE).empty
        assert all(map(math.isnan, replay.costs(runs)))


def test_a_handover_costs_as_much_in_the_replay_as_in_the_run() -> None:
    runs = made(rounds(9, 3, handover=0.25))
    costs = replay.costs(runs)
    assert costs.handover == pytest.approx(0.25) and costs.asking == 0
    assert took(replay.replay(runs, 3, costs)) == took(runs) == 3.5
    assert took(replay.replay(runs, 1, costs)) == 9 + 8 * 0.25


def test_a_process_asks_for_one_slot_at_a_time() -> None:
    runs = made([(number * 0.5, number * 0.5 + 1.2) for number in range(6)], submitted=-1.0)
    costs = replay.costs(runs)
    assert costs.asking == pytest.approx(0.5)
    assert took(replay.replay(runs, 6, costs)) == 3.7, "six slots help as little as three"


def test_shared_cores_slow_down_what_runs_together() -> None:
    """One task alone takes a second, three at once a second and a half each: two cores."""
    runs = made([(0, 1), *[(begin + 1, end + 1) for begin, end in rounds(9, 3, each=1.5)]], submitted=1.0)
    costs = replay.costs(runs)
    assert costs.cores == 2.0
    assert took(replay.replay(runs, 1, costs)) == pytest.approx(10, abs=0.01)
    assert took(replay.replay(runs, 2, costs)) == pytest.approx(6, abs=0.01), "one alone, then nine on two cores"
    assert took(replay.replay(runs, 6, costs)) == pytest.approx(5.5, abs=0.01), "more slots are no more cores"


def test_tasks_that_only_wait_are_not_slowed_down() -> None:
    assert replay.costs(made([(0, 1), *[(begin + 1, end + 1) for begin, end in rounds(9, 3)]])).cores == math.inf


def test_the_cores_are_unknown_without_equal_tasks_with_more_and_fewer_others() -> None:
    assert math.isnan(replay.costs(made(rounds(9, 3))).cores), "all ran three at a time"
    alone_first = [(0, 1), *[(begin + 1, end + 1) for begin, end in rounds(9, 3, each=1.5)]]
    assert math.isnan(replay.costs(made(alone_first, [str(number) for number in range(10)])).cores), "all differ"


def test_a_replay_can_be_drawn_as_a_run_can() -> None:
    moved = replay.replay(made(rounds(10, 3)), 2, FREE)
    drawn = charts.run(moved, frames.concurrency(moved, START), 2)
    assert "Up to 2 task runs ran at once; the limit is 2." in drawn.description
