"""Three task runs with a tag, which sleep until their process is killed: `python tests/hold.py TAG`."""

import sys
import time

from prefect import flow, task


@task(tags=[sys.argv[1]])
def hold() -> None:
    time.sleep(600)


@flow
def holding() -> None:
    for future in [hold.submit() for _ in range(3)]:
        future.result()


holding()
