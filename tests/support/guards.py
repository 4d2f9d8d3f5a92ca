"""Labs that check their callers, credentials for them, and what the commands printed that were given some."""

import base64
import json
import subprocess

import pytest

from flows.api import endpoints, rest
from flows.lab import keys
from support.commands import run
from support.servers import forget_servers

CHECK = "scripts/test_prefect_auth.py"
WRONG_KEY, WRONG_PAIR = "pnu_0123456789abcdefghijklmnopqrstuvwxyz", "admin:0123456789abcdefghijkl"

printed: list[str] = []  # by all commands that `kit` ran
_secrets: set[str] = set()


def kit(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the kit, and remember what it printed."""
    done = run(program, *arguments, **variables)
    printed.extend([done.stdout, done.stderr])
    return done


def variables_of(server: str, which: str) -> dict[str, str]:
    """Return the variables with the right, wrong, missing or other kind of credentials for a server guarded so."""
    pair, key = keys.auth_string().get_secret_value(), next(iter(keys.bearer().values())).get_secret_value()
    own = {"none": {}, "basic": {"PREFECT_API_AUTH_STRING": pair}, "gateway": {"PREFECT_API_KEY": key}}
    wrong = {"basic": {"PREFECT_API_AUTH_STRING": WRONG_PAIR}, "gateway": {"PREFECT_API_KEY": WRONG_KEY}}
    other = {"basic": {"PREFECT_API_KEY": key}, "gateway": {"PREFECT_API_AUTH_STRING": pair}}
    match which:
        case "right":
            return own[server]
        case "wrong":
            return wrong.get(server, {"PREFECT_API_KEY": WRONG_KEY})
        case "other":
            return other.get(server, {"PREFECT_API_AUTH_STRING": WRONG_PAIR})
    return {}


def own_header(value: object) -> dict[str, str]:
    """Return the variable of a user who writes the Authorization header by hand."""
    return {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"Authorization": value})}


def set_to(monkeypatch: pytest.MonkeyPatch, url: str, **variables: str) -> None:
    """Make the environment that of a user who named the server at `url`."""
    forget_servers(monkeypatch)
    for name, value in {"PREFECT_API_URL": url, **variables}.items():
        monkeypatch.setenv(name, value)


def task_runs(flow_run: str) -> int:
    """Return how many task runs of a flow run the server has recorded."""
    return rest.send(endpoints.count(endpoints.task_runs(flow_run=flow_run)))


def secrets() -> set[str]:
    """Return all that the guarded lab has ever kept secret, and that it was asked for in time."""
    pair = keys.auth_string().get_secret_value()
    _secrets.update(key.get_secret_value() for key in keys.bearer().values())
    _secrets.update([pair, pair.partition(":")[2], base64.b64encode(pair.encode()).decode()])
    return _secrets
