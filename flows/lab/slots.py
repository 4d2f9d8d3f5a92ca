"""Prefect's counters of taken slots, made to agree with its leases while no server runs.

This is the only module that reads or changes Prefect's own tables and files, because no API can do it: the server
counts a slot first and writes its lease afterwards. If it is killed in between, the slot stays counted forever, and
no lease can expire that would free it.
"""

import contextlib
import json
from collections import Counter
from pathlib import Path

from psycopg.types.json import Jsonb

from flows.lab import postgres


def recount(home: Path, address: str) -> None:
    """Set each limit's counter to the slots of its leases, for the server with PREFECT_HOME `home`, which is down."""
    taken: Counter[str] = Counter()
    for file in (home / "concurrency_leases").glob("*-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            lease = json.loads(file.read_text())
            taken.update(dict.fromkeys(lease["resource_ids"], lease["metadata"]["slots"]))
    with postgres.connect(address) as connection:
        if connection.execute("select to_regclass('concurrency_limit_v2')").fetchone() != (None,):
            recount = "update concurrency_limit_v2 set active_slots = coalesce((%s ->> id::text)::int, 0)"
            connection.execute(recount, [Jsonb(taken)])
