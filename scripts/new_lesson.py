"""Make a new lesson with a check and a test, all of them complete, so that you can run them before you change them.

    python scripts/new_lesson.py 06_workers

It writes the notebook, which is a copy of scripts/new_lesson.ipynb, adds the check of its exercise to
notebooks/checks.py, and writes a test of its exercise to tests/notebooks.
"""

import re

from flows import cli, settings
from flows.settings import CannotRun

CHECK = '''

@printing
def limit_of_NAME(tag: str, wanted: int) -> str:
    """Grade NAME, exercise 1: the limit of `tag` on the server must be `wanted`."""
    limit = limits.read(tag)
    if limit is None:
        raise Wrong(f"the server has no limit for the tag {tag!r}. Set it with limits.ensure.")
    if limit.limit != wanted:
        raise Wrong(f"the limit of {tag!r} is {limit.limit}. Which limit lets {wanted} queries run at once?")
    return f"the server lets {wanted} queries with that tag run at once."
'''
TEST = '''"""The exercise of lesson NAME tells a right answer from a wrong one."""

from pathlib import Path

import nbformat
import pytest
from support.notebooks import execute, read, solution, tagged, text

# Wrong answers, and what the hint then says; other right answers than the solution.
WRONG = {"limits.ensure(tag, 4)": "Which limit lets 3 queries run at once?"}
RIGHT = ["limits.ensure(tag, 5); limits.ensure(tag, 3)"]


@pytest.mark.long
def test_the_exercise_tells_right_from_wrong(lab_folder: Path) -> None:
    notebook = read("NAME")
    (place,), (fold,) = tagged(notebook, "check"), tagged(notebook, "solution")
    check = notebook.cells[place].source.splitlines()[-1]
    answers = [*WRONG, *RIGHT, solution(notebook.cells[fold])]
    cells = [nbformat.v4.new_code_cell(f"{answer}\\n{check}") for answer in answers]
    notebook.cells[place + 1 : place + 1] = cells
    execute(notebook, lab_folder)
    assert text(notebook.cells[place]).startswith("Not yet: "), "the stub must not be accepted"
    for cell, hint in zip(cells, WRONG.values()):
        assert text(cell).startswith("Not yet: ") and hint in text(cell)
    for cell in cells[len(WRONG) :]:
        assert text(cell).startswith("Right: "), cell.source
'''


def main() -> int:
    """Write the three parts of the lesson and print where they are."""
    parser = cli.Arguments(description="Make a new lesson with a check and a test.")
    parser.add_argument("name", help="two digits and words, such as 06_workers")
    name = parser.parse_args().name
    if not re.fullmatch(r"\d\d(_[a-z0-9]+)+", name):
        raise CannotRun(f"{name!r} is not a name for a lesson. Use two digits and words, such as 06_workers.")
    number = name.partition("_")[0]
    lesson, checks = (settings.PROJECT / "notebooks" / file for file in (f"{name}.ipynb", "checks.py"))
    if taken := sorted(lesson.parent.glob(f"{number}_*.ipynb")):
        raise CannotRun(f"The number {number} is that of {taken[0].stem}. Choose another one.")

    def named(text: str) -> str:
        return text.replace("NAME", name).replace("NUMBER", number)

    test = settings.PROJECT / "tests" / "notebooks" / f"test_{name}.py"
    lesson.write_text(named((settings.PROJECT / "scripts" / "new_lesson.ipynb").read_text()))
    checks.write_text(checks.read_text() + named(CHECK))
    test.write_text(named(TEST))
    print(f"The lesson {lesson.relative_to(settings.PROJECT)}, its check limit_of_{name} in notebooks/checks.py,")
    print(f"and its test {test.relative_to(settings.PROJECT)} are ready to run. docs/contributing.md explains how.")
    return 0


if __name__ == "__main__":
    cli.run(main)
