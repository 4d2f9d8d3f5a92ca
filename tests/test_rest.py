"""The client of the REST API: pages, repeats, refusals, and what it says when the server does not do as asked."""

import asyncio
import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from pathlib import Path

import httpx
import psycopg
import pytest
import refresh
import start_page
import workers
from fill import empty, fill_wide
from support.servers import forget_servers, free_port
from support.waiting import eventually

from flows import lab, limits
from flows.api import endpoints, rest
from flows.api.rest import Request
from flows.monitor import pages
from flows.settings import CannotRun

Reply = tuple[int, dict[str, str], str] | None


class Scripted(http.server.ThreadingHTTPServer):
    """A server that answers as it is told, one reply after the other, the last one for ever; None hangs up."""

    daemon_threads = True

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.heard: list[tuple[float, str]] = []
        self.ports: set[int] = set()
        self.authorizations: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        heard = self.server.heard
        self.server.ports.add(self.client_address[1])
        self.server.authorizations.append(self.headers.get("Authorization"))
        heard.append((time.monotonic(), f"{self.command} {self.path}"))
        reply = self.server.replies[min(len(heard), len(self.server.replies)) - 1]
        if reply is None:
            self.close_connection = True
            return
        status, headers, body = reply
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body.encode()))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_PATCH = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    forget_servers(monkeypatch)
    server = Scripted()
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield server
    server.shutdown()
    server.server_close()


OK = (200, {}, "[]")
READ = Request("POST", "flow_runs/filter", {})
HEALTH = Request("GET", "health")


def gaps(server: Scripted) -> list[float]:
    times = [time for time, _ in server.heard]
    return [after - before for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("status", [429, 423])
def test_it_waits_as_long_as_the_server_asks(scripted: Scripted, status: int) -> None:
    date = formatdate(time.time() + 2, usegmt=True)
    waits = ["0.3", "1", date, None]
    scripted.replies = [(status, {"Retry-After": wait} if wait else {}, "") for wait in waits] + [OK]
    assert rest.send(READ) == []
    short, second, until, unsaid = gaps(scripted)
    assert 0.3 <= short < second and second >= 1 and unsaid >= 1
    assert 0 <= until < 2, "the date was two seconds away before the first two waits"


def test_it_does_not_wait_for_minutes(scripted: Scripted) -> None:
    scripted.replies = [(429, {"Retry-After": "3600"}, '{"detail": "slow down"}')]
    with pytest.raises(CannotRun, match=r"answers 429: slow down. It is busy; try again in 3600 s"):
        rest.send(READ)
    assert len(scripted.heard) == 1


@pytest.mark.parametrize("failure", [(503, {}, ""), None])
def test_a_read_is_repeated_and_what_creates_is_not(scripted: Scripted, failure: Reply) -> None:
    scripted.replies = [failure, failure, OK]
    for repeatable in (READ, Request("POST", "flow_runs/a/set_state", {}), Request("PATCH", "flow_runs/a", {})):
        scripted.heard.clear()
        assert rest.send(repeatable) == [] and len(scripted.heard) == 3
    for creation in (
        endpoints.create_flow_run("a", {}),
        Request("POST", "concurrency_limits/increment", {"names": ["a"]}),
        Request("POST", "flow_runs/bulk_set_state", {}),
        Request("POST", "flows/", {}),
    ):
        scripted.heard.clear()
        with pytest.raises(CannotRun):
            rest.send(creation)
        assert len(scripted.heard) == 1
    scripted.heard.clear()
    scripted.replies = [failure]
    with pytest.raises(CannotRun, match=r"answers 503|hung up without an answer"):
        rest.send(READ)
    assert 2 < len(scripted.heard) < 20, "it gives up"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, {}, '{"exception_message": "Unauthorized"}'), "refuses the credentials (401: Unauthorized)"),
        (
            (403, {}, '{"detail": "Missing CSRF token."}'),
            "403: Missing CSRF token. The server requires a CSRF token",
        ),
        ((502, {}, "<html>Bad gateway</html>"), "answers 502. The Prefect server behind this address"),
        ((307, {"Location": "https://elsewhere/api"}, ""), "redirects to https://elsewhere/api: probably a login page"),
        ((307, {"Location": "/api/flow_runs/a/"}, ""), "/api/flow_runs/a/. Correct the path"),
        (
            (500, {}, '{"exception_message": "Internal Server Error"}'),
            "500: Internal Server Error. Look at the server's log",
        ),
        ((200, {}, "<script>"), "answers 200 with something other than JSON: that is not a Prefect API"),
        ((409, {}, '["odd"]'), "answers 409: odd."),
    ],
)
def test_a_refusal_names_the_address_the_reason_and_the_next_step(scripted: Scripted, reply: Reply, said: str) -> None:
    scripted.replies = [reply]
    with pytest.raises(CannotRun) as caught:
        rest.call("GET", "flow_runs/a", missing_ok=True)
    message = str(caught.value)
    assert message.startswith(f"http://127.0.0.1:{scripted.server_port}/api/flow_runs/a ")
    assert said in message and "<" not in message and "\n" not in message


def test_a_server_that_hangs_or_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_servers(monkeypatch)
    hangs = Scripted()  # it listens, and nobody serves
    monkeypatch.setattr(rest, "TIMEOUT", 0.3)
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{hangs.server_port}/api")
    with pytest.raises(CannotRun, match=r"/api/health did not answer within 0\.3 s\. Request less data, or check"):
        rest.send(HEALTH)
    hangs.server_close()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(CannotRun, match=r"No server answers at http://127\.0\.0\.1:9\. Start it .*correct PREFECT_API"):
        rest.send(HEALTH)


def test_a_typo_in_a_filter_is_refused_before_the_server_ignores_it(shared_lab: str) -> None:
    for path in ("flow_runs/filter", "/flow_runs/count", "v2/concurrency_limits/filter", "flow_runs/a/set_state"):
        with pytest.raises(CannotRun, match="does not know the key 'flow_run'"):
            rest.call("POST", path, {"flow_run": {}})
    with pytest.raises(CannotRun, match=r"answers 422: flow_runs.states Extra inputs are not permitted"):
        rest.call("POST", "flow_runs/filter", {"flow_runs": {"states": {}}})


def test_the_keys_are_those_that_the_server_knows(shared_lab: str) -> None:
    known = httpx.get(shared_lab.removesuffix("/api") + "/openapi.json", timeout=60).json()
    paths = {path.removeprefix("/api/").lstrip("/"): methods for path, methods in known["paths"].items()}
    checked = 0
    for path, methods in paths.items():
        ending = next((key for key in rest.KEYS if path == key or (path.endswith(f"/{key}") and "{" in path)), None)
        if ending and "post" in methods:
            schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            while "properties" not in schema:
                reference = schema.get("$ref") or next(part for part in schema["anyOf"] if "$ref" in part)["$ref"]
                schema = known["components"]["schemas"][reference.rsplit("/", 1)[1]]
            assert sorted(schema["properties"]) == rest.KEYS[ending], path
            checked += 1
    assert checked >= len(rest.KEYS)


def test_many_rows_come_whole_even_if_the_server_cannot_tell_their_order(shared_lab: str) -> None:
    database = lab.status().database
    assert database is not None
    run = fill_wide(database, 1450)
    wanted = {f"query_{number}" for number in range(1450)}
    try:
        rows = rest.rows(endpoints.task_runs(flow_run=run))
        assert len(rows) == 1450 and {row["name"] for row in rows} == wanted
        assert len(rest.rows(endpoints.task_runs(flow_run=run), 300)) == 300
        assert len(rest.rows(endpoints.task_runs(flow_run=run), start=1300)) == 150
        page = refresh.first(run)
        assert set(page.task_runs["name"]) == wanted
        assert len(refresh.run(page).task_runs) == 1450
    finally:
        empty(database)


@pytest.fixture
def small_pages(shared_lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the API address of a second server over the lab's database, which gives 50 rows at once."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    database = str(lab.status().database).replace("postgresql:", "postgresql+asyncpg:")
    variables = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_API_DEFAULT_LIMIT": "50",
        "PREFECT_API_URL": "",
    }
    server = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "error"], cwd=tmp_path, env=os.environ | variables
    )
    url = f"http://127.0.0.1:{port}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    try:
        eventually(lambda: answers(HEALTH))
        yield url
    finally:
        server.terminate()
        server.wait()


def answers(request: Request) -> bool:
    try:
        return bool(rest.send(request))
    except CannotRun:
        return False


def test_the_size_of_a_page_is_what_the_server_accepts(scripted: Scripted) -> None:
    refusals = [(422, {}, f'{{"detail": "Invalid limit: must be less than or equal to {most}."}}') for most in (50, 20)]
    scripted.replies = [*refusals, OK]
    assert rest.page() == 200
    assert rest.send(endpoints.flow_runs()) == [] and rest.page() == 20 and len(scripted.heard) == 3
    assert rest.rows(endpoints.flow_runs()) == [] and len(scripted.heard) == 4
    scripted.replies = refusals[:1]
    with pytest.raises(CannotRun, match="less than or equal to 50"):  # this many were asked for
        rest.send(endpoints.flow_runs(limit=100))


@pytest.mark.long
def test_a_server_with_smaller_pages_is_read_whole(
    shared_lab: str, small_pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = lab.status().database
    assert database is not None
    run = fill_wide(database, 460)
    wanted = {f"query_{number}" for number in range(460)}
    try:
        assert rest.page() == 200, "it has not said anything yet"
        assert len(rest.rows(endpoints.task_runs(flow_run=run), start=30)) == 430
        assert rest.page() == 50
        monkeypatch.setenv("PREFECT_API_URL", small_pages.replace("127.0.0.1", "localhost"))  # a server not asked yet
        assert {row["name"] for row in rest.rows(endpoints.task_runs(flow_run=run))} == wanted
        assert len(rest.rows(endpoints.task_runs(flow_run=run), 120)) == 120
        assert len(rest.send(endpoints.task_runs(flow_run=run))) == 50
        with pytest.raises(CannotRun, match="less than or equal to 50"):  # which the user has asked for
            rest.call("POST", "flow_runs/filter", {"limit": 100})
        page = refresh.first(run)
        assert set(page.task_runs["name"]) == wanted
        with psycopg.connect(database) as connection:
            # In an order that the server can tell: what is equal in it may be left out between two slices.
            changed = "update task_run set state_name = 'Again', end_time = now(), expected_start_time ="
            changed += " expected_start_time + substr(name, 7)::int * interval '1 ms' where flow_run_id = %s"
            connection.execute(changed, [run])
        for _ in range(100):
            page = refresh.run(page)
            if page.unread.skip == 0:
                break
        assert set(page.task_runs["state"]) == {"Again"} and set(page.task_runs["name"]) == wanted
        assert pages.overview().complete
        with psycopg.connect(database) as connection:
            runs = "update task_run set state_type = 'RUNNING', state_timestamp = now() where flow_run_id = %s"
            connection.execute(runs, [run])
        assert not pages.overview().complete and not refresh.overview(pages.overview()).complete
        ids = [row["id"] for row in rest.rows(endpoints.task_runs(flow_run=run), 60)]
        limits.ensure("of small pages", 60)
        for id_ in ids:
            rest.call("POST", "concurrency_limits/increment", {"names": ["of small pages"], "task_run_id": id_})
        limit = limits.read("of small pages")
        assert {holder["task_run_id"] for holder in limit.holders if holder["name"]} == set(ids)
        (held,) = pages.limits().query("tag == 'of small pages'").to_dict("records")
        assert sum(holder["name"] is not None for holder in held["holders"]) == 60
    finally:
        rest.send(endpoints.delete("concurrency_limits/tag", "of small pages"))
        empty(database)
    monkeypatch.setenv("PREFECT_API_URL", shared_lab)
    assert rest.page() == 200, "another server gives as many as ever"


def test_a_missing_thing_is_none_where_that_is_asked_for(shared_lab: str) -> None:
    nobody = "00000000-0000-0000-0000-000000000000"
    assert rest.send(endpoints.flow_run(nobody)) is None
    with pytest.raises(
        CannotRun, match=r"answers 404: Flow run not found\. It was deleted, or it is on another server"
    ):
        rest.call("GET", f"flow_runs/{nobody}")
    with pytest.raises(CannotRun, match=r"has no flow run 0000.* It was deleted, or it is on another server"):
        pages.run(nobody)
    with pytest.raises(CannotRun, match="This version of the server has no such endpoint"):
        rest.call("GET", "nothing/of/the/kind")


def test_several_are_read_at_once_in_their_order_where_an_event_loop_runs(shared_lab: str) -> None:
    reads = [HEALTH, endpoints.version(), endpoints.flow_run("0" * 8 + "-0000" * 3 + "-" + "0" * 12)]

    async def inside_a_loop() -> list:
        return rest.gather(reads)

    health, version, nothing = asyncio.run(inside_a_loop())
    assert (health, version[0], nothing) == (True, "3", None)
    with pytest.raises(CannotRun, match="nothing"):
        rest.gather([HEALTH, Request("GET", "nothing")])
    assert rest.gather([]) == []


def test_not_all_of_many_are_sent_at_once(scripted: Scripted) -> None:
    scripted.replies = [(200, {}, "1")]
    assert rest.gather([READ] * 40) == [1] * 40
    assert 1 < len(scripted.ports) <= rest.AT_ONCE, "the connections are not reused"


def test_every_endpoint_answers(shared_lab: str) -> None:
    now = datetime.now(timezone.utc)
    answers = rest.gather(
        [
            endpoints.flow_runs(flow="a", state=["FAILED", "Late"], tag="b", since=now, text="c"),
            endpoints.history(start=now - timedelta(seconds=15), flow="a", state=["Late"], tag="b", text="c"),
            endpoints.task_runs(state=["RUNNING"], tag="a", ids=[]),
            endpoints.task_runs(changed_since=now),
            endpoints.task_runs(or_started_since=now, ids=[]),
            endpoints.logs(flow_run="0" * 8 + "-0000" * 3 + "-" + "0" * 12, since=now),
            endpoints.flows(ids=[]),
            workers.request("a / b"),
        ]
    )
    assert [answer for answer in answers if answer] == [answers[1]]
    assert isinstance(rest.send(start_page.DEPLOYMENTS), list)
    assert {limit["tag"] for limit in rest.send(endpoints.limits())} >= {limits.TAG}
    assert f"tag:{limits.TAG}" in {limit["name"] for limit in rest.send(endpoints.counters())}


def test_every_endpoint_that_changes_something(shared_lab: str) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})["id"]
    running = {"flow_id": flow, "state": {"type": "RUNNING", "name": "Running"}}
    made = [Request("POST", "flow_runs/", running | {"name": f"endpoint {number}"}) for number in range(3)]
    runs = [run["id"] for run in rest.gather(made)]
    one = {"flow_run_id": runs[0], "task_key": "one", "dynamic_key": "one", "name": "one", "tags": ["a"]}
    task = rest.call("POST", "task_runs/", one)["id"]
    chosen = endpoints.flow_runs(flow="made by a test", text="endpoint", limit=2)
    tasks = endpoints.task_runs(flow_run=runs[0])
    try:
        assert rest.gather([endpoints.count(chosen), endpoints.count(tasks)]) == [3, 1]
        named = endpoints.task_runs(flow=["made by a test"], name="one", tag="a")
        assert [row["id"] for row in rest.send(named)] == [task]
        assert [row["id"] for row in rest.send(endpoints.flows(text="by a te"))] == [flow]
        assert rest.send(endpoints.flow_runs(flow="made by")) == [] == rest.send(endpoints.flow_runs(flow=[]))
        forced = endpoints.set_state(task, "COMPLETED", "Completed", "by a test", force=True, of="task_runs")
        assert rest.send(forced)["status"] == "ACCEPT"
        assert rest.send(tasks)[0]["state_name"] == "Completed"
        nobody = "00000000-0000-4000-8000-000000000001"
        assert rest.send(endpoints.set_state(nobody, "COMPLETED", "Completed")._replace(missing_ok=True)) is None
        rest.send(endpoints.delete("flow_runs", runs[1]))
        assert {run["id"] for run in rest.rows(chosen)} == {runs[0], runs[2]}
    finally:
        rest.send(endpoints.delete("flows", flow))
    assert rest.send(endpoints.delete("flows", flow)) is None and rest.send(chosen) == []


def test_every_endpoint_of_limits(shared_lab: str) -> None:
    holder = "00000000-0000-4000-8000-000000000001"
    rest.call("POST", "concurrency_limits/increment", {"names": [limits.TAG], "task_run_id": holder})
    assert rest.send(endpoints.limit(limits.TAG))["active_slots"] == [holder]
    assert rest.send(endpoints.counter(f"tag:{limits.TAG}"))["active_slots"] == 1
    rest.send(endpoints.reset_limit(limits.TAG))
    rest.send(endpoints.change_counter(f"tag:{limits.TAG}", active_slots=0))
    assert limits.read().active_slots == 0
    rest.call("POST", "v2/concurrency_limits/", {"name": "by-a-test", "limit": 2})
    rest.send(endpoints.change_counter("by-a-test", active_slots=2))
    assert rest.send(endpoints.counter("by-a-test"))["active_slots"] == 2
    rest.send(endpoints.delete("v2/concurrency_limits", "by-a-test"))
    rest.call("POST", "concurrency_limits/", {"tag": "by-a-test", "concurrency_limit": 2})
    rest.send(endpoints.delete("concurrency_limits/tag", "by-a-test"))
    gone = [endpoints.limit("by-a-test"), endpoints.counter("by-a-test")]
    assert rest.gather(gone) == [None, None]


def test_the_connections_are_reused_and_follow_the_environment(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.replies = [OK]
    rest.gather([READ, READ])
    rest.send(READ)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_another")
    rest.send(READ)
    assert len(scripted.ports) <= 2 and scripted.authorizations == [None] * 3 + ["Bearer pnu_another"]
    before = set(scripted.ports)
    monkeypatch.setenv("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "true")
    rest.send(READ)
    assert len(scripted.ports - before) == 1, "certificates are trusted by connection"


def test_certificates_are_checked_even_if_the_server_before_had_none(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.replies = [(200, {}, "true")]
    verified = []
    usual = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: verified.append(options["verify"]) or usual(**options))
    monkeypatch.setenv("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "false")
    rest.send(HEALTH)
    monkeypatch.setenv("PREFECT_API_URL", "https://127.0.0.1:9/api")
    with pytest.raises(CannotRun, match="No server answers"):
        rest.send(HEALTH)
    assert verified[-1] is not False


def test_json_is_what_is_sent(scripted: Scripted) -> None:
    scripted.replies = [(200, {}, json.dumps({"a": "ü"}))]
    assert rest.call("PATCH", "/v2/concurrency_limits/tag:a", {"active_slots": 0}) == {"a": "ü"}
    assert scripted.heard[0][1] == "PATCH /api/v2/concurrency_limits/tag:a"
