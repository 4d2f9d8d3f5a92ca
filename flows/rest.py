"""Requests to the Prefect REST API, of either version, with no Prefect imported.

`call` sends one, `gather` several at once over the same connections, `rows` as many as a long list takes.
"""

import functools
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx

from flows import auth, filters, lab, settings
from flows.settings import CannotRun, Refused

PAGE = 200  # the most rows that the server gives at once
PATIENCE = 30  # seconds that a request is repeated for, where the server asks for that
TRIES = 7
AT_ONCE = 6  # requests under way at the same time
READS = ("filter", "count", "paginate", "history", "count-task-runs")  # how the paths of POSTs end that change nothing


class Request(NamedTuple):
    """One request: `path` below the API's address, `body` to be sent as JSON; a 404 is None if `missing_ok`."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    missing_ok: bool = False


def api_url() -> str:
    """The server that is asked: PREFECT_API_URL, else the running lab's. Raises CannotRun where there is neither."""
    return lab.attach()


def call(method: str, path: str, body: Mapping[str, Any] | None = None, *, missing_ok: bool = False) -> Any:
    """The answer to one request, decoded from JSON; None where it is empty, or for a 404 if that is `missing_ok`.

    Raises CannotRun, with the cause and the next step, where the server cannot be reached or says no (Refused for the
    credentials), and for a key in `body` that the endpoint does not know, which the server would ignore.
    """
    return send(Request(method, path, body, missing_ok))


def send(request: Request) -> Any:
    """The answer to `request`, as `call` gives it."""
    return _answer(request, *_target())


def gather(requests: Sequence[Request]) -> list[Any]:
    """The answers to all of `requests`, in their order, sent at the same time.

    In threads, so that it can be called wherever an event loop runs already, as in Jupyter and Streamlit.
    Raises CannotRun like `call`, for the first one that fails.
    """
    if not requests:
        return []
    target = _target()
    with ThreadPoolExecutor(min(AT_ONCE, len(requests))) as pool:
        return list(pool.map(lambda request: _answer(request, *target), requests))


def rows(request: Request, at_most: int | None = None, *, start: int = 0) -> list[dict[str, Any]]:
    """The rows that a `…/filter` endpoint has for `request`, however many pages that takes.

    They are counted from 0: those from `start` on, and none from `at_most` on. Runs come in the order of their ids,
    whatever `sort` says: of rows that are equal in the sort, the server may leave out some between two pages.
    """
    if request.path.strip("/") in ("flow_runs/filter", "task_runs/filter"):
        request = request._replace(body={**(request.body or {}), "sort": "ID_DESC"})
    found: dict[str, dict[str, Any]] = {}
    for page in _pages(request, start, at_most):
        found.update({row["id"]: row for row in page})
    return list(found.values())[: None if at_most is None else at_most - start]


def _pages(request: Request, start: int, at_most: int | None) -> Iterator[list[dict[str, Any]]]:
    offset, together = start, AT_ONCE if start else 1
    while at_most is None or offset < at_most:
        offsets = range(offset, offset + together * PAGE, PAGE)
        pages = gather([request._replace(body={**(request.body or {}), "limit": PAGE, "offset": o}) for o in offsets])
        yield from pages
        if len(pages[-1]) < PAGE:
            return
        offset, together = offset + together * PAGE, AT_ONCE


def _target() -> tuple[str, dict[str, str], httpx.Client]:
    """The API's address, the credentials, and the connections to reuse, as the environment has them now."""
    url, header, known = api_url(), auth.header(), settings.read()
    certificate, insecure = known.prefect_api_ssl_cert_file, known.prefect_api_tls_insecure_skip_verify
    return url, header, _client(os.getpid(), f"{certificate} {insecure}")


@functools.lru_cache(maxsize=4)
def _client(process: int, trust: str) -> httpx.Client:
    """Connections of this `process`, for what it has been told to `trust`; threads share them."""
    # A server drops a connection that is idle for 5 seconds, perhaps just as the next request is on its way.
    limits = httpx.Limits(keepalive_expiry=4)
    return httpx.Client(verify=auth.trust(), timeout=httpx.Timeout(15, connect=5), limits=limits)


def _answer(request: Request, base: str, header: dict[str, str], client: httpx.Client) -> Any:
    path = request.path.lstrip("/")
    url = f"{base}/{path}"
    filters.check(path, request.body or {})
    try:
        answer = _send(request, url, header, client)
    except httpx.TimeoutException:
        raise CannotRun(f"The server does not answer: {url} timed out. Is it overloaded, or stopped?") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CannotRun(f"No server answers at {url} ({error}). Check PREFECT_API_URL, or start the server.") from None
    try:
        said = answer.json() if answer.content else None
    except ValueError:
        raise CannotRun(
            f"{url} answers {answer.status_code} with something else than JSON."
            " Is it a Prefect server's API, and does the server behind it run?"
        ) from None
    if answer.is_success:
        return said
    if answer.status_code == 404 and request.missing_ok:
        return None
    raise (Refused if answer.status_code in (401, 403) else CannotRun)(_refusal(url, answer, said))


def _refusal(url: str, answer: httpx.Response, said: Any) -> str:
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
            return f"{url} points to {answer.headers.get('Location')}. Correct the path, or PREFECT_API_URL."
        case 401 | 403:
            return (
                f"{url} refuses the credentials ({answer.status_code}: {reason})."
                " Run scripts/test_prefect_auth.py: it says which ones are in force."
            )
        case 404 | 405 if reason in ("Not Found", "Method Not Allowed"):
            return f"{refused} This version of the server has no such endpoint; its page /docs lists those that it has."
        case 404:
            return f"{refused} It was deleted, or it is on another server."
        case 422:
            return f"{refused} This version of the server expects something else; its page /docs says what."
        case 423 | 429:
            return f"{refused} It is busy; try again in {_asked(answer):.0f} s."
        case status if status >= 500:
            return f"{refused} The server's own log says more."
    return refused


def _send(request: Request, url: str, header: dict[str, str], client: httpx.Client) -> httpx.Response:
    """The answer to a request, sent again while the server asks for that. What creates something is sent once."""
    ending = request.path.rstrip("/").rsplit("/", 1)[-1]
    repeatable = request.method != "POST" or ending in (*READS, "set_state")
    deadline = time.monotonic() + PATIENCE
    for attempt in range(TRIES):
        short = random.uniform(0.05, 0.2) * 1.5**attempt
        try:
            answer = client.request(request.method, url, json=request.body, headers=header)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if not repeatable or attempt == TRIES - 1:
                raise
            time.sleep(short)
            continue
        # 503 is what a server over SQLite says while another request writes.
        wait = {503: short, 423: _asked(answer), 429: _asked(answer)}.get(answer.status_code)
        if wait is None or not repeatable or attempt == TRIES - 1 or time.monotonic() + wait > deadline:
            return answer
        time.sleep(wait + random.uniform(0, 0.05))
    raise AssertionError("the last attempt returned or raised")


def _asked(answer: httpx.Response) -> float:
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
