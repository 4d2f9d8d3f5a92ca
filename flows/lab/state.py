"""The lab's folder, which one process at a time may change, and `lab.json`, what the lab writes about itself there.

folder                             where it was written: a copy of it elsewhere describes a lab that is not the copy's
auth                               "none", "basic" or "gateway"
https                              whether the gateway uses TLS
api_url, prefect_version           of its server, while it runs
key_file, auth_string_file         where its credentials are, if it asks for any
certificate                        of the authority that signed the gateway's
warehouse_url                      for the role `etl`, while PostgreSQL runs
pids                               of its processes, by name, as its starter sees them
"""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from flows import files, settings
from flows.api import server


@contextlib.contextmanager
def locked() -> Generator[Path]:
    """Yield the lab's folder, locked against other processes. Raises CannotRun if it cannot be written to."""
    with files.writable(folder := files.folder()), files.lock(folder / "lab.lock"):
        for name in ("prefect", "logs"):
            (folder / name).mkdir(exist_ok=True)
        yield folder


def read() -> dict[str, Any]:
    """Return what `lab.json` says about the lab in this folder, running or not."""
    facts, here = server.read_lab(), str(settings.read().flows_lab_dir)
    return facts if facts.get("folder", here) == here else lasting(facts)


def lasting(facts: dict[str, Any]) -> dict[str, Any]:
    """Return those of the `facts` that stay true when the lab is stopped: how its callers are checked."""
    return {key: facts[key] for key in ("auth", "https") if key in facts}


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Replace `lab.json`."""
    files.replace(folder / "lab.json", json.dumps(facts | {"folder": str(folder)}))
