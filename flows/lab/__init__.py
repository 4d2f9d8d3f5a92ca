"""The local lab: PostgreSQL, a Prefect server and its gateway, from Python packages. Raises CannotRun without them."""

from importlib.util import find_spec

from flows import settings
from flows.settings import CannotRun


def missing(package: str, otherwise: str = "") -> CannotRun:
    """Return what to raise if `package` is not installed; `otherwise` is what else helps, if anything does."""
    variables = settings.read()
    named = {"PREFECT_API_URL": variables.prefect_api_url, "WAREHOUSE_URL": variables.warehouse_url}
    unset = " and ".join(name for name, value in named.items() if value is None)
    reason = f"{unset} not set, so the local lab is needed, but" if unset else "The local lab cannot run, because"
    remedies = ["install the lab's packages with `uv sync --group lab`", otherwise, unset and f"set {unset}"]
    advice = ", or ".join(filter(None, remedies))
    return CannotRun(f"{reason} its package {package} is not installed. {advice[0].upper()}{advice[1:]}.")


if find_spec("psutil") is None:
    raise missing("psutil")

from flows.lab.lifecycle import Lab, database, down, reset, status, up  # noqa: E402 (they need the package)

__all__ = ["Lab", "database", "down", "reset", "status", "up"]
