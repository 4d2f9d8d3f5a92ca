"""The TPC-H tables of the lab's warehouse: made by tpchgen-cli, loaded into PostgreSQL, locked while runs read them.

They are those of the TPC-H specification, revision 3 (tpc.org/tpch), section 1.4.
"""

import contextlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql
from rich.console import Console
from rich.progress import Progress

from flows import settings
from flows.lab.lifecycle import database
from flows.settings import CannotRun
from flows.warehouse import connect

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_KEY = "hashtext('warehouse')"  # of the lock on the tables
COLUMNS: "dict[str, LiteralString]" = {
    "region": "r_regionkey int primary key, r_name text, r_comment text",
    "nation": "n_nationkey int primary key, n_name text, n_regionkey int, n_comment text",
    "supplier": "s_suppkey int primary key, s_name text, s_address text, s_nationkey int, s_phone text,"
    " s_acctbal numeric(15,2), s_comment text",
    "customer": "c_custkey int primary key, c_name text, c_address text, c_nationkey int, c_phone text,"
    " c_acctbal numeric(15,2), c_mktsegment text, c_comment text",
    "part": "p_partkey int primary key, p_name text, p_mfgr text, p_brand text, p_type text, p_size int,"
    " p_container text, p_retailprice numeric(15,2), p_comment text",
    "partsupp": "ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15,2), ps_comment text,"
    " primary key (ps_partkey, ps_suppkey)",
    "orders": "o_orderkey bigint primary key, o_custkey int, o_orderstatus text, o_totalprice numeric(15,2),"
    " o_orderdate date, o_orderpriority text, o_clerk text, o_shippriority int, o_comment text",
    "lineitem": "l_orderkey bigint, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15,2),"
    " l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag text,"
    " l_linestatus text, l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct text,"
    " l_shipmode text, l_comment text, primary key (l_orderkey, l_linenumber)",
}


@contextlib.contextmanager
def kept(scale: float) -> Generator[None]:
    """Make the tables at `scale` in the lab, and keep everyone from replacing them until the block ends.

    A caller that wants another scale in the meantime waits, and says so on standard error. Raises CannotRun as `load`.
    """
    with connect(database("warehouse")) as connection:
        connection.autocommit = True
        _lock(connection, "_shared", "Another run replaces the tables of the warehouse: waiting for it.")
        if _scale(connection) != scale:
            connection.execute(f"select pg_advisory_unlock_shared({_KEY})")
            _load(connection, scale)
            # Both at once for a moment, so that nobody else can load in between.
            connection.execute(f"select pg_advisory_lock_shared({_KEY}), pg_advisory_unlock({_KEY})")
        yield


def load(address: str, scale: float) -> None:
    """Make the TPC-H tables at `scale` in the database at `address`, in place of those that are there.

    All of it is one transaction, and waits for the runs that read the tables: a load that is killed leaves nothing
    behind. Raises CannotRun where the disk has no room, the generator fails, or the connection is lost.
    """
    with connect(address) as connection:
        connection.autocommit = True
        _load(connection, scale)


def _load(connection: psycopg.Connection, scale: float) -> None:
    """Load, unless somebody else just did, and keep the lock against those who read."""
    # Rows as text, tables, and the indexes' sorts.
    folder, needed = settings.read().flows_lab_dir, 100e6 + scale * 3.5e9
    if shutil.disk_usage(folder).free < needed:
        raise CannotRun(
            f"Scale {scale} needs {needed / 1e6:,.0f} MB, and the disk of {folder} has less. Choose a smaller --scale."
        )
    try:
        _lock(connection, "", f"Another run uses the warehouse: waiting for its end, to make it at scale {scale}.")
        if _scale(connection) != scale:
            with connection.transaction(), _generated(folder / "tpch", scale) as files:
                _copy(connection, files, scale)
    except (psycopg.errors.DiskFull, psycopg.errors.IoError) as error:
        raise CannotRun(
            f"The disk of {folder} is full: {error}. Nothing was changed; choose a smaller --scale."
        ) from None
    except psycopg.OperationalError as error:
        reason = str(error).partition("\n")[0]
        raise CannotRun(f"The load into the warehouse failed: {reason}. Nothing was changed; run it again.") from None


def _lock(connection: psycopg.Connection, kind: Literal["", "_shared"], otherwise: str) -> None:
    """Take the lock on the tables: alone, to replace them, or shared, to read them. Print `otherwise` if that waits."""
    if connection.execute(f"select pg_try_advisory_lock{kind}({_KEY})").fetchone() != (True,):
        print(otherwise, file=sys.stderr, flush=True)
        connection.execute(f"select pg_advisory_lock{kind}({_KEY})")


def _copy(connection: psycopg.Connection, files: dict[str, Path], scale: float) -> None:
    tables = {name: sql.Identifier(name) for name in files}
    connection.execute(sql.SQL("drop table if exists warehouse_scale, {}").format(sql.SQL(",").join(tables.values())))
    total = sum(file.stat().st_size for file in files.values())
    with Progress(console=Console(stderr=True, force_jupyter=False), transient=True) as bar:
        job = bar.add_task(f"Loading TPC-H at scale {scale}", total=total)
        for name, table in tables.items():
            connection.execute(sql.SQL("create table {} ({})").format(table, sql.SQL(COLUMNS[name])))
            into = sql.SQL("copy {} from stdin (format csv, header)").format(table)
            with connection.cursor().copy(into) as copy, files[name].open("rb") as rows:
                while chunk := rows.read(1 << 20):
                    copy.write(chunk)
                    bar.advance(job, len(chunk))
            connection.execute(sql.SQL("analyze {}").format(table))
    connection.execute("create table warehouse_scale as select %s::float8 as scale", [scale])
    if connection.execute("select 1 from pg_roles where rolname = 'etl'").fetchone():
        connection.execute("grant select on all tables in schema public to etl")
        # Before PostgreSQL 15 every role may create tables there.
        connection.execute("revoke create on schema public from public")


@contextlib.contextmanager
def _generated(folder: Path, scale: float) -> Generator[dict[str, Path]]:
    """The tables as CSV files, by name, in a folder that is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    program = shutil.which("tpchgen-cli", path=sysconfig.get_path("scripts")) or "tpchgen-cli"
    try:
        made = subprocess.run(
            [program, "csv", "-s", str(scale), "-o", folder], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise CannotRun(f"tpchgen-cli cannot make the tables at scale {scale}: {made.stderr.strip()[-300:]}")
        yield {table: folder / f"{table}.csv" for table in COLUMNS}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scale(connection: psycopg.Connection) -> float | None:
    if connection.execute("select to_regclass('warehouse_scale')").fetchone() == (None,):
        return None
    found = connection.execute("select scale from warehouse_scale").fetchone()
    return found[0] if found else None
