"""The local lab: PostgreSQL, a Prefect server and its gateway, from Python packages. Raises CannotRun without them."""

from importlib.util import find_spec

from flows.lab import packages

if find_spec("psutil") is None:
    raise packages.missing("psutil")

from flows.lab.lifecycle import Lab, database, down, reset, status, up

__all__ = ["Lab", "database", "down", "reset", "status", "up"]
