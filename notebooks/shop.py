"""The shop whose incidents a lesson is about: what it has on the lab's server and in its database.

All of it has a name that starts with SHOP, and no process runs it.
"""

import contextlib
from typing import Any

import psycopg
from psycopg import conninfo

import exercises
import records
from flows import limits, settings, warehouse
from flows.api import endpoints, rest
from flows.lab import keys, postgres

SHOP = f"{records.PREFIX}-shop"
OTHERS = f"{SHOP}-others"
_sessions = contextlib.ExitStack()  # database connections, which end with the kernel at the latest


def clear() -> None:
    """Remove everything that the shop has: database sessions, limits, runs, the work pool, keys."""
    sql("select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name like %s", f"{SHOP}%")
    _sessions.close()
    tags = [limit["tag"] for limit in rest.send(endpoints.limits()) if limit["tag"].startswith(SHOP)]
    made = [endpoints.delete("concurrency_limits/tag", tag) for tag in tags]
    made += [endpoints.delete("flows", flow["id"]) for flow in rest.rows(endpoints.flows(text=SHOP))]
    rest.gather([*made, endpoints.delete("work_pools", SHOP)])
    for holder in keys.bearer():
        if holder.startswith(SHOP):
            keys.revoke(holder)
    sql(f"alter role etl connection limit {limits.DEFAULT}")


def plant() -> None:
    """Let others have a limit, a task that runs and a key. No incident is about them, and they are to stay."""
    limits.ensure(OTHERS, 7)
    hold(OTHERS, "import of the others")
    keys.issue(OTHERS)


def owned() -> dict[str, Any]:
    """Return what the shop has on the server and in the database: the state of each thing by its description."""
    tags = [limit["tag"] for limit in rest.send(endpoints.limits()) if limit["tag"].startswith(SHOP)]
    things: dict[str, Any] = {}
    for limit in filter(None, map(limits.read, tags)):
        things[f"the limit of the tag {limit.tag!r}"] = limit.limit
        things |= {f"the slot of the task run {holder['name']!r}": holder["state"] for holder in limit.holders}
    things |= {f"the key of {holder!r}": key for holder, key in keys.bearer().items() if holder.startswith(SHOP)}
    by_name = "select application_name, count(*) from pg_stat_activity where application_name like %s group by 1"
    things |= {f"the database session {name!r}": count for name, count in sql(by_name, f"{SHOP}%")}
    return things | {"the connection limit of the database role 'etl'": connections()}


def sql(statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Execute `statement` in the lab's warehouse as the administrator of the database, and return its rows."""
    with psycopg.connect(owner(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def owner() -> str:
    """Return the address of the lab's warehouse for its owner, without making sure that it runs."""
    return postgres.url(settings.read().flows_lab_dir / "postgres", "warehouse")


def connections() -> int:
    """Return how many connections the database accepts from the role `etl`."""
    return sql("select rolconnlimit from pg_roles where rolname = 'etl'")[0][0]


def session(name: str, statement: str, *, address: str | None = None, wait: bool = True) -> None:
    """Open a session called `name` in the database, which leaves its transaction open after `statement`.

    Without `wait`, do not wait for the answer. The session ends at `clear`, or with the kernel.
    """
    connection = warehouse.connect(conninfo.make_conninfo(address or warehouse.url(), application_name=name))
    _sessions.callback(connection.close)
    if wait:
        connection.execute(statement.encode())
    else:
        connection.pgconn.send_query(statement.encode())


def flow_run(name: str, state: str = "RUNNING") -> str:
    """Record a flow run of the shop, which no process runs, and return its id."""
    flow = rest.send(exercises.create_flow(SHOP))["id"]
    return rest.send(exercises.record_flow_run(flow, name, state))["id"]


def hold(tag: str, name: str) -> str:
    """Let a task run called `name` hold a slot of `tag`, in a flow run of its own, and return that one's id."""
    run = flow_run(name)
    exercises.hold_slot(tag, run, name)
    return run
