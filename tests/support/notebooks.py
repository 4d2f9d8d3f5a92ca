"""The lessons' notebooks: read them, look at their cells, and run them."""

import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from flows import settings

FOLDER = settings.PROJECT / "notebooks"
NAMES = ["01_auth", "02_limits", "03_parallel_flow", "04_rest_queries", "05_incidents", "playground"]
GRADED = NAMES[:4]


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    """Return the text of the cells that are not code, without the code that is quoted in it."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def solution(cell: NotebookNode) -> str:
    """Return the code in a solution's fold, where a learner opens it, and nothing runs it but a test."""
    found = re.search(r"^```python\n(.*?)\n```$", cell.source, re.MULTILINE | re.DOTALL)
    assert found, "a solution is a fold with a block of code"
    return found[1]


def tagged(notebook: NotebookNode, tag: str) -> list[int]:
    return [place for place, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


def execute(notebook: NotebookNode, lab_folder: Path, **variables: str) -> NotebookNode:
    """Run `notebook` in a kernel of its own in the lessons' folder, and return it. Raises CellExecutionError."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    client = NotebookClient(notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    return client.execute(env=environment | {"FLOWS_LAB_DIR": str(lab_folder)} | variables)


def text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)
