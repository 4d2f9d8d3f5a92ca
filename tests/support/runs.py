"""Runs of the main job that a test looks at while they are under way, and the mart they write to."""

import subprocess
from pathlib import Path
from typing import Any

import duckdb

from flows import mart, settings
from support.commands import FLOW, start
from support.labs import slots
from support.waiting import eventually


def staging() -> list[Path]:
    """Return the staging folders of the runs that have begun and not ended."""
    folders = (settings.read().flows_lab_dir / "staging").glob("*")
    return [folder for folder in folders if (folder / "owner.json").exists()]


def in_the_middle(*arguments: str, **options: Any) -> tuple[subprocess.Popen[str], str]:
    """Return a main job whose queries run, and its flow run's id."""
    flow = start(FLOW, "--json", *arguments, **options)
    eventually(lambda: slots() == 3 and len(staging()) == 1)
    return flow, staging()[0].name


def tables() -> dict[str, list[tuple]]:
    """Return the rows of each table in the mart."""
    with duckdb.connect(str(mart.path()), read_only=True) as connection:
        names = [name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()]
        return {name: connection.execute(f'from "{name}"').fetchall() for name in names}
