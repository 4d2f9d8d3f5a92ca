"""The mart, a DuckDB file with a table for each query, and how rows get there: staged first, then loaded at once.

.lab/staging/RUN/QUERY.parquet    the rows of a query
.lab/mart.duckdb                  a table for each query, named after it
"""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import duckdb
import psycopg
import pyarrow
import pyarrow.parquet

from flows import files, notes, settings

# PostgreSQL's types that are staged as what Python has for them; others as text: Python's intervals have no months.
PARSED = re.compile(r"(bool|int\d|oid|float\d|numeric|date|time|timestamp|timestamptz|bytea|text|varchar|bpchar)\b")


def path() -> Path:
    """Return the mart's file."""
    return settings.read().flows_lab_dir / "mart.duckdb"


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
    notes.note(staging, query, rows=len(rows), reading=", ".join(reading))
    return len(rows)


def load(staging: Path, queries: Sequence[str]) -> None:
    """Replace the tables of those `queries` that have staged rows, all at once. Raises CannotRun as `kept`."""
    with kept() as mart:
        # A name of its own, so that what a killed load left behind is never taken for the mart.
        new = Path(tempfile.mkdtemp(prefix="mart-", dir=staging)) / mart.name
        if mart.exists():  # by another process: as soon as this one closed the file, its lock would be gone
            subprocess.run(["cp", mart, new], check=True, capture_output=True, text=True)
        folder = str(staging).replace("'", "''")
        tables = [
            f"create or replace table \"{query}\" as select {reading} from '{folder}/{query}.parquet'"
            for query in queries
            if (reading := notes.noted(staging, query).get("reading"))
        ]
        duckdb.connect(str(new)).execute(";".join([*tables, "checkpoint"])).close()
        new.replace(mart)  # as a whole: a reader that opens it sees the old one or the new one


@contextlib.contextmanager
def kept() -> Generator[Path]:
    """Yield the mart's file, to which no other program writes during the block. Raises CannotRun if one does now."""
    mart = path()
    try:
        # Of two runs that load at once, one would lose its tables.
        with files.lock(mart.with_suffix(".lock")), duckdb.connect() as keeper:
            if mart.exists():
                keeper.execute("attach ? as mart (read_only)", [str(mart)])
            if logs := list(mart.parent.glob(f"{mart.name}.wal*")):  # of a killed writer; they spoil a new mart
                keeper.execute("detach database if exists mart").execute("attach ? as mart", [str(mart)])
                keeper.execute("checkpoint mart")
                for log in logs:
                    log.unlink(missing_ok=True)  # DuckDB leaves one without a complete transaction
            yield mart
            return
    except (duckdb.Error, OSError, subprocess.CalledProcessError) as error:
        reason = re.split(r"[.!]? See|[.!]?\n|[.!]?$", str(getattr(error, "stderr", error)))[0]
    keeper = None  # Prefect keeps the error below and what its frames hold, and DuckDB complains about that at exit
    todo = "Correct that, or move the mart away: the next run makes a new one."
    if "lock is held" in reason or "already attached" in reason:
        todo = "Close the mart in that program, or in this one, and run again."
    raise settings.CannotRun(f"The mart {mart} cannot be loaded: {reason}. {todo}")


def _kind(declared: str, staged: str) -> str:
    """Return the type in the mart of what PostgreSQL `declared` and Arrow `staged`: PostgreSQL's own, or text."""
    base = re.sub(r"\(.*\)|\[\]|(?<=json)b", "", declared)
    if not PARSED.match(declared):
        return base if base in ("interval", "json", "timetz", "uuid") and "[]" not in declared else "varchar"
    digits = re.search(r"\(([12]?\d|3[0-8]), ?\d+\)", declared + staged.replace("null", "(18,3)"))
    if base == "numeric":
        base = base + digits[0] if digits else "float8"
    return base + "[]" * (staged.count("list<") or declared.count("[]"))
