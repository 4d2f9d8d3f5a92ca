"""The lessons as pages that anybody can read: exported with their stored outputs."""

from pathlib import Path

import nbconvert
import pytest
from playwright.sync_api import Browser
from support.browsers import barriers
from support.notebooks import NAMES, read

# What nbconvert's own template colours, and no lesson can change: the numbers of the cells, the code, and links.
WHOSE = {"exclude": [[".jp-InputPrompt"], [".jp-OutputPrompt"], [".highlight"]]}
RULES = {"rules": {"link-in-text-block": {"enabled": False}}}


@pytest.mark.long
@pytest.mark.weekly  # tests/test_site.py looks at the same outputs daily, on the pages of the site
def test_an_exported_lesson_is_accessible(browser: Browser, tmp_path: Path) -> None:
    found, page = [], browser.new_page()
    for name in NAMES:
        html, _ = nbconvert.HTMLExporter().from_notebook_node(read(name))
        file = tmp_path / f"{name}.html"
        file.write_text(html)
        page.goto(file.as_uri())
        found += barriers(page, context=WHOSE, options=RULES)
    page.close()
    assert found == []
