"""Where results go: each run's staging folder, the mart (a DuckDB file), and the record of each run.

.lab/staging/RUN/owner.json       the process that works on the run
.lab/staging/RUN/QUERY.json       when the query started and ended, and how
.lab/staging/RUN/QUERY.parquet    its rows
.lab/mart.duckdb                  a table for each query, named after it
.lab/runs/RUN.json                what is left of a run when its staging has gone
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import psutil
import psycopg
import pyarrow
import pyarrow.parquet

from flows import settings
from flows.lab import processes
from flows.lab.processes import Mark


def path() -> Path:
    """The mart's file."""
    return settings.read().flows_lab_dir / "mart.duckdb"


def open_staging(run: str, server: str) -> Path:
    """A new staging folder for the flow run `run` on `server`, however that is named, marked as this process's."""
    staging = settings.read().flows_lab_dir / "staging" / run
    new = staging.with_suffix(".new")
    new.mkdir(parents=True)
    mark = Mark(os.getpid(), psutil.Process().create_time())
    _write_json(new / "owner.json", {"server": server, "mark": mark, "task_runs": []})
    return new.rename(staging)


def note_task_runs(staging: Path, task_runs: Sequence[str]) -> None:
    """Write down the ids of the run's task runs, by which their slots are known should this process be killed."""
    owner = staging / "owner.json"
    _write_json(owner, json.loads(owner.read_text()) | {"task_runs": task_runs})


def abandoned(server: str) -> dict[Path, set[str]]:
    """The staging folders of runs on `server` whose process is gone, with their task runs' ids."""
    found = {}
    for owner in (settings.read().flows_lab_dir / "staging").glob("*/owner.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            written = json.loads(owner.read_text())
            if written["server"] == server and processes.find(Mark(*written["mark"])) is None:
                found[owner.parent] = set(written.get("task_runs", []))
    return found


def note(staging: Path, query: str, **facts: object) -> None:
    """Write down what is known of `query`: `started` and `ended` (Unix times), `rows`, `error`."""
    _write_json(staging / f"{query}.json", facts)


def noted(staging: Path, query: str) -> dict[str, Any]:
    """What was last written down of `query`, or {} while it waits."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((staging / f"{query}.json").read_text())
    return {}


def unfinished(staging: Path) -> int:
    """How many queries have begun and not ended."""
    notes = [noted(staging, file.stem) for file in staging.glob("*.json")]
    return sum("started" in note and "ended" not in note for note in notes)


def stage(staging: Path, query: str, cursor: psycopg.Cursor) -> int:
    """Write the rows of `cursor` to staging, with their types, and return how many there are."""
    columns = [column.name for column in cursor.description or ()]
    rows = cursor.fetchall()
    table = pyarrow.table({name: [row[place] for row in rows] for place, name in enumerate(columns)})
    pyarrow.parquet.write_table(table, staging / f"{query}.parquet")
    return len(rows)


def load(staging: Path, queries: Sequence[str]) -> None:
    """Replace the tables of `queries` in the mart by the staged rows, all at once; other tables stay as they are.

    The mart is swapped in as a whole: who reads it sees the old one or the new one, whatever happens meanwhile.
    """
    mart = path()
    with _alone(mart.parent):
        # A name of its own, so that what a killed load left behind is never taken for the mart.
        new = Path(tempfile.mkdtemp(prefix="mart-", dir=staging)) / mart.name
        if mart.exists():
            shutil.copyfile(mart, new)
        with duckdb.connect(str(new)) as connection:
            for query in queries:
                connection.execute(
                    f'create or replace table "{query}" as from read_parquet(?)', [str(staging / f"{query}.parquet")]
                )
        new.replace(mart)


def record(run: str, **facts: object) -> None:
    """Keep what is known of the flow run `run` beyond its staging folder."""
    folder = settings.read().flows_lab_dir / "runs"
    folder.mkdir(exist_ok=True)
    _write_json(folder / f"{run}.json", facts)


def recorded(run: str) -> dict[str, Any]:
    """What `record` kept of the flow run `run`, or {}."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((settings.read().flows_lab_dir / "runs" / f"{run}.json").read_text())
    return {}


def _write_json(file: Path, facts: object) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(facts))
    new.replace(file)


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Two runs that end at the same time load one after the other, or one's tables would be lost."""
    with (folder / "mart.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
