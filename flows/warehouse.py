"""The source database: a PostgreSQL with TPC-H tables, and the 20 business questions asked of it."""

import contextlib
import difflib
import re
from collections.abc import Generator
from pathlib import Path

import psycopg
from psycopg import conninfo, errors

from flows import settings
from flows.api import server
from flows.settings import CannotRun

QUERIES = Path(__file__).with_name("queries")
SCALE = 0.1
LASTING = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied")  # refusals for good
TABLES = ("region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem")


def names() -> list[str]:
    """Return the names of the queries, in alphabetical order."""
    return sorted(path.stem for path in QUERIES.glob("*.sql"))


def choose(wanted: list[str] | None) -> list[str]:
    """Return the queries that `wanted` names, or all if it is None. Raises CannotRun for a name that does not exist."""
    for name in wanted or []:
        if name not in (queries := names()):
            near = difflib.get_close_matches(name, queries, 1) or queries
            raise CannotRun(f"There is no query {name!r}. Did you mean {near[0]}? They are the files in {QUERIES}.")
    return names() if wanted is None else list(dict.fromkeys(wanted))


def query(name: str) -> str:
    """Return the SQL of the query `name`. Its first line is a comment that asks the question in one sentence."""
    return (QUERIES / f"{name}.sql").read_text()


def url() -> str:
    """Return the address of the source database: WAREHOUSE_URL, or the lab's for the role `etl`, which may only read.

    Starts nothing. Raises CannotRun if there is neither, or if libpq would misread, and show, a part of the password.
    """
    named = settings.read().warehouse_url
    address = named.get_secret_value().strip() if named else server.read_lab().get("warehouse_url")
    if address is None:
        raise CannotRun("WAREHOUSE_URL is not set and the lab is down. Set it, or run python scripts/lab.py up.")
    with contextlib.suppress(psycopg.ProgrammingError, UnicodeError):
        ports = str(conninfo.conninfo_to_dict(address).get("port", 5432)).split(",")
        ended_early = named and re.match("postgres(ql)?://.*[@/].*@", address)
        if not ended_early and all(port.isdecimal() and int(port) < 65536 for port in ports):
            return address
    right = "Write postgresql://USER:PASSWORD@HOST/DATABASE, in PASSWORD with %40 for @, %2F for / and %25 for %."
    raise CannotRun(f"WAREHOUSE_URL is not the address of a PostgreSQL. {right}")


def may_pass(error: BaseException) -> bool:
    """Return whether `error` may pass by itself: a refused or a broken connection, not an error in a query."""
    lasting = isinstance(error, errors.QueryCanceled | errors.DiskFull) or any(text in str(error) for text in LASTING)
    return isinstance(error, psycopg.OperationalError) and not lasting


def prepare(scale: float = SCALE) -> None:
    """Load the tables in the lab, at `scale` (in GB); elsewhere, raise CannotRun if the source database lacks one."""
    with prepared(scale):
        pass


@contextlib.contextmanager
def prepared(scale: float = SCALE) -> Generator[None]:
    """Do as `prepare`; in the lab, also keep the tables from being replaced until the block ends."""
    if settings.read().warehouse_url is None:
        from flows.lab import tpch  # here, because its packages are not installed where the warehouse is named

        with tpch.kept(scale):
            yield
        return
    with connect(url()) as connection:
        visible = connection.execute("select relname from pg_class where pg_table_is_visible(oid)")
        if missing := set(TABLES) - {name for (name,) in visible}:
            load = "Load TPC-H into it with flows.lab.tpch.load, or unset WAREHOUSE_URL to use the lab's warehouse."
            raise CannotRun(f"The warehouse on {connection.info.host} lacks the table {min(missing)}. {load}")
    yield


def connect(address: str) -> psycopg.Connection:
    """Return a connection to the database at `address`. Raises CannotRun, without the address, if there is none."""
    try:
        return psycopg.connect(address, connect_timeout=10, fallback_application_name="flows")
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CannotRun(f"The warehouse cannot be reached: {reason}. Check WAREHOUSE_URL.") from None
