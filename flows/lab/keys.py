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
    """The `user:password` that the lab's server asks for with `--auth basic`."""
    file = auth_string_file()
    with _locked():
        if not file.exists():
            files.replace(file, f"admin:{secrets.token_urlsafe(24)}\n", 0o600)
        return SecretStr(file.read_text().strip())


def bearer() -> dict[str, SecretStr]:
    """The keys that the lab's gateway lets in, by the name of their holder; one to begin with.

    Raises CannotRun for a file (`bearer_file`) that was changed by hand to what cannot be meant.
    """
    with _locked():
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
    with _locked():
        _keep(_bearer() | {name: key})
    return key


def revoke(name: str) -> None:
    """Forget the key of `name`. The gateway refuses it from now on. Raises CannotRun where there is no such holder."""
    with _locked():
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


def _locked() -> BaseFileLock:
    """Return the lock on the secrets: a key revoked between another's reading and writing would come back."""
    return files.lock(_file("lock"))


def _new() -> SecretStr:
    return SecretStr(f"pnu_{secrets.token_urlsafe(27)}")


def _keep(known: dict[str, SecretStr]) -> None:
    files.replace(
        bearer_file(), "".join(f"# {name}\nBearer {key.get_secret_value()}\n" for name, key in known.items()), 0o600
    )


def _file(name: str) -> Path:
    folder = settings.read().flows_lab_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name
