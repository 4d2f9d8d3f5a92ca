"""The address of a Prefect server's API, checked before anything is sent there."""

import re
from urllib.parse import urlsplit

import httpx

from flows.settings import CannotRun, origin

# The ends of the paths of the server's own pages.
_PAGE = re.compile(
    r"/(dashboard|runs|flow-runs?|task-runs?|flows?|deployments?|work-pools?|work-queues?|blocks?|variables|artifacts?"
    r"|automations?|events?|concurrency-limits?|notifications|settings|docs|login|(?i:api))(/.*)?$"
)


def named() -> str:
    """Return PREFECT_API_URL and where it is set, for a sentence that advises to correct it."""
    place = origin("PREFECT_API_URL") or "the environment"
    lab = " (to use the lab: prefect profile create lab, then prefect profile use lab)" if "profile" in place else ""
    return f"PREFECT_API_URL in {place}{lab}"


def check(url: str) -> None:
    """Raise CannotRun if PREFECT_API_URL cannot be `url`. A text that may be, or hold, a secret is not shown."""
    if "@" in url:
        next_step = "Set it to http://HOST:4200/api, and set PREFECT_API_AUTH_STRING=user:password."
        raise CannotRun(f"{named()} has credentials in it, which every message would show. {next_step}")
    if not url.startswith(("http://", "https://")):
        next_step = "Write http://HOST:4200/api."
        raise CannotRun(f"{named()} does not begin with http:// or https:// (in lower case). {next_step}")
    try:
        urlsplit(url)  # as Prefect does, which refuses brackets that httpx takes for a name
        address = httpx.URL(url)
        host, path = address.host, address.path
        if not host.encode("idna") or not 0 < (address.port or 80) < 65536:
            raise ValueError("no host, or a port out of range")
    except (httpx.InvalidURL, ValueError):
        raise CannotRun(f"{named()} has no valid host or port. Write http://HOST:4200/api.") from None
    if host == "prefect.cloud" or host.endswith(".prefect.cloud"):
        ids = re.search("/accounts?/([0-9a-f-]{36})/workspaces?/([0-9a-f-]{36})", path)
        account, workspace = ids.groups() if ids else ("ACCOUNT_ID", "WORKSPACE_ID")
        right = f"https://api.prefect.cloud/api/accounts/{account}/workspaces/{workspace}"
        if url != right:
            next_step = f"Set PREFECT_API_URL to {right}; the page of a workspace shows both ids in its own address."
            raise CannotRun(f"{named()} is not the API address of a Prefect Cloud workspace. {next_step}")
    elif "/api" not in path or re.search("[?#]", url):
        api = f"{address.scheme}://{address.netloc.decode()}{_PAGE.sub('', path).rstrip('/')}/api"
        right = f"The API address contains /api{' and no ? or #' if '/api' in path else ''}: use {api}"
        raise CannotRun(f"{named()} is the address of a web page. {right}")
