"""What is said of a server that cannot be reached, is not Prefect, or does not let the kit in."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from support.commands import answer, refused
from support.guards import CHECK, WRONG_KEY, kit, own_header, set_to, variables_of
from support.servers import answering

from flows import lab, settings
from flows.api import credentials, diagnosis, endpoints, errors, rest
from flows.lab import processes


@pytest.mark.guard("gateway")
def test_the_websocket_is_shown_with_and_without_what_the_kit_sets(guarded) -> None:
    url = guarded("gateway")
    done = kit(CHECK, PREFECT_API_URL=url, **variables_of("gateway", "right"))
    assert done.returncode == 0
    assert "With only PREFECT_API_KEY" in done.stdout and "(status 401)" in done.stdout


@pytest.mark.guard("none")
def test_https_to_a_server_that_has_none(guarded) -> None:
    url = guarded("none")
    assert "does not use TLS" in refused(kit(CHECK, PREFECT_API_URL=url.replace("http:", "https:")))


@pytest.mark.parametrize(
    ("variables", "code", "says"),
    [
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
            2,
            "No server answers at http://127.0.0.1:9. Start it (for the lab: python scripts/lab.py up), or",
        ),
        ({"PREFECT_API_URL": "http://nowhere.invalid/api"}, 2, "No machine has the name nowhere.invalid"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200"}, 2, "the address of a web page. The API address contains /api"),
        ({"PREFECT_API_URL": "127.0.0.1:4200/api"}, 2, "does not begin with http:// or https://"),
        (
            {"PREFECT_API_URL": "https://api.prefect.cloud/api"},
            2,
            "is not the API address of a Prefect Cloud workspace",
        ),
        (
            {"PREFECT_API_URL": f"https://app.prefect.cloud/account/{'a' * 36}/workspace/{'b' * 36}/api"},
            2,
            f"https://api.prefect.cloud/api/accounts/{'a' * 36}/workspaces/{'b' * 36}",
        ),
        (
            {"PREFECT_API_URL": f"https://app.prefect.cloud/account/{'a' * 36}/workspace/{'b' * 36}/dashboard?x=1"},
            2,
            f"Set PREFECT_API_URL to https://api.prefect.cloud/api/accounts/{'a' * 36}/workspaces/{'b' * 36};",
        ),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/dashboard"}, 2, "contains /api: use http://127.0.0.1:4200/api"),
        (
            {"PREFECT_API_URL": "https://host/prefect/runs/flow-run/1?x#y"},
            2,
            "contains /api: use https://host/prefect/api",
        ),
        ({"PREFECT_API_URL": f"http://user:{WRONG_KEY}@host/api"}, 2, "set PREFECT_API_AUTH_STRING=user:password"),
        ({"PREFECT_API_URL": WRONG_KEY}, 2, "in the environment does not begin with http:// or https://"),
        ({"PREFECT_API_URL": "http://localhost:42OO/api"}, 2, "has no valid host or port"),
        ({"PREFECT_API_URL": "http://localhost:420000/api"}, 2, "has no valid host or port"),
        ({"PREFECT_API_URL": "http://[::1/api"}, 2, "has no valid host or port"),
        ({"PREFECT_API_URL": "http:///api"}, 2, "has no valid host or port"),
        ({"PREFECT_API_URL": "http://a..b/api"}, 2, "has no valid host or port"),
        ({"PREFECT_CLIENT_CUSTOM_HEADERS": "Authorization: x"}, 2, "is not a JSON object"),
        (own_header(5), 2, "is not a JSON object of names and texts"),
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
    "login": ("302 Found", "Location: https://login.example.com/?next=%2Fapi", "", "probably a login page"),
    "https": ("308 Permanent Redirect", "Location: https://127.0.0.1/api", "", "redirects to https"),
    "page": ("200 OK", "Content-Type: text/html", "<html>Welcome</html>", "that is not a Prefect API"),
    "gone": ("404 Not Found", "Content-Type: application/json", '{"detail":"Not Found"}', "Check the path"),
    "down": (
        "502 Bad Gateway",
        "Content-Type: text/html",
        "<html>nginx</html>",
        "The Prefect server behind this address",
    ),
    "forbidden": ("403 Forbidden", "Content-Type: application/json", '{"detail":"no"}', "they do not allow this"),
    "expired": (
        "401 Unauthorized",
        'WWW-Authenticate: Bearer error="invalid_token", error_description="The key expired on 1 May"',
        "{}",
        "Its reason: The key expired on 1 May.",
    ),
    "Basic": ("401 Unauthorized", "Server: uvicorn", '{"exception_message":"Unauthorized"}', "asks for Basic"),
    "nameless": (
        "401 Unauthorized",
        "Server: nginx",
        '{"detail":"no"}',
        "or not of the kind that the server accepts. Ask",
    ),
    "empty": (
        "401 Unauthorized",
        "WWW-Authenticate:",
        "<html>no</html>",
        "or not of the kind that the server accepts. Ask",
    ),
    "other": (
        "401 Unauthorized",
        "WWW-Authenticate: Negotiate",
        "{}",
        "asks for Negotiate credentials (401), but bearer",
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
            rest.send(endpoints.count(endpoints.flow_runs()))
    no = status[:3] in ("401", "403")
    assert isinstance(error.value, settings.Refused) is no, "all commands exit with the same code"
    assert done.returncode == 1 if no else refused(done)
    assert says in (done.stdout if no else done.stderr), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and "<html>" not in done.stdout + done.stderr + str(error.value)


def test_a_header_of_the_kind_that_is_asked_for_and_refused_is_said(new_lab: Path) -> None:
    with answering(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n") as url:
        done = kit(CHECK, PREFECT_API_URL=url, **own_header(f"Negotiate {WRONG_KEY}"))
    assert done.returncode == 1 and "rejected the negotiate header of PREFECT_CLIENT_CUSTOM_HEADERS" in done.stdout
    assert WRONG_KEY not in done.stdout


def test_what_prefect_cloud_asks_for_is_known() -> None:
    request = httpx.Request("GET", f"{credentials.CLOUD}api/accounts/{'a' * 36}/workspaces/{'b' * 36}/flow_runs/count")
    assert diagnosis.asked_for(httpx.Response(401, json={"detail": "no"}, request=request)) == "Bearer"


def test_a_redirect_from_https_is_to_a_page_to_log_in() -> None:
    response = httpx.Response(302, headers={"Location": "https://127.0.0.1/login"})
    message = str(errors.refusal("https://127.0.0.1/api/admin/version", response))
    assert "redirects to https://127.0.0.1/login: probably a login page" in message


def test_a_server_that_hangs_or_hangs_up_is_said(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PATIENCE", 1)
    with answering(None) as url:
        assert "did not answer within 1 s" in diagnosis.check(url).detail
    with answering(b"") as url:
        found = diagnosis.check(url)
        assert "hung up without an answer" in found.detail and not found.reachable


@pytest.mark.long
def test_a_server_that_asks_for_csrf_tokens_is_recognised(new_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = processes.start
    csrf = {"PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}

    def start(*arguments: Any, chosen: dict[str, str], **options: Any) -> int:
        return usual(*arguments, chosen=chosen | csrf, **options)

    monkeypatch.setattr(processes, "start", start)
    lab.up()
    done = kit(CHECK)
    assert done.returncode == 1 and "answers 403: Missing CSRF token" in done.stdout
