"""The local lab: PostgreSQL, a Prefect server and its gateway, started, described, stopped, thrown away."""

from flows.lab.lifecycle import (
    CONNECTIONS,
    Lab,
    address,
    attach,
    database,
    down,
    is_own,
    reset,
    server,
    status,
    up,
)

__all__ = ["CONNECTIONS", "Lab", "address", "attach", "database", "down", "is_own", "reset", "server", "status", "up"]
