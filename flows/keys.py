"""The lab's own secrets: random, made on first use, kept in files that only their owner may read."""

import os
import re
import secrets
from pathlib import Path

from pydantic import SecretStr

from flows import settings
from flows.settings import CannotRun

FIRST = "first"


def auth_string() -> SecretStr:
    """The `user:password` that the lab's server asks for with `--auth basic`."""
    file = auth_string_file()
    if not file.exists():
        _write(file, f"admin:{secrets.token_urlsafe(24)}\n")
    return SecretStr(file.read_text().strip())


def bearer() -> dict[str, SecretStr]:
    """The keys that the lab's gateway knows, by the name of their holder; one to begin with."""
    file = bearer_file()
    if not file.exists():
        _write(file, f"pnu_{secrets.token_urlsafe(27)} {FIRST}\n")
    lines = [line.split() for line in file.read_text().splitlines()]
    for line in lines:
        if len(line) != 2 or not re.fullmatch(r"[\w.~+/=-]+", line[0], re.ASCII) or not _is_name(line[1]):
            raise CannotRun(f"{file} has a line that is not a key, a space and a name. Correct it, or delete the file.")
    return {name: SecretStr(key) for key, name in lines}


def issue(name: str) -> SecretStr:
    """A new key for `name`, in place of the one it had. The gateway knows it once `lab.up()` was called."""
    if not _is_name(name):
        raise CannotRun(f"{name!r} cannot name a key's holder. Use letters, digits and - only.")
    key = SecretStr(f"pnu_{secrets.token_urlsafe(27)}")
    _keep(bearer() | {name: key})
    return key


def revoke(name: str) -> None:
    """Forget the key of `name`. The gateway refuses it once `lab.up()` was called."""
    _keep({holder: key for holder, key in bearer().items() if holder != name})


def bearer_file() -> Path:
    """The file that `bearer` reads: a line for each key, with its holder's name behind it."""
    return _file("keys")


def auth_string_file() -> Path:
    """The file that `auth_string` reads: one line."""
    return _file("auth_string")


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9-]+", name) is not None


def _keep(known: dict[str, SecretStr]) -> None:
    _write(bearer_file(), "".join(f"{key.get_secret_value()} {name}\n" for name, key in known.items()))


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
