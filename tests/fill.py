"""Very many runs on a server, written into its database directly, since over the API 100,000 runs would take hours.

    FLOWS_LAB_DIR=… uv run python tests/fill.py 10000     # on the running lab

What is written looks as if 1,000 flow runs a day had run for as long as it takes, ten task runs each.
"""

import sys

import psycopg
from psycopg import sql

from flows import lab

A_DAY = 1000
TASKS = 10

FLOWS = """
insert into flow (id, name, created, updated)
select md5('flow' || n)::uuid, 'filled_' || n, now() - interval '101 days', now() from generate_series(0, 19) n
on conflict do nothing
"""
# One in twenty failed, one in fifty crashed; the newest one runs and the one before it is late.
FLOW_RUNS = """
with run as (
    select n, md5('run' || n)::uuid id, md5('run state' || n)::uuid state_id,
        now() - n * interval '1 day' / %(a_day)s::int due,
        interval '1 second' * (3 + n %% 40) lasted,
        (case when n = 1 then 'RUNNING' when n = 2 then 'SCHEDULED' when n %% 20 = 7 then 'FAILED'
            when n %% 50 = 3 then 'CRASHED' else 'COMPLETED' end)::state_type as type,
        (array['brave', 'calm', 'eager', 'gentle', 'proud', 'quick', 'shy'])[1 + n %% 7] || '-'
            || (array['otter', 'heron', 'lynx', 'newt', 'wren'])[1 + n %% 5] || '-' || n as name
    from generate_series(%(first)s::int, %(last)s::int) n
), state as (
    insert into flow_run_state (id, flow_run_id, type, name, timestamp, message)
    select state_id, id, type, case when n = 2 then 'Late' else initcap(type::text) end, due + lasted,
        case when type = 'FAILED' then 'Flow run encountered an exception: ValueError: no rows for ' || due::date end
    from run
)
insert into flow_run (id, flow_id, name, state_id, state_type, state_name, state_timestamp, run_count, created, updated,
    expected_start_time, start_time, end_time, total_run_time, tags, parameters)
select id, md5('flow' || n %% 20)::uuid, name, state_id, type,
    case when n = 2 then 'Late' else initcap(type::text) end, due + lasted, 1, due, due + lasted, due,
    case when n <> 2 then due + interval '0.1 second' end, case when n > 2 then due + lasted end, lasted,
    case when n %% 3 = 0 then '["nightly"]' else '[]' end::jsonb, jsonb_build_object('scale', 0.1, 'day', due::date)
from run
"""
TASK_RUNS = """
with task as (
    select n, t, md5('task' || n || '.' || t)::uuid id, md5('task state' || n || '.' || t)::uuid state_id,
        run.id run_id, run.start_time begun, t * interval '1 second' / 4 as waited, interval '1 second' as lasted,
        (case when run.state_type <> 'RUNNING' then run.state_type::text when t < 3 then 'RUNNING' else 'PENDING'
            end)::state_type as type
    from generate_series(%(first)s::int, %(last)s::int) n
    join flow_run run on run.id = md5('run' || n)::uuid and run.start_time is not null
    cross join generate_series(0, %(tasks)s::int - 1) t
), state as (
    insert into task_run_state (id, task_run_id, type, name, timestamp, message)
    select state_id, id, type, initcap(type::text), begun + waited + lasted,
        case when type = 'FAILED' then 'Task run encountered an exception ValueError: no rows' end
    from task
)
insert into task_run (id, flow_run_id, name, task_key, dynamic_key, state_id, state_type, state_name, state_timestamp,
    run_count, flow_run_run_count, created, updated, expected_start_time, start_time, end_time, total_run_time, tags)
select id, run_id, 'query_' || t, 'sql_query', t::text, state_id, type, initcap(type::text), begun + waited + lasted,
    1, 1, begun, begun + waited + lasted, begun, case when type <> 'PENDING' then begun + waited end,
    case when type not in ('PENDING', 'RUNNING') then begun + waited + lasted end, lasted, '["database"]'
from task
"""
LOGS = """
insert into log (name, level, flow_run_id, message, timestamp)
select 'prefect.flow_runs', 20, md5('run' || n)::uuid, 'line ' || line || ' of a log', now()
from generate_series(%(first)s::int, least(%(last)s::int, 1000)) n cross join generate_series(1, 5) line
"""
# Of the last seven days, since the server keeps events no longer.
EVENTS = """
with event as (
    select gen_random_uuid() id, told.event, told.occurred, jsonb_build_object('prefect.resource.name', task_run.name,
            'prefect.resource.id', 'prefect.task-run.' || task_run.id, 'prefect.resource.role', 'task-run') task,
        jsonb_build_object('prefect.resource.name', flow_run.name,
            'prefect.resource.id', 'prefect.flow-run.' || flow_run.id, 'prefect.resource.role', 'flow-run') run,
        jsonb_build_object('prefect.resource.name', told.name, 'prefect.resource.id', told.of || task_run.id) resource
    from generate_series(%(first)s::int, least(%(last)s::int, 7 * %(a_day)s::int)) n
    join flow_run on flow_run.id = md5('run' || n)::uuid join task_run on task_run.flow_run_id = flow_run.id
    cross join lateral (values
        ('prefect.task-run.Pending', task_run.created, task_run.name, 'prefect.task-run.'),
        ('prefect.task-run.Running', task_run.start_time, task_run.name, 'prefect.task-run.'),
        ('prefect.task-run.Completed', task_run.end_time, task_run.name, 'prefect.task-run.'),
        ('prefect.concurrency-limit.acquired', task_run.start_time, %(limit)s, 'prefect.concurrency-limit.'),
        ('prefect.concurrency-limit.released', task_run.end_time, %(limit)s, 'prefect.concurrency-limit.')
    ) told (event, occurred, name, of)
    where told.occurred is not null
), stored as (
    insert into events (id, event, occurred, received, recorded, resource_id, resource, related_resource_ids, related,
        payload)
    select id, event, occurred, occurred, occurred, resource->>'prefect.resource.id', resource,
        jsonb_build_array(task->'prefect.resource.id', run->'prefect.resource.id'), jsonb_build_array(task, run), '{}'
    from event
)
insert into event_resources (occurred, resource_id, resource_role, resource, event_id)
select occurred, about->>'prefect.resource.id', coalesce(about->>'prefect.resource.role', ''), about, id
from event cross join lateral (values (resource), (task), (run)) of_event (about)
"""
RUN_OF_ITS_OWN = """
insert into flow_run (id, flow_id, name, state_type, state_name, run_count, expected_start_time, start_time, end_time)
values (md5('wide run')::uuid, md5('flow1')::uuid, 'wide-run', 'COMPLETED', 'Completed', 1,
    now() - interval '11 minutes', now() - interval '11 minutes', now() - interval '1 minute')
"""
WIDE = """
insert into task_run (flow_run_id, name, task_key, dynamic_key, state_type, state_name, run_count, created,
    expected_start_time, start_time, end_time, tags)
select md5('wide run')::uuid, 'query_' || t, 'sql_query', t::text, 'COMPLETED', 'Completed', 1, begun,
    begun, begun + t * interval '0.3 second', begun + t * interval '0.3 second' + interval '0.9 second', '["database"]'
from generate_series(0, %(tasks)s::int - 1) t, (select now() - interval '11 minutes' begun) b
"""


def fill(database: str, runs: int, have: int = 0) -> None:
    """Make the server over `database` have `runs` filled flow runs, of which it has `have` already."""
    numbers = {"first": have + 1, "last": runs, "tasks": TASKS, "a_day": A_DAY}
    with psycopg.connect(database) as connection:
        connection.execute("set local synchronous_commit = off")
        for statement in (FLOWS, FLOW_RUNS, TASK_RUNS, LOGS):
            connection.execute(statement, numbers if "%(" in statement else None)
    _analyze(database)


def fill_events(database: str, limit: str, runs: int, have: int = 0) -> None:
    """Add the events of those flow runs, in which each task run took a slot of the global `limit`."""
    with psycopg.connect(database) as connection:
        connection.execute(EVENTS, {"first": have + 1, "last": runs, "a_day": A_DAY, "limit": limit})
    _analyze(database, "events", "event_resources")


def fill_wide(database: str, tasks: int) -> str:
    """Add a flow run with so many task runs; returns its id."""
    with psycopg.connect(database) as connection:
        connection.execute(FLOWS)
        connection.execute(RUN_OF_ITS_OWN)
        connection.execute(WIDE, {"tasks": tasks})
        (found,) = connection.execute("select md5('wide run')::uuid::text").fetchone() or ("",)
    _analyze(database)
    return found


def empty(database: str) -> None:
    """Remove what `fill` and `fill_wide` wrote."""
    with psycopg.connect(database) as connection:
        connection.execute("delete from flow where name like 'filled%'")
        connection.execute("delete from log where message like 'line % of a log'")


def _analyze(database: str, *tables: str) -> None:
    """What autovacuum does on its own within a minute."""
    with psycopg.connect(database, autocommit=True) as connection:
        for table in tables or ("flow_run", "flow_run_state", "task_run", "task_run_state", "log"):
            connection.execute(sql.SQL("vacuum analyze {}").format(sql.Identifier(table)))


if __name__ == "__main__":
    address = lab.status().database
    assert address, "the lab is down: python scripts/lab.py up"
    fill(address, int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
