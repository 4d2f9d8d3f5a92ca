"""How well a set of runs was packed under a limit, from their own start and end times."""

import math
from collections.abc import Iterable, Sequence


def peak(spans: Iterable[tuple[float, float]]) -> int:
    """The largest number of the `(start, end)` spans, in seconds, that overlap. One may start as another ends."""
    running = highest = 0
    for _, step in sorted(event for start, end in spans for event in ((start, 1), (end, -1))):
        running += step
        highest = max(highest, running)
    return highest


def ideal(durations: Sequence[float], limit: int | None) -> float:
    """The least time, in seconds, in which any scheduler could run tasks of these `durations` under `limit`.

    None is no limit at all. Equal durations run in whole rounds of `limit`.
    """
    if not durations:
        return 0.0
    longest = max(durations)
    if limit is None:
        return longest
    if longest - min(durations) <= 1e-9 * longest:
        return math.ceil(len(durations) / limit) * longest
    return max(sum(durations) / limit, longest)
