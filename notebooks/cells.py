"""How the cells of a notebook behave: none runs too long, and an error of the kit is shown as its sentence."""

import contextlib
import signal
import threading
from typing import Any

from IPython.core.getipython import get_ipython

from flows.monitor import frames, pages
from flows.settings import CannotRun

LONGEST = 120  # seconds that a cell may take

_timers: list[threading.Timer] = []


def guard() -> None:
    """From now on, show an error of the kit as its sentence, and interrupt a cell that runs longer than LONGEST."""
    shell: Any = get_ipython()
    if shell is None or CannotRun in shell.custom_exceptions:
        return
    shell.set_custom_exc((CannotRun,), lambda _shell, _kind, error, _trace, tb_offset=None: print(error))
    shell.events.register("pre_run_cell", _start_timer)
    shell.events.register("post_run_cell", _stop_timers)


def full_limits() -> str:
    """Return a sentence that names the limits whose slots are all taken: the usual reason for a long wait."""
    with contextlib.suppress(CannotRun):
        limits = pages.limits()
        full = limits[limits["taken"] >= limits["limit"]].to_dict("records")
        sentences = [f"All {row['limit']} slots of {frames.named(row['tag'])} are taken." for row in full]
        return " ".join(sentences) or "Every limit has a free slot."
    return "The server does not answer."


def _start_timer(_info: object) -> None:
    timer = threading.Timer(LONGEST, _interrupt)
    timer.daemon = True
    timer.start()
    _timers.append(timer)


def _stop_timers(_result: object) -> None:
    while _timers:
        _timers.pop().cancel()


def _interrupt() -> None:
    sentence = f"This cell was interrupted because it ran longer than {LONGEST} s. {full_limits()}"
    main = threading.main_thread().ident
    if main is not None and threading.current_thread() in _timers:  # else it has ended meanwhile
        print(sentence, flush=True)
        signal.pthread_kill(main, signal.SIGINT)
