"""Which Prefect server is meant: the one that the user named, or the local lab's; and what is between it and here."""

import contextlib
import functools
import ipaddress
import json
import os
import re
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from flows import settings, versions
from flows.api import credentials
from flows.settings import CannotRun

# The ends of the paths of the server's own pages.
_PAGE = re.compile(
    r"/(dashboard|runs|flow-runs?|task-runs?|flows?|deployments?|work-pools?|work-queues?|blocks?|variables|artifacts?"
    r"|automations?|events?|concurrency-limits?|notifications|settings|docs|login|(?i:api))(/.*)?$"
)
TOKENS = "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"
AGAIN = "PREFECT_CLIENT_RETRY_EXTRA_CODES"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
OF_LAB = "FLOWS_LAB_API_URL"  # set beside PREFECT_API_URL if the kit, not the user, chose the lab's server


def use() -> str:
    """Return the API address of the server in use; start the lab if no server is named and the lab is down.

    From then on this process and its children use that server with the credentials that go with it, even if Prefect
    was imported before. Raises CannotRun if the lab cannot be started.
    """
    if _of_user(settings.read()) is None:
        from flows import lab  # here, because its packages are only installed if the lab is used

        lab.up()
    return attach()


def attach() -> str:
    """Return the API address as `use` does, but start nothing: CannotRun if no server is named and the lab is down."""
    variables = settings.read()
    if url := _of_user(variables):
        check_address(url)
        if OF_LAB in os.environ:
            os.environ.pop(TOKENS, None)
        chosen = variables.prefect_api_key, variables.prefect_api_auth_string, credentials.named_certificate(variables)
    else:
        lab = read_lab()
        if (url := lab.get("api_url")) is None:
            next_step = "Start the lab (python scripts/lab.py up), or set it."
            raise CannotRun(f"PREFECT_API_URL is not set and the lab is down. {next_step}")
        os.environ[OF_LAB] = url
        os.environ.setdefault(TOKENS, "false")  # the lab has none, and each new client would ask for one first
        chosen = _secret(lab.get("key_file"), "Bearer "), _secret(lab.get("auth_string_file")), lab.get("certificate")
    os.environ.setdefault(AGAIN, "500")  # as a server answers whose database is away for a moment
    _prepare(url, own_database=variables.warehouse_url is None)
    credentials.use(url, *chosen)
    return url


def named() -> str:
    """Return PREFECT_API_URL and where it is set, for a sentence that advises to correct it."""
    place = settings.origin("PREFECT_API_URL") or "the environment"
    lab = " (to use the lab: prefect profile create lab, then prefect profile use lab)" if "profile" in place else ""
    return f"PREFECT_API_URL in {place}{lab}"


def check_address(url: str) -> None:
    """Raise CannotRun if PREFECT_API_URL cannot be `url`. A text that may be, or hold, a secret is not shown."""
    example = "Write http://HOST:4200/api."
    if "@" in url:
        next_step = "Set it to http://HOST:4200/api, and set PREFECT_API_AUTH_STRING=user:password."
        raise CannotRun(f"{named()} has credentials in it, which every message would show. {next_step}")
    if not url.startswith(("http://", "https://")):
        raise CannotRun(f"{named()} does not begin with http:// or https:// (in lower case). {example}")
    try:
        urlsplit(url)  # as Prefect does, which refuses brackets that httpx takes for a name
        address = httpx.URL(url)
        host, path = address.host, address.path
        if not host.encode("idna") or not 0 < (address.port or 80) < 65536:
            raise ValueError("no host, or a port out of range")
    except (httpx.InvalidURL, ValueError):
        raise CannotRun(f"{named()} has no valid host or port. {example}") from None
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


def is_lab(url: str) -> bool:
    """Return whether `url` is the address of the lab's server."""
    return url.replace("//localhost:", "//127.0.0.1:") == read_lab().get("api_url")


def read_lab() -> dict[str, Any]:
    """Return what the lab last wrote about itself (see `flows.lab.state`), perhaps before a crash; {} if nothing."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((settings.read().flows_lab_dir / "lab.json").read_text())
    return {}


def check_prefect(url: str) -> None:
    """Raise CannotRun if the Prefect installed here and the server in use (at `url`) are different major versions."""
    from flows.api import endpoints, rest  # here, because they import this module

    theirs, ours = rest.send(endpoints.version()), versions.here()
    if versions.is_3(theirs) != versions.is_3(ours):
        differ = f"The server at {url} is Prefect {theirs or 'Cloud'}, but this environment has {ours}"
        environment = ".venv" if versions.is_3(theirs) else ".venv-prefect2"
        next_step = f"Use the environment {environment}, as docs/versions.md explains."
        raise CannotRun(f"{differ}; that server cannot run its flows. {next_step}")


def _of_user(variables: settings.Settings) -> str | None:
    """Return the address of the server that the user named, or None: then the lab's is meant."""
    return None if variables.prefect_api_url == os.environ.get(OF_LAB) else variables.prefect_api_url


def _secret(file: str | None, prefix: str = "") -> SecretStr | None:
    """Return the rest of the first line in `file` that begins with `prefix`, or None if there is none."""
    line = re.search(rf"^{prefix}(.+)$", Path(file).read_text() if file else "", re.MULTILINE)
    return SecretStr(line[1]) if line else None


def _prepare(url: str, *, own_database: bool) -> None:
    """Make the environment of this process and its children fit for requests to `url`.

    With `own_database`, the lab's, no PG… variable stays: libpq would follow it to another one. Raises CannotRun if
    `url` is on another machine and its proxy cannot be used.
    """
    if own_database:
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]
    for name in PROXIES:
        if wrong := _proxy_flaw(os.environ.get(name)):
            if httpx.URL(url).host not in LOOPBACK:
                raise CannotRun(f"The proxy in {name} cannot be used: {wrong}. Correct or unset {name}.")
            del os.environ[name]  # nothing on this machine is behind a proxy
    # httpx takes no brackets around an address, and stops at what it cannot read. Lower case wins.
    hosts = (host.strip(" []") for host in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(","))
    direct = ",".join(dict.fromkeys([*filter(_is_host, hosts), *LOOPBACK]))
    os.environ |= {"no_proxy": direct, "NO_PROXY": direct}


def proxy(url: str) -> str | None:
    """Return the name of the variable whose proxy is between this machine and `url`; None if there is none."""
    address = httpx.URL(url)
    kinds = (f"{address.scheme}_proxy", "all_proxy")
    named = [name for name in PROXIES if name.lower() in kinds and os.environ.get(name)]
    return named[0] if named and not urllib.request.proxy_bypass(address.host) else None


@functools.cache  # it is asked before each request
def _proxy_flaw(proxy: str | None) -> str | None:
    """Return why httpx cannot use `proxy`, and so Prefect's client cannot; None if it can, or is not set."""
    try:
        if proxy:
            httpx.HTTPTransport(verify=False, proxy=proxy if "://" in proxy else f"http://{proxy}").close()
    except (ValueError, httpx.InvalidURL, ImportError) as error:
        return str(error).rstrip(".")
    return None


def _is_host(text: str) -> bool:
    """Return whether httpx can read `text` as an entry of no_proxy."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    with contextlib.suppress(httpx.InvalidURL):
        return bool(text and httpx.URL(f"all://*{text}"))
    return False
