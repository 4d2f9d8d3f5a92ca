"""Requests to the Prefect REST API, of either version, without importing Prefect."""

import asyncio
import concurrent.futures
import functools
import json
import os
import random
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import tenacity

from flows import settings
from flows.api import credentials, errors, server
from flows.settings import CannotRun

PAGE = 200  # a request for so many rows asks for as many as the server gives at once; see `page`
AT_ONCE = 6  # requests under way at the same time
TIMEOUT = httpx.Timeout(15, connect=5)  # seconds for one try
TRIES = 7
PATIENCE = 30  # seconds after the first try in which a request may be repeated
BUSY = (423, 429, 503)  # the statuses with which a server asks for a repeat; 503 is SQLite's while another one writes
BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
READS = ("filter", "count", "paginate", "history", "count-task-runs")  # the ends of the paths of POSTs that only read
# The keys that a body may have in either version of Prefect, by the end of the endpoint's path. The server ignores
# others at the first level, so that a typo in a filter selects everything.
KEYS: dict[str, list[str]] = json.loads(Path(__file__).with_name("body_keys.json").read_text())
_fewer: dict[str, int] = {}  # by the API's address: how many rows a server gives at once, if it has refused PAGE


class Request(NamedTuple):
    """One request: `path` below the API's address, `body` to be sent as JSON; a 404 is None if `missing_ok`."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    missing_ok: bool = False


def call(method: str, path: str, body: Mapping[str, Any] | None = None, *, missing_ok: bool = False) -> Any:
    """Send the request with these fields, and return its answer as `send` does."""
    return send(Request(method, path, body, missing_ok))


def send(request: Request) -> Any:
    """Return the answer to `request`, decoded from JSON; None if it is empty, or a 404 that is `missing_ok`.

    Raises CannotRun, with the cause and the next step, if the server cannot be reached or refuses (Refused if it
    refuses the credentials), and for a key in the body that the endpoint does not know, which the server would ignore.
    """
    return gather([request])[0]


def gather(requests: Sequence[Request]) -> list[Any]:
    """Return the answers to all of `requests`, in their order; they are sent at the same time.

    Works inside a running event loop too, as in Jupyter and Streamlit, because it has a loop of its own. Raises
    CannotRun as `send` does, for the first request that fails.
    """
    base, header, known = server.attach(), credentials.header(), settings.read()
    files = known.prefect_api_ssl_cert_file, os.environ.get("SSL_CERT_FILE")
    client, loop = _client(os.getpid(), base.startswith("https:"), known.prefect_api_tls_insecure_skip_verify, files)
    few = asyncio.Semaphore(AT_ONCE)

    async def answer(request: Request) -> Any:
        async with few:
            return await _answer(client, base, header, request)

    answers = [asyncio.run_coroutine_threadsafe(answer(request), loop) for request in requests]
    concurrent.futures.wait(answers)
    return [one.result() for one in answers]


def page() -> int:
    """Return how many rows the server gives at once: PAGE, or the lower number that it has reported."""
    return _fewer.get(os.environ.get("PREFECT_API_URL", ""), PAGE)


def rows(request: Request, at_most: int | None = None, *, start: int = 0) -> list[dict[str, Any]]:
    """Return the rows of a `…/filter` endpoint, counted from 0, from `start` to before `at_most`, from all pages.

    Runs come in the order of their ids, whatever `sort` says: among rows that are equal in the sort, the server may
    leave some out between two pages.
    """
    body = dict(request.body or {})
    if request.path.strip("/") in ("flow_runs/filter", "task_runs/filter"):
        body["sort"] = "ID_DESC"
    by_id: dict[str, dict[str, Any]] = {}
    offset, together = start, AT_ONCE if start else 1
    while at_most is None or offset < at_most:
        size = page()
        offsets = range(offset, offset + together * size, size)
        pages = gather([request._replace(body=body | {"limit": PAGE, "offset": each}) for each in offsets])
        if page() < size:  # as the server has just reported: these pages are not next to each other
            continue
        by_id.update({row["id"]: row for one in pages for row in one})
        if len(pages[-1]) < size:
            break
        offset, together = offset + together * size, AT_ONCE
    return list(by_id.values())[: None if at_most is None else at_most - start]


@functools.lru_cache(maxsize=4)
def _client(*_: object) -> tuple[httpx.AsyncClient, asyncio.AbstractEventLoop]:
    """Return connections for a process and what `credentials.trust` reads; and their loop, which runs in a thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="flows.rest", daemon=True).start()
    # A server drops a connection that is idle for 5 seconds, perhaps just as the next request is on its way.
    limits = httpx.Limits(keepalive_expiry=4)
    return httpx.AsyncClient(verify=credentials.trust(), limits=limits), loop


async def _answer(client: httpx.AsyncClient, base: str, header: Mapping[str, str], request: Request) -> Any:
    path, sent, size = request.path.lstrip("/"), request.body or {}, _fewer.get(base, PAGE)
    known = next((keys for ending, keys in KEYS.items() if f"/{path}".endswith(f"/{ending}")), sent)
    if unknown := sorted(set(sent).difference(known)):
        ignored = f"{path} does not know the key {unknown[0]!r}, and the server would silently ignore it."
        raise CannotRun(f"{ignored} Choose from: {', '.join(known)}.")
    paged = sent.get("limit") == PAGE
    body = {**sent, "limit": size} if paged else request.body
    url = f"{base}/{path}"
    # What creates something is sent once: it may have been done, even if no answer came.
    once = request.method == "POST" and path.rstrip("/").rsplit("/", 1)[-1] not in (*READS, "set_state", "renew")
    busy = tenacity.retry_if_result(lambda response: response.status_code in BUSY)
    tries = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(BROKEN) | busy,
        wait=_pause,
        stop=tenacity.stop_after_attempt(1 if once else TRIES) | tenacity.stop_before_delay(PATIENCE),
        retry_error_callback=lambda tried: tried.outcome and tried.outcome.result(),
    )
    try:
        response = await tries(client.request, request.method, url, json=body, headers=header, timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise errors.unreachable(url, error) from None
    refusal = response.text if paged and response.status_code == 422 else ""
    fewer = re.search(r"must be less than or equal to ([1-9]\d*)", refusal)
    if fewer and int(fewer[1]) < size:
        _fewer[base] = int(fewer[1])
        return await _answer(client, base, header, request)
    return errors.decoded(url, response, missing_ok=request.missing_ok)


def _pause(tried: tenacity.RetryCallState) -> float:
    """Return the seconds until the next try: as many as the server asks for, otherwise few and random."""
    if tried.outcome and not tried.outcome.failed and tried.outcome.result().status_code != 503:
        return errors.retry_after(tried.outcome.result()) + random.uniform(0, 0.05)
    return random.uniform(0.05, 0.2) * 1.5 ** (tried.attempt_number - 1)
