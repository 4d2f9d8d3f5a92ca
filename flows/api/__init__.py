"""Requests to a Prefect server, of either version: which server is meant, credentials, endpoints, errors."""
