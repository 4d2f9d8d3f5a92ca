"""The environment variables that the kit reads, typed; `.env.example` explains each of them.

What a variable is comes from the environment, else from `.env` in the project's folder, else, for PREFECT_API_…, from
the active Prefect profile. Prefect's own programs read the same places, in the same order.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import tomli
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent.parent
# How the paths of the server's own pages end.
_PAGE = re.compile(
    r"/(dashboard|runs|flow-runs?|task-runs?|flows?|deployments?|work-pools?|work-queues?|blocks?|variables|artifacts?"
    r"|automations?|events?|concurrency-limits?|notifications|settings|docs|login)(/.*)?$"
)
_IDS = re.compile(r"/accounts?/([0-9a-f-]{36})/workspaces?/([0-9a-f-]{36})")


class CannotRun(Exception):
    """What was asked for cannot be done. The message names the cause and the next step; commands exit with 2."""


class Refused(CannotRun):
    """The server refuses the credentials, or would: commands exit with 1."""


class Settings(BaseSettings):
    """One field for each variable; empty means unset."""

    model_config = SettingsConfigDict(env_file=PROJECT / ".env", env_ignore_empty=True, extra="ignore")

    prefect_api_url: str | None = None
    prefect_api_key: SecretStr | None = None
    prefect_api_auth_string: SecretStr | None = None
    prefect_client_custom_headers: SecretStr | None = None
    prefect_api_ssl_cert_file: Path | None = None
    prefect_api_tls_insecure_skip_verify: bool = False
    warehouse_url: SecretStr | None = None
    monitor_read_only: bool = False
    flows_lab_dir: Path = PROJECT / ".lab"
    flows_pg_bin: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The places to look in, the first one winning."""
        _, variables = _profile()
        profile = {name.lower(): value for name, value in variables.items() if value != ""}
        return env_settings, dotenv_settings, InitSettingsSource(settings_cls, profile)


def read() -> Settings:
    """The settings as they are now.

    Raises CannotRun where a variable holds what cannot be meant, such as an API address without `/api`.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise CannotRun(f"{name} cannot be read: {first['msg']}. Correct it in {origin(name)}.") from None
    url = settings.prefect_api_url
    if url is not None:
        settings.prefect_api_url = url = url.strip().rstrip("/")
        _check_address(url)
    # Relative to the project, and not to wherever a worker or a notebook happens to run.
    settings.flows_lab_dir = (PROJECT / settings.flows_lab_dir.expanduser()).resolve()
    if settings.flows_pg_bin is not None:
        settings.flows_pg_bin = (PROJECT / settings.flows_pg_bin.expanduser()).resolve()
    return settings


def _check_address(url: str) -> None:
    """Raise CannotRun for an API address that cannot be one. What may be, or hold, a secret is not shown."""
    wrong = None
    if "@" in url:
        wrong = (
            "has credentials in it, which every message would show."
            " Write http://HOST:4200/api there, and set PREFECT_API_AUTH_STRING=user:password."
        )
    elif not url.startswith(("http://", "https://")):
        wrong = "names no server: it has no http:// before it. Write http://HOST:4200/api."
    else:
        try:
            urlsplit(url)  # as Prefect does, which refuses brackets that httpx takes for a name
            address = httpx.URL(url)
            host, path = address.host, address.path
            if not host.encode("idna") or not 0 < (address.port or 80) < 65536:
                raise ValueError("no host, or a port that there is not")
        except (httpx.InvalidURL, ValueError):
            wrong = "has no host or port that can be read. Write http://HOST:4200/api."
    if wrong:
        raise CannotRun(f"PREFECT_API_URL, from {origin('PREFECT_API_URL')}, {wrong}")
    if host == "prefect.cloud" or host.endswith(".prefect.cloud"):
        cloud = "https://api.prefect.cloud/api/accounts/{}/workspaces/{}"
        found = _IDS.search(path)
        right = cloud.format(*found.groups()) if found else cloud.format("ACCOUNT_ID", "WORKSPACE_ID")
        if url != right:
            raise CannotRun(
                f"{url} names no workspace of Prefect Cloud. PREFECT_API_URL is {right}; the page of a workspace shows"
                " both ids in its own address."
            )
    elif "/api" not in path:
        api = f"{address.scheme}://{address.netloc.decode()}{_PAGE.sub('', path).rstrip('/')}/api"
        raise CannotRun(f"PREFECT_API_URL is {url}, the address of a page. The API's ends in /api: {api}")


def unreadable(error: ValueError) -> CannotRun:
    """What to raise where Prefect cannot read its settings; it has many that the kit knows nothing of."""
    said = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    where = "in the environment, in .env or in the Prefect profile"
    return CannotRun(f"Prefect cannot read its settings ({said}). Correct or unset that PREFECT_ variable {where}.")


def origin(name: str) -> str | None:
    """Where the variable `name` has its value from: "the environment", ".env" or "the profile '…'"; None if unset."""
    if os.environ.get(name):
        return "the environment"
    if dotenv_values(PROJECT / ".env").get(name):
        return ".env"
    profile, variables = _profile()
    return f"the profile {profile!r}" if variables.get(name) else None


def _profile() -> tuple[str, dict[str, Any]]:
    """The name of the active Prefect profile, and its PREFECT_API_… variables."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        written = tomli.loads(file.read_text())
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError) as error:
        raise CannotRun(f"Prefect's profiles in {file} cannot be read: {error}. Correct or remove the file.") from None
    name = os.environ.get("PREFECT_PROFILE") or written.get("active", "")
    variables = written.get("profiles", {}).get(name, {})
    return name, {key: value for key, value in variables.items() if key.startswith("PREFECT_API_")}
