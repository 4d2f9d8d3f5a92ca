"""Requests to the Prefect REST API, of either version, with no Prefect imported."""

import random
import time
from typing import Any

import httpx

from flows import auth, lab
from flows.settings import CannotRun


def api_url() -> str:
    """The server that is asked: PREFECT_API_URL, else the running lab's. Raises CannotRun where there is neither."""
    return lab.attach()


def call(method: str, path: str, body: object = None, *, missing_ok: bool = False) -> Any:
    """The answer to one request, decoded from JSON; None where it is empty, or for a 404 if that is `missing_ok`.

    Raises CannotRun, with the cause and the next step, where the server cannot be reached or says no.
    """
    url = f"{api_url()}/{path.lstrip('/')}"
    try:
        answer = _send(method, url, body)
    except httpx.TimeoutException:
        raise CannotRun(f"The server does not answer: {url} timed out. Is it overloaded, or stopped?") from None
    except httpx.HTTPError as error:
        raise CannotRun(f"No server answers at {url} ({error}). Check PREFECT_API_URL, or start the server.") from None
    if answer.status_code == 404 and missing_ok:
        return None
    if answer.status_code in (401, 403):
        raise CannotRun(f"{url} refuses the credentials ({answer.status_code}). Check PREFECT_API_KEY or its like.")
    try:
        said = answer.json() if answer.content else None
    except ValueError:
        raise CannotRun(
            f"{url} answers {answer.status_code} with something else than JSON. Is it a Prefect server's API?"
        ) from None
    if not answer.is_success:
        reason = said.get("detail") or said.get("exception_message") if isinstance(said, dict) else said
        raise CannotRun(f"{url} answers {answer.status_code}: {reason}")
    return said


def _send(method: str, url: str, body: object, tries: int = 8) -> httpx.Response:
    """The answer to a request. A 503 is what a server over SQLite says while another request writes: asked again."""
    answer = httpx.request(method, url, json=body, headers=auth.header(), verify=auth.trust(), timeout=10)
    # What creates something is never sent twice.
    repeatable = method != "POST" or url.endswith(("/filter", "/count", "/set_state"))
    if answer.status_code != 503 or not repeatable or tries == 1:
        return answer
    time.sleep(random.uniform(0.05, 0.5))
    return _send(method, url, body, tries - 1)
