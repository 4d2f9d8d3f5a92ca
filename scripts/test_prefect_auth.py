"""Show which server and credentials are in use, whether they work, and if not, why and what to do next.

python scripts/test_prefect_auth.py [--json]
"""

import sys
from dataclasses import asdict

from flows import cli, settings
from flows.api import credentials, diagnosis, server
from flows.settings import CannotRun


def main() -> int:
    """Print the server's verdict. Return 1 if it refuses the credentials; raise CannotRun if no server answers."""
    parser = cli.Arguments(description="Check which server and which credentials are in use.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        origins = _origins()
        verdict = diagnosis.check(server.use())
    except CannotRun as error:
        if arguments.json:
            cli.print_json(asdict(diagnosis.Check(None, detail=str(error))))
        raise
    if arguments.json:
        cli.print_json(asdict(verdict))
    else:
        print(f"Server:      {verdict.api_url} ({origins.get('PREFECT_API_URL', 'the lab')})")
        print(f"Version:     {verdict.server_version or 'unknown'}")
        print(f"Credentials: {_credentials(verdict.scheme, origins)}")
        print(f"Accepted:    {'yes' if verdict.accepted else 'no'}")
    if not verdict.reachable:
        raise CannotRun(verdict.detail)
    if verdict.detail and not (arguments.json and verdict.accepted):
        print(verdict.detail, file=sys.stderr if arguments.json else sys.stdout)
    return 0 if verdict.accepted else 1


def _origins() -> dict[str, str]:
    """Return where each variable that is set comes from; call it before the kit sets any itself."""
    if settings.read().prefect_api_url is None:
        return {}  # the lab's own credentials are used, whatever is set
    names = ("PREFECT_API_URL", credentials.KEY, credentials.AUTH_STRING)
    return {name: origin for name in names if (origin := settings.origin(name))}


def _credentials(scheme: str, origins: dict[str, str]) -> str:
    sent = credentials.sent()
    if sent is None:
        return scheme
    if sent.variable == credentials.HEADERS:
        return f"{scheme} ({sent.variable}, {settings.origin(sent.variable)})"
    return f"{scheme} {credentials.masked(sent.secret)} ({sent.variable}, {origins.get(sent.variable, 'the lab')})"


if __name__ == "__main__":
    cli.run(main)
