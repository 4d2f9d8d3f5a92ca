"""Why a server does not accept this process and its credentials, and what to do next."""

import contextlib
import json
import re
from dataclasses import dataclass, replace

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from flows import settings, versions
from flows.api import credentials, errors
from flows.api.credentials import AUTH_STRING, HEADERS, KEY
from flows.settings import CannotRun, Refused

PATIENCE = 10  # seconds for each question
_WAYS = {"Basic": f"{AUTH_STRING}=user:password", "Bearer": f"{KEY}=pnu_…"}


@dataclass(frozen=True)
class Check:
    """The keys of the JSON of `scripts/test_prefect_auth.py`."""

    api_url: str | None
    reachable: bool = False  # a Prefect server, or what asks for credentials in front of it, answered
    server_version: str | None = None
    scheme: str = "none"
    accepted: bool = False
    detail: str = ""  # the cause and the next step, or a remark


def check(url: str) -> Check:
    """Ask the server at `url` for its version, a count and, if it is Prefect 3, the WebSocket of task run states.

    Endpoints: GET /admin/version, POST /flow_runs/count, WebSocket /events/in. Does not raise: `detail` says why not.
    """
    verdict = Check(url)
    try:
        verdict = replace(verdict, scheme=credentials.scheme())
        with httpx.Client(timeout=PATIENCE, verify=credentials.trust()) as client:
            version = _ask(client, "GET", f"{url}/admin/version")
            verdict = replace(verdict, server_version=version)
            _ask(client, "POST", f"{url}/flow_runs/count")
        remark = _websocket(url) if versions.is_3(version) else ""
        remarks = " ".join(filter(None, [_unsent(), remark]))
        return replace(verdict, reachable=True, accepted=True, detail=remarks)
    except CannotRun as error:
        return replace(verdict, reachable=isinstance(error, Refused), detail=str(error))


def _ask(client: httpx.Client, method: str, url: str) -> str | None:
    """Return the server's answer if it is a text, such as a version, otherwise None. Raises Refused and CannotRun."""
    sent = credentials.sent()
    flaw = sent and credentials.flaw(sent)
    header = {} if flaw else credentials.header()
    try:
        response = client.request(method, url, headers=header, json={} if method == "POST" else None)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise errors.unreachable(url, error) from None
    if flaw and response.status_code != 400 and not response.is_redirect:
        raise Refused(flaw)
    if response.status_code == 401:
        raise Refused(_refused(response))
    if response.status_code == 404 and method == "GET" and url.startswith(credentials.CLOUD):
        return None
    content = None if response.status_code in (404, 405) else errors.decoded(url, response)
    if content is None:
        raise errors.not_prefect(url, response)
    return content if isinstance(content, str) else None


def _refused(response: httpx.Response) -> str:
    """Return why the server answered 401, by what it asks for and what was sent, and what to do next."""
    known, sent, scheme, wanted = settings.read(), credentials.sent(), credentials.scheme(), asked_for(response)
    asks = f"The server asks for {wanted + ' ' if wanted else ''}credentials (401)"
    way = _WAYS.get(wanted, "the credentials that it accepts (ask the server's administrator)")
    if sent is None:
        return f"{asks}, and none are set. Set {way}."
    mismatch = wanted and scheme != wanted.lower()
    if sent.variable == HEADERS:
        what = f"the {scheme} header of {HEADERS}"
        others = {"Basic": known.prefect_api_auth_string, "Bearer": known.prefect_api_key}
        instead = "" if others.get(wanted) else f" Set {way} instead."
        next_step = f"Correct or unset {HEADERS}: while it is set, no other credentials are sent.{instead}"
    elif mismatch:
        what, next_step = scheme, f"Set {way}."
        if wanted == "Bearer" and known.prefect_api_key:
            next_step = f"Unset {AUTH_STRING}: while it is set, {KEY} is not sent."
    else:
        what = f"the {'user and password' if scheme == 'basic' else 'key'} {credentials.masked(sent.secret)}"
        new = f"a new one, and set {way.split('=')[0]}" if wanted in _WAYS else "credentials that it accepts"
        next_step = f"Ask the server's administrator for {new}."
    if mismatch:
        return f"{asks}, but {what} was sent. {next_step}"
    why = f"it is wrong, expired{' or revoked' if wanted else ', revoked, or not of the kind that the server accepts'}"
    named = re.search(r'error_description="([^"]*)"', response.headers.get("WWW-Authenticate", ""))
    reason = f" Its reason: {named[1]}." if named else ""
    return f"The server rejected {what} (401): {why}.{reason} {next_step}"


def asked_for(response: httpx.Response) -> str:
    """Return the scheme that a 401 asks for, "" if it does not tell."""
    if named := re.match(r"\s*([A-Za-z][A-Za-z0-9-]*)", response.headers.get("WWW-Authenticate", "")):
        return named[1].capitalize()
    if str(response.url).startswith(credentials.CLOUD):
        return "Bearer"
    with contextlib.suppress(ValueError):
        if response.json() == {"exception_message": "Unauthorized"}:
            return "Basic"  # Prefect's own server names no scheme in its 401
    return ""


def _unsent() -> str:
    """Return a remark on credentials that are set and not sent, "" if there are none."""
    known, sent = settings.read(), credentials.sent()
    if sent and sent.variable == HEADERS and (known.prefect_api_auth_string or known.prefect_api_key):
        return f"The Authorization in {HEADERS} is sent; the other credentials that are set are not."
    if sent and sent.variable == AUTH_STRING and known.prefect_api_key:
        return f"Both {AUTH_STRING} and {KEY} are set: the former is sent, the latter is not."
    return ""


def _websocket(url: str) -> str:
    """Return a remark if the WebSocket is closed to Prefect's commands. Raises Refused if it is closed to the kit."""
    if closed := websocket_closed(url, credentials.header()):
        problem = f"The server accepts requests, but not the WebSocket at {url}/events/in ({closed})"
        effect = "flows would end Completed without a record of their task runs"
        raise Refused(f"{problem}: {effect}. Let the gateway forward WebSockets, with the same credentials.")
    sent = credentials.sent()
    only_key = sent is not None and sent.variable == KEY and not url.startswith(credentials.CLOUD)
    if not only_key or not (closed := websocket_closed(url, {})):
        return ""
    return (
        f"With only {KEY}, Prefect's client would open the WebSocket without the key ({closed}): a flow would end"
        f" Completed without a record of its task runs. With {HEADERS}, which this kit sets for its own commands, the"
        " WebSocket is open. For Prefect's commands (prefect worker start), set it yourself:"
        f' export {HEADERS}="{{\\"Authorization\\": \\"Bearer ${KEY}\\"}}"'
    )


def websocket_closed(url: str, header: dict[str, str]) -> str | None:
    """Return why the WebSocket /events/in does not accept this header, or None if it does."""
    auth_string, cloud = settings.read().prefect_api_auth_string, url.startswith(credentials.CLOUD)
    try:
        with connect(
            f"{url.replace('http', 'ws', 1)}/events/in",
            additional_headers=header,
            ssl=httpx.create_ssl_context(verify=credentials.trust()) if url.startswith("https:") else None,
            open_timeout=PATIENCE,
            subprotocols=None if cloud else ["prefect"],  # ty: ignore[invalid-argument-type]
        ) as socket:
            if not cloud:
                socket.send(json.dumps({"type": "auth", "token": auth_string and auth_string.get_secret_value()}))
                reply = json.loads(socket.recv(timeout=PATIENCE))
                if reply.get("type") != "auth_success":
                    return str(reply.get("reason", reply))
    except InvalidStatus as error:
        return f"status {error.response.status_code}"
    except ConnectionClosed as error:
        return (error.rcvd.reason if error.rcvd else "") or "it hung up"
    except (WebSocketException, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None
