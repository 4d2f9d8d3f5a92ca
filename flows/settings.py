"""The environment variables that the kit reads, typed; `.env.example` explains each of them.

The environment wins over `.env` in the project's folder, and that, for PREFECT_API_…, over the active Prefect profile.
Prefect's own programs read the same places, in the same order.
"""

import os
from pathlib import Path
from typing import Any

import tomli
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source

PROJECT = Path(__file__).resolve().parent.parent


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
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """Return the sources of the settings; the first one that has a value wins."""
        _, variables = _profile()
        profile = {name.lower(): value for name, value in variables.items() if value != ""}
        return env_settings, dotenv_settings, InitSettingsSource(settings_cls, profile)


def read() -> Settings:
    """Return the settings as they are now. Raises CannotRun if a variable has a value of the wrong kind."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise CannotRun(f"{name} cannot be read: {first['msg']}. Correct it in {origin(name)}.") from None
    if settings.prefect_api_url is not None:
        settings.prefect_api_url = settings.prefect_api_url.strip().rstrip("/")
    # Relative to the project, and not to wherever a worker or a notebook happens to run.
    settings.flows_lab_dir = (PROJECT / settings.flows_lab_dir.expanduser()).resolve()
    if settings.flows_pg_bin is not None:
        settings.flows_pg_bin = (PROJECT / settings.flows_pg_bin.expanduser()).resolve()
    return settings


def unreadable(error: ValueError) -> CannotRun:
    """Return what to raise if Prefect cannot read its settings, of which it has many more than the kit."""
    problem = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    where = "in the environment, in .env or in the Prefect profile"
    return CannotRun(f"Prefect cannot read its settings ({problem}). Correct or unset that PREFECT_ variable {where}.")


def origin(name: str) -> str | None:
    """Return where `name` has its value from: "the environment", ".env" or "the profile '…'"; None if it is unset."""
    if os.environ.get(name):
        return "the environment"
    if dotenv_values(PROJECT / ".env").get(name):
        return ".env"
    profile, variables = _profile()
    return f"the profile {profile!r}" if variables.get(name) else None


def _profile() -> tuple[str, dict[str, Any]]:
    """Return the name of the active Prefect profile, and its PREFECT_API_… variables."""
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
