"""The kit's commands and Prefect's, run as a user runs them, and what they print."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows import settings

FLOW, LAB = "flows/prefect_flow.py", "scripts/lab.py"
LIMIT = "scripts/setup_concurrency_limit.py"
# How often, in seconds, a worker and a `.serve()` process ask for runs to start, instead of every 10 seconds.
OFTEN = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_RUNNER_POLL_FREQUENCY": "2"}


_started: list[subprocess.Popen[str]] = []


def start(
    program: str, *arguments: str, cwd: Path | None = None, python: Path | str = sys.executable, **variables: str
) -> subprocess.Popen[str]:
    """Start a command of the kit in a session of its own, so that signals reach only this command."""
    process = subprocess.Popen(
        [str(python), str(settings.PROJECT / program), *arguments],
        cwd=cwd or settings.PROJECT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _started.append(process)
    return process


def kill_started() -> None:
    """Kill what `start` started and a test that failed did not end, so that the next test does not fail as well."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def run(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of the kit to its end; `options` as for `start`."""
    process = start(program, *arguments, **options)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_prefect(
    *words: str, python: Path | str = sys.executable, cwd: Path = settings.PROJECT, **variables: str
) -> subprocess.Popen[str]:
    """Start Prefect's own command, of the environment of `python`, in the folder `cwd`."""
    return subprocess.Popen(
        [str(Path(python).with_name("prefect")), *words],
        cwd=cwd,
        env=os.environ | OFTEN | {"PWD": str(cwd)} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def prefect(*words: str, **options: Any) -> str:
    """Run Prefect's own command, with options as for `start_prefect`, to its end; return what it printed."""
    process = start_prefect(*words, **options)
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    return out


def answer(done: subprocess.CompletedProcess[str]) -> dict:
    """Return the JSON object that a command printed as its last line."""
    assert done.stdout.strip(), f"nothing was printed; exit {done.returncode}; {done.stderr[-2000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with which a command explains why it could not run."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Starting", "(port"))]
    assert len(lines) == 1, done.stderr
    return lines[0]
