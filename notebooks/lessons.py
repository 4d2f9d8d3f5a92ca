"""What every lesson does first and last, how it waits for the server, and how it shows a chart."""

import base64
import contextlib
import html
import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import altair as alt
import psutil
import psycopg
import vl_convert
from IPython.core.getipython import get_ipython

from flows import lab, limits, settings, versions, warehouse
from flows.api import endpoints, limit_endpoints, rest, server
from flows.lab import keys, processes
from flows.monitor import pages
from flows.settings import CannotRun

LONGEST = 120  # seconds that a cell may take
FLOW, POOL = "lesson", "lesson-pool"  # by these names what the lessons make on the server is found and removed
RUN = ("twenty queries", "ten naps", "doomed", "lesson etl", "lesson retries", "lesson batches", "lesson pool")
RUN += ("lesson server", "exercise cleanup", "exercise query", "playground")  # the flows that the lessons run
KEPT = ("mark", "since", "api_url", "auth", "limits")  # what a lesson writes down of the lab that it finds


@dataclass(frozen=True)
class Picture:
    """A chart as a picture that needs no program to be seen; `alt` says in a sentence what it shows."""

    svg: str
    alt: str

    @property
    def html(self) -> str:
        """The picture as an element of a page."""
        data = base64.b64encode(self.svg.encode()).decode()
        return f'<img alt="{html.escape(self.alt)}" src="data:image/svg+xml;base64,{data}" style="max-width: 100%">'

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.alt}


def picture(chart: alt.TopLevelMixin) -> Picture:
    """`chart`, which has a description, as a picture."""
    drawn: Any = chart
    return Picture(vl_convert.vegalite_to_svg(drawn.to_json()), drawn.description)


def begin() -> None:
    """Start what a lesson needs, and remember how it found it; first put right what an interrupted lesson left.

    Prefect's console is quiet from now on, an error of the kit is one sentence, and no cell takes longer than LONGEST.
    """
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # the server has the logs
    _guard()
    print("Starting what this lesson needs. Where nothing runs yet, that takes about 15 seconds.", flush=True)
    with contextlib.redirect_stderr(io.StringIO()):
        server.use()
        for kept in _kept().parent.glob("*.json"):
            if not _goes_on(kept):
                _put_back(kept, interrupted=True)
        url = server.use()
        warehouse.prepare()
    alone = not _others()
    mark = processes.Mark(os.getpid(), psutil.Process().create_time())
    auth = lab.status().auth if server.is_lab(url) else None
    since = datetime.now(timezone.utc).isoformat()
    found = {tag: limit for tag, limit in _limits().items() if alone or not tag.startswith(FLOW)}
    _kept().write_text(json.dumps(dict(zip(KEPT, (mark, since, url, auth, found), strict=True))))
    print("Ready.")


def guarded(auth: str, https: bool = False) -> str:
    """The API address of the kit's own lab, which from now on checks its callers as `lab.up` says.

    Raises CannotRun where the user named another server, which the kit does not restart.
    """
    print("Restarting the lab's server: about 5 seconds.", flush=True)
    with contextlib.redirect_stderr(io.StringIO()):
        if not server.is_lab(server.use()):
            raise CannotRun("PREFECT_API_URL names a server that is not the lab's. Start Jupyter without it.")
        lab.up(auth, https)
        return server.use()


def end(*flow_runs: object) -> None:
    """Remove FLOW, POOL and the runs of RUN since `begin`, and the limits and keys whose names begin like FLOW.

    So are `flow_runs`, ids of runs of the main job, which may be others' too. The limit of the kit's own tag, and how
    the lab checks its callers, are put back to what `begin` found.
    """
    if not _kept().exists():
        raise CannotRun("This lesson has ended already, or was never begun. Run its first cells again.")
    with contextlib.redirect_stderr(io.StringIO()):
        rest.gather([rest.Request("DELETE", f"flow_runs/{run}", missing_ok=True) for run in flow_runs])
        _put_back(_kept())
    print("The lab is as you found it.")


def wait_for(happens: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until `happens()`, saying for `what`. Raises CannotRun where it does not within `seconds`."""
    print(f"Waiting for {what}.", flush=True)
    deadline = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > deadline:
            raise CannotRun(f"{seconds:.0f} s have passed without {what}. {_full()} Run the lesson again from the top.")
        time.sleep(0.1)


def finished(flow_run_id: object, tasks: int = 1, seconds: float = 30) -> pages.Run:
    """A flow run as the server knows it, once it has heard of the end of the run and of at least `tasks` task runs.

    It hears of them up to a second late or so. Raises CannotRun where it has not after `seconds`.
    """
    deadline = time.monotonic() + seconds
    page = pages.run(str(flow_run_id))
    while not _ended(page, tasks):
        if time.monotonic() > deadline:
            name, state, known = page.flow_run["name"], page.flow_run["state"], len(page.task_runs)
            raise CannotRun(f"After {seconds:.0f} s the run {name} is {state}, with {known} task runs. {_full()}")
        time.sleep(0.2)
        page = pages.run(str(flow_run_id))
    return page


def move_to_yesterday(flow_run_id: str) -> tuple[datetime, datetime]:
    """Move a flow run of the lab, with its task runs, back by a day; return since when and before when it now lies.

    On a server that the user named nothing is moved, and the times are those of today.
    """
    now = datetime.now(timezone.utc)
    if not server.is_lab(server.attach()):
        return now - timedelta(hours=12), now
    columns = ("expected_start_time", "start_time", "end_time")
    moved = ", ".join(f"{column} = {column} - interval '1 day'" for column in columns)
    with psycopg.connect(str(lab.status().database)) as connection:
        for table, key in (("flow_run", "id"), ("task_run", "flow_run_id")):
            connection.execute(f"update {table} set {moved} where {key} = %s", [flow_run_id])
    return now - timedelta(hours=36), now - timedelta(hours=12)


def waiting_runs(deployment: str) -> dict[str, str]:
    """Make four runs that wait, each for another reason; return their ids by name, the names being drawn by lot."""
    names = random.sample(["amber", "basil", "clove", "dill"], 4)
    flow = rest.call("GET", f"deployments/{deployment}")["flow_id"]
    tomorrow = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    later = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": tomorrow}}}
    of_deployment, of_flow = f"deployments/{deployment}/create_flow_run", {"flow_id": flow}
    made = [
        rest.call("POST", of_deployment, {"name": names[0]}),
        rest.call("POST", of_deployment, {"name": names[1]} | later),
        rest.call("POST", "flow_runs/", of_flow | {"name": names[2], "state": {"type": "PAUSED", "name": "Paused"}}),
        rest.call("POST", "flow_runs/", of_flow | {"name": names[3], "state": {"type": "RUNNING", "name": "Running"}}),
    ]
    limits.ensure("lesson-full", 1)
    hold_slot("lesson-full", made[3]["id"])
    rest.call("POST", "task_runs/", _task_run(made[3]["id"], "lesson-full", "waiting one", "PENDING"))
    return {run["name"]: run["id"] for run in made}


def hold_slot(tag: str, flow_run_id: str | None = None) -> None:
    """Take a slot of `tag` for a task run that nobody runs, in the flow run `flow_run_id`, else in one of its own."""
    if flow_run_id is None:
        flow = rest.call("POST", "flows/", {"name": FLOW})
        state = {"type": "RUNNING", "name": "Running"}
        flow_run_id = rest.call("POST", "flow_runs/", {"flow_id": flow["id"], "name": "gone", "state": state})["id"]
    counts = versions.line(rest.send(endpoints.version())).leases
    task_run = rest.call(
        "POST", "task_runs/", _task_run(str(flow_run_id), tag, "running one", "RUNNING" if counts else "PENDING")
    )
    if counts:
        rest.call("POST", "concurrency_limits/increment", {"names": [tag], "task_run_id": task_run["id"]})
    else:  # Prefect 2 takes the slot when the task run is to run
        rest.call("POST", f"task_runs/{task_run['id']}/set_state", {"state": {"type": "RUNNING"}})


def _task_run(flow_run_id: str, tag: str, name: str, state: str) -> dict[str, Any]:
    those = {"flow_run_id": flow_run_id, "task_key": name, "dynamic_key": name, "name": name}
    return those | {"tags": [tag], "state": {"type": state, "name": state.title()}}


def _ended(page: pages.Run, tasks: int) -> bool:
    ended = page.task_runs["state_type"].isin(endpoints.FINAL)
    return page.flow_run["state_type"] in endpoints.FINAL and len(ended) >= tasks and bool(ended.all())


def _full() -> str:
    """Which limits are full, as a sentence: the usual reason for a wait."""
    with contextlib.suppress(CannotRun):
        counted = pages.limits()
        full = counted[counted["taken"] >= counted["limit"]]
        said = [f"All {row['limit']} slots of the tag {row['tag']!r} are taken." for row in full.to_dict("records")]
        return " ".join(said) or "No limit is full."
    return "The server does not answer."


def _limits() -> dict[str, int]:
    return {limit["tag"]: limit["concurrency_limit"] for limit in rest.send(limit_endpoints.limits())}


def _kept() -> Path:
    """The file in which the lesson of this kernel remembers how it found the lab."""
    folder = settings.read().flows_lab_dir / "lessons"
    folder.mkdir(exist_ok=True)
    return folder / f"{os.getpid()}.json"


def _found(kept: Path) -> dict[str, Any] | None:
    """What stands in `kept`; None where it was cut off, or an older kit wrote it and something is missing."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(kept.read_text())
        if isinstance(found, dict) and found.keys() >= set(KEPT):
            return found
    return None


def _put_back(kept: Path, interrupted: bool = False) -> None:
    before = _found(kept)
    if before is not None:
        _restore(before, interrupted)
    kept.unlink(missing_ok=True)


def _restore(before: dict[str, Any], interrupted: bool) -> None:
    if before["auth"] is not None:
        for holder in keys.bearer():
            if holder.startswith(f"{FLOW}-"):
                keys.revoke(holder)
        now, https = lab.status(), before["api_url"].startswith("https:")
        if (before["auth"], https) != (now.auth, (now.api_url or "").startswith("https:")):
            lab.up(before["auth"], https)
    if server.use() == before["api_url"]:
        alone = not _others()
        if alone:  # another lesson may have made them, or still read its runs
            for flow in rest.call("POST", "flows/filter", {"flows": {"name": {"any_": [FLOW]}}}):
                rest.call("DELETE", f"flows/{flow['id']}", missing_ok=True)
            rest.call("DELETE", f"work_pools/{POOL}", missing_ok=True)
            _remove_runs(before["since"], interrupted)
        _put_limits_back(before["limits"], interrupted, alone)


def _others() -> bool:
    """Whether another lesson goes on, in another kernel."""
    return any(_goes_on(kept) for kept in _kept().parent.glob("*.json"))


def _goes_on(kept: Path) -> bool:
    """Whether the lesson that wrote `kept` runs, in another kernel than this one."""
    found = _found(kept)
    owner = processes.find(processes.Mark(*found["mark"])) if found else None
    return owner is not None and owner.pid != os.getpid()


def _remove_runs(since: str, interrupted: bool) -> None:
    """Remove the runs of RUN since `since`, and those of these flows that then have no run."""
    named = {"flows": {"name": {"any_": RUN}}}
    made = named | {"flow_runs": {"expected_start_time": {"after_": since}}}
    runs = [run["id"] for run in rest.rows(rest.Request("POST", "flow_runs/filter", made))]
    shared = limits.read() if interrupted else None
    for holder in shared.holders if shared else []:
        if holder["flow_run_id"] in runs:
            limits.end(holder["task_run_id"], "The lesson that ran it was interrupted.")
    rest.gather([rest.Request("DELETE", f"flow_runs/{run}", missing_ok=True) for run in runs])
    for flow in rest.call("POST", "flows/filter", named):
        if not rest.call("POST", "flow_runs/count", {"flows": {"id": {"any_": [flow["id"]]}}}):
            rest.call("DELETE", f"flows/{flow['id']}", missing_ok=True)


def _put_limits_back(before: dict[str, int], interrupted: bool, alone: bool) -> None:
    """Put back the limits of the lessons' own tags alone: others may have made and changed limits meanwhile.

    Where the lesson was not `alone`, the one that ends last removes them.
    """
    now = _limits()
    for tag in now.keys() - before.keys():
        if alone and tag.startswith(FLOW):
            rest.call("DELETE", f"concurrency_limits/tag/{tag}", missing_ok=True)
    for tag, limit in before.items():
        if tag.startswith(FLOW):
            limits.ensure(tag, limit)
            if interrupted:  # it may have left slots taken
                limits.reset(tag)
    if limits.TAG in now and not interrupted:  # the third lesson sets it; the job, which may run now, needs one
        limits.ensure(limits.TAG, before.get(limits.TAG, limits.DEFAULT))


_timers: list[threading.Timer] = []


def _guard() -> None:
    """Show an error of the kit as its sentence, and interrupt a cell that takes too long."""
    shell: Any = get_ipython()
    if shell is None or CannotRun in shell.custom_exceptions:
        return
    shell.set_custom_exc((CannotRun,), lambda _shell, _kind, error, _trace, tb_offset=None: print(error))
    shell.events.register("pre_run_cell", _start_timer)
    shell.events.register("post_run_cell", _stop_timers)


def _start_timer(_info: object) -> None:
    timer = threading.Timer(LONGEST, _interrupt)
    timer.daemon = True
    timer.start()
    _timers.append(timer)


def _stop_timers(_result: object) -> None:
    while _timers:
        _timers.pop().cancel()


def _interrupt() -> None:
    print(f"This cell was interrupted, since it took longer than {LONGEST} s. {_full()}", flush=True)
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)
