"""A lesson in JupyterLab, in a browser."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import nbformat
import pytest
from playwright.sync_api import Browser, expect
from support.notebooks import code
from support.servers import free_port
from support.waiting import eventually

import copies
from flows.api import server


@pytest.fixture
def jupyter(lab_folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab on a learner's copy of the lessons, and the folder of the copy."""
    copies.make(tmp_path / "notebooks")
    port = free_port()
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--IdentityProvider.token="]
    process = subprocess.Popen(
        [*command, f"--ServerApp.port={port}", f"--ServerApp.root_dir={tmp_path}"],
        env=os.environ | {"FLOWS_LAB_DIR": str(lab_folder), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(f"{url}/api"))
        yield url, tmp_path / "notebooks"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False


def connected(url: str, path: str) -> bool:
    """Return whether a page talks to the notebook's kernel: JupyterLab calls it idle earlier, and then runs nothing."""
    kernels = [
        session["kernel"] for session in httpx.get(f"{url}/api/sessions", timeout=60).json() if session["path"] == path
    ]
    return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)


@pytest.mark.long
def test_jupyterlab_runs_a_lesson_and_the_slider_moves_its_timeline(
    jupyter: tuple[str, Path], browser: Browser
) -> None:
    url, folder = jupyter
    (folder / ".copied.json").write_text('{"01_auth": "an earlier edition"}')
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(url)
    expect(page.get_by_role("tab", name="01_auth.ipynb")).to_be_visible(timeout=60_000)
    page.goto(f"{url}/lab/tree/notebooks/02_limits.ipynb")
    eventually(lambda: connected(url, "notebooks/02_limits.ipynb"))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    saved = folder / "02_limits.ipynb"

    def ended() -> bool:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1_000)
        if "The lab is as you found it." not in saved.read_text() or not saved.read_text().rstrip().endswith("}"):
            return False
        return code(nbformat.read(saved, 4))[-1].execution_count is not None  # which comes after what it prints

    eventually(ended, 600)
    expect(page.get_by_text("Would you like to get notified")).to_have_count(0)  # as JupyterLab asks on the first visit
    done = nbformat.read(saved, 4)
    assert "There is a newer edition of 01_auth. To get it, type: " in saved.read_text()
    assert not [output for cell in code(done) for output in cell.outputs if output.output_type == "error"]
    assert [cell.execution_count for cell in code(done)] == list(range(1, len(code(done)) + 1))
    picture = page.locator(".widget-html img")
    handle = page.locator(".widget-slider .noUi-handle").first
    for _ in range(100):
        if handle.count():
            break
        page.locator(".jp-Notebook").hover()
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(50)
    expect(picture).to_have_attribute("alt", "20 queries of 1.0 s under a limit of 3 take 7.0 s.", timeout=60_000)
    before = picture.get_attribute("src")
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(picture).to_have_attribute("alt", "20 queries of 1.0 s under a limit of 4 take 5.0 s.", timeout=60_000)
    assert picture.get_attribute("src") != before
    page.close()


@pytest.mark.long
def test_a_tile_of_the_launcher_starts_the_monitor(jupyter: tuple[str, Path], browser: Browser) -> None:
    """JupyterLab passes it through, so that it can be reached where JupyterLab can."""
    server.use()
    url, _ = jupyter
    context = browser.new_context()
    launcher = context.new_page()
    launcher.goto(f"{url}/lab/workspaces/empty?reset")
    with context.expect_page(timeout=120_000) as opened:
        launcher.locator(".jp-LauncherCard", has_text="Monitor").click(timeout=120_000)
    expect(opened.value.get_by_text("Connected to Prefect")).to_be_visible(timeout=120_000)
    assert opened.value.url.startswith(f"{url}/monitor/")
    context.close()
