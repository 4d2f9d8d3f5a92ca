"""The monitor and the explorer in a real browser, on a real server: what people do, and what goes wrong for them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from zoneinfo import ZoneInfo

import fill
import httpx
import oidc_provider_mock
import openapi
import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Request, expect
from support.browsers import PATIENCE, barriers
from support.commands import FLOW, answer, run, start
from support.figures import Store
from support.labs import kill
from support.runs import blocked
from support.servers import free_port, proxied
from support.waiting import eventually

from flows import lab, limits, settings, warehouse
from flows.api import errors, rest
from flows.monitor import pages

pytestmark = pytest.mark.long


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of a viewer in Berlin, where the word Traceback is never to be seen."""
    context = browser.new_context(viewport={"width": 1400, "height": 1300}, timezone_id="Europe/Berlin")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    yield page
    assert page.get_by_test_id("stException").all_inner_texts() == []
    assert "Traceback" not in page.content() and page.get_by_text("encountered an error").count() == 0
    context.close()


@pytest.fixture(scope="module")
def serve(shared_folder: Path) -> Iterator[Callable[..., str]]:
    """A function that serves a Streamlit script on the shared lab, with more variables, and returns its address."""
    running: dict[tuple, tuple[subprocess.Popen[bytes], str]] = {}

    def serve(script: str, below: str = "", **variables: str) -> str:
        wanted = (script, below, *sorted(variables.items()))
        if wanted not in running:
            port = free_port()
            command = [sys.executable, "-m", "streamlit", "run", str(settings.PROJECT / "streamlit" / script)]
            environment = os.environ | {"FLOWS_LAB_DIR": str(shared_folder)} | variables
            process = subprocess.Popen(
                [*command, f"--server.port={port}", f"--server.baseUrlPath={below}"],
                cwd="/",
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            running[wanted] = process, f"http://127.0.0.1:{port}/{below}".rstrip("/")
            eventually(lambda: _answers(running[wanted][1]))
        return running[wanted][1]

    yield serve
    for process, _ in running.values():
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_stcore/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def create_run(name: str, state: str = "RUNNING", message: str = "", flow_name: str = "made by a test") -> str:
    """A flow run on the server that no process works on; returns its id."""
    flow = rest.call("POST", "flows/", {"name": flow_name})
    made = {"name": name, "flow_id": flow["id"], "state": {"type": state, "name": state.title(), "message": message}}
    return rest.call("POST", "flow_runs/", made)["id"]


def settled(page: Page) -> None:
    """Wait until Streamlit has drawn the page, and nothing on it is faded because it is being redrawn."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
    expect(page.locator("[data-stale=true]")).to_have_count(0)


def cell(page: Page, text: str | re.Pattern[str]) -> Locator:
    """Cells of tables that hold `text`; Streamlit paints tables, and keeps their text for screen readers."""
    return page.locator("canvas td", has_text=text)


@pytest.fixture
def deployment(shared_lab: str) -> Iterator[str]:
    """The id of a deployment without a work pool."""
    flow = rest.call("POST", "flows/", {"name": "made by a test"})
    deployment = rest.call("POST", "deployments/", {"name": "served", "flow_id": flow["id"], "entrypoint": "x.py:x"})
    yield deployment["id"]
    rest.call("DELETE", f"deployments/{deployment['id']}")


@pytest.fixture(params=["below a path", "behind a proxy that removes a prefix"])
def elsewhere(serve, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield an address of the monitor that is not the one at which it runs, as its visitors may have it."""
    if request.param == "below a path":
        yield serve("main.py", "tools/monitor")
        return
    # As jupyter-server-proxy does; its port is another one too, as with `ssh -L`.
    with proxied(int(serve("main.py").rpartition(":")[2]), tmp_path, free_port(), "/user/ana/proxy/8501") as address:
        eventually(lambda: _answers(address))
        yield address


def test_every_link_stays_where_the_monitor_was_opened(
    shared_lab: str, elsewhere: str, page: Page, deployment: str
) -> None:
    flow_run = create_run("it broke", "FAILED", "the disk is full")
    one = {"flow_run_id": flow_run, "name": "a", "task_key": "a", "dynamic_key": "0", "tags": ["database"]}
    task_run = rest.call("POST", "task_runs/", one | {"state": {"type": "RUNNING", "name": "Running"}})["id"]
    rest.call("POST", "concurrency_limits/increment", {"names": ["database"], "task_run_id": task_run})
    found = set()
    for path, seen in {
        "": page.get_by_role("heading", name="What failed"),
        "/run": page.get_by_text("paste its id"),
        f"/run?id={flow_run}": page.get_by_role("heading", name="it broke · Failed"),
        "/limits": page.get_by_role("link", name="its run"),
        "/start?deployment=made+by+a+test%2Fserved": page.get_by_role("button", name="Start", exact=False).last,
    }.items():
        page.goto(elsewhere + path)
        expect(seen).to_be_visible()
        if path.startswith("/start"):
            seen.click()
            expect(page.get_by_text("a process that serves it")).to_be_visible()
        links = [urljoin(page.url, one) for one in page.locator("a").evaluate_all("all => all.map(a => a.href)")]
        links += [urljoin(page.url, text) for text in cell(page, "run?id=").all_inner_texts()]
        found |= {link for link in links if "#" not in link}
    assert f"{elsewhere}/run?id={flow_run}" in found and len([link for link in found if "run?id=" in link]) >= 2
    for link in found:
        assert link.startswith(f"{elsewhere}/") and httpx.get(link, timeout=60).status_code == 200, link
    page.goto(elsewhere)
    expect(cell(page, f"run?id={flow_run}").first).to_be_attached()
    page.evaluate("link => window.location.assign(link)", f"run?id={flow_run}")  # as a click on the painted link does
    expect(page.get_by_role("heading", name="it broke · Failed")).to_be_visible()
    page.goto(elsewhere)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    assert "it broke" in download.value.path().read_text()


def test_nobody_sees_anything_before_the_log_in(shared_lab: str, serve, page: Page, tmp_path: Path) -> None:
    """Over OpenID Connect with a real provider, at the address of the gateway in front of the monitor."""
    create_run("not for everybody", "COMPLETED")
    front, ana = free_port(), oidc_provider_mock.User(sub="ana", claims={"email": "ana@example.com"})
    with oidc_provider_mock.run_server_in_thread(user_claims=[ana]) as provider:
        secrets = tmp_path / "secrets.toml"
        secrets.write_text(
            f'[auth]\nredirect_uri = "http://localhost:{front}/oauth2callback"\ncookie_secret = "of this test only"\n'
            'client_id = "monitor"\nclient_secret = "of this test only"\n'
            f'server_metadata_url = "http://localhost:{provider.server_port}/.well-known/openid-configuration"\n'
        )
        monitor = serve("main.py", STREAMLIT_SECRETS_FILES=str(secrets))
        with proxied(int(monitor.rpartition(":")[2]), tmp_path, front) as address:
            eventually(lambda: _answers(address))
            page.goto(address)
            log_in = page.get_by_role("button", name="Log in")
            expect(log_in).to_be_visible()
            assert page.get_by_text("Connected to").count() == 0 and cell(page, "not for everybody").count() == 0
            log_in.click()
            page.get_by_role("button", name="ana").click()  # on the provider's page
            expect(page.get_by_text("Logged in as ana@example.com")).to_be_visible()
            expect(cell(page, "not for everybody").first).to_be_attached()
            assert page.url == f"{address}/"
            page.get_by_role("button", name="Log out").click()
            page.get_by_role("heading", name="End Session").wait_for()
            page.goto(address)
            expect(log_in).to_be_visible()
            secrets.write_text("[auth\n")
            page.goto(serve("main.py", STREAMLIT_SECRETS_FILES=str(secrets), READ="again"))
            expect(page.get_by_text("cannot be read. Correct them")).to_be_visible()
            assert page.get_by_text("Connected to").count() == 0, "a mistake in the file opens nothing"


def test_no_table_writes_a_formula(shared_lab: str, serve, page: Page) -> None:
    """A table's own download would write names as they are."""
    flow_run = create_run("=1+1", "FAILED", "=2+2")
    one = {"flow_run_id": flow_run, "name": "=3+3", "task_key": "a", "dynamic_key": "0"}
    rest.call("POST", "task_runs/", one | {"state": {"type": "RUNNING", "name": "Running"}})
    explorer = serve("rest_api_app.py")
    for url, tables in {serve("main.py"): 3, f"{serve('main.py')}/run?id={flow_run}": 1, explorer: 1}.items():
        page.goto(url)
        expect(page.get_by_text("; updated at")).to_be_visible()
        if url == explorer:
            page.get_by_role("button", name="Send").click()
        else:
            expect(cell(page, "=1+1" if tables == 3 else "=3+3").first).to_be_attached()
            page.locator(".stVegaLiteChart").first.hover()
            page.get_by_role("button", name="Show data").first.click()
        for number in range(tables):
            page.locator(".stDataFrame:visible").nth(number).hover()
            expect(page.get_by_role("button", name=re.compile("^Search")).first).to_be_visible()
            expect(page.get_by_role("button", name=re.compile("^Download as CSV"))).to_have_count(0)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as CSV").click()
        saved = download.value.path().read_text()
        assert re.search(r"(^|,)'=\d", saved, re.MULTILINE) and not re.search(r"(^|,)=", saved, re.MULTILINE), url


def test_open_filter_and_share(shared_lab: str, serve, page: Page, browser: Browser) -> None:
    create_run("all is well", "COMPLETED")
    create_run("it broke", "FAILED", "the disk is full")
    waiting = create_run("=1+1 broke", "SCHEDULED")
    page.goto(serve("main.py"))
    port = int(serve("main.py").rsplit(":", 1)[1])
    listening = {one.laddr.ip for one in psutil.net_connections("tcp") if one.laddr.port == port and not one.raddr}
    assert listening == {"127.0.0.1"}, "others may see it who should not"
    expect(page.get_by_role("heading", name="What failed")).to_be_visible()
    expect(cell(page, "the disk is full").first).to_be_attached()
    expect(page.get_by_text("Times in Europe/Berlin")).to_be_visible()
    expect(page.get_by_text("No credentials required")).to_be_visible()
    expect(page.get_by_text("; updated at")).to_be_visible()
    expect(cell(page, "all is well").first).to_be_attached()
    waits = re.compile(rf"It (is|was) due at {datetime.now(ZoneInfo('Europe/Berlin')):%Y-%m-%d %H}:.* CES?T")
    expect(cell(page, waits).first).to_be_attached()
    page.get_by_label("Name contains").fill("broke")
    page.get_by_label("Name contains").press("Enter")
    expect(cell(page, "all is well")).to_have_count(0)
    page.wait_for_url("**text=broke**")

    def saved() -> str:
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as CSV").click()
        return download.value.path().read_text()

    eventually(lambda: "all is well" not in saved())  # Streamlit renews the button after the table
    name = page.get_by_label("Name contains")
    page.get_by_role("link", name="Limits", exact=True).click()
    expect(page.get_by_role("button", name="Add a limit")).to_be_visible()
    assert "broke" not in page.url and page.title() == "Limits · Monitor"
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(name).to_have_value("broke")
    page.wait_for_url("**text=broke**")
    page.get_by_role("link", name="Limits", exact=True).click()
    expect(page.get_by_role("button", name="Add a limit")).to_be_visible()
    page.go_back()  # to what Streamlit puts between two pages; the document says that it takes two
    expect(name).to_be_visible()
    if "broke" not in page.url:
        page.go_back()
    expect(name).to_have_value("broke")
    page.wait_for_url("**text=broke**")
    rows = saved()
    assert "it broke" in rows and rows.startswith("flow_run_id,")
    assert ",'=1+1 broke," in rows, "a spreadsheet would reckon with it"
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.get_by_label("Name contains")).to_have_value("broke")
    expect(cell(other, "it broke").first).to_be_attached()
    expect(cell(other, "all is well")).to_have_count(0)
    other.context.close()
    page.goto(serve("main.py") + "/?since=5+minutes&state=Failed")
    expect(cell(page, "it broke").first).to_be_attached()
    expect(cell(page, "all is well")).to_have_count(0)
    page.goto(serve("main.py") + "/?tag=none-such")
    expect(page.get_by_text("No flow run matches these filters")).to_be_visible()
    rest.call("DELETE", f"flow_runs/{waiting}")


def test_a_flow_is_watched_from_start_to_end(shared_lab: str, serve, page: Page) -> None:
    limits.ensure(limits.TAG, 1)
    warehouse.prepare()
    page.goto(serve("main.py") + "/?pace=2+s")
    with blocked():  # the queries go on once they were seen
        chosen = "makers_bought_together,best_customers,busiest_clerks,returns_by_nation"
        flow = start(FLOW, "--json", "--queries", chosen)
        expect(page.get_by_text("1 of the 1 slots of the tag 'database' are taken").first).to_be_visible()
        expect(page.get_by_text("database: 1 of 1 slots taken")).to_be_visible()
    out, err = flow.communicate(timeout=240)
    flow_run = answer(subprocess.CompletedProcess("", 0, out, err))["flow_run_id"]
    expect(page.get_by_text("Nothing is running and nothing is waiting")).to_be_visible()
    page.goto(f"{serve('main.py')}/run?id={flow_run}")
    expect(page.get_by_text("The limit held: at most 1 ran at once, and 1 is allowed.")).to_be_visible()
    expect(page.get_by_text("Timeline of 4 task runs (4 Completed)")).to_be_visible()
    parts = [page.locator(f"[aria-label^='{words}']").first for words in ("Timeline of 4", "Up to 1 task runs")]
    for part in parts:
        expect(part).to_be_attached()

    def as_wide_as_the_page() -> bool:
        boxes = [part.bounding_box() for part in parts]  # None for a chart that is being redrawn
        return None not in boxes and boxes[0]["width"] == boxes[1]["width"] > 900

    eventually(as_wide_as_the_page)
    expect(page.get_by_role("heading", name="6 task runs")).to_be_visible()
    expect(cell(page, "Finished in state Completed").first).to_be_attached()
    page.goto(f"{serve('main.py')}/run?id={flow_run}&pace=off")  # a refresh renews what is made on demand
    page.get_by_label("Search", exact=True).fill("no line says this")
    page.get_by_label("Search", exact=True).press("Enter")
    expect(page.get_by_text("No line matches.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all lines").click()
    assert "Finished in state Completed" in download.value.path().read_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    head, *lines = download.value.path().read_text().splitlines()
    assert head.startswith("task_run_id,flow_run_id,name,state,") and len(lines) == 6
    assert sum(",best_customers,Completed," in line for line in lines) == 1


def test_a_limit_is_changed_and_one_that_vanished_is_not_made_anew(shared_lab: str, serve, page: Page) -> None:
    limits.ensure("vanishing", 2)
    page.goto(serve("main.py") + "/limits")
    box = page.locator(".st-key-limit-vanishing", has_text="0 of 2 slots taken")
    box.get_by_role("button", name="Change").click()
    page.get_by_role("dialog").get_by_label("May run at once").fill("5")
    page.get_by_role("dialog").get_by_label("May run at once").press("Tab")
    page.get_by_role("button", name="Change the limit").click()
    eventually(lambda: limits.read("vanishing").limit == 5)
    box = page.locator(".st-key-limit-vanishing", has_text="0 of 5 slots taken")
    box.get_by_role("button", name="Change").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    rest.call("DELETE", "concurrency_limits/tag/vanishing")
    page.get_by_role("button", name="Change the limit").click()
    expect(page.get_by_text("lost its limit in the meantime")).to_be_visible()
    assert limits.read("vanishing") is None


def test_a_limit_is_added_and_the_page_rests_meanwhile(shared_lab: str, serve, page: Page) -> None:
    page.goto(serve("main.py") + "/limits?pace=2+s")
    page.get_by_role("button", name="Add a limit").click()
    page.get_by_role("dialog").get_by_label("Tag", exact=True).fill("added")
    page.get_by_role("dialog").get_by_label("May run at once").fill("7")
    rests = page.get_by_text("paused while a dialog is open")
    expect(rests).to_be_visible()
    page.wait_for_timeout(4000)  # a refresh that began before ends meanwhile
    before = rests.inner_text()
    limits.ensure("added-by-another", 2)
    page.wait_for_timeout(4000)
    assert rests.inner_text() == before
    expect(page.get_by_role("dialog").get_by_label("Tag", exact=True)).to_have_value("added")
    page.get_by_role("dialog").get_by_label("May run at once").press("Tab")
    page.get_by_role("button", name="Add the limit").click()
    expect(page.locator(".st-key-limit-added", has_text="0 of 7 slots taken")).to_be_visible()
    assert limits.read("added").limit == 7
    for tag in ("added", "added-by-another"):
        rest.call("DELETE", f"concurrency_limits/tag/{tag}")


def test_a_holder_leads_to_its_run(shared_lab: str, serve, page: Page) -> None:
    flow_run = create_run("has a slot")
    one = {"flow_run_id": flow_run, "name": "in its slot", "task_key": "a", "dynamic_key": "0", "tags": ["database"]}
    task_run = rest.call("POST", "task_runs/", one | {"state": {"type": "RUNNING", "name": "Running"}})["id"]
    rest.call("POST", "concurrency_limits/increment", {"names": ["database"], "task_run_id": task_run})
    page.goto(serve("main.py") + "/limits")
    box = page.locator(".st-key-limit-database", has_text="1 of 3 slots taken, 1 held")
    expect(box).to_contain_text("in its slot · Running")
    page.goto(urljoin(page.url, box.get_by_role("link", name="its run").get_attribute("href")))
    expect(page.get_by_role("heading", name="has a slot · Running")).to_be_visible()


def test_a_leaked_slot_is_shown_and_freed(shared_lab: str, serve, page: Page) -> None:
    holder = {"type": "task_run", "id": "00000000-0000-4000-8000-000000000001"}
    body = {"names": ["tag:database"], "slots": 1, "mode": "concurrency", "lease_duration": 600, "holder": holder}
    rest.call("POST", "v2/concurrency_limits/increment-with-lease", body)
    rest.call("PATCH", "v2/concurrency_limits/tag:database", {"active_slots": 2})
    page.goto(serve("main.py") + "/limits")
    expect(page.get_by_text("1 slot is counted as taken, but no task run holds it")).to_be_visible()
    expect(page.get_by_text("the server knows no such run")).to_be_visible()
    page.get_by_role("button", name="Free slots").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("All 2 taken slots become free")
    page.get_by_role("dialog").get_by_role("button", name="Free the slots").click()
    expect(page.get_by_text("0 of 3 slots taken, 0 held").first).to_be_visible()
    assert limits.read().active_slots == 0


def test_a_run_is_cancelled_after_a_question(shared_lab: str, serve, page: Page) -> None:
    flow_run = create_run("to be cancelled", flow_name="main_etl")
    page.goto(f"{serve('main.py')}/run?id={flow_run}")
    page.get_by_role("button", name="Cancel", exact=False).first.click()
    expect(page.get_by_role("dialog")).to_contain_text("It looks at its own state and stops within a few seconds.")
    assert rest.call("GET", f"flow_runs/{flow_run}")["state_type"] == "RUNNING", "not before it was confirmed"
    page.get_by_role("button", name="Cancel the runs").click()
    expect(page.get_by_role("heading", name="to be cancelled · Cancelling")).to_be_visible()
    assert rest.call("GET", f"flow_runs/{flow_run}")["state_type"] == "CANCELLING"


def test_a_run_that_nothing_stops_is_cancelled_once_its_process_is_gone(shared_lab: str, serve, page: Page) -> None:
    flow_run = create_run("runs elsewhere")
    page.goto(f"{serve('main.py')}/run?id={flow_run}")
    page.get_by_role("button", name="Cancel", exact=False).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("nothing stops it from here")
    page.get_by_role("button", name="Cancel the runs").click()
    expect(dialog).to_contain_text("runs elsewhere was left as it is.")
    assert rest.call("GET", f"flow_runs/{flow_run}")["state_type"] == "RUNNING"
    dialog.get_by_text("The process is gone").click()
    page.get_by_role("button", name="Cancel the runs").click()
    expect(page.get_by_role("heading", name="runs elsewhere · Cancelled")).to_be_visible()


def test_a_tick_never_means_another_run(shared_lab: str, serve, page: Page) -> None:
    """Ticks have positions, and runs that come later would take these: none comes while there is a tick."""
    create_run("to be ticked", "SCHEDULED")
    page.goto(serve("main.py") + "/?pace=2+s")
    expect(cell(page, "to be ticked").first).to_be_attached()
    table = page.locator(".stDataFrame").last
    cancel = page.get_by_role("button", name="Cancel", exact=False).first
    expect(cancel).to_be_disabled()
    table.click(position={"x": 15, "y": 52})
    expect(cancel).to_be_enabled()
    expect(page.get_by_text("paused while rows are selected")).to_be_visible()
    create_run("a later one")
    page.wait_for_timeout(5000)
    assert cell(page, "a later one").count() == 0
    expect(cancel).to_be_enabled()
    cancel.click()
    expect(page.get_by_role("dialog")).to_contain_text("to be ticked")
    page.get_by_role("button", name="Cancel the runs").click()
    expect(cell(page, "a later one").first).to_be_attached()
    expect(page.get_by_role("button", name="Cancel", exact=False).first).to_be_disabled()
    expect(page.get_by_role("dialog")).to_have_count(0)
    settled(page)
    table.click(position={"x": 15, "y": 52})
    expect(cancel).to_be_enabled()
    page.get_by_label("Name contains").fill("to be ticked")
    page.get_by_label("Name contains").press("Enter")
    expect(cell(page, "a later one")).to_have_count(0)
    expect(cancel).to_be_disabled()


def press_tab(page: Page, until: str) -> None:
    """Press Tab until the JavaScript `until` is true."""
    for _ in range(25):
        page.keyboard.press("Tab")
        if page.evaluate(until):
            return
    raise AssertionError(f"Tab does not lead there: {until}")


def test_runs_are_ticked_and_cancelled_without_a_mouse(shared_lab: str, serve, page: Page) -> None:
    for name in ("the first", "the second"):
        create_run(name, "SCHEDULED")
    page.goto(serve("main.py") + "/?pace=off&state=Scheduled&state=Late")
    expect(cell(page, "the first").last).to_be_attached()
    settled(page)
    page.get_by_role("link", name="Link to heading").last.focus()
    press_tab(page, "document.activeElement.tagName === 'CANVAS'")
    page.keyboard.press("Shift+Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Space")
    expect(page.get_by_text("paused while rows are selected")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel", exact=False).first).to_be_enabled()
    press_tab(page, "document.activeElement.innerText.includes('Cancel')")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("the first")
    expect(dialog).to_contain_text("the second")


def test_a_narrow_page_begins_with_the_answers(shared_lab: str, serve, page: Page) -> None:
    create_run("it broke", "FAILED", "the disk is full")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(serve("main.py") + "/?state=Failed")
    expect(page.get_by_text("Only: Failed")).to_be_visible()
    expect(page.get_by_role("heading", name="What runs, and what waits and why")).to_be_in_viewport()
    expect(cell(page, "the disk is full").first).to_be_attached()
    assert page.evaluate("document.querySelector('.stMain').scrollWidth") <= 390
    page.get_by_test_id("stPopoverButton").click()
    page.get_by_label("Name contains").fill("no run is called this")
    page.get_by_label("Name contains").press("Enter")
    expect(page.get_by_text("No flow run matches these filters")).to_be_attached()
    page.set_viewport_size({"width": 1400, "height": 1300})
    expect(page.get_by_test_id("stPopoverButton")).to_have_count(0)
    expect(page.get_by_label("Name contains")).to_have_value("no run is called this")


def test_the_server_is_lost_and_comes_back(shared_lab: str, serve, page: Page) -> None:
    create_run("still to be seen", "COMPLETED")
    page.goto(serve("main.py") + "/?pace=2+s")
    expect(cell(page, "still to be seen").first).to_be_attached()
    kill("prefect")
    expect(page.get_by_text("The data below is")).to_be_visible()
    expect(cell(page, "still to be seen").first).to_be_attached()
    lab.up()
    expect(page.get_by_text("The data below is")).to_have_count(0)
    expect(page.get_by_text("; updated at")).to_be_visible()


def test_a_hidden_tab_asks_nothing(shared_lab: str, serve, page: Page) -> None:
    page.goto(serve("main.py") + "/?pace=2+s")
    read = page.get_by_text("; updated at")
    expect(read).to_be_visible()
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(hide, True)
    expect(page.get_by_text("paused while the tab is hidden")).to_be_visible()
    page.wait_for_timeout(4000)  # a refresh that began before ends meanwhile
    before = read.inner_text()
    page.wait_for_timeout(5000)
    assert read.inner_text() == before, "it went on asking, for nobody"
    page.evaluate(hide, False)
    expect(read).not_to_have_text(before)
    page.add_init_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.reload()
    expect(page.get_by_text("paused while the tab is hidden")).to_be_visible()
    page.wait_for_timeout(4000)  # as above
    before = read.inner_text()
    page.wait_for_timeout(5000)
    assert read.inner_text() == before, "it was opened in the background, and asks"


def test_dark_where_the_system_is_dark(shared_lab: str, serve, browser: Browser) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(serve("main.py"))
        expect(page.get_by_text("; updated at")).to_be_visible()
        app = page.locator(".stApp")
        colours[scheme] = [
            app.evaluate(f"one => getComputedStyle(one).{what}") for what in ("backgroundColor", "color")
        ]
        context.close()
    bright = {
        scheme: [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in both]
        for scheme, both in colours.items()
    }
    assert bright["light"][0] > 0.9 > 0.5 > bright["light"][1]
    assert bright["dark"][0] < 0.2 < 0.5 < bright["dark"][1]


HOSTILE = {
    "a script": "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">",
    "emoji and right to left": "🦊 שלום مرحبا",
    "Markdown": "[click](javascript:alert(1)) **bold** $x^2$ :material/home:",
    "very long": "long " * 2000,
}


def test_odd_names_are_shown_as_they_are(shared_lab: str, serve, page: Page) -> None:
    ids = {kind: create_run(name, "FAILED", message=name) for kind, name in HOSTILE.items()}
    page.goto(serve("main.py"))
    expect(cell(page, "owned").first).to_be_attached()
    for kind, flow_run in ids.items():
        page.goto(f"{serve('main.py')}/run?id={flow_run}")
        shown = " ".join(HOSTILE[kind].split())[:60]
        heading = page.locator("h4").first
        expect(heading).to_contain_text(shown[:20])
        assert heading.inner_text().replace("\u2060", "").startswith(shown), kind
        assert page.title() != "owned" and page.locator("img[src=x]").count() == 0, kind
    page.goto(f"{serve('main.py')}/run?id=00000000-0000-4000-8000-000000000009")
    expect(page.get_by_text("has no flow run")).to_be_visible()


def test_a_run_is_taken_away_as_a_file_that_needs_no_network(
    shared_lab: str, serve, page: Page, browser: Browser, tmp_path: Path
) -> None:
    """With names and log lines that would end the file's scripts, or begin their own."""
    evil = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    flow_run = create_run(evil, "COMPLETED")
    for number, name in enumerate(("<script>", "<!--<script>", evil)):
        one = {"flow_run_id": flow_run, "name": name, "task_key": "a", "dynamic_key": str(number), "tags": ["database"]}
        task_run = rest.call("POST", "task_runs/", one)["id"]
        for state in ("RUNNING", "COMPLETED"):
            body = {"state": {"type": state, "message": evil}, "force": True}
            rest.call("POST", f"task_runs/{task_run}/set_state", body)
    now = datetime.now(timezone.utc).isoformat()
    line = {"name": "a", "level": 20, "message": evil, "timestamp": now, "flow_run_id": flow_run}
    httpx.post(f"{shared_lab}/logs/", json=[line], timeout=60).raise_for_status()
    page.goto(f"{serve('main.py')}/run?id={flow_run}&pace=off")  # a refresh renews what is made on demand
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as HTML").click()
    download.value.save_as(tmp_path / "run.html")
    context = browser.new_context(offline=True)
    saved, asked = context.new_page(), []
    saved.on("request", lambda request: asked.append(request.url))
    saved.on("pageerror", lambda error: asked.append(str(error)))
    saved.goto((tmp_path / "run.html").as_uri())
    expect(saved.locator("#chart svg")).to_be_visible()
    expect(saved.locator("[aria-label^='Timeline of 3 task runs']").first).to_be_attached()
    assert asked == [(tmp_path / "run.html").as_uri()], "one file, and no mistake in its scripts"
    assert saved.title() == f"{evil} · made by a test" and saved.locator("img").count() == 0
    expect(saved.get_by_role("heading", name="Task runs")).to_be_visible()
    assert saved.locator("td").filter(has_text=evil).count() == 5, "three messages, a name and a log line"
    expect(saved.get_by_text("3 task runs, in the order of their submission")).to_be_visible()
    assert Axe().run(saved).response["violations"] == []
    context.close()


def test_no_page_has_a_serious_barrier(shared_lab: str, serve, page: Page, deployment: str) -> None:
    """By axe, in the light theme, but for the colours of code, which are Streamlit's own."""
    flow_run = create_run("it broke", "FAILED", "the disk is full")
    url, explorer, found = serve("main.py"), serve("rest_api_app.py"), []
    for address, seen in {
        f"{url}/?pace=off": page.get_by_role("heading", name="What failed"),
        f"{url}/run?id={flow_run}&pace=off": page.get_by_role("heading", name="it broke · Failed"),
        f"{url}/limits?pace=off": page.get_by_text("0 of 3 slots taken, 0 held").first,
        f"{url}/ledger?pace=off": page.get_by_role("heading", name="database · tag"),
        f"{url}/workers?pace=off": page.get_by_role("heading", name="Deployments that a process serves"),
        f"{url}/start": page.get_by_text("This deployment has no description."),
        explorer: page.get_by_role("button", name="Send"),
    }.items():
        page.goto(address)
        expect(seen).to_be_visible()
        settled(page)
        found += barriers(page, context={"exclude": [[".token"]]})
    rest.call("DELETE", f"flow_runs/{flow_run}")
    assert found == [], "\n".join(map(str, found))


def test_read_only_takes_every_means_to_change_away(shared_lab: str, serve, page: Page) -> None:
    flow_run = create_run("not to be touched")
    url = serve("main.py", MONITOR_READ_ONLY="1")
    bodies = {
        "/": page.get_by_role("button", name="Save as CSV"),
        f"/run?id={flow_run}": page.get_by_role("button", name="Save all lines"),
        "/limits": page.get_by_text("0 of 3 slots taken, 0 held").first,
        "/start": page.get_by_text("nothing can be started from here"),
        "/run": page.get_by_text("paste its id"),
    }
    for path, body in bodies.items():
        page.goto(url + path)
        expect(body).to_be_visible()
        expect(page.get_by_text("Read-only: nothing can be changed from here.")).to_be_visible()
        expect(page.get_by_text(re.compile(r"Connected to Prefect 3\..*; updated at"))).to_be_visible()
        expect(page.get_by_text("No credentials required")).to_be_visible()
        expect(page.locator("[data-testid=stStatusWidget]")).to_have_count(0)
        for name in ("Cancel", "Retry", "Change", "Free slots", "Add a limit", "Start", "Start the lab"):
            assert page.get_by_role("button", name=name, exact=True).count() == 0, (path, name)


def test_a_deployment_is_started_with_its_parameters(shared_lab: str, serve, page: Page) -> None:
    flow = rest.call("POST", "flows/", {"name": "made by a test"})
    kinds = {"table": {"type": "string"}, "rows": {"type": "integer", "default": 3}, "tags": {"type": "array"}}
    made = {"name": "by form", "flow_id": flow["id"], "work_pool_name": "flows", "entrypoint": "x.py:x"}
    schema = {"parameter_openapi_schema": {"type": "object", "properties": kinds}}
    deployment = rest.call("POST", "deployments/", made | schema)["id"]
    page.goto(serve("main.py") + "/start?deployment=made+by+a+test%2Fby+form")
    page.get_by_label("table").fill("orders")
    page.get_by_label("tags (JSON)").fill('["a", 1')
    page.get_by_role("button", name="Start", exact=False).last.click()
    expect(page.get_by_text("The parameter tags is not valid JSON")).to_be_visible()
    page.get_by_label("tags (JSON)").fill('["a", 1]')
    page.get_by_role("button", name="Start", exact=False).last.click()
    expect(page.get_by_text("Started.")).to_be_visible()
    (found,) = rest.call("POST", "flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
    assert found["parameters"] == {"table": "orders", "rows": 3, "tags": ["a", 1]}
    rest.call("DELETE", f"deployments/{deployment}")


def test_the_explorer_asks_and_answers(shared_lab: str, serve, page: Page) -> None:
    create_run("found by the explorer", "COMPLETED")
    page.goto(serve("rest_api_app.py"))
    expect(page.get_by_text("Endpoint (")).to_be_visible()
    page.get_by_label("Body (JSON)").fill('{"flow_runs": {"name": {"any_": ["found by the explorer"]}}}')
    page.get_by_label("Body (JSON)").press("Control+Enter")
    expect(page.get_by_text("any_").first).to_be_visible()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("200 OK")).to_be_visible()
    page.get_by_role("tab", name="JSON").click()
    answered = page.get_by_role("tabpanel", name="JSON")
    expect(answered.get_by_text("found by the explorer").first).to_be_visible()
    expect(answered.get_by_text("DeltaGenerator")).to_have_count(0)
    expect(page.get_by_text("curl -sS")).to_be_visible()
    page.get_by_label("Body (JSON)").fill("{no json")
    page.get_by_label("Body (JSON)").press("Control+Enter")
    expect(page.get_by_text("The body is not valid JSON")).to_be_visible()
    page.goto(serve("rest_api_app.py") + "/?search=delete+flow_runs&endpoint=DELETE+%2Fflow_runs%2F%7Bid%7D")
    expect(page.get_by_text("Fill in id")).to_be_visible()
    page.get_by_role("textbox", name="id: uuid (required)").fill("00000000-0000-4000-8000-000000000009")
    page.get_by_role("textbox", name="id: uuid (required)").press("Enter")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_text("Yes, DELETE this").click()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("404 Not Found")).to_be_visible()


def test_its_code_does_what_it_says(shared_lab: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url, body = (
        f"{shared_lab}/flow_runs/filter",
        {"limit": 1, "sort": "ID_DESC", "flow_runs": {"name": {"like_": "it's"}}},
    )
    create_run("it's here", "COMPLETED")
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_a-very-secret-key")
    monkeypatch.setenv("PREFECT_API_URL", shared_lab)
    command, code = openapi.curl("POST", url, body), openapi.code("POST", url, body)
    assert "secret" not in command + code and "PREFECT_API_KEY" in command and "PREFECT_API_KEY" in code
    for program in (["bash", "-c", command], [sys.executable, "-c", code]):
        done = subprocess.run(program, capture_output=True, text=True, check=True)
        assert "it's here" in done.stdout


def test_the_explorer_s_examples_are_taken_by_the_server(shared_lab: str) -> None:
    known = openapi.read()
    assert len(known) > 100
    for endpoint in known:
        if endpoint.method == "POST" and openapi.only_reads("POST", endpoint.path) and "{" not in endpoint.path:
            if "history" in endpoint.path or "events" in endpoint.path:
                continue  # these want a time
            status = httpx.post(f"{shared_lab}{endpoint.path}", json=endpoint.example, timeout=60).status_code
            assert status == 200, (endpoint.path, endpoint.example)


@pytest.mark.figures
def test_requests_and_bytes_beside_prefect_s_dashboard(
    shared_lab: str, browser: Browser, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """On the same server: what the monitor's first page asks the API for, and what Prefect's dashboard does."""
    database = lab.status().database
    fill.fill(database, 1000)
    ours: list[int] = []
    usual = errors.decoded

    def counted(url: str, answer: httpx.Response, **how: Any) -> Any:
        ours.append(answer.num_bytes_downloaded)
        return usual(url, answer, **how)

    with monkeypatch.context() as patch:
        patch.setattr(errors, "decoded", counted)
        pages.overview()
    theirs: list[Request] = []
    context = browser.new_context(viewport={"width": 1400, "height": 1300})
    page = context.new_page()
    page.on("requestfinished", lambda request: theirs.append(request) if "/api/" in request.url else None)
    page.goto(shared_lab.removesuffix("/api") + "/dashboard")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(5_000)
    received = sum(request.sizes()["responseBodySize"] for request in theirs)
    loads = {"the monitor's first page": (len(ours), sum(ours))}
    loads["Prefect's dashboard, first visit"] = len(theirs), received
    store("dashboard", [{"visit": of, "requests": sent, "bytes": size} for of, (sent, size) in loads.items()])
    context.close()
    fill.empty(database)
    assert 0 < len(ours) < len(theirs)


# Counts how often the sidebar reports another time of the last refresh; it has seconds, and refreshes are two apart.
COUNT = """() => {
    const updated = () => document.querySelector("[data-testid=stSidebar]").textContent.match(/updated at [0-9:]+/)?.[0]
    let last = updated()
    window.refreshes = 0
    setInterval(() => { if (updated() && updated() !== last) { last = updated(); window.refreshes += 1 } }, 200)
}"""


@pytest.mark.figures
@pytest.mark.weekly
def test_three_open_tabs_take_no_more_memory_after_200_refreshes(
    shared_lab: str, serve, browser: Browser, store: Store
) -> None:
    """The server process, and what JavaScript keeps in the tabs, after the first 50 refreshes and after all of them."""
    database = lab.status().database
    fill.fill(database, 300)
    address = serve("main.py", MEMORY="measured")  # a process of its own: other tests leave theirs larger
    option = f"--server.port={address.rpartition(':')[2]}"
    (process,) = [child for child in psutil.Process().children() if option in child.cmdline()]
    tabs = [browser.new_page() for _ in range(3)]
    for tab in tabs:
        tab.goto(f"{address}/?pace=2+s")
        tab.get_by_text("; updated at").wait_for(timeout=PATIENCE)
        tab.evaluate(COUNT)

    def megabytes(refreshes: int) -> tuple[float, float]:
        eventually(lambda: all(tab.evaluate("refreshes") >= refreshes for tab in tabs), seconds=20 * refreshes)
        kept = 0
        for tab in tabs:
            tools = tab.context.new_cdp_session(tab)
            tools.send("HeapProfiler.collectGarbage")
            kept += tools.send("Runtime.getHeapUsage")["usedSize"]
            tools.detach()
            assert tab.get_by_test_id("stException").count() == 0
        return process.memory_info().rss / 1e6, kept / len(tabs) / 1e6

    try:
        early, late = megabytes(50), megabytes(200)
    finally:
        for tab in tabs:
            tab.close()
        fill.empty(database)
    both = {50: early, 200: late}.items()
    store("tabs", [{"refreshes": n, "server_mb": round(server), "tab_mb": round(tab, 1)} for n, (server, tab) in both])
    assert late[0] < 1.1 * early[0] and late[1] < 1.25 * early[1]


@pytest.fixture(autouse=True)
def usual_limit(shared_lab: str) -> Iterator[None]:
    yield
    if run("scripts/lab.py", "status").returncode == 0:
        limits.ensure(limits.TAG, 3)
