"""Old flow runs are deleted, with what belongs to them, and no others; events, by the server itself."""

from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from fill import empty, fill
from support.commands import answer, refused, run
from support.waiting import eventually

from flows import lab

RETENTION = "scripts/retention.py"
# One that still runs, one that another one called, and two log lines of the latter; all began more than a day ago.
OLD = """
update flow_run set state_type = 'RUNNING', state_name = 'Running', end_time = null where id = md5('run1050')::uuid;
update flow_run set parent_task_run_id = md5('task1060.0')::uuid where id = md5('run1070')::uuid;
insert into log (name, level, flow_run_id, message, timestamp)
select 'prefect', 20, md5('run1070')::uuid, 'line ' || line || ' of a log', now() from generate_series(1, 2) line;
"""


@pytest.fixture
def filled(shared_lab: str) -> Iterator[psycopg.Connection]:
    """Yield a connection to the database of a server that has 100 flow runs of more than a day ago, and 1,000 newer."""
    database = lab.status().database
    assert database
    fill(database, 1100)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(OLD)
        yield connection
    empty(database)


def count(connection: psycopg.Connection, rows: LiteralString) -> int:
    ((number,),) = connection.execute(f"select count(*) from {rows}").fetchall()
    return number


@pytest.mark.long
def test_what_ended_long_ago_is_deleted_and_nothing_else(filled: psycopg.Connection) -> None:
    runs = count(filled, "flow_run where id <> md5('run1050')::uuid")
    dry = answer(run(RETENTION, "--older-than", "1", "--dry-run", "--json"))
    assert dry["deleted"] == 0 and 95 <= dry["flow_runs"] <= 105 and dry["task_runs"] == 10 * dry["flow_runs"]
    assert count(filled, "flow_run where id <> md5('run1050')::uuid") == runs + 1, "its own"
    done = answer(run(RETENTION, "--older-than", "1", "--json"))
    assert done["deleted"] == done["flow_runs"] >= dry["flow_runs"]
    assert count(filled, "flow_run where id <> md5('run1050')::uuid") == runs + 2 - done["deleted"]
    assert count(filled, "flow_run where id = md5('run1050')::uuid") == 1, "it still runs"
    assert count(filled, "flow_run where id = md5('run1070')::uuid") == 0, "the run that had called it was deleted"
    assert count(filled, "task_run where flow_run_id = md5('run1070')::uuid") == 0
    assert count(filled, "flow_run where end_time < now() - interval '1 day 1 minute'") == 0
    eventually(lambda: count(filled, "log where flow_run_id = md5('run1070')::uuid") == 0)
    assert count(filled, "log where message like 'line % of a log'") > 4900, "those of newer runs"


def test_a_retention_without_a_number_of_days_is_refused(new_lab: object) -> None:
    assert "--older-than" in refused(run(RETENTION))
    assert "'0' is not a whole number of at least 1" in refused(run(RETENTION, "--older-than", "0"))
