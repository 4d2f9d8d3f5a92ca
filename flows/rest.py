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

from flows import auth, lab, settings
from flows.settings import CannotRun

PAGE = 200  # the most rows that the server gives at once
PATIENCE = 30  # seconds that a request is repeated for, where the server asks for that
AT_ONCE = 6  # requests under way at the same time


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

    Raises CannotRun, with the cause and the next step, where the server cannot be reached or says no, and for a key
    in `body` that the endpoint does not know: the server would ignore it, and answer with everything.
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
    if request.path in ("flow_runs/filter", "task_runs/filter"):
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


# The keys that the filters know. Below the first level the server itself refuses what it does not know.
_RUNS = {"flows", "flow_runs", "task_runs", "deployments"}
_POOLS = {"work_pools", "work_pool_queues"}
_PAGED = {"limit", "offset"}
_KEYS: dict[str, set[str]] = {
    "flows/filter": _RUNS | _PAGED | {"work_pools", "sort"},
    "flows/count": _RUNS | {"work_pools"},
    "flow_runs/filter": _RUNS | _POOLS | _PAGED | {"sort"},
    "flow_runs/paginate": _RUNS | _POOLS | {"limit", "page", "sort"},
    "flow_runs/count": _RUNS | _POOLS,
    "flow_runs/history": _RUNS
    | {"work_pools", "work_queues", "history_start", "history_end", "history_interval_seconds"},
    "task_runs/filter": _RUNS | _PAGED | {"sort"},
    "task_runs/count": _RUNS,
    "task_runs/history": _RUNS | {"history_start", "history_end", "history_interval_seconds"},
    "ui/task_runs/count": _RUNS,
    "ui/flow_runs/count-task-runs": {"flow_run_ids"},
    "logs/filter": _PAGED | {"logs", "sort"},
    "deployments/filter": _RUNS | _POOLS | _PAGED | {"sort"},
    "deployments/count": _RUNS | _POOLS,
    "work_pools/filter": _PAGED | {"work_pools"},
    "workers/filter": _PAGED | {"workers"},
    "concurrency_limits/filter": _PAGED,
    "set_state": {"state", "force"},
    "bulk_set_state": {"flow_runs", "state", "force", "limit"},
}


def _refuse_unknown_keys(path: str, body: Mapping[str, Any]) -> None:
    endings = [path, path.removeprefix("v2/"), *("/".join(path.split("/")[-n:]) for n in (2, 1))]
    known = next((_KEYS[ending] for ending in endings if ending in _KEYS), None)
    wrong = sorted(body.keys() - known) if known is not None else []
    if known and wrong:
        raise CannotRun(
            f"{path} knows no filter {wrong[0]!r}, and the server would answer as if it were not there."
            f" Choose from: {', '.join(sorted(known))}."
        )


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
    _refuse_unknown_keys(path, request.body or {})
    try:
        answer = _send(request, url, header, client)
    except httpx.TimeoutException:
        raise CannotRun(f"The server does not answer: {url} timed out. Is it overloaded, or stopped?") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CannotRun(f"No server answers at {url} ({error}). Check PREFECT_API_URL, or start the server.") from None
    if answer.status_code == 404 and request.missing_ok:
        return None
    if not answer.is_success:
        raise CannotRun(_refusal(url, answer))
    try:
        return answer.json() if answer.content else None
    except ValueError:
        raise CannotRun(
            f"{url} answers {answer.status_code} with something else than JSON. Is it a Prefect server's API?"
        ) from None


def _refusal(url: str, answer: httpx.Response) -> str:
    """What the server said, and what to do about it."""
    status, said = answer.status_code, ""
    try:
        known = answer.json()
        if isinstance(known, dict):
            known = known.get("exception_detail") or known.get("detail") or known.get("exception_message")
        if isinstance(known, list):  # what is wrong with which part of the body
            known = "; ".join(f"{'.'.join(map(str, part['loc'][1:]))}: {part['msg']}" for part in known)
        said = " ".join(str(known or "").split())[:300]
    except (ValueError, KeyError, TypeError):
        if status == 404 or status < 400:
            said = "something else than JSON"
    said = f": {said}" if said else ""
    match status:
        case 401 | 403:
            return f"{url} refuses the credentials ({status}{said}). Check PREFECT_API_KEY or its like."
        case 404 | 405 if said in (": Not Found", ": Method Not Allowed"):
            return f"{url} answers {status}{said}. This server's version lacks it, or the address is wrong: see /docs."
        case 404:
            return f"{url} answers 404{said}. It is gone, or was never there. Is it a Prefect server's API?"
        case 422:
            return f"{url} answers 422{said}. This server's version lacks it, or it is misspelt."
        case 423 | 429:
            return f"{url} answers {status}{said}. It asks to wait {answer.headers.get('Retry-After')} s. Try later."
        case _ if status < 400:
            place = answer.headers.get("Location")
            return f"{url} answers {status} and points to {place}. Is PREFECT_API_URL the address of the API?"
        case _ if status >= 500:
            return f"{url} answers {status}{said}. The server's log says more; try again once it is well."
    return f"{url} answers {status}{said}."


def _send(request: Request, url: str, header: dict[str, str], client: httpx.Client) -> httpx.Response:
    """The answer to a request, sent again while the server asks for that. What creates something is sent once."""
    ending = request.path.rstrip("/").rsplit("/", 1)[-1]
    reads = ("filter", "count", "paginate", "history", "count-task-runs", "set_state")
    repeatable = request.method != "POST" or ending in reads
    deadline = time.monotonic() + PATIENCE
    for attempt in range(8):
        short = random.uniform(0.05, 0.2) * 1.5**attempt
        try:
            answer = client.request(request.method, url, json=request.body, headers=header)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if not repeatable or attempt == 7:
                raise
            time.sleep(short)
            continue
        # 503 is what a server over SQLite says while another request writes.
        wait = {503: short, 423: _asked(answer), 429: _asked(answer)}.get(answer.status_code)
        if wait is None or not repeatable or attempt == 7 or time.monotonic() + wait > deadline:
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
