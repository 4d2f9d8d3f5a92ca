"""Where results go: each run's staging folder, and the mart, a DuckDB file with a table for each query.

.lab/staging/RUN/owner.lock       locked by the process that works on the run
.lab/staging/RUN/owner.json       its server, when it was opened, its process, and the ids of its task runs; touched
                                  every second or two, so that one sees whether the process moves
.lab/staging/RUN/QUERY.json       when the query started and ended, and how many rows it has
.lab/staging/RUN/QUERY.parquet    its rows
.lab/mart.duckdb                  a table for each query, named after it
.lab/runs/RUN.json                a row for each query, which outlives the staging folder
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import filelock
import psycopg
import pyarrow
import pyarrow.parquet

from flows import files, settings
from flows.api import server
from flows.settings import CannotRun

PATIENCE = 30  # seconds for the process of an earlier attempt to end
STILL = 10  # seconds without a sign of life


def path() -> Path:
    """Return the mart's file."""
    return settings.read().flows_lab_dir / "mart.duckdb"


@contextlib.contextmanager
def staging(run: str) -> Generator[Path]:
    """Yield a new staging folder for the flow run `run`, locked by this process until the block ends.

    Raises CannotRun if another process still works on `run`, of which this is a later attempt.
    """
    folder = settings.read().flows_lab_dir / "staging" / run
    if folder.exists():
        try:
            with files.lock(folder / "owner.lock").acquire(timeout=PATIENCE):
                shutil.rmtree(folder)
        except filelock.Timeout:
            pid = _read(folder / "owner.json").get("pid")
            raise CannotRun(f"Process {pid} still works on the flow run {run}. End it, then retry the run.") from None
    new = folder.with_suffix(".new")
    new.mkdir(parents=True)
    with files.lock(new / "owner.lock"):
        owner = {"server": _server(), "opened": time.time(), "pid": os.getpid(), "task_runs": []}
        _write(new / "owner.json", owner)
        yield new.rename(folder)


def note_task_runs(staging: Path, task_runs: Sequence[str]) -> None:
    """Write down the ids of the run's task runs, which tell their slots from others if this process is killed."""
    owner = staging / "owner.json"
    _write(owner, _read(owner) | {"task_runs": task_runs})


def abandoned() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the staging folders of runs on this server whose process has ended, locked, with what `owner.json` says."""
    where = _server()
    for owner in _owners():
        with (
            contextlib.suppress(filelock.Timeout, OSError),
            files.lock(owner.with_suffix(".lock")).acquire(blocking=False),
        ):
            written = _read(owner)
            if written.get("server") == where:
                yield owner.parent, {"opened": 0.0, "task_runs": [], **written}


def move(staging: Path) -> None:
    """Give a sign of life, as the process of the run does all the time."""
    (staging / "owner.json").touch()


def standing_still(own: Path) -> dict[str, str]:
    """Return a sentence for each run, by its id, whose process lives, and has not moved for a while: it was stopped.

    It keeps its connections to the database, even when its slots have expired. `own` is the folder of the asking run.
    """
    still = {}
    for owner in _owners():
        with contextlib.suppress(FileNotFoundError):  # it just ended
            run, seconds, queries = owner.parent, time.time() - owner.stat().st_mtime, unfinished(owner.parent)
            if run != own and seconds > STILL and queries and files.held(owner.with_suffix(".lock")):
                pid = _read(owner).get("pid")
                still[run.name] = (
                    f"The run {run.name} has stood still for {seconds:.0f} s, with {len(queries)} connections to the"
                    f" database. Let it go on (kill -CONT {pid}) or end it (kill -KILL {pid})."
                )
    return still


def _owners() -> list[Path]:
    return list((settings.read().flows_lab_dir / "staging").glob("*/owner.json"))


@contextlib.contextmanager
def noting(staging: Path, query: str) -> Generator[None]:
    """Write down when the block, which runs `query`, started and ended, as Unix times."""
    note = staging / f"{query}.json"
    _write(note, {"started": time.time()})
    try:
        yield
    finally:
        _write(note, _read(note) | {"ended": time.time()})


def noted(staging: Path, query: str) -> dict[str, Any]:
    """Return what is known of `query`: `started`, `ended`, `rows`; {} while it waits."""
    return _read(staging / f"{query}.json")


def unfinished(staging: Path) -> list[str]:
    """Return the queries that have begun and not ended."""
    notes = {file.stem: noted(staging, file.stem) for file in staging.glob("*.json")}
    return [query for query, note in notes.items() if "started" in note and "ended" not in note]


def stage(staging: Path, query: str, cursor: psycopg.Cursor) -> int:
    """Write the rows of `cursor` to staging, with their types, and return how many there are."""
    columns = [column.name for column in cursor.description or ()]
    rows = cursor.fetchall()
    table = pyarrow.table({name: [row[place] for row in rows] for place, name in enumerate(columns)})
    pyarrow.parquet.write_table(table, staging / f"{query}.parquet")
    _write(staging / f"{query}.json", noted(staging, query) | {"rows": len(rows)})
    return len(rows)


def load(staging: Path, queries: Sequence[str]) -> None:
    """Replace the tables of those `queries` that have staged rows, all at once; other tables stay as they are.

    The mart is replaced as a whole: a reader that opens it sees the old one or the new one.
    """
    mart = path()
    with files.lock(mart.with_suffix(".lock")):  # of two runs that load at once, one would lose its tables
        # A name of its own, so that what a killed load left behind is never taken for the mart.
        new = Path(tempfile.mkdtemp(prefix="mart-", dir=staging)) / mart.name
        if mart.exists():
            shutil.copyfile(mart, new)
        with duckdb.connect(str(new)) as connection:
            for query in queries:
                rows = staging / f"{query}.parquet"
                if "rows" in noted(staging, query):
                    connection.execute(f'create or replace table "{query}" as from read_parquet(?)', [str(rows)])
        new.replace(mart)


def record(run: str, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the `rows` of the flow run `run` beyond its staging folder."""
    folder = settings.read().flows_lab_dir / "runs"
    folder.mkdir(exist_ok=True)
    _write(folder / f"{run}.json", {"rows": rows})


def recorded(run: str) -> list[dict[str, Any]]:
    """Return the rows that `record` kept of the flow run `run`, or none."""
    return _read(settings.read().flows_lab_dir / "runs" / f"{run}.json").get("rows", [])


def _server() -> str:
    """Return what tells the server in use from others: its address, which the lab's own may change."""
    url = server.attach()
    return "the lab" if server.is_lab(url) else url


def _read(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_text())
    return {}


def _write(file: Path, facts: object) -> None:
    files.replace(file, json.dumps(facts))
