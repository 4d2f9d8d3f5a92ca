"""The TPC-H tables of the lab's warehouse: made by tpchgen-cli, loaded into PostgreSQL, locked while runs read them."""

import contextlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import psycopg
from rich.console import Console
from rich.progress import Progress

from flows import settings
from flows.lab import missing
from flows.lab.lifecycle import database
from flows.settings import CannotRun
from flows.warehouse import TABLES, connect

_KEY = "hashtext('warehouse')"  # of the lock on the tables
SCHEMA = Path(__file__).with_suffix(".sql")


@contextlib.contextmanager
def kept(scale: float) -> Generator[None]:
    """Make the tables at `scale` in the lab, and keep other runs from replacing them until the block ends.

    A caller that needs another scale in the meantime waits, with a line on standard error. Raises CannotRun as `load`.
    """
    with connect(database("warehouse")) as connection:
        connection.autocommit = True
        _lock(connection, "_shared", "Another run replaces the tables of the warehouse: waiting until it is done.")
        if not _is_loaded(connection, scale):
            connection.execute(f"select pg_advisory_unlock_shared({_KEY})")
            _load(connection, scale)
            # Both at once for a moment, so that nobody else can load in between.
            connection.execute(f"select pg_advisory_lock_shared({_KEY}), pg_advisory_unlock({_KEY})")
        yield


def load(address: str, scale: float) -> None:
    """Make the TPC-H tables at `scale` in the database at `address`, in place of those that are there.

    The load is one transaction, so that nothing is left of one that is killed. It waits for runs that read the tables.
    Raises CannotRun if the disk has no room, tpchgen-cli is missing or fails, or the connection is lost.
    """
    with connect(address) as connection:
        connection.autocommit = True
        _load(connection, scale)


@contextlib.contextmanager
def csv_files(folder: Path, scale: float) -> Generator[dict[str, Path]]:
    """Yield the tables as CSV files, by name, in `folder`, which is removed afterwards."""
    program = shutil.which("tpchgen-cli", path=sysconfig.get_path("scripts")) or shutil.which("tpchgen-cli")
    if program is None:
        raise missing("tpchgen-cli")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made = subprocess.run([program, "csv", "-s", str(scale), "-o", folder], capture_output=True, text=True)
        if made.returncode:
            raise CannotRun(f"tpchgen-cli cannot make the tables at scale {scale}: {made.stderr.strip()[-300:]}")
        yield {table: folder / f"{table}.csv" for table in TABLES}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(connection: psycopg.Connection, scale: float) -> None:
    """Load the tables unless another process just did; keep the exclusive lock."""
    # Room for the rows as text, the tables, and the sorts of their indexes.
    folder, needed = settings.read().flows_lab_dir, 100e6 + scale * 3.5e9
    if shutil.disk_usage(folder).free < needed:
        reason = f"Scale {scale} needs {needed / 1e6:,.0f} MB, but the disk of {folder} has less."
        raise CannotRun(f"{reason} Choose a smaller --scale.")
    try:
        _lock(connection, "", f"Another run uses the warehouse: waiting for its end, to load scale {scale}.")
        if not _is_loaded(connection, scale):
            with connection.transaction(), csv_files(folder / "tpch", scale) as files:
                _copy(connection, files, scale)
    except (psycopg.errors.DiskFull, psycopg.errors.IoError) as error:
        raise CannotRun(f"The disk of {folder} is full: {error}. Nothing changed. Choose a smaller --scale.") from None
    except psycopg.OperationalError as error:
        reason = str(error).partition("\n")[0]
        raise CannotRun(f"The load into the warehouse failed: {reason}. Nothing was changed. Run it again.") from None


def _lock(connection: psycopg.Connection, kind: Literal["", "_shared"], otherwise: str) -> None:
    """Take the lock on the tables, exclusive or `_shared` with other readers. Print `otherwise` if that has to wait."""
    if connection.execute(f"select pg_try_advisory_lock{kind}({_KEY})").fetchone() != (True,):
        print(otherwise, file=sys.stderr, flush=True)
        connection.execute(f"select pg_advisory_lock{kind}({_KEY})")


def _copy(connection: psycopg.Connection, files: dict[str, Path], scale: float) -> None:
    """Replace the tables by those in `files`; the role `etl`, if it exists, may read them."""
    connection.execute(f"drop table if exists warehouse_scale, {', '.join(TABLES)}")
    connection.execute(SCHEMA.read_bytes())
    with Progress(console=Console(stderr=True, force_jupyter=False), transient=True) as bar:
        total = sum(file.stat().st_size for file in files.values())
        job = bar.add_task(f"Loading TPC-H at scale {scale}")
        for table in TABLES:
            into = f"copy {table} from stdin (format csv, header)"
            with connection.cursor().copy(into) as copy, bar.open(files[table], "rb", total=total, task_id=job) as rows:
                shutil.copyfileobj(rows, copy, 1 << 20)
            connection.execute(f"analyze {table}")
    connection.execute("create table warehouse_scale as select %s::float8 as scale", [scale])
    if connection.execute("select 1 from pg_roles where rolname = 'etl'").fetchone():
        connection.execute("grant select on all tables in schema public to etl")
        connection.execute("revoke create on schema public from public")  # given to all before PostgreSQL 15


def _is_loaded(connection: psycopg.Connection, scale: float) -> bool:
    """Return whether a load of the tables at `scale` has been finished."""
    with contextlib.suppress(psycopg.errors.UndefinedTable):
        return connection.execute("select scale from warehouse_scale").fetchone() == (scale,)
    return False
