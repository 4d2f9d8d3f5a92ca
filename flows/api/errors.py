"""What a server's answer to a request holds, or the sentence that says what is wrong and what to do about it."""

import contextlib
import ssl
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from flows.api.server import named, proxy
from flows.settings import CannotRun, Refused


def decoded(url: str, response: httpx.Response, *, missing_ok: bool = False) -> Any:
    """Return the JSON of `response`, None if it is empty or a 404 that is `missing_ok`. Raises `refusal` otherwise."""
    with contextlib.suppress(ValueError):
        content = response.json() if response.content else None
        if response.is_success:
            return content
        if response.status_code == 404 and missing_ok:
            return None
    refused = refusal(url, response)
    refused.answer = response
    raise refused


def unreachable(url: str, error: Exception) -> CannotRun:
    """Return what to raise if a request to `url` ended in `error`, without an answer."""
    text = str(error)
    if isinstance(error, httpx.InvalidURL):
        return CannotRun(f"The address {url} is not valid ({text}). Correct {named()}.")
    address = httpx.URL(url)
    server = f"{address.scheme}://{address.netloc.decode()}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.split("CERTIFICATE_VERIFY_FAILED]")[-1].split("(_ssl")[0].strip()
        next_step = "Set PREFECT_API_SSL_CERT_FILE to the certificate of the authority that signed it."
        return CannotRun(f"{server} has a certificate that is not trusted here ({reason}). {next_step}")
    if isinstance(error.__cause__, ssl.SSLError) or "SSL" in text:
        next_step = f"Write http:// in {named()}, or put a gateway with TLS in front of it."
        return CannotRun(f"{server} does not use TLS. {next_step}")
    if isinstance(error, httpx.TimeoutException):
        waited_for = "connect" if isinstance(error, httpx.ConnectTimeout) else "read"
        seconds = error.request.extensions["timeout"][waited_for]
        next_step = "Request less data, or check that the server is running and that no firewall is in the way."
        return CannotRun(f"{url} did not answer within {seconds:g} s. {next_step}")
    if isinstance(error, httpx.TransportError) and (variable := proxy(url)):
        through = f"{server} cannot be reached through the proxy in {variable} ({text})."
        return CannotRun(f"{through} Correct or unset {variable}.")
    if isinstance(error, httpx.ConnectError):
        if any(words in text for words in ("Name or service", "nodename", "name resolution")):
            return CannotRun(f"No machine has the name {address.host}. Correct {named()}.")
        next_step = f"Start it (for the lab: python scripts/lab.py up), or correct {named()}."
        return CannotRun(f"No server answers at {server}. {next_step}")
    if isinstance(error, httpx.LocalProtocolError):  # its text quotes the header, with the secret
        return CannotRun(f"Nothing was sent to {server}: the credentials do not fit in a header. Correct them.")
    next_step = f"If it expects https, write https:// in {named()}; otherwise look at its log."
    return CannotRun(f"{server} hung up without an answer ({text}). {next_step}")


def refusal(url: str, response: httpx.Response) -> CannotRun:
    """Return what to raise for `response`, which is not a success or not JSON: its reason, and what to do about it."""
    status = response.status_code
    if status == 400 and "HTTPS" in response.text:
        return CannotRun(f"{url} expects https, but was called over http. Write https:// in {named()}.")
    if response.is_redirect:
        return CannotRun(_redirected(httpx.URL(url), response.headers.get("Location", "")))
    reason = _reason(response)
    outcome = f"{status}: {reason}" if reason else f"{status}"
    answers = f"{url} answers {outcome}."
    if status == 403 and "CSRF" in reason:
        why = "The server requires a CSRF token, which its own web pages have and this client does not."
        next_step = "Start it with PREFECT_SERVER_CSRF_PROTECTION_ENABLED=false."
        return Refused(f"{answers} {why} {next_step} Your credentials are not the problem.")
    if status == 401:
        next_step = "Run python scripts/test_prefect_auth.py: it shows which ones are in use, and why they fail."
        return Refused(f"{url} refuses the credentials ({outcome}). {next_step}")
    if status == 403:
        next_step = "Ask the server's administrator for the right to use the API."
        return Refused(f"{url} accepts the credentials, but they do not allow this ({outcome}). {next_step}")
    if status in (502, 503, 504):
        unavailable = "The Prefect server behind this address, or its database, is not available."
        return CannotRun(f"{answers} {unavailable} Start the server, or look at its log.")
    if not _is_json(response):
        return not_prefect(url, response)
    if status in (404, 405) and reason in ("Not Found", "Method Not Allowed"):
        return CannotRun(f"{answers} This version of the server has no such endpoint; its page /docs lists all it has.")
    busy = f" It is busy; try again in {retry_after(response):.0f} s."
    deleted = " It was deleted, or it is on another server."
    differs = " This version of the server expects something else; its page /docs shows what."
    other = " Look at the server's log for the cause." if status >= 500 else ""
    return CannotRun(answers + {404: deleted, 422: differs, 423: busy, 429: busy}.get(status, other))


def not_prefect(url: str, response: httpx.Response) -> CannotRun:
    """Return what to raise for `response`, which a Prefect server would not give."""
    is_page = "html" in response.headers.get("Content-Type", "")
    content = "a web page" if is_page else "JSON" if _is_json(response) else "something other than JSON"
    next_step = f"Check the path in {named()}, and any proxy between this machine and the server."
    return CannotRun(f"{url} answers {response.status_code} with {content}: that is not a Prefect API. {next_step}")


def retry_after(response: httpx.Response) -> float:
    """Return the seconds that `Retry-After` asks for, as a number or as a date; 1 if it is missing or unreadable."""
    asked = response.headers.get("Retry-After", "1")
    with contextlib.suppress(ValueError):
        return max(0.0, float(asked))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(timezone.utc)).total_seconds())
    return 1.0


def _redirected(url: httpx.URL, location: str) -> str:
    target = url.join(location)
    if (url.scheme, target.scheme, url.host) == ("http", "https", target.host):
        return f"{url} redirects to https. Write https:// in {named()}."
    if target.path.strip("/") == url.path.strip("/") and target.host == url.host:
        return f"{url} redirects to {target}. Correct the path."
    why = f"{url} redirects to {location or 'nowhere'}: probably a login page, which a program cannot use."
    return f"{why} Ask for an API address that accepts a key instead of a login."


def _is_json(response: httpx.Response) -> bool:
    with contextlib.suppress(ValueError):
        return not response.content or response.json() is not Ellipsis
    return False


def _reason(response: httpx.Response) -> str:
    """Return the reason that a Prefect server gives for a refusal, on one line; "" if there is none."""
    reason = response.json() if response.content and _is_json(response) else ""
    if isinstance(reason, dict):
        reason = reason.get("exception_detail") or reason.get("detail") or reason.get("exception_message") or ""
    if isinstance(reason, list):  # what is wrong with which part of the body
        parts = [part if isinstance(part, dict) else {"msg": part} for part in reason]
        reason = "; ".join(f"{'.'.join(map(str, part.get('loc', ())[1:]))} {part.get('msg')}" for part in parts)
    return " ".join(str(reason).split())[:300].rstrip(".")
