"""What a server's answer to a request means: what it holds, or what is wrong and what to do about it."""

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from flows.settings import CannotRun, Refused


def decoded(url: str, outcome: httpx.Response | Exception, *, missing_ok: bool = False) -> Any:
    """What `outcome` of a request to `url` holds; None where it is empty, or a 404 if that is `missing_ok`.

    Raises CannotRun, with the cause and the next step, where it is no answer, or a refusal (Refused for credentials).
    """
    if isinstance(outcome, httpx.TimeoutException):
        raise CannotRun(f"The server does not answer: {url} timed out. Is it overloaded, or stopped?")
    if isinstance(outcome, Exception):
        raise CannotRun(f"No server answers at {url} ({outcome}). Check PREFECT_API_URL, or start the server.")
    try:
        said = outcome.json() if outcome.content else None
    except ValueError:
        if outcome.status_code not in (401, 403):
            raise CannotRun(
                f"{url} answers {outcome.status_code} with something else than JSON."
                " Is it a Prefect server's API, and does the server behind it run?"
            ) from None
        said = None  # a gateway's own page
    if outcome.is_success:
        return said
    if outcome.status_code == 404 and missing_ok:
        return None
    raise _refusal(url, outcome, said)


def _refusal(url: str, answer: httpx.Response, said: Any) -> CannotRun:
    """What the server said, and what to do about it."""
    if isinstance(said, dict):
        said = said.get("exception_detail") or said.get("detail") or said.get("exception_message")
    if isinstance(said, list):  # what is wrong with which part of the body
        parts = [part if isinstance(part, dict) else {"msg": part} for part in said]
        said = "; ".join(f"{'.'.join(map(str, part.get('loc', ())[1:]))} {part.get('msg')}" for part in parts)
    reason = " ".join(str(said or "no reason given").split())[:300].rstrip(".")
    refused = f"{url} answers {answer.status_code}: {reason}."
    match answer.status_code:
        case 307:
            return CannotRun(f"{url} points to {answer.headers.get('Location')}. Correct the path, or PREFECT_API_URL.")
        case 403 if "CSRF" in reason:
            return Refused(
                f"{refused} It takes what is sent with a token of its own alone, which its own pages have and programs"
                " lack: start it with PREFECT_SERVER_CSRF_PROTECTION_ENABLED=false. It is not for your credentials."
            )
        case 401 | 403:
            return Refused(
                f"{url} refuses the credentials ({answer.status_code}: {reason})."
                " Run scripts/test_prefect_auth.py: it says which ones are in force."
            )
        case 404 | 405 if reason in ("Not Found", "Method Not Allowed"):
            next_step = " This version of the server has no such endpoint; its page /docs lists those that it has."
        case 404:
            next_step = " It was deleted, or it is on another server."
        case 422:
            next_step = " This version of the server expects something else; its page /docs says what."
        case 423 | 429:
            next_step = f" It is busy; try again in {asked(answer):.0f} s."
        case status:
            next_step = " The server's own log says more." if status >= 500 else ""
    return CannotRun(refused + next_step)


def asked(answer: httpx.Response) -> float:
    """The seconds for which `Retry-After` asks: a number of them, perhaps a fraction, or a date. 1 if it does not."""
    said = answer.headers.get("Retry-After", "1")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 1.0
