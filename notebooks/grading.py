"""How the checks of the exercises answer, and how they ask the server."""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Generator, Mapping
from typing import Any, ParamSpec

from pydantic import Secret, SecretStr

import learner
import lessons
from flows.api import endpoints, rest
from flows.monitor import pages
from flows.settings import CannotRun

Answer = ParamSpec("Answer")


class Wrong(Exception):
    """The answer is not right. The message says why, and gives a hint."""


def print_verdict(name: str, check: Callable[[], str]) -> None:
    """Print whether `check` returns what is right, which is then kept as done under `name`, or raises Wrong."""
    try:
        print(f"Right: {check()}")
        learner.keep_exercise(name)
    except (Wrong, CannotRun) as wrong:
        print(f"Not yet: {wrong}")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        print(f"Not yet: the check could not read your answer ({problem}). Use the same format as the example.")


def printing(check: Callable[Answer, str]) -> Callable[Answer, None]:
    """Make `check`, which returns what is right or raises Wrong, print its verdict instead."""

    @functools.wraps(check)
    def printed(*arguments: Answer.args, **named: Answer.kwargs) -> None:
        print_verdict(check.__name__, lambda: check(*arguments, **named))

    return printed


@contextlib.contextmanager
def environment(configuration: Mapping[str, Any]) -> Generator[None]:
    """Until the block ends, set the server and the credentials that `configuration` has, and no others."""
    before = dict(os.environ)
    # The last one marks custom headers as the kit's own; these are the learner's.
    for name in ("URL", "KEY", "AUTH_STRING"):
        os.environ.pop(f"PREFECT_API_{name}", None)
    for name in ("PREFECT_CLIENT_CUSTOM_HEADERS", "FLOWS_ADDED_AUTHORIZATION"):
        os.environ.pop(name, None)
    for name, value in configuration.items():
        os.environ[name] = str(value.get_secret_value() if isinstance(value, Secret | SecretStr) else value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def number(answer: float | str | None) -> float | None:
    """Return `answer` as a number, None if there is none. Raises Wrong if it is not one, or not a finite one."""
    try:
        value = None if answer is None else float(answer)
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise Wrong(f"{answer!r} is not a number. Write one such as 1.5.")
    return value


def parts(problems: Mapping[str, str]) -> None:
    """Raise Wrong for the first of `problems` (by part of the answer), with the parts that have none; pass if all."""
    right = [part for part, problem in problems.items() if not problem]
    done = f" Already right: {', '.join(right)}." if right else ""
    for problem in filter(None, problems.values()):
        raise Wrong(problem + done)


def newest_run(flow: str, tasks: int) -> pages.Run:
    """Return the newest run of the flow named `flow`, with its `tasks` task runs, or as many as it has."""
    runs = rest.send(endpoints.flow_runs(flow=flow, limit=1))
    if not runs:
        raise Wrong(f"there is no run of a flow named {flow!r}. Run the cell above.")
    with contextlib.suppress(CannotRun):  # if it has fewer
        return lessons.finished(runs[0]["id"], tasks, seconds=6)
    return pages.run(runs[0]["id"])
