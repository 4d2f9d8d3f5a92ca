"""Simulate processes that poll for the slots of one limit, on servers that answer one request at a time.

    python scripts/simulate_slots.py [--limit 3] [--seconds 0.2] [--json]

It prints what docs/scaling.md shows and explains: how many processes a server bears, and with which slot wait.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from flows import cli

# Seconds that a request, or a piece of other work, takes of the server's thread, and that a client takes between two
# requests. Chosen so that the rows for 1 to 8 processes in docs/figures/growth.json come out as nearly as they can.
ASK, GIVE_BACK, STORE, CLIENT = 0.014, 0.026, 0.009, 0.07
PIECES = 5  # of other work for each task: its states and events are received and stored
EACH = 24  # tasks for each process
PROCESSES, WAITS = (1, 2, 4, 8, 16, 32, 64), (0.03, 0.1, 0.5, 1.0)


def simulate(
    processes: int, tasks: int, seconds: float, limit: int, wait: float, servers: int = 1
) -> dict[str, int | float]:
    """Return the figures of `tasks` tasks of `seconds`, which `processes` share, as they share a `limit`.

    A process asks for one slot at a time. Refused, it pauses for `wait` seconds, which the server spreads by 30 %.
    """
    chance, order = random.Random(0), itertools.count()
    events: list[tuple[float, int, Callable[[float], None]]] = []
    queue = deque[tuple[float, Callable[[float], None]]]()  # requests that no server has begun
    free, idle, busy, refused = limit, servers, 0.0, 0
    starts, ends, waiting = list[float](), list[float](), [tasks // processes] * processes

    def at(time: float, act: Callable[[float], None]) -> None:
        heapq.heappush(events, (time, next(order), act))

    def request(now: float, takes: float, answer: Callable[[float], None]) -> None:
        queue.append((takes, answer))
        serve(now)

    def serve(now: float) -> None:
        nonlocal idle, busy
        while idle and queue:
            takes, answer = queue.popleft()
            idle, busy = idle - 1, busy + takes
            at(now + takes, lambda then, answer=answer: served(then, answer))

    def served(now: float, answer: Callable[[float], None]) -> None:
        nonlocal idle
        idle += 1
        answer(now)
        serve(now)

    def ask(now: float, process: int) -> None:
        if waiting[process]:
            request(now, ASK, lambda then: decide(then, process))

    def decide(now: float, process: int) -> None:
        nonlocal free, refused
        pause = CLIENT
        if free:
            free, waiting[process] = free - 1, waiting[process] - 1
            at(now + CLIENT, begin)
        else:
            refused += 1
            pause = CLIENT / 2 + wait * chance.uniform(0.7, 1.3)
        at(now + pause, lambda then: ask(then, process))

    def begin(now: float) -> None:
        starts.append(now)
        at(now + seconds, end)

    def end(now: float) -> None:
        ends.append(now)
        for _ in range(PIECES):
            request(now, STORE, lambda _: None)
        at(now + CLIENT, lambda then: request(then, GIVE_BACK, give_back))

    def give_back(_: float) -> None:
        nonlocal free
        free += 1

    for process in range(processes):
        at(chance.uniform(0, wait), lambda now, process=process: ask(now, process))
    while events:
        now, _, act = heapq.heappop(events)
        act(now)
    span = max(ends) - min(starts)
    return {
        "processes": processes,
        "servers": servers,
        "wait": wait,
        "span_seconds": round(span, 2),
        "refused_per_task": round(refused / tasks, 1),
        "requests_per_second": round((2 * tasks + refused) / span, 1),
        "server_busy": round(busy / span / servers, 2),
        "server_ms_per_task": round(1000 * busy / tasks),
        "tasks_per_second": round(tasks / span, 2),
    }


def main() -> int:
    """Simulate PROCESSES with WAITS on one server and on two; print how many tasks a second each has completed."""
    parser = cli.Arguments(description="Simulate processes that poll for the slots of one limit.")
    parser.add_argument("--limit", type=cli.whole_number, default=3, help="how many slots (default 3)")
    parser.add_argument("--seconds", type=cli.number(0.01, 3600), default=0.2, help="what each task takes (0.2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    columns = list(itertools.product((1, 2), WAITS))
    rows = [
        [simulate(n, EACH * n, chosen.seconds, chosen.limit, wait, servers) for servers, wait in columns]
        for n in PROCESSES
    ]
    if chosen.json:
        cli.print_json({"rows": [each for row in rows for each in row]})
    else:
        shown = Table("processes", *(f"{servers}, {wait} s" for servers, wait in columns))
        for row in rows:
            shown.add_row(str(row[0]["processes"]), *(str(each["tasks_per_second"]) for each in row))
        Console().print("Tasks a second, by the servers and the slot wait:", shown)
    return 0


if __name__ == "__main__":
    cli.run(main)
