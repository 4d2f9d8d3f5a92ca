"""The lab's own secrets: random, made on first use, kept in files that only their owner may read."""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Generator
from pathlib import Path

from pydantic import SecretStr

from flows import settings
from flows.settings import CannotRun

FIRST = "first"
_ENTRY = re.compile(r"# ([A-Za-z0-9-]+)\nBearer ([\w.~+/=-]+)\n", re.ASCII)


def auth_string() -> SecretStr:
    """The `user:password` that the lab's server asks for with `--auth basic`."""
    file = auth_string_file()
    with _held():
        if not file.exists():
            _write(file, f"admin:{secrets.token_urlsafe(24)}\n")
        return SecretStr(file.read_text().strip())


def bearer() -> dict[str, SecretStr]:
    """The keys that the lab's gateway lets in, by the name of their holder; one to begin with.

    Raises CannotRun for a file (`bearer_file`) that was changed by hand to what cannot be meant.
    """
    with _held():
        return _bearer()


def _bearer() -> dict[str, SecretStr]:
    file = bearer_file()
    if not file.exists():
        _keep({FIRST: _new()})
    text = file.read_text()
    if not re.fullmatch(f"({_ENTRY.pattern})*", text, re.ASCII):
        raise CannotRun(f"{file} is not a line `# NAME` and a line `Bearer KEY` for each key. Correct or delete it.")
    return {name: SecretStr(key) for name, key in _ENTRY.findall(text)}


def issue(name: str) -> SecretStr:
    """A new key for `name`, in place of the one it had. The gateway lets it in from now on."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise CannotRun(f"{name!r} cannot name a key's holder. Use letters, digits and - only.")
    key = _new()
    with _held():
        _keep(_bearer() | {name: key})
    return key


def revoke(name: str) -> None:
    """Forget the key of `name`. The gateway refuses it from now on. Raises CannotRun where there is no such holder."""
    with _held():
        known = _bearer()
        if name not in known:
            raise CannotRun(f"Nobody called {name!r} has a key. Those who have: {', '.join(known) or 'nobody'}.")
        _keep({holder: key for holder, key in known.items() if holder != name})


def bearer_file() -> Path:
    """The file that the gateway reads: for each key a line `# NAME` and a line `Bearer KEY`."""
    return _file("keys")


def auth_string_file() -> Path:
    """The file that `auth_string` reads: one line."""
    return _file("auth_string")


@contextlib.contextmanager
def _held() -> Generator[None]:
    """Hold the folder of secrets: a key revoked between another's reading and writing would come back."""
    handle = os.open(bearer_file().parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _new() -> SecretStr:
    return SecretStr(f"pnu_{secrets.token_urlsafe(27)}")


def _keep(known: dict[str, SecretStr]) -> None:
    _write(bearer_file(), "".join(f"# {name}\nBearer {key.get_secret_value()}\n" for name, key in known.items()))


def _file(name: str) -> Path:
    folder = settings.read().flows_lab_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


def _write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    new.replace(file)
