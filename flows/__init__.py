"""Run many SQL queries in parallel under a server-side concurrency limit, with Prefect."""

import os
import sys

if sys.platform == "win32":
    print("The kit runs on Linux and macOS only: on Windows, use it in WSL 2 (wsl --install).", file=sys.stderr)
    raise SystemExit(2)

# Prefect sends usage data to its developers as soon as it is imported in a terminal, unless this variable is set.
os.environ.setdefault("DO_NOT_TRACK", "1")
