"""The local lab: PostgreSQL, a Prefect server and its gateway, started, described, stopped, thrown away."""

from flows.lab.lifecycle import Lab, database, down, reset, status, up

__all__ = ["Lab", "database", "down", "reset", "status", "up"]
