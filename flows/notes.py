"""What a run writes down: in its staging folder while it works, and in a record that outlives the folder.

.lab/staging/RUN/owner.lock    locked by the process that works on the run
.lab/staging/RUN/owner.json    its server, process and task runs; written again all the time, as a sign of life
.lab/staging/RUN/QUERY.json    when the query started and ended, and how many rows it has
.lab/runs/RUN.json             a row for each query
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from flows import files, settings
from flows.api import server
from flows.settings import CannotRun

PATIENCE = 30  # seconds for the process of an earlier attempt to end
STILL = 10  # seconds without a sign of life


@contextlib.contextmanager
def staging(run: str) -> Generator[Path]:
    """Yield a new staging folder for the flow run `run`, locked. Raises CannotRun if an earlier attempt has it."""
    folder = files.folder() / "staging" / run
    try:
        if folder.exists():
            with files.lock(folder / "owner.lock").acquire(timeout=PATIENCE):
                shutil.rmtree(folder)
    except filelock.Timeout:
        pid = noted(folder, "owner").get("pid")
        raise CannotRun(f"Process {pid} still works on the flow run {run}. End it, then retry the run.") from None
    new = folder.with_suffix(".new")
    with files.writable(folder.parent):
        new.mkdir(parents=True)
    with files.lock(new / "owner.lock"):
        note(new, "owner", server=_server(), opened=time.time(), pid=os.getpid(), task_runs=[])
        yield new.rename(folder)


def abandoned() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the staging folders of runs on this server whose process has ended, locked, with what `owner.json` says."""
    for folder in _folders():
        with contextlib.suppress(filelock.Timeout, OSError), files.lock(folder / "owner.lock", blocking=False):
            owner = noted(folder, "owner")
            if owner.get("server") == _server():
                yield folder, owner


def standing_still(own: Path) -> dict[str, str]:
    """Return a sentence for each run, by its id, whose process exists but has not moved for a while; `own` asks."""
    still = {}
    for folder in set(_folders()) - {own}:
        with contextlib.suppress(FileNotFoundError):  # it just ended
            seconds = time.time() - (folder / "owner.json").stat().st_mtime
            if seconds > STILL and (queries := unfinished(folder)) and files.held(folder / "owner.lock"):
                pid, holds = noted(folder, "owner").get("pid"), f"{len(queries)} connections to the database"
                what = f"The run {folder.name} has stood still for {seconds:.0f} s, with {holds}"
                still[folder.name] = f"{what}. Let it go on (kill -CONT {pid}) or end it (kill -KILL {pid})."
    return still


@contextlib.contextmanager
def noting(staging: Path, query: str) -> Generator[None]:
    """Write down when the block, which runs `query`, started and ended, as Unix times."""
    note(staging, query, started=time.time(), ended=None, rows=None)
    try:
        yield
    finally:
        note(staging, query, ended=time.time())


def note(staging: Path, of: str, **facts: Any) -> None:
    """Write down `facts` of a query, or of the "owner" of the run, beside those that are known."""
    files.replace(staging / f"{of}.json", json.dumps(noted(staging, of) | facts))


def noted(staging: Path, of: str) -> dict[str, Any]:
    """Return what is known of a query, `started`, `ended`, `rows`, or of the "owner" of the run; {} if nothing is."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((staging / f"{of}.json").read_text())
    return {}


def unfinished(staging: Path) -> list[str]:
    """Return the queries that have begun and not ended."""
    all_notes = {file.stem: noted(staging, file.stem) for file in staging.glob("*.json")}
    return [query for query, facts in all_notes.items() if facts.get("started") and not facts.get("ended")]


def record(run: str, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the `rows` of the flow run `run` beyond its staging folder."""
    with files.writable(folder := files.folder() / "runs"):
        folder.mkdir(exist_ok=True)
    note(folder, run, rows=rows)


def recorded(run: str) -> list[dict[str, Any]]:
    """Return the rows that `record` kept of the flow run `run`, or none."""
    return noted(settings.read().flows_lab_dir / "runs", run).get("rows", [])


def _folders() -> list[Path]:
    return [owner.parent for owner in (settings.read().flows_lab_dir / "staging").glob("*/owner.json")]


def _server() -> str:
    """Return what distinguishes the server in use from others: its address, which the lab's own may change."""
    url = server.attach()
    return "the lab" if server.is_lab(url) else url
