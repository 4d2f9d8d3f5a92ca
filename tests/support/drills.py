"""What a fault drill looks at: PostgreSQL's own record of the queries, the mart, the slots, and the next run."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import psycopg

from flows import lab, limits, mart, notes, settings
from flows.report import peak_concurrency
from support.commands import FLOW, answer, run
from support.labs import slots
from support.runs import staging, tables
from support.waiting import eventually

LEASE = 90  # seconds until the server gives a dead holder's slots to others, as the documents say
STATEMENT = re.compile(r"^(\S+ \S+) UTC \[(\d+)\] (?:LOG:  duration: ([\d.]+) ms|ERROR:  canceling)", re.MULTILINE)


class Record:
    """What PostgreSQL wrote into its log about the role `etl` since the record began."""

    def __init__(self) -> None:
        self._log = settings.read().flows_lab_dir / "logs" / "postgres.log"
        self._start = self._log.stat().st_size

    def _text(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._start)
            return log.read().decode(errors="replace")

    def peak(self) -> int:
        """Return how many connections ran statements at once at most: each from its first to the end of its last."""
        spans: dict[str, tuple[float, float]] = {}
        for end, connection, milliseconds in STATEMENT.findall(self._text()):
            ended = datetime.fromisoformat(end).timestamp()
            began, _ = spans.get(connection, (ended - float(milliseconds or 0) / 1000, ended))
            spans[connection] = began, ended
        assert spans, "PostgreSQL recorded no statement"
        return peak_concurrency(spans.values())

    def refused(self) -> int:
        """Return how many connections were refused, because the role may have no more than its CONNECTION LIMIT."""
        return self._text().count('too many connections for role "etl"')


@contextlib.contextmanager
def recorded(connections: int = 20) -> Iterator[Record]:
    """Let PostgreSQL write down each statement of the role `etl`, and allow the role that many connections.

    They are more than the limit, so that it is the server's limit that holds the queries back, and not the database's.
    """
    alter(f"connection limit {connections}", "set log_min_duration_statement = 0")
    try:
        yield Record()
    finally:
        alter(f"connection limit {limits.DEFAULT}", "reset log_min_duration_statement")


def alter(*changes: str) -> None:
    with psycopg.connect(lab.database("postgres"), autocommit=True) as connection:
        for change in changes:
            connection.execute(f"alter role etl {change}".encode())


class Answers(NamedTuple):
    """What a run that was drilled said: its exit code, the JSON of its last line, its standard error."""

    code: int
    report: dict
    err: str


def ended(flow: subprocess.Popen[str]) -> Answers:
    """Return what a main job said, once it has ended; its JSON is {} if it printed none."""
    out, err = flow.communicate(timeout=240)
    assert "Traceback" not in err, err
    return Answers(flow.returncode, json.loads(out.strip().splitlines()[-1]) if out.strip() else {}, err)


def check(run_id: str, expected: dict[str, list[tuple]], *sources: str, cause: str = "") -> list[str]:
    """Check what a drilled run left behind, in a mart that was not there before; return the queries that are missing.

    The mart has the rows of each query that completed, and of no other; the others are named, in one of `sources`,
    which are what the user sees, as is the `cause`. Every slot is free again in time, and the next run works.
    """
    rows = notes.recorded(run_id)
    completed = {row["query"] for row in rows if row["state"] == "Completed"}
    missing = sorted(expected.keys() - completed)
    seen = "\n".join(sources)
    assert cause in seen, seen
    assert not rows or all(name in seen for name in missing), (missing, seen)
    found = tables() if mart.path().exists() else {}
    assert found == {name: expected[name] for name in completed}
    eventually(lambda: slots() == 0 or staging(), LEASE)  # what a killed run leaves, the next one puts right
    again = answer(run(FLOW, "--queries", ",".join(missing or ["busiest_clerks"]), "--json"))
    assert (again["state"], again["failed"]) == ("Completed", 0) and again["peak_concurrency"] <= 3
    assert tables() == expected and staging() == [] and slots() == 0
    return missing
