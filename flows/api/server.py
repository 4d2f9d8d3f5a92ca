"""Which Prefect server is meant: the one that the user named, or the local lab's."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from flows import settings, versions
from flows.api import address, credentials, environment
from flows.settings import CannotRun

OF_LAB = "FLOWS_LAB_API_URL"  # set beside PREFECT_API_URL if the kit, not the user, chose the lab's server


def use() -> str:
    """Return the API address of the server in use; start the lab if no server is named and the lab is down.

    From then on this process and its children use that server with the credentials that go with it, even if Prefect
    was imported before. Raises CannotRun if the lab cannot be started.
    """
    if _named(settings.read()) is None:
        from flows import lab  # here, because its packages are only installed if the lab is used

        lab.up()
    return attach()


def attach() -> str:
    """Return the API address of the server in use, as `use` does, but start nothing.

    Raises CannotRun if no server is named and the lab is down.
    """
    known = settings.read()
    url = _named(known)
    if url:
        address.check(url)
        chosen = known.prefect_api_key, known.prefect_api_auth_string, known.prefect_api_ssl_cert_file
    else:
        lab = read_lab()
        url = lab.get("api_url")
        if url is None:
            next_step = "Start the lab (python scripts/lab.py up), or set it."
            raise CannotRun(f"PREFECT_API_URL is not set and the lab is down. {next_step}")
        os.environ[OF_LAB] = url
        chosen = _secret(lab.get("key_file"), "Bearer "), _secret(lab.get("auth_string_file")), lab.get("certificate")
    environment.prepare(url, own_database=known.warehouse_url is None)
    credentials.use(url, *chosen)
    return url


def is_lab(url: str) -> bool:
    """Return whether `url` is the address of the lab's server."""
    return url.replace("//localhost:", "//127.0.0.1:") == read_lab().get("api_url")


def read_lab() -> dict[str, Any]:
    """Return what the lab last wrote about itself, or {}; `flows.lab.state` describes the keys.

    After a crash it is out of date: it says how to reach the lab, not that the lab answers.
    """
    with contextlib.suppress(OSError, ValueError):
        return json.loads((settings.read().flows_lab_dir / "lab.json").read_text())
    return {}


def check_prefect(url: str) -> None:
    """Raise CannotRun if the Prefect installed here and the server in use (at `url`) are different major versions."""
    from flows.api import endpoints, rest  # here, because they import this module

    theirs, ours = rest.send(endpoints.version()), versions.here()
    line = versions.line(theirs)
    if line is not versions.line(ours):
        differ = f"The server at {url} is Prefect {theirs or 'Cloud'}, but this environment has {ours}"
        environment = ".venv-prefect2" if line is versions.PREFECT_2 else ".venv"
        next_step = f"Use the environment {environment}, as docs/versions.md explains."
        raise CannotRun(f"{differ}; that server cannot run its flows. {next_step}")


def _named(known: settings.Settings) -> str | None:
    """Return the address of the server that the user named, or None: then the lab's is meant."""
    return None if known.prefect_api_url == os.environ.get(OF_LAB) else known.prefect_api_url


def _secret(file: str | None, prefix: str = "") -> SecretStr | None:
    """Return the rest of the first line in `file` that begins with `prefix`, or None if there is none."""
    line = re.search(rf"^{prefix}(.+)$", Path(file).read_text() if file else "", re.MULTILINE)
    return SecretStr(line[1]) if line else None
