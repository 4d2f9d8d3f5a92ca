"""Folders in /tmp for the sockets of the lab's servers: a socket's path may have 107 characters, a project's more."""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from flows.settings import CannotRun


def folder(files: Path) -> Path:
    """Return the folder for the sockets of the server whose own files are in `files`."""
    return Path("/tmp") / f"flows-{os.getuid()}-{hashlib.sha256(str(files).encode()).hexdigest()[:12]}"


def make_private(folder: Path) -> None:
    """Make `folder` if it does not exist. Raises CannotRun if other users made it, or can enter it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise CannotRun(
            f"{folder} is not a folder that only you can enter, so other users could reach the server in it."
            " Remove it, or ask the user who made it to remove it."
        )
