"""Say which server and which credentials are in force, and whether they work: `python scripts/test_prefect_auth.py`.

Where they do not, it says why and what to do next.
"""

import sys
from dataclasses import asdict

from flows import cli, settings
from flows.api import credentials, diagnosis, server
from flows.settings import CannotRun


def main() -> int:
    """Print what the server says. Returns 1 where it refuses; raises CannotRun where no Prefect server answers."""
    parser = cli.Arguments(description="Check which server and which credentials are in force.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        origins = _origins()
        found = diagnosis.check(server.use())
    except CannotRun as error:
        if arguments.json:
            cli.print_json(asdict(diagnosis.Check(None, detail=str(error))))
        raise
    if arguments.json:
        cli.print_json(asdict(found))
    else:
        print(f"Server:      {found.api_url} ({origins.get('PREFECT_API_URL', 'the lab')})")
        print(f"Version:     {found.server_version or 'unknown'}")
        print(f"Credentials: {_credentials(found.scheme, origins)}")
        print(f"Accepted:    {'yes' if found.accepted else 'no'}")
    if not found.reachable:
        raise CannotRun(found.detail)
    if found.detail and not (arguments.json and found.accepted):
        print(found.detail, file=sys.stderr if arguments.json else sys.stdout)
    return 0 if found.accepted else 1


def _origins() -> dict[str, str]:
    """Where each variable that is set has its value from; asked before the kit sets any itself."""
    if settings.read().prefect_api_url is None:
        return {}  # the lab's own credentials are used, whatever is set
    names = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
    return {name: where for name in names if (where := settings.origin(name))}


def _credentials(scheme: str, origins: dict[str, str]) -> str:
    if credentials.own_header() is not None:
        name = "PREFECT_CLIENT_CUSTOM_HEADERS"
        return f"{scheme} ({name}, {settings.origin(name)})"
    known = settings.read()
    name = {"basic": "PREFECT_API_AUTH_STRING", "bearer": "PREFECT_API_KEY"}.get(scheme)
    secret = {"basic": known.prefect_api_auth_string, "bearer": known.prefect_api_key}.get(scheme)
    if name is None or secret is None:
        return scheme
    return f"{scheme} {credentials.masked(secret)} ({name}, {origins.get(name, 'the lab')})"


if __name__ == "__main__":
    cli.run(main)
