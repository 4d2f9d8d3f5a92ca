"""The page on which JupyterLab opens."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support.notebooks import NAMES, prose

import learner
import start


def test_the_page_leads_to_each_lesson_and_says_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / ".lab"))
    learner.keep_exercise("repaired")
    notebook = nbformat.read(start.write(tmp_path), 4)
    nbformat.validate(notebook)
    page = notebook.cells[1].outputs[0].data["text/html"]
    rows = re.findall(r"<tr>(<td.+?)</tr>", page)
    assert [re.findall(r'<a href="(\w+).ipynb">', row) for row in rows] == [[name] for name in NAMES]
    for row in rows:
        _, what, how_long, done = re.findall(r"<td[^>]*>(.*?)</td>", row)
        assert len(what.split()) > 5 and how_long and re.match(r"\d of \d|none to do", done)
    assert "1 of 3 (still to do: 2 and 3)" in rows[0]
    assert "as soon as a lesson has started the server" in page
    assert set(re.findall(r"\]\((\w+).ipynb\)", prose(notebook))) <= set(NAMES)


def test_the_page_leads_to_the_server_that_runs_and_its_cell_shows_it_again(shared_lab: str, tmp_path: Path) -> None:
    notebook = nbformat.read(start.write(tmp_path), 4)
    names: dict[str, Any] = {}
    exec(notebook.cells[1].source.replace("start.page()", "shown = start.page()"), names)
    page = notebook.cells[1].outputs[0].data["text/html"]
    assert f'<a href="{shared_lab.removesuffix("/api")}"' in page and names["shown"].html == page
