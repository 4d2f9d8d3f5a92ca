"""Where results go: each run's staging folder, and the mart, a DuckDB file with a table for each query.

.lab/staging/RUN/owner.lock       locked by the process that works on the run
.lab/staging/RUN/owner.json       its server, when it was opened, and the ids of its task runs
.lab/staging/RUN/QUERY.json       when the query started and ended, and how many rows it has
.lab/staging/RUN/QUERY.parquet    its rows
.lab/mart.duckdb                  a table for each query, named after it
.lab/runs/RUN.json                a row for each query, which outlives the staging folder
"""

import contextlib
import json
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


def path() -> Path:
    """Return the mart's file."""
    return settings.read().flows_lab_dir / "mart.duckdb"


@contextlib.contextmanager
def staging(run: str) -> Generator[Path]:
    """Yield a new staging folder for the flow run `run`, locked by this process until the block ends."""
    folder = settings.read().flows_lab_dir / "staging" / run
    new = folder.with_suffix(".new")
    new.mkdir(parents=True)
    with files.lock(new / "owner.lock"):
        _write(new / "owner.json", {"server": _server(), "opened": time.time(), "task_runs": []})
        yield new.rename(folder)


def note_task_runs(staging: Path, task_runs: Sequence[str]) -> None:
    """Write down the ids of the run's task runs, which tell their slots from others if this process is killed."""
    owner = staging / "owner.json"
    _write(owner, _read(owner) | {"task_runs": task_runs})


def abandoned() -> Iterator[tuple[Path, set[str]]]:
    """Yield the staging folders of runs on this server whose process has ended, locked, with their task runs' ids."""
    where = _server()
    for owner in list((settings.read().flows_lab_dir / "staging").glob("*/owner.json")):
        with (
            contextlib.suppress(filelock.Timeout, OSError),
            files.lock(owner.with_suffix(".lock")).acquire(blocking=False),
        ):
            written = _read(owner)
            if written.get("server") == where:
                yield owner.parent, set(written.get("task_runs", []))


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


def unfinished(staging: Path) -> int:
    """Return how many queries have begun and not ended."""
    notes = [noted(staging, file.stem) for file in staging.glob("*.json")]
    return sum("started" in note and "ended" not in note for note in notes)


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
