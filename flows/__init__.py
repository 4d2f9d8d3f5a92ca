"""Many SQL queries in parallel under a server-side concurrency limit, with Prefect."""
