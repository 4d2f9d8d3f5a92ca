"""The source database: its tables, its role, its load, and its 20 answers checked against another engine."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import duckdb
import psycopg
import pytest
from psycopg import conninfo, sql
from support.commands import FLOW, answer, refused, run
from support.waiting import eventually

from flows import interruption, lab, limits, settings, warehouse
from flows.lab import postgres, processes, tpch

ROWS_AT_TENTH = {"region": 5, "nation": 25, "supplier": 1_000, "customer": 15_000, "part": 20_000}
ROWS_AT_TENTH |= {"partsupp": 80_000, "orders": 150_000, "lineitem": 600_572}


def loaded_scale(address: str) -> float | None:
    """The scale at which the tables at `address` were loaded, or None if no load has been finished."""
    with psycopg.connect(address) as connection:
        if connection.execute("select to_regclass('warehouse_scale')").fetchone() == (None,):
            return None
        return connection.execute("select scale from warehouse_scale").fetchone()[0]


@pytest.fixture
def loaded(shared_lab: str) -> Iterator[psycopg.Connection]:
    """A connection as the owner of the tables at scale 0.1."""
    warehouse.prepare()
    with psycopg.connect(lab.database("warehouse")) as connection:
        yield connection


def test_every_table_is_whole(loaded: psycopg.Connection) -> None:
    counts = {table: loaded.execute(f"select count(*) from {table}").fetchone()[0] for table in warehouse.TABLES}
    assert counts == ROWS_AT_TENTH


def test_a_load_that_is_there_is_not_repeated(loaded: psycopg.Connection) -> None:
    made = "select xmin::text from warehouse_scale"
    before = loaded.execute(made).fetchone()
    warehouse.prepare()
    assert loaded.execute(made).fetchone() == before


def test_the_database_itself_refuses_the_fourth_connection(loaded: psycopg.Connection) -> None:
    held = [psycopg.connect(warehouse.url()) for _ in range(limits.DEFAULT)]
    try:
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(warehouse.url())
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "statement", ["delete from region", "drop table region", "create table mine ()", "update nation set n_name = ''"]
)
def test_the_role_may_only_read(loaded: psycopg.Connection, statement: str) -> None:
    def connect() -> psycopg.Connection | None:
        try:
            return psycopg.connect(warehouse.url())
        except psycopg.OperationalError:
            return None  # the connections of the test before are still on their way out

    opened: list[psycopg.Connection] = []
    eventually(lambda: opened.append(found) if (found := connect()) else opened)
    with opened[0] as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.fixture(scope="module")
def other_engine(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """The same TPC-H data in DuckDB."""
    connection = duckdb.connect()
    with tpch.csv_files(tmp_path_factory.mktemp("tpch") / "csv", warehouse.SCALE) as files:
        connection.execute(tpch.SCHEMA.read_text())
        for table, file in files.items():
            connection.execute(f"insert into {table} from read_csv('{file}', header = true)")
    return connection


def test_there_are_twenty_queries() -> None:
    assert len(warehouse.names()) == 20


@pytest.mark.parametrize("name", warehouse.names())
def test_a_query_gives_the_same_rows_in_duckdb(
    name: str, loaded: psycopg.Connection, other_engine: duckdb.DuckDBPyConnection
) -> None:
    ours = loaded.execute(warehouse.query(name)).fetchall()
    theirs = other_engine.execute(warehouse.query(name)).fetchall()
    assert ours, "a question without an answer"
    assert len(ours) == len(theirs)
    for mine, other in zip(sorted(map(_split, ours)), sorted(map(_split, theirs)), strict=True):
        assert mine[0] == other[0]
        assert mine[1] == pytest.approx(other[1], rel=1e-9, abs=1e-4)


def _split(row: tuple) -> tuple[list[str], list[float]]:
    """A row's texts, and its numbers as floats: DuckDB divides as floats, where PostgreSQL keeps decimals."""
    numbers = [value for value in row if isinstance(value, (int, float, Decimal))]
    return [str(value) for value in row if value not in numbers], [float(value) for value in numbers]


def test_the_queries_read_every_table_and_show_what_sql_can_do() -> None:
    everything = {name: warehouse.query(name).lower() for name in warehouse.names()}
    text = "\n".join(everything.values())
    assert [table for table in warehouse.TABLES if f"{table}\n" not in text and f"{table} " not in text] == []
    for word in ("join", " over (", "with ", "grouping sets", "rollup", "cube"):
        assert word in text
    assert all(
        sql.splitlines()[0].startswith("-- ") and sql.splitlines()[0].endswith("?") for sql in everything.values()
    )


@pytest.mark.long
def test_a_load_that_is_killed_leaves_nothing_and_is_redone(new_lab: Path) -> None:
    lab.database("warehouse")
    loading = subprocess.Popen([sys.executable, "-c", "from flows import warehouse; warehouse.prepare(0.3)"])
    owner = lab.database("warehouse")
    with psycopg.connect(owner, autocommit=True) as watcher:
        copying = "select count(*) from pg_stat_progress_copy where tuples_processed > 1000"
        eventually(lambda: watcher.execute(copying).fetchone()[0])
        os.kill(loading.pid, signal.SIGKILL)
        loading.wait()
        eventually(lambda: not watcher.execute(copying).fetchone()[0])
        assert watcher.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
        assert loaded_scale(owner) is None
        # What every role may do before PostgreSQL 15.
        watcher.execute("grant create on schema public to public")
        warehouse.prepare(0.01)
        assert loaded_scale(owner) == 0.01
        assert watcher.execute("select count(*) from orders").fetchone() == (15_000,)
        with psycopg.connect(warehouse.url()) as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("create table mine ()")
        # Another scale replaces the tables, once nobody reads them any more.
        with warehouse.prepared(0.01):
            other = [sys.executable, "-c", "from flows import warehouse; warehouse.prepare(0.02)"]
            loading = subprocess.Popen(other, stderr=subprocess.PIPE, text=True)
            assert "waiting for its end, to load scale 0.02" in loading.stderr.readline()
            eventually(lambda: watcher.execute("select 1 from pg_locks where not granted").fetchone())
            assert watcher.execute("select count(*) from orders").fetchone() == (15_000,)
            late = subprocess.Popen(other, stderr=subprocess.PIPE, text=True)
            assert "replaces the tables" in late.stderr.readline(), "who comes later does not overtake"
        assert [loading.wait(), late.wait()] == [0, 0], (loading.stderr.read(), late.stderr.read())
        assert watcher.execute("select count(*) from orders").fetchone() == (30_000,)
    assert not (new_lab / "tpch").exists()


def test_two_loaders_at_the_same_moment_load_once(new_lab: Path) -> None:
    lab.database("warehouse")
    script = "from flows import warehouse; warehouse.prepare(0.02)"
    loaders = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [loader.communicate()[1] for loader in loaders]
    assert [loader.returncode for loader in loaders] == [0, 0], errors
    assert loaded_scale(lab.database("warehouse")) == 0.02


@pytest.fixture
def own_database(tmp_path: Path) -> Iterator[str]:
    """A PostgreSQL of the user's own, which asks for a password; the address of its role `reader`."""
    data = tmp_path / "own" / "data"
    data.parent.mkdir()
    postgres.start(data, tmp_path / "own" / "log")
    try:
        with psycopg.connect(postgres.url(data, "postgres"), autocommit=True) as connection:
            connection.execute("create role reader login password 'correct-horse'")
            connection.execute("create database shop")
        rules = data / "pg_hba.conf"
        rules.write_text("local all reader scram-sha-256\n" + rules.read_text())
        with psycopg.connect(postgres.url(data, "shop"), autocommit=True) as connection:
            connection.execute("select pg_reload_conf()")
        yield postgres.url(data, "shop", "reader:correct-horse")
    finally:
        postgres.stop(data)
        assert list(processes.working_in(data, "postgres")) == []


@pytest.mark.long
def test_the_queries_run_against_a_warehouse_of_the_user_s(shared_lab: str, own_database: str) -> None:
    owner = own_database.replace("reader:correct-horse", "postgres")
    assert "lacks the table" in refused(run(FLOW, WAREHOUSE_URL=own_database))
    tpch.load(owner, 0.01)
    with psycopg.connect(owner) as connection:
        connection.execute("grant select on all tables in schema public to reader")
    done = run(FLOW, "--queries", "busiest_clerks,lines_per_order", "--json", WAREHOUSE_URL=own_database)
    assert done.returncode == 0, done.stderr
    with duckdb.connect(answer(done)["mart"], read_only=True) as mart, psycopg.connect(owner) as connection:
        expected = connection.execute(warehouse.query("lines_per_order")).fetchall()
        assert mart.execute("from lines_per_order order by lines").fetchall() == expected


def test_a_refused_password_is_said_and_not_shown(shared_lab: str, own_database: str) -> None:
    said = refused(run(FLOW, WAREHOUSE_URL=own_database.replace("correct-horse", "wrong-horse")))
    assert "password authentication failed" in said and "WAREHOUSE_URL" in said and "wrong-horse" not in said


@pytest.mark.parametrize("address", ["nonsense", "postgresql://etl@127.0.0.1:9/warehouse"])
def test_a_warehouse_that_is_not_there_is_said(shared_lab: str, address: str) -> None:
    assert "WAREHOUSE_URL" in refused(run(FLOW, WAREHOUSE_URL=address))


def test_an_address_that_cannot_be_read_is_said_and_not_shown(shared_lab: str) -> None:
    said = refused(run(FLOW, WAREHOUSE_URL="etl:sEcret@host/db"))
    assert "WAREHOUSE_URL" in said and "sEcret" not in said


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://etl:Sec1@Pass2@127.0.0.1/w",
        "postgresql://etl:Sec1/Pass2@127.0.0.1/w",
        "postgresql://etl:12/Pass2@127.0.0.1/w",
        "postgresql://etl:Sec1?x=/Pass2@127.0.0.1/w",
        "postgresql://etl:Sec1@x?sslmode=Pass2@127.0.0.1/w",
        "postgresql://etl:Sec1%Pass2@127.0.0.1/w",
        "postgresql://etl:Sec1 Pass2@127.0.0.1/w",
        "postgresql://etl:Sec1@[Pass2@127.0.0.1/w",
        "postgresql://etl:Pass2/w",
        "postgresql+psycopg://etl:Pass2@127.0.0.1/w?sslmode=require",
        "host=127.0.0.1 user=etl password=Sec1 Pass2",
        "host=127.0.0.1 user=etl password='Pass2",
    ],
)
def test_an_address_that_libpq_would_misread_is_refused_unseen(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", address)
    for connect in (warehouse.url, warehouse.prepare, interruption.connection("busiest_clerks", tmp_path).__enter__):
        with pytest.raises(settings.CannotRun, match=r"WAREHOUSE_URL is not the .* %40 for @, %2F for /") as caught:
            connect()
        shown = "".join(traceback.format_exception(caught.value))
        assert "Sec1" not in shown and "Pass2" not in shown


def test_a_password_with_every_sign_works_once_it_is_encoded(
    own_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "p@s/s:w%o?r#d &="
    with psycopg.connect(own_database.replace("reader:correct-horse", "postgres")) as connection:
        connection.execute(sql.SQL("alter role reader password {}").format(password))
    host = conninfo.conninfo_to_dict(own_database)["host"]
    for address in (
        own_database.replace("correct-horse", quote(password, safe="")) + "\n",
        own_database.replace("correct-horse", quote(password, safe=":?#&=")),
        conninfo.make_conninfo(host=host, user="reader", password=password, dbname="shop"),
    ):
        monkeypatch.setenv("WAREHOUSE_URL", address)
        with warehouse.connect(warehouse.url()) as connection:
            assert connection.info.user == "reader"


def test_a_load_whose_connection_is_lost_is_said_and_the_tables_stay(loaded: psycopg.Connection) -> None:
    loaded.autocommit = True
    loaded.execute("select pg_advisory_lock(hashtext('warehouse'))")  # the loader waits for it
    end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' and pid in"
    end += " (select pid from pg_locks where locktype = 'advisory' and not granted)"
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(tpch.load, lab.database("warehouse"), 0.02)
        eventually(lambda: loaded.execute(end).fetchall() or loading.done())
        with pytest.raises(settings.CannotRun, match=r"Nothing was changed\. Run it again"):
            loading.result()
    assert loaded_scale(lab.database("warehouse")) == warehouse.SCALE


def test_a_scale_beyond_the_disk_is_refused_and_the_tables_stay(loaded: psycopg.Connection) -> None:
    said = refused(run(FLOW, "--scale", "100"))
    assert "Choose a smaller --scale" in said
    assert loaded_scale(lab.database("warehouse")) == warehouse.SCALE


@pytest.mark.long
def test_a_disk_that_fills_up_during_the_load_is_said_and_nothing_is_lost(
    new_lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert os.getuid() == 0, "mounting a disk takes root; run the tests with sudo, as .ci/run does"
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m", "none", disk], check=True)
    try:
        monkeypatch.setenv("FLOWS_LAB_DIR", str(disk / ".lab"))
        warehouse.prepare(0.01)
        with (disk / "ballast").open("wb") as ballast:
            # The check before the load finds room; then somebody else fills the disk.
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            script = "from flows import cli, warehouse; cli.run(lambda: warehouse.prepare(0.1) or 0)"
            loading = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
            eventually((settings.read().flows_lab_dir / "tpch").exists)
            os.posix_fallocate(ballast.fileno(), 0, free - 130_000_000)
            error = loading.communicate()[1]
        assert loading.returncode == 2 and "Traceback" not in error and "smaller --scale" in error, error
        (disk / "ballast").unlink()
        assert loaded_scale(lab.database("warehouse")) == 0.01
        lab.reset()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
