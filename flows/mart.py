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
import re
import subprocess
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

# PostgreSQL's types that are staged as what Python has for them; others as text: Python's intervals have no months.
PARSED = re.compile(r"(bool|int\d|oid|float\d|numeric|date|time|timestamp|timestamptz|bytea|text|varchar|bpchar)\b")


def path() -> Path:
    """Return the mart's file."""
    return settings.read().flows_lab_dir / "mart.duckdb"


@contextlib.contextmanager
def staging(run: str) -> Generator[Path]:
    """Yield a new staging folder for the flow run `run`, locked by this process until the block ends."""
    folder = files.folder() / "staging" / run
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
        with contextlib.suppress(filelock.Timeout, OSError), files.lock(owner.with_suffix(".lock"), blocking=False):
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
    """Write the rows of `cursor` to staging, note how to read them, and return how many there are."""
    rows, columns, reading = cursor.fetchall(), {}, []
    for place, column in enumerate(cursor.description or ()):
        name, values = column.name.replace('"', '""'), [row[place] for row in rows]
        numbers = {"NaN", "Infinity", "-Infinity"}.isdisjoint(map(str, values))  # which no decimal of Arrow's is
        if not (numbers and PARSED.match(column.type_display)) and (result := cursor.pgresult):
            texts = [result.get_value(row, place) for row in range(len(rows))]
            values = [text if text is None else str(text, cursor.connection.info.encoding) for text in texts]
        columns[str(place)] = array = pyarrow.array(values)
        reading.append(f'"{place}"::{_kind(column.type_display, str(array.type))} as "{name}"')
    pyarrow.parquet.write_table(pyarrow.table(columns), staging / f"{query}.parquet")
    _write(staging / f"{query}.json", noted(staging, query) | {"rows": len(rows), "reading": ", ".join(reading)})
    return len(rows)


def load(staging: Path, queries: Sequence[str]) -> None:
    """Replace the tables of those `queries` that have staged rows, all at once; other tables stay as they are.

    The mart is replaced as a whole: a reader that opens it sees the old one or the new one. Raises CannotRun as `kept`.
    """
    with kept() as mart:
        # A name of its own, so that what a killed load left behind is never taken for the mart.
        new = Path(tempfile.mkdtemp(prefix="mart-", dir=staging)) / mart.name
        if mart.exists():  # by another process: as soon as this one closed the file, its lock would be gone
            subprocess.run(["cp", mart, new], check=True, capture_output=True, text=True)
        with duckdb.connect(str(new)) as connection:
            for query in queries:
                if "rows" in (note := noted(staging, query)):
                    table = f'create or replace table "{query}" as select {note["reading"]} from read_parquet(?)'
                    connection.execute(table, [str(staging / f"{query}.parquet")])
            connection.execute("checkpoint")
        new.replace(mart)


@contextlib.contextmanager
def kept() -> Generator[Path]:
    """Yield the mart's file, to which no other program writes until the block ends. Raises CannotRun if one does now.

    What a killed writer left in DuckDB's log goes into the file first: an old log makes a new mart unreadable.
    """
    mart = path()
    try:
        # Of two runs that load at once, one would lose its tables.
        with files.lock(mart.with_suffix(".lock")), duckdb.connect() as keeper:
            if mart.exists():
                keeper.execute("attach ? as mart (read_only)", [str(mart)])
            if logs := list(mart.parent.glob(f"{mart.name}.wal*")):
                keeper.execute("detach database if exists mart").execute("attach ? as mart", [str(mart)])
                keeper.execute("checkpoint mart")
                for log in logs:
                    log.unlink(missing_ok=True)  # DuckDB leaves one without a complete transaction
            yield mart
    except (duckdb.Error, OSError, subprocess.CalledProcessError) as error:
        reason = re.split(r"[.!]? See|[.!]?\n|[.!]?$", str(getattr(error, "stderr", error)))[0]
        todo = "Correct that, or move the mart away: the next run makes a new one."
        if "lock is held" in reason or "already attached" in reason:
            todo = "Close the mart in that program, or in this one, and run again."
        raise settings.CannotRun(f"The mart {mart} cannot be loaded: {reason}. {todo}") from None


def record(run: str, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the `rows` of the flow run `run` beyond its staging folder."""
    folder = settings.read().flows_lab_dir / "runs"
    folder.mkdir(exist_ok=True)
    _write(folder / f"{run}.json", {"rows": rows})


def recorded(run: str) -> list[dict[str, Any]]:
    """Return the rows that `record` kept of the flow run `run`, or none."""
    return _read(settings.read().flows_lab_dir / "runs" / f"{run}.json").get("rows", [])


def _kind(declared: str, staged: str) -> str:
    """Return the type in the mart of what PostgreSQL `declared` and Arrow `staged`: PostgreSQL's own, or text."""
    base = re.sub(r"\(.*\)|\[\]|(?<=json)b", "", declared)
    if not PARSED.match(declared):
        return base if base in ("interval", "json", "timetz", "uuid") and "[]" not in declared else "varchar"
    digits = re.search(r"\(([12]?\d|3[0-8]), ?\d+\)", declared + staged.replace("null", "(18,3)"))
    if base == "numeric":
        base = base + digits[0] if digits else "float8"
    return base + "[]" * (staged.count("list<") or declared.count("[]"))


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
