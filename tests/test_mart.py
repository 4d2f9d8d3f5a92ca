"""The mart beside other programs that read and write it, and the types of its columns. Processes are really killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import psycopg
import pytest
from support.commands import FLOW, answer, refused, run, start
from support.drills import recorded
from support.labs import slots
from support.waiting import eventually

from flows import lab, mart, notes, settings

WRITER = """
import duckdb, sys, time
mart = duckdb.connect(sys.argv[1])
mart.execute("create table mine as select range as number from range(1000)")
print("written", flush=True)
time.sleep(600)
"""
TYPES = {
    "int2 '1'": "SMALLINT",
    "int4 '1'": "INTEGER",
    "int8 '1'": "BIGINT",
    "'1.25'::numeric(15,2)": "DECIMAL(15,2)",
    "1.5::float4": "FLOAT",
    "1.5::float8": "DOUBLE",
    "'é\"'::text": "VARCHAR",
    "'a'::varchar(25)": "VARCHAR",
    "'a'::char(3)": "VARCHAR",
    "'a'::name": "VARCHAR",
    "true": "BOOLEAN",
    "date '1997-02-03'": "DATE",
    "time '01:02'": "TIME",
    "timetz '01:02+03'": "TIME WITH TIME ZONE",
    "timestamp '1997-02-03 04:05'": "TIMESTAMP",
    "timestamptz '1997-02-03 04:05+06'": "TIMESTAMP WITH TIME ZONE",
    "'1997-02-03 04:05+06'::timestamptz(3)": "TIMESTAMP WITH TIME ZONE",
    "interval '1 year -2 months 3 days 04:05:06.5'": "INTERVAL",
    "'-1 day'::interval(3)": "INTERVAL",
    "gen_random_uuid()": "UUID",
    "'{\"a\": 1}'::json": "JSON",
    "'{\"b\": [2.50]}'::jsonb": "JSON",
    r"'\x0102'::bytea": "BLOB",
    "array[1, 2, null]": "INTEGER[]",
    "array['a', 'b']::varchar(5)[]": "VARCHAR[]",
    "array[1.5]::numeric(5,2)[]": "DECIMAL(5,2)[]",
    "array[interval '1 day']": "VARCHAR",
    "'low'::pg_temp.level": "VARCHAR",
    "inet '10.0.0.1'": "VARCHAR",
    "int4range(1, 5)": "VARCHAR",
}


@pytest.fixture
def source(shared_lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """A connection to a real PostgreSQL; the mart is an empty one of the test's own."""
    with psycopg.connect(lab.database("warehouse")) as connection:
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nothing is asked of it
        monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / "lab"))
        yield connection
        connection.rollback()


@pytest.fixture
def put(source: psycopg.Connection) -> Iterator[Callable[..., None]]:
    """A function that loads the rows of SQL into the mart, by the names of its tables."""
    with notes.staging("run") as staging:

        def put(**queries: str) -> None:
            for name, sql in queries.items():
                mart.stage(staging, name, source.execute(sql.encode()))
            mart.load(staging, list(queries))

        yield put


@contextlib.contextmanager
def writer() -> Iterator[subprocess.Popen[str]]:
    """Another program that has written the table `mine` to the mart, and keeps the mart open."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(mart.path())], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout and process.stdout.readline() == "written\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_a_writer() -> None:
    """Leave in the mart's log, and there only, the table `mine`."""
    with writer():
        pass
    assert log().stat().st_size > 0


def log() -> Path:
    return mart.path().with_name("mart.duckdb.wal")


def tables() -> dict[str, int]:
    """How many rows each table of the mart has."""
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        names = connection.execute("select table_name from duckdb_tables()").fetchall()
        return {name: len(connection.execute(f'from "{name}"').fetchall()) for (name,) in names}


def test_columns_have_the_types_of_postgresql_whether_there_are_rows_or_not(
    source: psycopg.Connection, put: Callable[..., None]
) -> None:
    source.execute("create type pg_temp.level as enum ('low', 'high')")
    values = ", ".join(f"{value} as c{place}" for place, value in enumerate(TYPES))
    source.execute(f"create temp table filled as select {values}".encode())
    source.execute("create temp table nulls (like filled)")
    source.execute("insert into nulls default values")
    put(filled="select * from filled", none="select * from filled where false", nulls="select * from nulls")
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        for table in ("filled", "none", "nulls"):
            types = [str(kind) for kind in connection.table(table).types]
            assert dict(zip(TYPES, types, strict=True)) == TYPES, table
        (texts,) = connection.execute("select columns(*)::varchar from filled").fetchall()
        assert connection.table("nulls").fetchall() == [(None,) * len(TYPES)]
    shown = dict(zip(TYPES, texts, strict=True))
    assert shown["interval '1 year -2 months 3 days 04:05:06.5'"] == "10 months 3 days 04:05:06.5"
    assert shown["timetz '01:02+03'"] == "01:02:00+03" and shown["array[1, 2, null]"] == "[1, 2, NULL]"
    assert shown["'{\"b\": [2.50]}'::jsonb"] == '{"b": [2.50]}' and shown["int4range(1, 5)"] == "[1,5)"


def test_a_numeric_without_digits_has_those_that_its_values_need(put: Callable[..., None]) -> None:
    put(
        some="select 1.25 as n union all select 100 union all select null",
        none="select 1.25 as n where false",
        large="select repeat('9', 45)::numeric as n",
        odd="select 'NaN'::numeric as n union all select 'Infinity'::numeric union all select 1.5",
        nested="select array[array[1.25, 2]] as n",
    )
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        types = {name: str(connection.table(name).types[0]) for name in ("some", "none", "large", "odd", "nested")}
        assert str(connection.table("odd").fetchall()) == "[(nan,), (inf,), (1.5,)]"
    assert types == {
        "some": "DECIMAL(5,2)",
        "none": "DECIMAL(18,3)",
        "large": "DOUBLE",
        "odd": "DOUBLE",
        "nested": "DECIMAL(3,2)[][]",
    }


def test_columns_of_the_same_name_are_all_kept(put: Callable[..., None]) -> None:
    put(twice='select 1 as a, 2 as "A", \'x\' as a, 3 as "with ""quotes"""')
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        assert connection.table("twice").columns == ["a", "A_1", "a_2", 'with "quotes"']
        assert connection.table("twice").fetchall() == [(1, 2, "x", 3)]


def test_what_a_killed_writer_wrote_is_kept(put: Callable[..., None]) -> None:
    put(answers="select 1 as a")
    kill_a_writer()
    put(answers="select generate_series(1, 5) as a")
    assert tables() == {"answers": 5, "mine": 1000} and not log().exists()


@pytest.mark.parametrize("cut", [1, 100, 1.0])
def test_half_a_transaction_in_the_log_makes_no_new_mart_unreadable(put: Callable[..., None], cut: float) -> None:
    put(answers="select 1 as a")
    kill_a_writer()
    whole = log().read_bytes()
    log().write_bytes(whole[: cut if isinstance(cut, int) else -1])
    put(answers="select generate_series(1, 5) as a")
    assert tables() == {"answers": 5}


def test_a_log_whose_mart_was_deleted_does_not_spoil_the_new_one(put: Callable[..., None]) -> None:
    put(answers="select 1 as a")
    kill_a_writer()
    mart.path().unlink()
    put(answers="select generate_series(1, 5) as a")
    assert tables() == {"answers": 5}


LOADER = """
import os, random, signal, sys, time
from pathlib import Path
import duckdb
from flows import mart, notes

folder, staging, times = Path(os.environ["FLOWS_LAB_DIR"]), Path(sys.argv[1]), int(sys.argv[2])
files = {file: file.read_bytes() for file in folder.glob("mart.duckdb*")}

def apart(work):  # DuckDB's threads do not survive a fork: each of its uses has a process of its own
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    return process

def look():
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        counts = [connection.execute(f"select count(*) from {name}").fetchone()[0] for name in ("mine", "answers")]
        assert counts in ([1000, 1], [1000, 5]), counts
        print(counts[1], flush=True)

def wait(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

began = time.monotonic()
assert wait(apart(lambda: mart.load(staging, ["answers"]))) == 0
takes = time.monotonic() - began
for number in range(times):
    for file in folder.glob("mart.duckdb*"):
        file.unlink()
    for file, content in files.items():
        file.write_bytes(content)
    loader = apart(lambda: mart.load(staging, ["answers"]))
    time.sleep(takes * number / times)
    os.kill(loader, signal.SIGKILL)
    wait(loader)
    assert wait(apart(look)) == 0
    assert wait(apart(lambda: mart.load(staging, ["answers"]))) == 0
    assert wait(apart(look)) == 0
"""


@pytest.mark.parametrize("times", [8, pytest.param(40, marks=pytest.mark.long)])
def test_a_load_may_be_killed_at_any_moment(source: psycopg.Connection, put: Callable[..., None], times: int) -> None:
    put(answers="select 1 as a")
    kill_a_writer()
    staging = settings.read().flows_lab_dir / "staging" / "run"
    mart.stage(staging, "answers", source.execute("select generate_series(1, 5) as a"))
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(staging), str(times)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.split()) == {"1", "5"}, "some were killed before they replaced the mart"


def test_a_load_is_refused_while_another_program_writes(put: Callable[..., None]) -> None:
    put(answers="select 1 as a")
    with writer() as other, pytest.raises(settings.CannotRun, match=rf"PID {other.pid}\)\. Close the mart in that pro"):
        put(answers="select generate_series(1, 5) as a")
    put(answers="select generate_series(1, 5) as a")
    assert tables() == {"answers": 5, "mine": 1000}


def test_nobody_writes_to_a_mart_that_is_being_replaced(put: Callable[..., None]) -> None:
    put(answers="select 1 as a")
    kill_a_writer()
    for _ in range(2):  # with a log, and without
        with mart.kept() as file:
            subprocess.run(["cp", file, file.with_suffix(".copy")], check=True)
            other = subprocess.run(
                [sys.executable, "-c", WRITER, str(file)], capture_output=True, text=True, check=False
            )
            assert f"(PID {os.getpid()})" in other.stderr


def test_this_process_has_the_mart_open_itself(put: Callable[..., None]) -> None:
    """As a notebook may that calls the flow: to read, which does no harm, or to write, which cannot be."""
    put(answers="select 1 as a")
    with duckdb.connect(str(mart.path()), read_only=True) as reader:
        for rows in (5, 7):
            put(answers=f"select generate_series(1, {rows}) as a")
            assert reader.execute("select count(*) from answers").fetchone() == (1,), "what it opened"
    assert tables() == {"answers": 7}
    with duckdb.connect(str(mart.path())) as own:
        for statement in ("select 1", "create table mine as select 1 as a"):
            own.execute(statement)
            with pytest.raises(settings.CannotRun, match=r"already attached.* or in this one"):
                put(answers="select 1 as a")
    assert tables() == {"answers": 7, "mine": 1}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda: mart.path().write_bytes(b"this is no database" * 1000), "not a valid DuckDB database file"),
        (lambda: mart.path().mkdir(), "Is a directory"),
        (
            lambda: duckdb.connect(str(mart.path())).execute("create view answers as select 1").close(),
            "is of type View",
        ),
    ],
)
def test_a_mart_that_cannot_be_loaded_is_left_as_it_is(
    put: Callable[..., None], spoil: Callable[[], object], reason: str
) -> None:
    spoil()
    before = mart.path().stat()
    with pytest.raises(settings.CannotRun, match=rf"{reason}.*\. Correct that, or move the mart away"):
        put(answers="select 1 as a")
    assert mart.path().stat().st_ino == before.st_ino
    shutil.move(mart.path(), mart.path().with_name("away"))
    put(answers="select 1 as a")
    assert tables() == {"answers": 1}


def test_a_run_is_refused_before_its_queries_while_another_program_writes(shared_lab: str) -> None:
    if not mart.path().exists():
        duckdb.connect(str(mart.path())).close()
    with writer() as other:
        assert f"(PID {other.pid})" in refused(run(FLOW, "--queries", "busiest_clerks"))
    assert not list((settings.read().flows_lab_dir / "staging").glob("*"))
    with duckdb.connect(str(mart.path())) as connection:
        connection.execute("drop table mine")


@pytest.mark.long
@pytest.mark.parametrize("closes", [True, False])
def test_a_run_waits_a_little_for_a_writer_that_came_later(
    shared_lab: str, full_mart: dict[str, list[tuple]], closes: bool
) -> None:
    with recorded() as record:
        flow = start(FLOW, "--json")
        eventually(lambda: slots() == 3)
        with writer() as other:
            if closes:
                eventually(lambda: len(list((settings.read().flows_lab_dir / "staging").glob("*/*.parquet"))) == 20)
                other.send_signal(signal.SIGKILL)
            out, err = flow.communicate(timeout=100)
        assert record.peak() <= 3 and record.refused() == 0
    report = json.loads(out.strip().splitlines()[-1])
    assert report["completed"] == 20 and "Traceback" not in err and "leaked" not in err
    if closes:
        assert flow.returncode == 0, err
    else:
        assert flow.returncode == 1 and "Failed: " in err and f"(PID {other.pid})" in err
    assert tables() == {name: len(rows) for name, rows in full_mart.items()} | {"mine": 1000}
    assert answer(run(FLOW, "--queries", "busiest_clerks", "--json"))["state"] == "Completed"
    assert not list((settings.read().flows_lab_dir / "staging").glob("*")) and slots() == 0
    with duckdb.connect(str(mart.path())) as connection:
        connection.execute("drop table mine")
