"""Waiting for something to happen, without waiting longer than necessary."""

import time
from collections.abc import Callable


def eventually(happens: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `happens()` is true; fail after `seconds`."""
    deadline, pause = time.monotonic() + seconds, 0.05
    while not happens():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.25)  # what is asked meanwhile is often a server, which shares the cores
