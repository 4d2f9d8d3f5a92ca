"""The lessons' notebooks: read them, look at their cells, and run them."""

import json
import os
import re
from pathlib import Path

import nbformat
from mutate_lessons import SOLUTION
from nbclient import NotebookClient
from nbformat import NotebookNode

import copies
import guesses
from flows import settings

FOLDER = settings.PROJECT / "notebooks"
NAMES = copies.names()
GRADED = NAMES[:4]
SMALL = {  # parameters with which a lesson shows the same in less time
    "02_limits": {"queries": 6},
    "03_parallel_flow": {"count": 4, "naps": 4, "others": 4},
    "04_rest_queries": {"count": 4},
    "playground": {"chosen": 4},
}


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def small(name: str) -> NotebookNode:
    """Return a lesson with its SMALL parameters, in a cell after that of the usual ones, as papermill inserts it."""
    notebook = read(name)
    chosen = "\n".join(f"{parameter} = {value}" for parameter, value in SMALL.get(name, {}).items())
    (usual,) = tagged(notebook, "parameters")
    notebook.cells.insert(usual + 1, nbformat.v4.new_code_cell(chosen))
    return notebook


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    """Return the text of the cells that are not code, without the code that is quoted in it."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def solution(cell: NotebookNode) -> str:
    """Return the code in a solution's fold, where a learner opens it, and nothing runs it but a test."""
    fold = SOLUTION.search(cell.source)
    assert fold, "a solution is a fold with a block of code"
    return fold[1]


def tagged(notebook: NotebookNode, tag: str) -> list[int]:
    return [place for place, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


def execute(notebook: NotebookNode, lab_folder: Path, **variables: str) -> NotebookNode:
    """Run `notebook` in a kernel of its own in the lessons' folder, and return it. Raises CellExecutionError."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    client = NotebookClient(notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    return client.execute(env=environment | {"FLOWS_LAB_DIR": str(lab_folder)} | variables)


def text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def summary(notebook: NotebookNode) -> str:
    """Return the summary with which a lesson ends."""
    ends = [cell for cell in code(notebook) if "lessons.end(" in cell.source]
    (shown,) = [output.data["text/plain"] for output in ends[-1].outputs if "data" in output]
    return shown


def plant_guesses(notebook: NotebookNode) -> None:
    """Let a lesson, which needs tests/ in its PYTHONPATH, compare an empty, a wrong and a right guess each time."""
    for cell in code(notebook):
        cell.source = cell.source.replace("guesses.compare(", "three_guesses.compare(")
    (usual,) = tagged(notebook, "parameters")
    notebook.cells.insert(usual + 1, nbformat.v4.new_code_cell("from support import three_guesses"))
    notebook.cells.append(nbformat.v4.new_code_cell("three_guesses.show()"))


def check_guesses(notebook: NotebookNode) -> None:
    """Check what an executed lesson said of the planted guesses."""
    told = json.loads(text(notebook.cells[-1]))
    asked = sum(cell.source.count("three_guesses.compare(") for cell in code(notebook))
    assert told["empty"] == asked * [guesses.NONE]
    assert len(told["right"]) == len(told["wrong"]) >= asked > 0
    assert all("You guessed " in line and "right" not in line for line in told["wrong"]), told["wrong"]
    assert all("Your guess was right: " in line and "90 % sure" in line for line in told["right"]), told["right"]
    assert "% sure on average" in summary(notebook) and "% sure: " in summary(notebook)
