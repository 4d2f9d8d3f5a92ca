"""The lab's own secrets: random, made on first use, kept in files that only their owner may read."""

import contextlib
import re
import secrets
from collections.abc import Generator
from pathlib import Path

from pydantic import SecretStr

from flows import files, settings
from flows.settings import CannotRun

FIRST = "first"
_ENTRY = re.compile(r"# ([A-Za-z0-9-]+)\nBearer ([\w.~+/=-]+)\n", re.ASCII)


def auth_string() -> SecretStr:
    """Return the `user:password` that the lab's server requires with `--auth basic`."""
    own = file("auth_string")
    with files.lock(file("lock")):
        if not own.exists():
            files.replace(own, f"admin:{secrets.token_urlsafe(24)}\n", 0o600)
        return SecretStr(own.read_text().strip())


def bearer() -> dict[str, SecretStr]:
    """Return the keys that the lab's gateway accepts, by the name of their holder; a new lab has one, FIRST.

    Raises CannotRun if their `file` was edited and cannot be read any more.
    """
    with _changing() as keys:
        return keys


def issue(name: str) -> SecretStr:
    """Return a new key for `name`, which replaces an earlier one. The gateway accepts it from now on."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise CannotRun(f"{name!r} cannot name a key's holder. Use only letters, digits and hyphens.")
    with _changing() as keys:
        keys[name] = _new()
        return keys[name]


def revoke(name: str) -> None:
    """Remove the key of `name`. The gateway refuses it from now on. Raises CannotRun if there is no such holder."""
    with _changing() as keys:
        if keys.pop(name, None) is None:
            raise CannotRun(f"No key belongs to {name!r}. Holders of keys: {', '.join(keys) or 'none'}.")


def file(name: str) -> Path:
    """Return a secret file: "keys", of a line `# NAME` and a line `Bearer KEY` for each key, or "auth_string"."""
    folder = settings.read().flows_lab_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


@contextlib.contextmanager
def _changing() -> Generator[dict[str, SecretStr]]:
    """Yield the keys, and write what the block makes of them; no key that is revoked in between comes back."""
    own = file("keys")
    with files.lock(file("lock")):
        text = own.read_text() if own.exists() else ""
        if not re.fullmatch(f"({_ENTRY.pattern})*", text, re.ASCII):
            raise CannotRun(
                f"{own} cannot be read: it needs a line `# NAME` and a line `Bearer KEY` for each key, and nothing"
                " else. Correct the file, or delete it to get a new key."
            )
        keys = {name: SecretStr(key) for name, key in _ENTRY.findall(text)} if own.exists() else {FIRST: _new()}
        yield keys
        changed = "".join(f"# {name}\nBearer {key.get_secret_value()}\n" for name, key in keys.items())
        if changed != text:
            files.replace(own, changed, 0o600)


def _new() -> SecretStr:
    return SecretStr(f"pnu_{secrets.token_urlsafe(27)}")
