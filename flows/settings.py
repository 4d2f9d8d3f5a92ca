"""The environment variables that the kit reads, typed; `.env.example` explains each of them.

As in Prefect, the environment wins over the project's `.env`, and that, for `PREFECT_API_…`, over the active profile.
"""

import os
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import tomli
from dotenv import dotenv_values
from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource

PROJECT = Path(__file__).resolve().parent.parent
Home = Annotated[Path, AfterValidator(Path.expanduser)]
Ours = Annotated[Home, AfterValidator(lambda path: (PROJECT / path).resolve())]  # relative to PROJECT, not to the cwd


class CannotRun(Exception):
    """What was asked for cannot be done. The message names the cause and the next step; commands exit with 2."""

    answer: Any = None  # the server's, if there was one that is not a success


class Refused(CannotRun):
    """The server refuses the credentials, or would: commands exit with 1."""


class Settings(BaseSettings, env_ignore_empty=True, extra="ignore"):
    """One field for each variable; empty means unset."""

    prefect_api_url: Annotated[str, AfterValidator(lambda url: url.strip().rstrip("/"))] | None = None
    prefect_api_key: SecretStr | None = None
    prefect_api_auth_string: SecretStr | None = None
    prefect_client_custom_headers: SecretStr | None = None
    prefect_api_ssl_cert_file: Home | None = None
    prefect_api_tls_insecure_skip_verify: bool = False
    warehouse_url: SecretStr | None = None
    monitor_read_only: bool = False
    flows_lab_dir: Ours = PROJECT / ".lab"
    flows_pg_bin: Ours | None = None

    @classmethod
    def settings_customise_sources(cls, settings_cls: type[BaseSettings], *_: Any, **sources: Any) -> tuple[Any, ...]:
        """Return the sources of the settings; the first one that has a value wins."""
        return sources["env_settings"], *(InitSettingsSource(settings_cls, values) for values in _files().values())


def read() -> Settings:
    """Return the settings as they are now. Raises CannotRun if a variable has a value of the wrong kind."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise CannotRun(f"{name} cannot be read: {first['msg']}. Correct it in {origin(name)}.") from None
    except RuntimeError:  # from `Path.expanduser`
        unknown = "This user, or the one that a path names after ~, has no home folder."
        raise CannotRun(f"{unknown} Set HOME to a folder that you can write to, or write the path in full.") from None


def unreadable(error: ValueError) -> CannotRun:
    """Return what to raise if Prefect cannot read its settings, of which it has many more than the kit."""
    first = error.errors()[0] if isinstance(error, ValidationError) else None
    problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
    where = "in the environment, in .env or in the Prefect profile"
    return CannotRun(f"Prefect cannot read its settings ({problem}). Correct or unset that PREFECT_ variable {where}.")


def origin(name: str) -> str | None:
    """Return where `name` has its value from: "the environment", ".env" or "the profile '…'"; None if it is unset."""
    given = os.environ.get(name)
    for place, values in _files().items():
        if value := str(values.get(name.lower(), "")):
            copied = given == value.strip().rstrip("/")  # by `credentials.use`
            return place if copied or not given else "the environment"
    return "the environment" if given else None


def _files() -> dict[str, dict[str, Any]]:
    """Return what is set in `.env`, and in the active Prefect profile as PREFECT_API_…, by its place."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        written = tomli.loads(text(file))
        active = os.environ.get("PREFECT_PROFILE") or written.get("active", "")
        variables = written.get("profiles", {}).get(active, {}).items()
        profile = {name: value for name, value in variables if name.startswith("PREFECT_API_")}
    except (AttributeError, TypeError, ValueError) as error:
        raise CannotRun(f"Prefect's profiles in {file} cannot be read: {error}. Correct or remove the file.") from None
    both = {".env": dotenv_values(stream=StringIO(text(PROJECT / ".env"))), f"the profile {active!r}": profile}
    return {place: {name.lower(): value for name, value in own.items() if value} for place, own in both.items()}


def text(file: Path) -> str:
    """Return the text in `file`, "" if there is no such file. Raises CannotRun if it cannot be read."""
    try:
        content = file.read_text("utf-8-sig") if file.exists() else ""
        if "\0" in content:  # UTF-16 without a mark at its beginning is valid UTF-8
            raise UnicodeError("it has NUL bytes, as UTF-16 does")
        return content
    except (OSError, UnicodeError) as error:
        raise CannotRun(f"{file} cannot be read ({error}). Save it as a text file in UTF-8, or remove it.") from None
