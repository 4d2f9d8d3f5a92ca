"""The lab's folder, held by one process at a time, and `lab.json`, what the lab writes about itself there.

auth                               "none", "basic" or "gateway"
https                              whether the gateway speaks TLS
api_url, prefect_version           of its server, while it runs
key_file, auth_string_file         where its credentials are, if it asks for any
certificate                        of the authority that signed the gateway's
warehouse_url                      for the role `etl`, while PostgreSQL runs
marks                              its processes, by name
"""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from flows import files
from flows.api import server
from flows.lab.processes import Mark
from flows.settings import CannotRun


@contextlib.contextmanager
def locked() -> Generator[Path]:
    """Yield the lab's folder, which no other process starts or stops until the block ends.

    Raises CannotRun if it cannot be written to.
    """
    folder = files.folder()
    try:
        with files.lock(folder / "lab.lock"):
            for name in ("prefect", "logs"):
                (folder / name).mkdir(exist_ok=True)
            yield folder
    except OSError as error:
        raise CannotRun(
            f"The lab's folder {folder} cannot be used: {error.strerror or error}."
            " Set FLOWS_LAB_DIR to a folder that you can write to, on a disk with some free space."
        ) from error


def marks() -> dict[str, Mark]:
    """Return the marks of the lab's processes, running or not, by name."""
    return {name: Mark(*mark) for name, mark in server.read_lab().get("marks", {}).items()}


def write(folder: Path, state: dict[str, Any]) -> None:
    """Replace `lab.json`."""
    files.replace(folder / "lab.json", json.dumps(state))
