"""What the server says of this process and its credentials, and, where it says no, why and what to do next."""

import contextlib
import json
import re
import ssl
from dataclasses import dataclass, replace

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from flows import settings, versions
from flows.api import credentials
from flows.settings import CannotRun

PATIENCE = 10  # seconds for each question


@dataclass(frozen=True)
class Check:
    """The keys of the JSON of `scripts/test_prefect_auth.py`; `detail` is the cause and the next step, or a remark.

    `reachable` is whether a Prefect server, or what asks for credentials before it, answered.
    """

    api_url: str | None
    reachable: bool = False
    server_version: str | None = None
    scheme: str = "none"
    accepted: bool = False
    detail: str = ""


class _No(Exception):
    """The server cannot be reached (`reachable` False), or it says no. The message is the `detail`."""

    def __init__(self, detail: str, reachable: bool = True) -> None:
        super().__init__(detail)
        self.reachable = reachable


def check(url: str) -> Check:
    """Ask the server at `url` for its version, a filter and, where it is Prefect 3, the WebSocket of task run states.

    Endpoints: GET /admin/version, POST /flow_runs/count, WebSocket /events/in. Raises nothing: what goes wrong is in
    the answer.
    """
    found = Check(url)
    try:
        found = replace(found, scheme=_scheme())
        with httpx.Client(timeout=PATIENCE, verify=credentials.trust()) as client:
            version = _ask(client, "GET", f"{url}/admin/version")
            found = replace(found, reachable=True, server_version=version)
            _ask(client, "POST", f"{url}/flow_runs/count")
        heard = _websocket(url) if versions.line(version).websocket else ""
        return replace(found, accepted=True, detail=" ".join(filter(None, [_both_set(), heard])))
    except CannotRun as error:
        return replace(found, detail=str(error))
    except _No as no:
        return replace(found, reachable=no.reachable, detail=str(no))


def _scheme() -> str:
    known = settings.read()
    if credentials.flaw() is None:
        return credentials.scheme()
    if credentials.own_header() is not None:
        return "none"  # what is no header may begin with the secret
    return "basic" if known.prefect_api_auth_string else "bearer"


def _ask(client: httpx.Client, method: str, url: str) -> str | None:
    """The server's JSON answer if it is a text, such as a version; None for another yes. Raises _No for a no."""
    header = {} if credentials.flaw() else credentials.header()
    try:
        answer = client.request(method, url, headers=header, json={} if method == "POST" else None)
    except httpx.HTTPError as error:
        raise _No(_unreachable(url, error), reachable=False) from None
    if answer.status_code == 400 and "HTTPS" in answer.text:
        raise _No(f"{url} is spoken to over http, and expects https. Write https:// in PREFECT_API_URL.", False)
    if answer.is_redirect:
        raise _No(_redirected(url, answer.headers.get("location", "")), reachable=False)
    cloud_has_none = answer.status_code == 404 and url.startswith(credentials.CLOUD) and method == "GET"
    wrong = credentials.flaw()
    if wrong:
        raise _No(wrong)
    if answer.status_code == 401:
        raise _No(_refused(answer))
    if answer.status_code == 403:
        raise _No(_forbidden(answer))
    if answer.status_code in (502, 503, 504):
        raise _No(
            f"{url} answers {answer.status_code}: the gateway, or the database, has no server behind it that answers."
            " Start the Prefect server, or look into its log.",
            reachable=False,
        )
    try:
        said = answer.json()
    except ValueError:
        said = None
    if said is None or not (answer.is_success or cloud_has_none):
        kind = "a page" if "html" in answer.headers.get("content-type", "") else "something that is not its JSON"
        raise _No(
            f"{url} answers {answer.status_code} with {kind}: that is no Prefect API."
            " Check the path in PREFECT_API_URL, and what stands between here and the server.",
            reachable=False,
        )
    return said if isinstance(said, str) else None


def _unreachable(url: str, error: httpx.HTTPError) -> str:
    text, server = str(error), f"{httpx.URL(url).scheme}://{httpx.URL(url).netloc.decode()}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.split("CERTIFICATE_VERIFY_FAILED]")[-1].split("(_ssl")[0].strip()
        return (
            f"{server} has a certificate that is not trusted here ({reason})."
            " Set PREFECT_API_SSL_CERT_FILE to the certificate of the authority that signed it."
        )
    if isinstance(error.__cause__, ssl.SSLError) or "SSL" in text:
        return f"{server} does not speak TLS. Write http:// in PREFECT_API_URL, or put a gateway with TLS before it."
    if isinstance(error, httpx.TimeoutException):
        return (
            f"{server} gave no answer within {PATIENCE} s. Is it stopped or overloaded, or does a firewall swallow it?"
        )
    if isinstance(error, httpx.ConnectError):
        if "Name or service" in text or "nodename" in text or "name resolution" in text:
            return f"No machine has the name {httpx.URL(url).host}. Correct PREFECT_API_URL."
        return f"No server listens at {server}. Start it (for the lab: scripts/lab.py up), or correct PREFECT_API_URL."
    if isinstance(error, httpx.LocalProtocolError):  # its text quotes the header, secret and all
        return f"{server} was not asked: a header cannot be written. Correct the credentials that are set."
    return f"{server} hung up without an answer ({text}). If it expects https, write https:// in PREFECT_API_URL."


def _redirected(url: str, location: str) -> str:
    if url.startswith("http:") and location.startswith("https:") and httpx.URL(location).host == httpx.URL(url).host:
        return f"{url} redirects to https. Write https:// in PREFECT_API_URL."
    return (
        f"{url} redirects to {location or 'nowhere'}: a page to log in, it seems, which a program cannot."
        " Ask for an address of the API that takes a key in place of a login."
    )


def _refused(answer: httpx.Response) -> str:
    known, own, sent = settings.read(), credentials.own_header(), credentials.scheme()
    wants = _wanted(answer)
    ways = {"Basic": "PREFECT_API_AUTH_STRING=user:password", "Bearer": "PREFECT_API_KEY=pnu_…"}
    asks = f"The server asks for {wants} credentials (401)" if wants else "The server asks for credentials (401)"
    hint = f"Set {ways.get(wants, 'the credentials that it takes, which its keeper knows')}"
    if sent == "none":
        return f"{asks}, and none are set. {hint}."
    if own is not None:
        sent = f"the {sent} header of PREFECT_CLIENT_CUSTOM_HEADERS"
        there = {"Basic": known.prefect_api_auth_string, "Bearer": known.prefect_api_key}.get(wants)
        instead = "" if there else f" {hint} in its place."
        hint = f"Correct or unset PREFECT_CLIENT_CUSTOM_HEADERS: while it is set, nothing else is sent.{instead}"
    elif wants == "Bearer" and known.prefect_api_auth_string and known.prefect_api_key:
        hint = "Unset PREFECT_API_AUTH_STRING: while it is set, PREFECT_API_KEY is not sent"
    if wants and credentials.scheme() != wants.lower():
        return f"{asks}, and {sent} was sent. {hint.rstrip('.')}."
    words = re.search(r'error_description="([^"]*)"', answer.headers.get("www-authenticate", ""))
    said = f" It says: {words[1]}." if words else ""
    why = "wrong, expired or revoked" if wants else "wrong, expired, revoked, or not of the kind that it takes"
    if own is not None:
        return f"The server refuses {sent} (401): {why}.{said} {hint.rstrip('.')}."
    secret = known.prefect_api_auth_string or known.prefect_api_key
    which = f" {credentials.masked(secret)}" if secret else ""
    kind = "user and password" if sent == "basic" else "key"
    ask = f"a new one, and set {ways[wants].split('=')[0]}" if wants in ways else "the credentials that it takes"
    return f"The server refuses the {kind}{which} (401): {why}.{said} Ask its keeper for {ask}."


def _wanted(answer: httpx.Response) -> str:
    """The scheme that a refusal asks for, or "" where it does not tell."""
    named = re.match(r"\s*([A-Za-z][A-Za-z0-9-]*)", answer.headers.get("www-authenticate", ""))
    if named:
        return named[1].capitalize()
    if str(answer.url).startswith(credentials.CLOUD):
        return "Bearer"
    with contextlib.suppress(ValueError):
        if answer.json() == {"exception_message": "Unauthorized"}:
            return "Basic"  # Prefect's own server names no scheme when it refuses
    return ""


def _forbidden(answer: httpx.Response) -> str:
    if "csrf" in answer.text.lower():
        return (
            "The server asks for CSRF tokens (403), which Prefect's own client sends and this kit's requests do not."
            " Behind a gateway that checks keys they add nothing: set PREFECT_SERVER_CSRF_PROTECTION_ENABLED=false."
        )
    return (
        "The server knows the credentials and does not allow this (403). Ask its keeper for the right to use the API."
    )


def _both_set() -> str:
    known = settings.read()
    if credentials.own_header() is not None and (known.prefect_api_auth_string or known.prefect_api_key):
        return "The Authorization in PREFECT_CLIENT_CUSTOM_HEADERS is sent, and no other credentials that are set."
    if known.prefect_api_auth_string and known.prefect_api_key:
        return "Both PREFECT_API_AUTH_STRING and PREFECT_API_KEY are set: the former is sent, the latter is not."
    return ""


def _websocket(url: str) -> str:
    """A remark on the WebSocket that carries the states of task runs. Raises _No where it is closed to us."""
    header = credentials.header()
    refused = _closed(url, header)
    if refused:
        raise _No(
            f"Requests are accepted, and the WebSocket at {url}/events/in is not ({refused}): flows would end Completed"
            " and none of their task runs be recorded. Let the gateway forward WebSockets, with the same credentials."
        )
    if credentials.scheme() != "bearer" or credentials.own_header() is not None or url.startswith(credentials.CLOUD):
        return ""
    alone = _closed(url, {})
    if alone is None:
        return ""
    return (
        f"With PREFECT_API_KEY alone, Prefect's client would open the WebSocket without the key ({alone}): a flow"
        " would end Completed and none of its task runs be recorded. With PREFECT_CLIENT_CUSTOM_HEADERS, which this kit"
        " sets for its own commands, it is open. For Prefect's commands (prefect worker start) set it yourself:"
        ' export PREFECT_CLIENT_CUSTOM_HEADERS="{\\"Authorization\\": \\"Bearer $PREFECT_API_KEY\\"}"'
    )


def _closed(url: str, header: dict[str, str]) -> str | None:
    """Why the WebSocket does not let us in with this header, or None where it does."""
    secret = settings.read().prefect_api_auth_string
    verify = credentials.trust()
    if verify is False:
        verify = ssl._create_unverified_context()
    try:
        with connect(
            f"{url.replace('http', 'ws', 1)}/events/in",
            additional_headers=header,
            ssl=(ssl.create_default_context() if verify is True else verify) if url.startswith("https:") else None,
            open_timeout=PATIENCE,
            subprotocols=None if url.startswith(credentials.CLOUD) else ["prefect"],  # ty: ignore[invalid-argument-type]
        ) as socket:
            if not url.startswith(credentials.CLOUD):
                socket.send(json.dumps({"type": "auth", "token": secret.get_secret_value() if secret else None}))
                said = json.loads(socket.recv(timeout=PATIENCE))
                if said.get("type") != "auth_success":
                    return str(said.get("reason", said))
    except InvalidStatus as error:
        return f"status {error.response.status_code}"
    except ConnectionClosed as error:
        return error.rcvd.reason if error.rcvd else "it hung up"
    except (WebSocketException, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None
