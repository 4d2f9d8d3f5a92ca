"""The lab's folder, and its files that several processes share: locked while they change, replaced as a whole."""

import contextlib
import fcntl
import tempfile
from collections.abc import Generator
from pathlib import Path

from filelock import BaseFileLock, FileLock

from flows import settings
from flows.settings import CannotRun


def folder() -> Path:
    """Return the lab's folder, made if it does not exist. Raises CannotRun if no file can be made or locked there."""
    lab = settings.read().flows_lab_dir
    with writable(lab):
        lab.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=lab, buffering=0) as file:
            file.write(bytes(4096))  # a full disk has room for an empty file
            with writable(lab, ", because its disk refuses to lock files, as some network disks do"):
                fcntl.flock(file, fcntl.LOCK_EX)
    return lab


@contextlib.contextmanager
def writable(folder: Path, why: str = "") -> Generator[None]:
    """Raise CannotRun, with the `folder` and what to do, for an error of its disk in the block."""
    try:
        yield
    except OSError as error:
        todo = "Set FLOWS_LAB_DIR to a folder that you can write to, on a local disk with some free space."
        raise CannotRun(f"The lab's folder {folder} cannot be used{why}: {error.strerror or error}. {todo}") from error


def lock(file: Path, mode: int = 0o600, blocking: bool = True) -> BaseFileLock:
    """Return the lock on `file`, to be held in a `with` block; any thread, or the end of its process, frees it."""
    return FileLock(file, mode=mode, blocking=blocking, thread_local=False)


def held(file: Path) -> bool:
    """Return whether a process holds the lock on `file`: here, in a container, or as another user."""
    with contextlib.suppress(FileNotFoundError), file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def replace(file: Path, text: str, mode: int = 0o644) -> None:
    """Write `text` to `file` so that a reader sees the old text or the new one, and nothing in between."""
    new = file.with_suffix(".new")
    with writable(file.parent):
        new.touch(mode)
        new.write_text(text)
        new.replace(file)
