"""The lab's own secrets: random, made on first use, kept in files that only their owner may read."""

import re
import secrets
from pathlib import Path

from filelock import BaseFileLock
from pydantic import SecretStr

from flows import files, settings
from flows.settings import CannotRun

FIRST = "first"
_ENTRY = re.compile(r"# ([A-Za-z0-9-]+)\nBearer ([\w.~+/=-]+)\n", re.ASCII)


def auth_string() -> SecretStr:
    """Return the `user:password` that the lab's server requires with `--auth basic`."""
    file = auth_string_file()
    with _locked():
        if not file.exists():
            files.replace(file, f"admin:{secrets.token_urlsafe(24)}\n", 0o600)
        return SecretStr(file.read_text().strip())


def bearer() -> dict[str, SecretStr]:
    """Return the keys that the lab's gateway accepts, by the name of their holder; a new lab has one, FIRST.

    Raises CannotRun if their file (`bearer_file`) was edited and cannot be read any more.
    """
    with _locked():
        return _bearer()


def issue(name: str) -> SecretStr:
    """Return a new key for `name`, which replaces an earlier one. The gateway accepts it from now on."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise CannotRun(f"{name!r} cannot name a key's holder. Use only letters, digits and hyphens.")
    key = _new()
    with _locked():
        _write(_bearer() | {name: key})
    return key


def revoke(name: str) -> None:
    """Remove the key of `name`. The gateway refuses it from now on. Raises CannotRun if there is no such holder."""
    with _locked():
        keys = _bearer()
        if name not in keys:
            raise CannotRun(f"No key belongs to {name!r}. Holders of keys: {', '.join(keys) or 'none'}.")
        _write({holder: key for holder, key in keys.items() if holder != name})


def bearer_file() -> Path:
    """Return the file that the gateway reads: for each key a line `# NAME` and a line `Bearer KEY`."""
    return _file("keys")


def auth_string_file() -> Path:
    """Return the file that holds the `auth_string`, in one line."""
    return _file("auth_string")


def _locked() -> BaseFileLock:
    """Return the lock on the secrets: a key revoked between another's reading and writing would come back."""
    return files.lock(_file("lock"))


def _bearer() -> dict[str, SecretStr]:
    file = bearer_file()
    if not file.exists():
        _write({FIRST: _new()})
    text = file.read_text()
    if not re.fullmatch(f"({_ENTRY.pattern})*", text, re.ASCII):
        raise CannotRun(
            f"{file} cannot be read: it needs a line `# NAME` and a line `Bearer KEY` for each key, and nothing else."
            " Correct the file, or delete it to get a new key."
        )
    return {name: SecretStr(key) for name, key in _ENTRY.findall(text)}


def _new() -> SecretStr:
    return SecretStr(f"pnu_{secrets.token_urlsafe(27)}")


def _write(keys: dict[str, SecretStr]) -> None:
    lines = [f"# {name}\nBearer {key.get_secret_value()}\n" for name, key in keys.items()]
    files.replace(bearer_file(), "".join(lines), 0o600)


def _file(name: str) -> Path:
    folder = settings.read().flows_lab_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name
