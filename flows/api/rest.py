"""Requests to the Prefect REST API, of either version, with no Prefect imported.

`call` sends one, `gather` several at once, `rows` as many as a long list takes; `gather_async` is to be awaited.
"""

import asyncio
import functools
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import httpx

from flows import settings
from flows.api import body_keys, credentials, errors, server

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


def only_reads(method: str, path: str) -> bool:
    """Return whether a request changes nothing on the server: a GET, or a POST that carries a filter."""
    return method == "GET" or (method == "POST" and path.rstrip("/").rsplit("/", 1)[-1] in READS)


def call(method: str, path: str, body: Mapping[str, Any] | None = None, *, missing_ok: bool = False) -> Any:
    """The answer to one request, decoded from JSON; None where it is empty, or for a 404 if that is `missing_ok`.

    Raises CannotRun, with the cause and the next step, where the server cannot be reached or says no (Refused for the
    credentials), and for a key in `body` that the endpoint does not know, which the server would ignore.
    """
    return send(Request(method, path, body, missing_ok))


def send(request: Request) -> Any:
    """The answer to `request`, as `call` gives it."""
    url, sent = _addressed(request, *_credentials())
    client = _client(os.getpid(), _trusted())
    attempt, started = 1, time.monotonic()
    while True:
        try:
            outcome = client.request(**sent)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            outcome = error
        wait = _pause(request, outcome, attempt, started)
        if wait is None:
            return errors.decoded(url, outcome, missing_ok=request.missing_ok)
        time.sleep(wait)
        attempt += 1


def gather(requests: Sequence[Request]) -> list[Any]:
    """The answers to all of `requests`, in their order, sent at the same time.

    It can be called wherever an event loop runs already, as in Jupyter and Streamlit: it has a loop of its own.
    Raises CannotRun like `call`, for the first one that fails.
    """
    return _submitted(requests).result()


async def gather_async(requests: Sequence[Request]) -> list[Any]:
    """What `gather` returns, and raises, for a caller that does something else meanwhile."""
    return await asyncio.wrap_future(_submitted(requests))


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


def _credentials() -> tuple[str, dict[str, str]]:
    """The API's address and the header with the credentials, as the environment has them now."""
    return server.attach(), credentials.header()


def _trusted() -> str:
    """Whose certificates are trusted, as the environment has it now; connections are reused for the same."""
    known = settings.read()
    return f"{known.prefect_api_ssl_cert_file} {known.prefect_api_tls_insecure_skip_verify}"


@functools.lru_cache(maxsize=4)
def _client(process: int, trusted: str) -> httpx.Client:
    """Connections of this `process`, for requests one after the other; threads share them."""
    return httpx.Client(**_options())


@functools.lru_cache(maxsize=4)
def _client_async(process: int, trusted: str) -> tuple[httpx.AsyncClient, asyncio.AbstractEventLoop]:
    """Connections of this `process`, for requests at the same time, and the loop that they belong to, in a thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="flows.rest", daemon=True).start()
    return httpx.AsyncClient(**_options()), loop


def _options() -> dict[str, Any]:
    # A server drops a connection that is idle for 5 seconds, perhaps just as the next request is on its way.
    limits = httpx.Limits(keepalive_expiry=4)
    return {"verify": credentials.trust(), "timeout": httpx.Timeout(15, connect=5), "limits": limits}


def _submitted(requests: Sequence[Request]) -> Future[list[Any]]:
    """The answers to `requests` as they will be."""
    target = _credentials()
    client, loop = _client_async(os.getpid(), _trusted())
    return asyncio.run_coroutine_threadsafe(_together(requests, target, client), loop)


async def _together(
    requests: Sequence[Request], target: tuple[str, dict[str, str]], client: httpx.AsyncClient
) -> list[Any]:
    few = asyncio.Semaphore(AT_ONCE)

    async def one(request: Request) -> Any:
        async with few:
            return await _send_async(request, *_addressed(request, *target), client)

    found = await asyncio.gather(*map(one, requests), return_exceptions=True)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return found


async def _send_async(request: Request, url: str, sent: dict[str, Any], client: httpx.AsyncClient) -> Any:
    attempt, started = 1, time.monotonic()
    while True:
        try:
            outcome = await client.request(**sent)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            outcome = error
        wait = _pause(request, outcome, attempt, started)
        if wait is None:
            return errors.decoded(url, outcome, missing_ok=request.missing_ok)
        await asyncio.sleep(wait)
        attempt += 1


def _addressed(request: Request, base: str, header: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The address of `request`, and what httpx needs to send it. Raises CannotRun for a key that it does not know."""
    path = request.path.lstrip("/")
    body_keys.check(path, request.body or {})
    url = f"{base}/{path}"
    return url, {"method": request.method, "url": url, "json": request.body, "headers": header}


def _pause(request: Request, outcome: httpx.Response | Exception, attempt: int, started: float) -> float | None:
    """The seconds to wait before `request` is sent again, None where `outcome` is the last word.

    It is sent again while the server asks for that, and where a connection broke. What creates something never is.
    """
    ending = request.path.rstrip("/").rsplit("/", 1)[-1]
    if attempt == TRIES or (request.method == "POST" and ending not in (*READS, "set_state")):
        return None
    short = random.uniform(0.05, 0.2) * 1.5 ** (attempt - 1)
    if isinstance(outcome, Exception):
        return short if isinstance(outcome, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError) else None
    match outcome.status_code:
        case 503:  # what a server over SQLite says while another request writes
            wait = short
        case 423 | 429:
            wait = errors.asked(outcome) + random.uniform(0, 0.05)
        case _:
            return None
    return wait if time.monotonic() + wait <= started + PATIENCE else None
