"""The learner's copy of the lessons: without outputs, up to date, and never overwritten silently."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from support.notebooks import FOLDER, NAMES, code, read

import copies
from flows import settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a copy, whose originals can be changed."""
    originals = tmp_path / "notebooks"
    originals.mkdir()
    for path in FOLDER.iterdir():
        if path.suffix == ".ipynb":
            (originals / path.name).write_bytes(path.read_bytes())
        elif not path.name.startswith("_"):
            (originals / path.name).symlink_to(path)
    monkeypatch.setattr(copies, "ORIGINALS", originals)
    assert [line.split(":")[0] for line in copies.make(tmp_path / "mine")] == NAMES
    return tmp_path / "mine"


def change(path: Path) -> None:
    """Add a sentence to the first cell of the notebook at `path`."""
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source += "\n\nSomething was added."
    nbformat.write(notebook, path)


def test_a_copy_has_the_cells_of_its_original_and_no_outputs(folder: Path) -> None:
    for name in NAMES:
        original, copy = read(name), nbformat.read(folder / f"{name}.ipynb", 4)
        assert [(cell.id, cell.source) for cell in copy.cells] == [(cell.id, cell.source) for cell in original.cells]
        assert not [cell for cell in code(copy) if cell.outputs or cell.execution_count]
        assert "widgets" not in copy.metadata
    assert (folder / "lessons.py").read_text() == (FOLDER / "lessons.py").read_text()
    assert (folder / "images" / "auth.svg").exists()


def test_the_helpers_can_be_imported_beside_the_copy(folder: Path) -> None:
    command = [sys.executable, "-c", "import checks, guesses, lessons; print(lessons.__file__)"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ran.stdout.strip() == str(folder / "lessons.py"), ran.stderr


def test_a_copy_that_was_only_run_is_not_overwritten_by_a_newer_edition(folder: Path) -> None:
    mine = folder / "02_limits.ipynb"
    notebook = nbformat.read(mine, 4)
    code(notebook)[0].execution_count = 1
    nbformat.write(notebook, mine)
    change(copies.ORIGINALS / "02_limits.ipynb")
    (line,) = copies.make(folder)
    assert "yours stays as it is" in line and "Something was added." not in mine.read_text()


def test_what_a_learner_has_done_is_not_overwritten(folder: Path) -> None:
    mine = folder / "02_limits.ipynb"
    change(mine)
    before = mine.read_bytes()
    assert copies.make(folder) == [] and mine.read_bytes() == before
    (line,) = copies.make(folder, again=["02_limits"])
    assert line == "02_limits: copied again. Your earlier copy is now 02_limits (earlier 1).ipynb."
    assert (folder / "02_limits (earlier 1).ipynb").read_bytes() == before != mine.read_bytes()
    copies.make(folder, again=["02_limits"])
    assert (folder / "02_limits (earlier 1).ipynb").read_bytes() == before
    assert (folder / "02_limits (earlier 2).ipynb").exists()


def test_a_copy_notices_a_newer_original(folder: Path) -> None:
    assert copies.outdated(folder) == ""
    for name in ("02_limits", "playground"):
        change(copies.ORIGINALS / f"{name}.ipynb")
    change(folder / "02_limits.ipynb")
    assert copies.outdated(folder) == (
        "There is a newer edition of 02_limits, playground."
        " To get it, type: python scripts/learn.py --again 02_limits playground"
    )
    edited, untouched = copies.make(folder)
    assert edited.startswith("02_limits: there is a newer edition, and yours stays as it is.")
    assert untouched == "playground: copied again, because there is a newer edition."
    assert "Something was added." in (folder / "playground.ipynb").read_text()
    copies.make(folder, again=["02_limits"])
    assert copies.outdated(folder) == "" and copies.make(folder) == []


def test_new_outputs_make_no_newer_edition_and_the_originals_folder_has_none(folder: Path) -> None:
    original = copies.ORIGINALS / "02_limits.ipynb"
    notebook = json.loads(original.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    original.write_text(json.dumps(notebook))
    assert copies.outdated(folder) == "" and copies.make(folder) == []
    change(original)
    assert copies.outdated(copies.ORIGINALS) == ""


@pytest.mark.parametrize("left", ["", "[1]", "{"])
def test_a_note_that_cannot_be_read_leaves_the_copies_alone(folder: Path, left: str) -> None:
    (folder / ".copied.json").write_text(left)
    before = (folder / "02_limits.ipynb").read_bytes()
    assert copies.outdated(folder) == ""
    copies.make(folder)
    assert (folder / "02_limits.ipynb").read_bytes() == before


def test_the_command_makes_the_copy_and_starts_jupyterlab(tmp_path: Path) -> None:
    for folder in ("flows", "notebooks", "scripts"):
        shutil.copytree(settings.PROJECT / folder, tmp_path / folder)
    command = [sys.executable, str(tmp_path / "scripts/learn.py"), "--again", "02_limits", "--version"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for first, last in [("01_auth: copied.", "playground: copied."), 2 * ("02_limits: copied again",)]:
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        *lines, _opens, version = ran.stdout.splitlines()
        assert lines[0].startswith(first) and lines[-1].startswith(last)
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), "JupyterLab got the option that is not the kit's"
    assert (tmp_path / "my_lessons" / "02_limits (earlier 1).ipynb").exists()
    assert (tmp_path / "my_lessons" / "start.ipynb").exists()


def test_the_command_names_the_lessons_that_can_be_copied_again() -> None:
    command = [sys.executable, str(settings.PROJECT / "scripts/learn.py"), "--again", "07_nothing"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and "02_limits" in ran.stderr, ran
