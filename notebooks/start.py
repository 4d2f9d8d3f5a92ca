"""The page on which JupyterLab opens: the lessons, how far you are in each, and what to have open beside them."""

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

import progress
from flows import files, lab, settings

TEXT = """# Start here

Each line below is a lesson; click on its name to open it. If Prefect is new to you, begin with
[02_limits](02_limits.ipynb) and go on to 03 and 04. [01_auth](01_auth.ipynb) is about passwords and keys, and you can
take it at any time. [05_incidents](05_incidents.ipynb) is for the end: things break, and you find out why.

In a lesson, run one cell after the other with Shift+Enter. Where it asks for a guess, write yours down before you go
on. The last cell puts the lab back as it was.

Run the next cell again whenever you want to see how far you are. Do not keep notes on this page, because
`scripts/learn.py` writes it again each time."""
CODE = "import start\n\nstart.page()"
PREFECT = "Prefect's own pages show every run, with its state and its logs."
MONITOR = (
    "The monitor of this kit says what runs, what waits and why. Click on <b>Monitor</b> in the launcher (File, New"
    " Launcher)."
)
LEFT = 'style="text-align: left"'  # JupyterLab would put text to the right


@dataclass(frozen=True)
class Page:
    """The lessons, each with what it is about, how long it takes and how far you are; and the pages beside them."""

    lessons: list[progress.Lesson]
    address: str | None  # of the lab's server, if it runs

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.shown

    @property
    def shown(self) -> dict[str, str]:
        """The page as a notebook keeps it: as HTML, and in sentences."""
        return {"text/html": self.html, "text/plain": "\n".join(progress.sentences(self.lessons))}

    @property
    def html(self) -> str:
        """The page as HTML, whose links to the lessons JupyterLab opens in a tab of its own."""
        rows = "".join(f"<tr>{_cells(lesson)}</tr>" for lesson in self.lessons)
        head = "".join(
            f'<th scope="col" {LEFT}>{title}</th>' for title in ("lesson", "what you do", "time", "exercises done")
        )
        table = f"<table><caption>The lessons</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        of_guesses = "".join(f"<p>{html.escape(line)}</p>" for line in progress.sentences(self.lessons)[1:])
        there = "They are there as soon as a lesson has started the server."
        if self.address:
            there = f'They are at <a href="{self.address}" target="_blank">{self.address}</a>.'
        beside = f"<ul><li>{PREFECT} {there}</li><li>{MONITOR}</li></ul>"
        remote = "<p>If JupyterLab runs on another machine, forward the port of Prefect's pages to yours as well.</p>"
        return f"{table}{of_guesses}<h2>Beside the lessons</h2>{beside}{remote}"


def page() -> Page:
    """Return the page as of now."""
    url = lab.status().api_url
    return Page(progress.read(), url.removesuffix("/api") if url else None)


def write(folder: Path) -> Path:
    """Write the page, as of now, to a notebook in `folder`, and return its path."""
    shown = nbformat.v4.new_output("display_data", data=page().shown)
    cells = [nbformat.v4.new_markdown_cell(TEXT), nbformat.v4.new_code_cell(CODE, outputs=[shown])]
    metadata = json.loads((settings.PROJECT / "notebooks" / "01_auth.ipynb").read_text())["metadata"]["kernelspec"]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": metadata})
    path = folder / "start.ipynb"
    files.replace(path, nbformat.writes(notebook))
    return path


def _cells(lesson: progress.Lesson) -> str:
    cells = json.loads((settings.PROJECT / "notebooks" / f"{lesson.name}.ipynb").read_text())["cells"]
    text = "".join(cells[0]["source"])
    link = f'<a href="{lesson.name}.ipynb">{lesson.name}</a>'
    shown = link, _first_part(text, "What you will do"), _first_part(text, "How long it takes"), progress.done(lesson)
    return "".join(f"<td {LEFT}>{cell}</td>" for cell in shown)


def _first_part(text: str, heading: str) -> str:
    """Return the first part of what the `text` of a lesson says under `heading`, up to a full stop or a semicolon."""
    part = re.search(rf"\*\*{heading}\.\*\* (.+?)[.;]\s", text, re.DOTALL)
    return html.escape(" ".join(part[1].replace("*", "").split())) if part else ""
