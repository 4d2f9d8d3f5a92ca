"""A flow that a `.serve()` process or a worker runs: `python tests/obedient.py` serves it."""

import os
import time
from pathlib import Path

from prefect import flow, pause_flow_run, task


@task(tags=["database"])
def hold() -> None:
    while True:  # sleep in short steps, so that a signal is handled at once
        time.sleep(0.1)


@flow(retries=1, retry_delay_seconds=120)
def obedient(pids: str, until: str) -> None:
    """Write the id of this process into the folder `pids`, and get into the state `until`."""
    (Path(pids) / str(os.getpid())).touch()
    if until == "Paused":
        pause_flow_run(timeout=120)
    if until == "AwaitingRetry":
        raise ValueError("so that it is tried again")
    for future in [hold.submit() for _ in range(2)]:
        future.result()


if __name__ == "__main__":
    obedient.serve(name="served")
