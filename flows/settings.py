"""The environment variables that the kit reads, typed; `.env.example` explains each of them."""

from pathlib import Path

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent.parent


class CannotRun(Exception):
    """What was asked for cannot be done. The message names the cause and the next step; commands exit with 2."""


class Settings(BaseSettings):
    """One field for each variable. The environment wins over `.env` in the project's folder; empty means unset."""

    model_config = SettingsConfigDict(env_file=PROJECT / ".env", env_ignore_empty=True, extra="ignore")

    prefect_api_url: str | None = None
    prefect_api_key: SecretStr | None = None
    prefect_api_auth_string: SecretStr | None = None
    warehouse_url: SecretStr | None = None
    flows_lab_dir: Path = PROJECT / ".lab"
    flows_pg_bin: Path | None = None


def read() -> Settings:
    """The settings as the environment and `.env` have them now.

    Raises CannotRun where a variable holds what cannot be meant, such as an API address without `/api`.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise CannotRun(f"{name} cannot be read: {first['msg']}. Correct it in the environment or in .env.") from None
    url = settings.prefect_api_url
    if url is not None:
        settings.prefect_api_url = url = url.rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise CannotRun(f"PREFECT_API_URL is {url!r}, which names no server. Write http://HOST:4200/api.")
        if "/api" not in url.split("://", 1)[1]:
            raise CannotRun(f"PREFECT_API_URL is {url}, the address of a page. The API's ends in /api: {url}/api")
    # Relative to the project, and not to wherever a worker or a notebook happens to run.
    settings.flows_lab_dir = (PROJECT / settings.flows_lab_dir.expanduser()).resolve()
    if settings.flows_pg_bin is not None:
        settings.flows_pg_bin = (PROJECT / settings.flows_pg_bin.expanduser()).resolve()
    return settings
