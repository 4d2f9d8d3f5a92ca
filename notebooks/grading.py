"""How the checks of the exercises answer, and how they ask the server."""

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Mapping
from typing import Any, ParamSpec

from pydantic import SecretStr

import lessons
from flows.api import endpoints, rest
from flows.monitor import pages
from flows.settings import CannotRun

Answer = ParamSpec("Answer")


class Wrong(Exception):
    """The answer is not right. The message says why, and gives a hint."""


def printing(check: Callable[Answer, str]) -> Callable[Answer, None]:
    """Make `check`, which returns what is right or raises Wrong, print one line instead."""

    @functools.wraps(check)
    def print_verdict(*arguments: Answer.args, **named: Answer.kwargs) -> None:
        try:
            print(f"Right: {check(*arguments, **named)}")
        except (Wrong, CannotRun) as wrong:
            print(f"Not yet: {wrong}")
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            print(f"Not yet: the check could not read your answer ({problem}). Use the same format as the example.")

    return print_verdict


@contextlib.contextmanager
def environment(configuration: Mapping[str, Any]) -> Generator[None]:
    """Until the block ends, set the server and the credentials that `configuration` has, and no others."""
    before = dict(os.environ)
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS"):
        os.environ.pop(name, None)
    for name, value in configuration.items():
        os.environ[name] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def newest_run(flow: str, tasks: int) -> pages.Run:
    """Return the newest run of the flow named `flow`, with its `tasks` task runs, or as many as it has."""
    runs = rest.send(endpoints.flow_runs(flow=flow, limit=1))
    if not runs:
        raise Wrong(f"there is no run of a flow named {flow!r}. Run the cell above.")
    with contextlib.suppress(CannotRun):  # if it has fewer
        return lessons.finished(runs[0]["id"], tasks, seconds=3)
    return pages.run(runs[0]["id"])
