"""What every lesson begins and ends with, how it waits for the server, and how it shows a chart."""

import base64
import contextlib
import html
import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

import cells
import copies
import guesses
import neighbours
import progress
import records
from flows import lab, warehouse
from flows.api import endpoints, rest, server
from flows.monitor import charts, pages
from flows.settings import CannotRun

# In JupyterLab's dark theme, a white picture becomes a dark one, and its colours keep their hues.
DARK = '<style>[data-jp-theme-light="false"] .flows {filter: invert(0.93) hue-rotate(180deg)}</style>'

# The monitor's text can be read on white and on black; pictures are on white, where a darker one reads better.
TEXT = "#555555"

SHARED = "playground"  # the only lesson that asks you to open it twice


@dataclass(frozen=True)
class Picture:
    """A chart as a picture that needs no program to be seen; `alt` says in a sentence what it shows."""

    svg: str
    alt: str

    @property
    def html(self) -> str:
        """The picture as an element of a page."""
        data = base64.b64encode(self.svg.encode()).decode()
        image = f'<img class="flows" alt="{html.escape(self.alt)}" src="data:image/svg+xml;base64,{data}"'
        return f'{DARK}{image} style="max-width: 100%">'

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.alt}


def picture(chart: alt.TopLevelMixin) -> Picture:
    """Return `chart`, which must have a description, as a picture."""
    described: Any = chart
    svg = vl_convert.vegalite_to_svg(described.to_json())
    return Picture(re.sub(rf'(<text[^>]* fill="){charts.GREY}', rf"\g<1>{TEXT}", svg), described.description)


def begin() -> None:
    """Start what a lesson needs, and record how the server is; first clean up after lessons that were interrupted.

    From now on Prefect's console is quiet, and `cells.guard` watches the notebook's cells. Raises CannotRun if the same
    lesson is open in another kernel.
    """
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # the server has the logs
    cells.guard()
    guesses.forget_first()
    if newer := copies.outdated(Path.cwd()):
        print(newer)
    with contextlib.redirect_stderr(io.StringIO()):
        print("Starting the database and Prefect's server, if they do not run: about 10 seconds.", flush=True)
        server.use()
        if records.lesson() != SHARED and records.lesson() in records.open_elsewhere():
            twice = "This lesson is open twice, and each of the two would change what the other one measures."
            raise CannotRun(f"{twice} {neighbours.others()} Then run this cell again.")
        print("Cleaning up after lessons that were interrupted, if there are any.", flush=True)
        records.clean_up_interrupted()
        url = server.use()
        print("Making the database's tables, if there are none: about 5 seconds.", flush=True)
        warehouse.prepare()
        if others := neighbours.others():
            print(f"{others} Until then, each of the lessons may see what the other one makes on the server.")
        records.write(url)
        neighbours.accept()
    print("Ready.")


def begun() -> bool:
    """Return whether this kernel's lesson has begun, and has not ended since."""
    return records.file().exists()


def guarded(auth: str, https: bool = False) -> str:
    """Restart the lab's server with this way of checking callers, as `lab.up` does, and return its API address.

    Raises CannotRun if the user named another server, which the kit does not restart.
    """
    print("Restarting the lab's server: about 5 seconds.", flush=True)
    with contextlib.redirect_stderr(io.StringIO()):
        if not server.is_lab(server.use()):
            raise CannotRun(
                "PREFECT_API_URL names a server of your own, which this lesson cannot restart."
                " Unset it, and start Jupyter again."
            )
        records.keep_restart()
        lab.up(auth, https)
        neighbours.accept()
        return server.use()


def end(*flow_runs: object) -> progress.Summary:
    """Remove what the lesson made on the server, put back what it changed there, and return the learner's progress.

    It removes the flows, work pools, limits and keys whose names start with `records.PREFIX`, and `flow_runs`: ids of
    runs of the main job, which are listed because others may have such runs too. It puts back the limit of the kit's
    own tag, and how the lab checks its callers.
    """
    if not begun():
        raise CannotRun("This lesson has already ended, or it has not begun. Run it from its first cell.")
    print("Putting back what the lesson changed.", flush=True)
    with contextlib.redirect_stderr(io.StringIO()):
        rest.gather([endpoints.delete("flow_runs", str(flow_run)) for flow_run in flow_runs])
        others = neighbours.others()
        records.put_back(records.file())
        neighbours.accept()
    kept = f"{others} Until then, its flows and limits stay, and so do yours."
    print(kept if others else "The lab is as you found it.")
    return progress.summary(picture)


def wait_for(happens: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until `happens()` is true, and print that this waits for `what`. Raises CannotRun after `seconds`."""
    print(f"Waiting for {what}.", flush=True)
    deadline = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > deadline:
            raise CannotRun(
                f"{seconds:.0f} s have passed without {what}. {cells.reasons()} Run the lesson again from the top."
            )
        time.sleep(0.1)


def capped(workers: int) -> Any:
    """Return a task runner that starts `workers` tasks at a time, or None in Prefect 2, which has none."""
    from prefect import task_runners

    runner = getattr(task_runners, "ThreadPoolTaskRunner", None)
    return runner(max_workers=workers) if runner else None


def finished(flow_run_id: object, tasks: int = 1, seconds: float = 30) -> pages.Run:
    """Return a flow run as the server knows it, once it and at least `tasks` task runs have ended there too.

    The server receives the last states about a second late. Raises CannotRun after `seconds`.
    """
    deadline = time.monotonic() + seconds
    page = pages.run(str(flow_run_id))
    while not _has_ended(page, tasks):
        if time.monotonic() > deadline:
            run = page.flow_run
            raise CannotRun(
                f"After {seconds:.0f} s the run {run['name']} is {run['state']}, with {len(page.task_runs)} task runs."
                f" {cells.reasons()}"
            )
        time.sleep(0.2)
        page = pages.run(str(flow_run_id))
    return page


def _has_ended(page: pages.Run, tasks: int) -> bool:
    ended = page.task_runs["state_type"].isin(endpoints.FINAL)
    return page.flow_run["state_type"] in endpoints.FINAL and len(ended) >= tasks and bool(ended.all())
