"""The lab's folder: held by one process at a time, and what is written there of the lab's processes."""

import contextlib
import fcntl
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from flows import settings
from flows.lab.processes import Mark
from flows.settings import CannotRun


@contextlib.contextmanager
def held() -> Generator[Path]:
    """The lab's folder, held by this process alone. Raises CannotRun where it cannot be written."""
    folder = settings.read().flows_lab_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("prefect", "logs"):
            (folder / name).mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(handle)
    except OSError as error:
        raise CannotRun(
            f"The lab's folder {folder} cannot be used: {error.strerror or error}."
            " Set FLOWS_LAB_DIR to a folder that you can write, with some room on its disk."
        ) from error


def read(folder: Path) -> dict[str, Any]:
    """What was last written of the lab in `folder`, or {}."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "lab.json").read_text())
    return {}


def marks(folder: Path) -> dict[str, Mark]:
    """The marks of the lab's processes, running or not, by name."""
    return {name: Mark(*mark) for name, mark in read(folder).get("marks", {}).items()}


def write(folder: Path, state: dict[str, Any]) -> None:
    """Keep `state` of the lab in `folder`."""
    new = folder / "lab.json.new"
    new.write_text(json.dumps(state))
    new.replace(folder / "lab.json")
