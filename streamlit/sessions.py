"""What the source database itself sees: its sessions, by application name, and the connections that it refused.

The lab is asked as its administrator. Elsewhere, the look takes one of the connections of the role in WAREHOUSE_URL.
"""

from collections.abc import Sequence
from datetime import datetime

import pandas as pd
from psycopg import conninfo

from flows import settings, warehouse
from flows.api import server
from flows.monitor import frames
from flows.settings import CannotRun

OURS, OTHERS = "queries of the kit", "others"
SAMPLES = {"time": "datetime64[ns, UTC]", "kind": "object", "name": "object", "role": "object", "sessions": "int64"}
_MOST_BYTES = 2_000_000  # that are read of the database's log, from its end
_REFUSAL = b"FATAL:  too many connections for role"
_QUERY = """
    select coalesce(nullif(application_name, ''), 'without a name'), usename, count(*) from pg_stat_activity
    where backend_type = 'client backend' and datname = current_database() and pid <> pg_backend_pid() group by 1, 2
"""


def of_lab() -> bool:
    """Return whether the source database is the lab's."""
    return settings.read().warehouse_url is None


def sample() -> pd.DataFrame:
    """Return SAMPLES of this moment; a row without sessions if there are none. Raises CannotRun if it cannot be read.

    What the kit does in the warehouse beside its queries, as `flows`, is left out.
    """
    if of_lab() and not server.is_lab(server.attach()):
        raise CannotRun("WAREHOUSE_URL is not set, so nobody knows which database this server's limit protects.")
    address = warehouse.url()
    with warehouse.connect(conninfo.make_conninfo(address, user="postgres") if of_lab() else address) as connection:
        rows = connection.execute(_QUERY).fetchall()
    now = datetime.now().astimezone()
    kinds = [(OURS if name.startswith("flows ") else OTHERS, name, role, count) for name, role, count in rows]
    seen = [row for row in kinds if row[1] != "flows"] or [(OURS, "nobody", None, 0)]
    return pd.DataFrame([(pd.Timestamp(now).tz_convert("UTC"), *row) for row in seen], columns=list(SAMPLES)).astype(
        SAMPLES
    )


def others(samples: pd.DataFrame) -> pd.DataFrame:
    """Return who is not a query of the kit, a row for each name and role: `first`, `last` and the most `sessions`."""
    beside = samples[samples["kind"] == OTHERS].groupby(["name", "role"], as_index=False)
    return beside.agg(first=("time", "min"), last=("time", "max"), sessions=("sessions", "max"))


def refusals(since: pd.Timestamp) -> Sequence[pd.Timestamp] | None:
    """Return when the lab's database refused connections because its role had all it may have; None for another one."""
    log = settings.read().flows_lab_dir / "logs" / "postgres.log"
    if not of_lab() or not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _MOST_BYTES))
        lines = [line for line in file if _REFUSAL in line]
    times = pd.to_datetime([line[:23].decode() for line in lines], utc=True)
    return list(times[times >= since])


def steps(samples: pd.DataFrame) -> pd.DataFrame:
    """Return for each time of SAMPLES and each kind how many `sessions` there were, and their `names`."""
    named = samples.assign(names=samples["name"] + " (" + samples["sessions"].astype(str) + ")")
    summed = named.groupby(["time", "kind"]).agg(sessions=("sessions", "sum"), names=("names", ", ".join))
    every = pd.MultiIndex.from_product([samples["time"].unique(), [OURS, OTHERS]], names=["time", "kind"])
    return summed.reindex(every).fillna({"sessions": 0, "names": "nobody"}).reset_index()


def none() -> pd.DataFrame:
    """Return SAMPLES without a row."""
    return frames.typed([], SAMPLES)
