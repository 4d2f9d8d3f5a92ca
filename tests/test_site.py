"""The site: it is built without a warning, and anybody can read it, from a folder and without a network."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, expect
from support.browsers import barriers
from test_contributing import LEFT_OUT

from flows import settings

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="Sphinx 8.2 needs Python 3.11"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, made from a copy of the kit as the document says."""
    assert importlib.util.find_spec("sphinx"), "install it: uv sync --group docs"
    folder = tmp_path_factory.mktemp("site") / "kit"
    shutil.copytree(settings.PROJECT, folder, ignore=LEFT_OUT)
    strictly = ["-q", "-W", "--keep-going"]
    built = subprocess.run(
        [Path(sys.executable).with_name("sphinx-build"), *strictly, "-c", "docs", ".", "made/html"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (built.returncode, built.stderr) == (0, ""), built.stderr
    return folder / "made" / "html"


def pages(site: Path) -> list[Path]:
    return [page for page in site.rglob("*.html") if "_static" not in page.parts]


def test_each_lesson_document_and_module_has_a_page(site: Path) -> None:
    made = {str(page.relative_to(site).with_suffix("")) for page in pages(site)}
    written = {str(file.relative_to(settings.PROJECT).with_suffix("")) for file in settings.PROJECT.glob("docs/*.md")}
    lessons = {f"notebooks/{file.stem}" for file in settings.PROJECT.glob("notebooks/*.ipynb")}
    modules = {".".join(file.relative_to(settings.PROJECT).with_suffix("").parts) for file in modules_with_names()}
    assert len(written) > 15 and len(lessons) > 5 and len(modules) > 20
    assert written | lessons | {f"docs/reference/{name}" for name in modules} <= made


def modules_with_names() -> list[Path]:
    return [file for file in (settings.PROJECT / "flows").rglob("*.py") if file.stem != "__init__"]


def test_links_lead_somewhere(site: Path) -> None:
    texts = {page.resolve(): BeautifulSoup(page.read_text(), "html.parser") for page in pages(site)}
    names = {page: {tag["id"] for tag in text.find_all(id=True)} for page, text in texts.items()}
    dead, seen = [], 0
    for page, text in texts.items():
        for tag in text.find_all(["a", "img", "link", "script"]):
            address = tag.get("href") or tag.get("src") or ""
            if not address or urlsplit(address).scheme:
                continue
            path, name = urldefrag(address)
            target = (page.parent / unquote(urlsplit(path).path)).resolve() if path else page
            seen += 1
            if not target.exists() or (name and target in names and unquote(name) not in names[target]):
                dead.append((page.name, address))
    assert seen > 1000 and dead == []


def test_anybody_can_read_it_without_a_network(site: Path, browser: Browser) -> None:
    found, asked = [], []
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    # Those of the modules are made alike; index.html only leads to the first page.
    of_modules = sorted((site / "docs" / "reference").glob("*.html"))
    for file in sorted({*pages(site)} - {*of_modules[3:], site / "index.html"}):
        page.goto(file.as_uri())
        found += barriers(page, options={"resultTypes": ["violations"]})
    page.goto((site / "index.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_contain_text("Run many SQL queries in parallel")
    page.get_by_placeholder("Search").fill("lease")
    page.get_by_placeholder("Search").press("Enter")
    page.get_by_role("link", name="Glossary").last.click()
    expect(page.get_by_role("heading", name="Glossary")).to_be_visible()
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert found == []
