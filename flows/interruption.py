"""What asks a run of the main job to stop, and how it stops: what runs is cancelled, what waits does not begin."""

import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from prefect.events import emit_event
from prefect.states import Cancelled

from flows import files, limits, notes, versions, warehouse
from flows.api import endpoints, rest, slots
from flows.settings import CannotRun

DELETED = "The flow run was deleted on the server"
LOST = "Others got the slots of this run while it stood still"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def cancellable(run_query: Callable[[str, Path], int]) -> Callable[[str, Path], Any]:
    """Return `run_query` such that it ends Cancelled if the run of its staging folder is interrupted."""

    @functools.wraps(run_query)
    def run(query: str, staging: Path) -> Any:
        if why(staging):
            return Cancelled(message="The run was interrupted before this query began.")
        try:
            return run_query(query, staging)
        except psycopg.errors.QueryCanceled:
            if not why(staging):
                raise
            return Cancelled(message="The run was interrupted while this query ran.")

    return run


@contextlib.contextmanager
def connection(query: str, staging: Path) -> Generator[psycopg.Connection]:
    """Yield a connection to the warehouse whose `query` is cancelled as soon as the run is interrupted."""
    try:
        opened = psycopg.connect(warehouse.url(), application_name=f"flows {query}")
    except psycopg.OperationalError as error:
        reasons = notes.standing_still(staging).values() if "too many connections" in str(error) else []
        raise psycopg.OperationalError(" ".join([str(error).strip(), *reasons])) from None

    with opened, slots.repeating(0.1, lambda: why(staging) and opened.cancel()):
        yield opened


@contextlib.contextmanager
def slot(staging: Path) -> Generator[None]:
    """Hold a slot of the global limit, with the events of Prefect's own `concurrency`; none if interrupted before."""
    lost = functools.partial(files.replace, staging / "interrupted", LOST)
    with slots.held(limits.TAG, lambda: why(staging), lost) as taken, contextlib.ExitStack() as at_end:
        for limit in taken["limits"] if isinstance(taken, dict) else []:  # Prefect 2 does not name it
            resource = {"prefect.resource.id": f"prefect.concurrency-limit.{limit['id']}", "slots-acquired": "1"}
            resource |= {"prefect.resource.name": limit["name"], "limit": str(limit["limit"])}
            acquired = emit_event("prefect.concurrency-limit.acquired", resource)
            at_end.callback(emit_event, "prefect.concurrency-limit.released", resource, follows=acquired)
        yield


@contextlib.contextmanager
def interruptible(staging: Path, names: Sequence[str], futures: Sequence[Any], limit_by: str) -> Generator[None]:
    """Let one of SIGNALS, or a `_reason` on the server, end the queries `names` of `futures`, until the block ends."""
    task_runs = dict(zip(names, versions.task_run_ids(futures), strict=True))
    moved, awake, lost, reported = time.time(), 0.0, set[str](), set[str]()

    def stop(reason: str) -> None:
        versions.send_task_runs(reason != DELETED)
        files.replace(staging / "interrupted", reason)
        _say(f"{reason}: cancelling what runs.")
        if limit_by == "tag":  # `slot` asks by itself
            waiting = [future for name, future in zip(names, futures, strict=True) if not notes.noted(staging, name)]
            threading.Thread(target=versions.end_waits, args=(waiting, limits.TAG), daemon=True).start()

    def at_signal(number: int, _: object) -> None:
        signal.signal(number, signal.default_int_handler)  # a second one ends the process
        stop("Interrupted")

    def look() -> None:
        nonlocal moved, awake, lost
        still, moved = time.time() - moved, time.time()
        sentences = notes.standing_still(staging)
        # A lease may expire after a quarter of LEASE, and a query that had just got its slot begins only afterwards.
        awake = moved if still > notes.STILL else awake
        running = {task_runs[query] for query in notes.unfinished(staging)}
        lost = running if moved < awake + notes.STILL and limit_by == "tag" else lost & running
        try:
            notes.note(staging, "owner")  # a sign of life
            if not why(staging) and (reason := _reason(staging, lost, task_runs)):
                stop(reason)
        except CannotRun as error:  # the disk is full; or the server is away, and asks for nothing
            sentences["away"] = f"{error} The run goes on and waits for it."
        for about in sentences.keys() - reported:
            _say(sentences[about])
        reported.update(sentences)

    in_main = threading.current_thread() is threading.main_thread()  # elsewhere, Python handles no signals
    heeded = [number for number in SIGNALS if in_main and signal.getsignal(number) != signal.SIG_IGN]  # as by nohup
    before = {number: signal.signal(number, at_signal) for number in heeded}
    try:
        notes.note(staging, "owner", task_runs=list(task_runs.values()))
        with slots.repeating(1, look):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if why(staging) == DELETED:
            limits.forget(set(task_runs.values()))


def why(staging: Path) -> str | None:
    """Return what interrupted the run of this staging folder; None if nothing did."""
    with contextlib.suppress(FileNotFoundError):
        return (staging / "interrupted").read_text()
    return None


def deleted(error: Any) -> Any:
    """Return the state of a flow run that was deleted on the server, for Prefect's ObjectNotFound."""
    run = str(error.http_exc.request.url).partition("flow_runs/")[2][:36]
    return Cancelled(message=f"{DELETED}.", state_details={"flow_run_id": run})


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # of a terminal that was closed
        print(sentence, file=sys.stderr, flush=True)


def _reason(staging: Path, lost: set[str], task_runs: Mapping[str, str]) -> str | None:
    """Return why the run has to stop, by the server: also that others have slots which its `task_runs` have `lost`."""
    flow_run = rest.send(endpoints.flow_run(staging.name))
    if flow_run is None:
        return DELETED
    if flow_run["state_type"] in ("CANCELLING", "CANCELLED"):
        if not versions.is_3(versions.here()):  # there no task of such a run may begin, also not the one that cleans up
            rest.send(endpoints.set_state(staging.name, "RUNNING", "Running", force=True))
        return "Cancelled on the server"
    limit = limits.read() if lost else None
    holders = {holder["task_run_id"] for holder in limit.holders} if limit else set()
    running = {task_runs[query] for query in notes.unfinished(staging)}  # those that ended meanwhile gave theirs back
    without = (lost - holders) & running
    return LOST if limit and without and len(without | holders) > limit.limit else None
