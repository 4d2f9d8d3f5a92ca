"""What a fault drill looks at: PostgreSQL's own record of the queries, the mart, the slots, and the next run."""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime

import psycopg

from flows import lab, limits, settings
from flows.report import peak_concurrency

LEASE = 90  # seconds until the server gives a dead holder's slots to others, as the documents say
STATEMENT = re.compile(r"^(\S+ \S+) UTC \[(\d+)\] LOG:  duration: ([\d.]+) ms", re.MULTILINE)


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
            began, _ = spans.get(connection, (ended - float(milliseconds) / 1000, ended))
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
