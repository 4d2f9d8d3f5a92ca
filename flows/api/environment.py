"""The user's variables that override what the kit sets for clients: proxies, and PostgreSQL's own."""

import contextlib
import functools
import ipaddress
import os
import urllib.request

import httpx

from flows.settings import CannotRun

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def prepare(url: str, *, own_database: bool) -> None:
    """Make the environment of this process and its children fit for requests to `url`.

    With `own_database`, the lab's, no PG… variable stays: libpq would follow it to another one. Raises CannotRun if
    `url` is on another machine and its proxy cannot be used.
    """
    if own_database:
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]
    for name in PROXIES:
        if wrong := _flaw(os.environ.get(name)):
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
def _flaw(proxy: str | None) -> str | None:
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
