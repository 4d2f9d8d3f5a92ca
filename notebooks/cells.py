"""How the cells of a notebook behave: none runs too long, and an error that the kit understands is a sentence."""

import contextlib
import signal
import threading
from typing import Any

import httpx
from IPython.core.getipython import get_ipython

import neighbours
from flows.monitor import frames, pages
from flows.settings import CannotRun

LONGEST = 120  # seconds that a cell may take
SENTENCES = (CannotRun, httpx.HTTPError)  # the second is what Prefect's client raises if a server refuses or is away

_timers: list[threading.Timer] = []


class Explained(Exception):
    """An error of which a notebook shows the message only."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows."""
        return [str(self)]


def guard() -> None:
    """From now on, show an error that the kit understands as a sentence, and interrupt a cell that takes too long.

    Each cell begins with the credentials that the lab asks for, since another lesson may have changed them.
    """
    shell: Any = get_ipython()
    if shell is None or CannotRun in shell.custom_exceptions:
        return
    shell.set_custom_exc(SENTENCES, _show)
    shell.events.register("pre_run_cell", _begin)
    shell.events.register("post_run_cell", _end)


def reasons() -> str:
    """Return the usual reasons for a long wait: limits whose slots are all taken, and other lessons that are open."""
    with contextlib.suppress(CannotRun):
        limits = pages.limits()
        full = limits[limits["taken"] >= limits["limit"]].to_dict("records")
        sentences = [f"All {row['limit']} slots of {frames.named(row['tag'])} are taken." for row in full]
        return " ".join([" ".join(sentences) or "Every limit has a free slot.", neighbours.others()]).strip()
    return "The server does not answer."


def _begin(_info: object) -> None:
    neighbours.begin_cell()
    timer = threading.Timer(LONGEST, _interrupt)
    timer.daemon = True
    timer.start()
    _timers.append(timer)


def _end(result: Any) -> None:
    """Stop the timers, and explain an error that `_show` has left alone."""
    while _timers:
        _timers.pop().cancel()
    error = result.error_in_exec
    if error and not isinstance(error, SENTENCES) and (changed := neighbours.changed()):
        print(f"This may be the reason: {changed}")


def _show(shell: Any, kind: type[Exception], error: Exception, trace: Any, tb_offset: int | None = None) -> None:
    """Show `error` as a sentence if it is the kit's, or if what another lesson has changed explains it.

    It remains an error, which ends "Run All" and is seen by what runs notebooks.
    """
    changed = neighbours.changed()
    if isinstance(error, CannotRun) or changed:
        own = f"{error} " if isinstance(error, CannotRun) else "The server did not do what this cell asked for. "
        error = Explained(f"{own}{changed}".strip())
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def _interrupt() -> None:
    sentence = f"This cell was interrupted because it ran longer than {LONGEST} s. {reasons()}"
    main = threading.main_thread().ident
    if main is not None and threading.current_thread() in _timers:  # else it has ended meanwhile
        print(sentence, flush=True)
        signal.pthread_kill(main, signal.SIGINT)
