"""Take the pictures of the monitor for docs/monitor.md: `python scripts/screenshots.py`.

They show the main job under a limit of 2, on the server in use, which is the kit's own lab by default.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator

import httpx
from playwright.sync_api import Page, sync_playwright

from flows import cli, limits, settings
from flows.api import endpoints, rest, server
from flows.settings import CannotRun

DOCS = settings.PROJECT / "docs"


def main() -> int:
    """Write docs/monitor-*.png. Raises CannotRun if Chromium is not installed."""
    cli.Arguments(description="Take the pictures of the monitor.").parse_args()
    chromium = os.environ.get("FLOWS_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise CannotRun("Chromium was not found. Install Debian's package chromium, or set FLOWS_CHROMIUM to its path.")
    server.use()
    before = limits.read()
    with sync_playwright() as playwright, _served("main.py") as monitor, _served("rest_api_app.py") as explorer:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        light, dark = (
            browser.new_context(
                viewport={"width": 1280, "height": 900}, timezone_id="UTC", color_scheme=scheme
            ).new_page()
            for scheme in ("light", "dark")
        )
        _open(light, f"{monitor}/?pace=2+s")
        limits.ensure(limits.TAG, 2)
        flow = _run()
        try:
            light.get_by_text(re.compile(r"2 of the 2 slots .* are taken: \w+ and \w+\.")).first.wait_for()
            _shoot(light, "runs")
            _open(light, f"{monitor}/limits?pace=2+s")
            light.get_by_role("link", name="its run").first.wait_for()
            _shoot(light, "limits")
            flow.wait()
            _open(light, f"{monitor}/ledger?limit=tag%3Adatabase")
            light.locator("[aria-label^='A lane']").first.wait_for(state="attached")
            _shoot(light, "ledger")
            newest = rest.send(endpoints.flow_runs(limit=1))[0]["id"]
            for page, name in ((light, "run"), (dark, "run-dark")):
                page.set_viewport_size({"width": 1280, "height": 1140})  # down to the line against the limit
                _open(page, f"{monitor}/run?id={newest}")
                page.get_by_text("The limit held").wait_for()
                page.locator("[aria-label^='Timeline']").first.wait_for(state="attached")
                _shoot(page, name)
            light.set_viewport_size({"width": 1280, "height": 900})
            _open(light, explorer)
            light.get_by_role("button", name="Send").click()
            light.get_by_text("200 OK").wait_for()
            _shoot(light, "explorer")
        finally:
            flow.wait()
            limits.ensure(limits.TAG, before.limit if before else limits.DEFAULT)
            browser.close()
    return 0


def _open(page: Page, url: str) -> None:
    page.set_default_timeout(60_000)
    page.goto(url)
    page.locator("h4, h5, .stProgress, .st-key-limit-database").first.wait_for()


def _shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(1500)  # until animations have ended
    file = DOCS / f"monitor-{name}.png"
    page.screenshot(path=file)
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


def _run() -> subprocess.Popen[bytes]:
    # Three times the usual size, so that it still runs when the second page is open.
    command = [sys.executable, str(settings.PROJECT / "flows" / "prefect_flow.py"), "--scale", "0.3"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _served(script: str) -> Generator[str]:
    """Serve `script` with Streamlit, and yield its address."""
    with socket.socket() as probe:  # to find a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(settings.PROJECT / "streamlit" / script)]
    process = subprocess.Popen([*command, f"--server.port={port}"], stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/_stcore/health").status_code == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    cli.run(main)
