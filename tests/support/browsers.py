"""Chromium, and the monitor's app in a test's own process."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from flows import settings

PATIENCE = 60_000  # milliseconds; on a busy machine Streamlit's first page takes its time
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Yield the Chromium of this machine, or the one that FLOWS_CHROMIUM names."""
    program = os.environ.get("FLOWS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert program, (
        "Chromium was not found: install Debian's package chromium, as .ci/run does, or name one in FLOWS_CHROMIUM"
    )
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


def barriers(page: Page, **axe: Any) -> list[tuple[str, str, list[str]]]:
    """Return what axe finds serious on a page: the address, the rule, and the elements; `axe` is for `Axe.run`."""
    return [
        (page.url, broken["id"], [node["html"][:200] for node in broken["nodes"]])
        for broken in Axe().run(page, **axe).response["violations"]
        if broken["impact"] in ("serious", "critical")
    ]


def forget_scripts() -> None:
    """Make the next run import the monitor's modules again: an app registers its own components when that happens.

    In the Streamlit that goes with Prefect 2 each run of an AppTest forgets them, in later ones each new AppTest.
    """
    for script in (settings.PROJECT / "streamlit").glob("*.py"):
        sys.modules.pop(script.stem, None)
