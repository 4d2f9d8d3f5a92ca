"""Runs of the main job that a test looks at while they are under way, the mart they write to, and events of theirs."""

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import httpx
import psycopg

from flows import lab, mart, notes, settings, warehouse
from flows.api import server
from support.commands import FLOW, start
from support.labs import slots
from support.waiting import eventually


def staging() -> list[Path]:
    """Return the staging folders of the runs that have begun and not ended."""
    folders = (settings.read().flows_lab_dir / "staging").glob("*")
    return [folder for folder in folders if (folder / "owner.json").exists()]


@contextlib.contextmanager
def blocked(*names: str) -> Iterator[psycopg.Connection]:
    """Keep the queries that read the tables `names` (all of them if none is named) waiting until the block ends.

    A query that reads none of them may run when the block begins, and end in it. Yield the connection that keeps them.
    """
    with psycopg.connect(lab.database("warehouse")) as holding:
        holding.execute(f"lock table {', '.join(names or warehouse.TABLES)}".encode())
        yield holding


def in_the_middle(*arguments: str, **options: Any) -> tuple[subprocess.Popen[str], str]:
    """Return a main job, of which three queries run, and its flow run's id; from now on it heeds signals."""
    flow = start(FLOW, "--json", *arguments, **options)

    def under_way() -> bool:
        folders = staging()
        three_run = slots() == 3 and [len(notes.unfinished(folder)) for folder in folders] == [3]
        return three_run and bool(notes.noted(folders[0], "owner").get("task_runs"))

    eventually(under_way)
    return flow, staging()[0].name


def tables() -> dict[str, list[tuple]]:
    """Return the rows of each table in the mart."""
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        names = [name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()]
        return {name: connection.execute(f'from "{name}"').fetchall() for name in names}


def report_acquired(limit: str, task_run_id: str, name: str) -> None:
    """Send the event that a task run has taken a slot of the limit `limit`, `tag:NAME` if it is a tag's."""
    of_task_run = {"prefect.resource.id": f"prefect.task-run.{task_run_id}", "prefect.resource.role": "task-run"}
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(timezone.utc).isoformat(),
        "event": "prefect.concurrency-limit.acquired",
        "resource": {"prefect.resource.id": f"prefect.concurrency-limit.{limit}", "prefect.resource.name": limit},
        "related": [of_task_run | {"prefect.resource.name": name}],
    }
    httpx.post(f"{server.attach()}/events", json=[event]).raise_for_status()
