"""How the server was before a lesson began, kept in a file, and how it is made like that again."""

import contextlib
import functools
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from filelock import BaseFileLock

import copies
from flows import files, lab, limits, settings
from flows.api import endpoints, rest, server, slots
from flows.lab import keys

_KERNEL = uuid.uuid4().hex  # an id of this kernel, since a process id means nothing in another container
PREFIX = "lesson"  # the names of all that the lessons make on the server start with this, and so it can be removed


@dataclass(frozen=True)
class Record:
    """How the server was before a lesson began; of its flows and work pools, those whose names start with PREFIX."""

    api_url: str
    auth: str | None  # how the lab checks its callers; None if the server is not the lab's
    since: str
    limits: dict[str, int]  # by tag
    flows: list[str]
    work_pools: list[str]
    lesson: str = ""  # see `lesson`
    restarts: bool = False  # whether the lesson has chosen another way of checking the lab's callers


def lesson() -> str:
    """Return the name of this kernel's lesson, also in a copy of its notebook; "" if Jupyter did not name it."""
    notebook = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
    return next(filter(notebook.startswith, copies.names()), notebook)


def file() -> Path:
    """Return the file with the record of this kernel's lesson; the kernel holds the lock on it while it runs."""
    folder = settings.read().flows_lab_dir / "lessons"
    folder.mkdir(exist_ok=True)
    return folder / f"{_KERNEL}.json"


def write(url: str) -> None:
    """Record how the server at `url` is now."""
    first = next(_running(), None)
    if first:  # what another lesson has made or changed in the meantime is not to be kept
        before = first.auth, first.since, first.limits, first.flows, first.work_pools
    else:
        auth = lab.status().auth if server.is_lab(url) else None
        before = auth, datetime.now(timezone.utc).isoformat(), _limits(), list(_flows()), _work_pools()
    _lock(file()).acquire()
    file().write_text(json.dumps(asdict(Record(url, *before, lesson()))))


def keep_restart() -> None:
    """Record that this lesson restarts the lab's server, so that its end restarts it again, even beside others."""
    if record := _read(file()):
        file().write_text(json.dumps(asdict(replace(record, restarts=True))))


def open_elsewhere() -> list[str]:
    """Return the names of the lessons that are open in other kernels, such as that of a tab that was closed."""
    return sorted({record.lesson or "another lesson" for record in _running()})


def clean_up_interrupted() -> None:
    """Put back what lessons changed whose kernels have ended without `lessons.end`, or that were begun here before."""
    for path in file().parent.glob("*.json"):
        if not _runs_elsewhere(path):
            put_back(path, interrupted=True)


def put_back(path: Path, interrupted: bool = False) -> None:
    """Make the server as the record in the file `path` says, and remove the file."""
    record, last = _read(path), not open_elsewhere()  # if it is not the last, another may need what there is
    if record and record.auth is not None and (last or record.restarts):
        _put_access_back(record.auth, https=record.api_url.startswith("https:"))
    if record and server.use() == record.api_url:
        if last:
            _remove_made(record, interrupted)
        _put_limits_back(record.limits, interrupted, last)
    path.unlink(missing_ok=True)
    _lock(path).release()
    path.with_suffix(".lock").unlink(missing_ok=True)


@functools.cache
def _lock(path: Path) -> BaseFileLock:
    """Return the lock on the record in the file `path`; it would be freed if this were to be forgotten."""
    return files.lock(path.with_suffix(".lock"))


def _read(path: Path) -> Record | None:
    """Return the record in the file `path`, or None if it was cut off or another version of the kit wrote it."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Record(**json.loads(path.read_text()))
    return None


def _running() -> Iterator[Record]:
    """Yield the records of the lessons that run now in other kernels."""
    for path in file().parent.glob("*.json"):
        record = _read(path)
        if record and _runs_elsewhere(path):
            yield record


def _runs_elsewhere(path: Path) -> bool:
    """Return whether the record in the file `path` is of another kernel that is still running."""
    return path != file() and files.held(path.with_suffix(".lock"))


def _put_access_back(auth: str, https: bool) -> None:
    """Revoke the lessons' keys, and restart the lab's server if it checks its callers in another way than before."""
    for holder in keys.bearer():
        if holder.startswith(PREFIX):
            keys.revoke(holder)
    now = lab.status()
    if (auth, https) != (now.auth, (now.api_url or "").startswith("https:")):
        lab.up(auth, https)


def _remove_made(record: Record, interrupted: bool) -> None:
    """Remove the flows and work pools that were made since the record, and the new runs of flows that are older."""
    flows, since = _flows(), datetime.fromisoformat(record.since)
    runs = rest.rows(endpoints.flow_runs(flow=list(flows), since=since, future=True))
    limit = limits.read() if interrupted else None
    for holder in limit.holders if limit else []:
        if holder["flow_run_id"] in [run["id"] for run in runs]:
            slots.end_task_run(holder["task_run_id"], "The lesson that ran it was interrupted.")
    # The flow that is named PREFIX has only runs that a lesson recorded, perhaps one of an older version of the kit.
    made = [flow_id for name, flow_id in flows.items() if name == PREFIX or name not in record.flows]
    rest.gather([endpoints.delete("flows", flow_id) for flow_id in made])
    rest.gather([endpoints.delete("flow_runs", run["id"]) for run in runs if run["flow_id"] not in made])
    rest.gather([endpoints.delete("work_pools", name) for name in _work_pools() if name not in record.work_pools])


def _put_limits_back(before: dict[str, int], interrupted: bool, last: bool) -> None:
    """Put back the limits of the lessons' own tags only: others may have changed theirs in the meantime."""
    now = _limits()
    made = [tag for tag in now if tag.startswith(PREFIX) and tag not in before]
    if last:
        rest.gather([endpoints.delete("concurrency_limits/tag", tag) for tag in made])
    for tag, limit in before.items():
        if tag.startswith(PREFIX):
            limits.ensure(tag, limit)
            if interrupted:  # it may have left slots taken
                limits.reset(tag)
    if limits.TAG in now and not interrupted:  # the third lesson sets it; the job, which may run now, needs one
        limits.ensure(limits.TAG, before.get(limits.TAG, limits.DEFAULT))


def _limits() -> dict[str, int]:
    return {limit["tag"]: limit["concurrency_limit"] for limit in rest.send(endpoints.limits())}


def _flows() -> dict[str, str]:
    """Return the ids of the flows whose names start with PREFIX, by name."""
    flows = rest.rows(endpoints.flows(text=PREFIX))  # `text` may be anywhere in the name
    return {flow["name"]: flow["id"] for flow in flows if flow["name"].startswith(PREFIX)}


def _work_pools() -> list[str]:
    """Return the names of the work pools that start with PREFIX."""
    return [
        pool["name"] for pool in rest.rows(rest.Request("POST", "work_pools/filter")) if pool["name"].startswith(PREFIX)
    ]
