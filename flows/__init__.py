"""Many SQL queries in parallel under a server-side concurrency limit, with Prefect."""

import os

# Prefect sends usage data to its makers as soon as it is imported on a terminal. A value of the user's own counts.
os.environ.setdefault("DO_NOT_TRACK", "1")
